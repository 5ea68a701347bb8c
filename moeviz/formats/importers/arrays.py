"""Arrays and tables of numbers from anyone: CSV, Parquet, lists of one row for each token and layer, and what a header
promises compared with the bytes that are there. Every number is checked.
"""

import base64
import binascii
import json
import re
import struct
from collections.abc import Sequence
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.importer import BYTES_A_VALUE, Source
from moeviz.text import quoted

NPY = re.compile(rb"\{'descr': '([|<>=]\w{1,8})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n")
SAFETENSORS = {
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "U8": "<u1",
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": "<u2",
}
MAX_HEADER = 2**24


def is_npy(data: bytes) -> bool:
    """Return whether these bytes are a NumPy array."""
    return data.startswith(b"\x93NUMPY")


def from_npy(data: bytes) -> np.ndarray:
    """A NumPy array of plain numbers. Raises `InvalidTrace` if its header says more, or less, than its bytes hold."""
    start = 12 if data[6:7] == b"\x02" else 10
    end = start + int.from_bytes(data[8:start], "little")
    found = NPY.fullmatch(data[start:end])
    if not is_npy(data) or data[6:7] not in (b"\x01", b"\x02") or found is None:
        raise InvalidTrace("This is not an array of plain numbers as numpy.save writes it. Save it again.")
    dtype, shape = np.dtype(found[1].decode()), tuple(int(n) for n in found[3].split(b",") if n.strip())
    if dtype.kind not in "iuf" or prod(shape) * dtype.itemsize != len(data) - end:
        raise InvalidTrace(
            f"The array says that it has the shape {shown(shape)} of {dtype}, and {len(data) - end:,} bytes follow. It "
            "was cut or damaged: save it again."
        )
    return np.frombuffer(data, dtype, offset=end).reshape(shape, order="F" if found[2] == b"True" else "C")


def from_base64(text: Any) -> bytes:
    """Return the bytes that a text stands for. Raises `InvalidTrace`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTrace(f"The routed experts are not base64: {error}. Ask the server again.") from error


def whole(values: Any, dimensions: int, what: str = "The expert ids") -> np.ndarray:
    """Nested lists, or an array, as int64. Raises `InvalidTrace` for anything but a full table of whole numbers."""
    try:
        table = np.asarray(values)
    except ValueError:
        table = np.zeros(0)
    if table.dtype.kind not in "iu" or table.ndim != dimensions or not table.size or table.max() >= 2**53:
        raise InvalidTrace(
            f"{what} are not a full table of whole numbers with {dimensions} axes; got {shown(values)}. Write the file "
            "again."
        )
    return table.astype(np.int64)


def from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, each read where its header says. Raises `InvalidTrace`."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or length > min(len(data) - 8, MAX_HEADER):
        raise InvalidTrace("The header of the safetensors file is longer than the file. Save it again.")
    header, body, tensors = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :], {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        dtype, (first, last) = np.dtype(SAFETENSORS.get(facts["dtype"], "V1")), facts["data_offsets"]
        size = prod(facts["shape"]) * dtype.itemsize
        if dtype.kind == "V" or min(facts["shape"], default=0) < 0 or not 0 <= first <= last <= len(body):
            raise InvalidTrace(f"The tensor {shown(name)} is not in this file as it says. Save it again.")
        if last - first != size:
            raise InvalidTrace(f"The tensor {shown(name)} has {last - first:,} bytes, and needs {size:,}.")
        values = np.frombuffer(body[first:last], dtype).reshape(facts["shape"])
        tensors[name] = from_bfloat16(values) if facts["dtype"] == "BF16" else values
    return tensors


def is_safetensors(data: bytes) -> bool:
    """Return whether these bytes begin like a safetensors file."""
    return data[8:9] == b"{" and struct.unpack("<Q", data[:8])[0] < MAX_HEADER


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as its 16 bits, in float32."""
    wide: np.ndarray = (bits.astype("<u4") << 16).view("<f4")
    return wide


BATCH = 4096  # rows of Parquet that are unpacked at a time


def read_csv(data: bytes, source: Source) -> pd.DataFrame:
    """Read a CSV with a header, every cell as text. Raises `InvalidTrace`.

    A last line that was cut is left out, and noted.
    """
    end = data.rfind(b"\n") + 1
    whole = data[:end] or data
    if end and end < len(data):
        source.leave_out(
            f"Left out: the last line of {quoted(source.name)}, which ends in no line break, as where a run is killed: "
            f"{shown(data[end:].decode(errors='replace'))}. If it is whole, end it with one."
        )
    if (cells := whole.count(b",") + whole.count(b"\n")) > (most := source.max_bytes // BYTES_A_VALUE):
        raise InvalidTrace(f"{quoted(source.name)} has {cells:,} cells, and at most {most:,} are read. Split it.")
    try:
        return pd.read_csv(BytesIO(whole), dtype="str", keep_default_na=False, encoding="utf-8", on_bad_lines="error")
    except (ValueError, pd.errors.ParserError) as error:
        raise InvalidTrace(
            f"{quoted(source.name)} is not a CSV table in UTF-8: {' '.join(str(error).split())[:100]!r}."
        ) from error


def integer_columns(table: pd.DataFrame, *names: str) -> list[np.ndarray]:
    """Return columns of whole numbers. Raises `InvalidTrace` with the row and its text."""
    columns = []
    for name in names:
        if name not in table or not len(table):
            raise InvalidTrace(f"The table has no rows, or no column {name!r}: {shown(list(table.columns))}.")
        cells = table[name].astype("str").str.strip()
        wrong = ~cells.str.fullmatch(r"-?\d{1,15}").to_numpy(bool)
        if wrong.any():
            row = int(wrong.argmax())
            raise InvalidTrace(
                f"Row {row + 1} of the table has {shown(cells.iloc[row])} as {name}; it must be a whole number."
            )
        columns.append(cells.astype(np.int64).to_numpy())
    return columns


def is_parquet(data: bytes) -> bool:
    """Return whether these bytes begin like a Parquet file."""
    return data.startswith(b"PAR1")


def parquet_columns(data: bytes) -> list[str]:
    """Return the names of the columns; none if the file is damaged."""
    import pyarrow as pa

    try:
        return list(_open_parquet(data).schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return []


def read_parquet(source: Source, columns: list[str], rows: list[int] | None = None) -> pd.DataFrame:
    """Read some columns of all rows, or of some. A text is kept once, however many rows repeat it.

    Raises `InvalidTrace` for more values than we read, and for a damaged file.
    """
    import pyarrow as pa

    try:
        file = _open_parquet(source.data, [name for name in columns if name == "text"])
        _check_declared_size(file.metadata, source)
        batches, left = [], source.max_bytes
        for batch in file.iter_batches(BATCH, columns=columns):
            left -= batch.nbytes
            if left < 0:
                raise InvalidTrace(f"{quoted(source.name)} unpacks to more than {source.max_bytes:,} bytes. Split it.")
            batches.append(batch)
        table = pa.Table.from_batches(batches).unify_dictionaries()
        table.validate(full=True)
        frame: pd.DataFrame = (table if rows is None else table.take(rows)).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise InvalidTrace(f"This Parquet file is damaged: {str(error)[:100]!r}. Write it again.") from error
    return frame


def _open_parquet(data: bytes, dictionaries: list[str] | None = None) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    return parquet.ParquetFile(pa.BufferReader(data), read_dictionary=dictionaries)


def _check_declared_size(metadata: Any, source: Source) -> None:
    """Check the sizes that a file declares, but for its columns: a damaged one ends the process in Arrow's code."""
    size = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    most = source.max_bytes // BYTES_A_VALUE
    if size > source.max_bytes or metadata.num_rows > most:
        raise InvalidTrace(
            f"{quoted(source.name)} unpacks to {metadata.num_rows:,} rows in {size:,} bytes, and at most {most:,} rows "
            f"in {source.max_bytes:,} bytes are read. Split it."
        )


def sort_token_rows(layer: Any, token: Any) -> tuple[np.ndarray, list[int], int]:
    """Return the order of the rows by layer and token, the layers, and the number of tokens.

    Raises `InvalidTrace` unless every token has one row at every layer.
    """
    layer, token = whole(layer, 1, "The layers"), whole(token, 1, "The numbers of tokens")
    layers, tokens = np.unique(layer), np.unique(token)
    order: np.ndarray = np.lexsort((token, layer))
    grid = len(layers) * len(tokens) == len(layer)
    if not grid or (np.diff(layer[order]) + np.diff(token[order]) == 0).any() or layers[0] < 0 or tokens[0] < 0:
        raise InvalidTrace("A token of the file misses a layer, or has one twice. Record it again.")
    return order, layers.tolist(), len(tokens)


def stack_token_rows(rows: Sequence[Any], order: np.ndarray, layers: int, dtype: type) -> np.ndarray:
    """Stack the lists of all rows into an array (L, T, length). Raises `InvalidTrace` if they are not equally long."""
    if len({len(row) for row in rows}) != 1:
        raise InvalidTrace("The tokens of the file do not all have as many experts, or logits. Record it again.")
    table: np.ndarray = np.array(rows, dtype)[order].reshape(layers, len(order) // layers, -1)
    return table
