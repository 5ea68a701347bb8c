"""Tables from anyone: CSV, Parquet, and lists of one row for each token and layer. Every number is checked."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.source import BYTES_A_VALUE, Source
from moeviz.text import quoted

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
            f"{quoted(source.name)} is no CSV table in UTF-8: {' '.join(str(error).split())[:100]!r}."
        ) from error


def integer_columns(table: pd.DataFrame, *names: str) -> list[np.ndarray]:
    """Return columns of whole numbers. Raises `InvalidTrace` with the row and what stands there."""
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
        return list(_opened(data).schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return []


def read_parquet(source: Source, columns: list[str], rows: list[int] | None = None) -> pd.DataFrame:
    """Read some columns of all rows, or of some. A text is kept once, however many rows repeat it.

    Raises `InvalidTrace` for more values than we read, and for a damaged file.
    """
    import pyarrow as pa

    try:
        file = _opened(source.data, [name for name in columns if name == "text"])
        _check(file.metadata, source)
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


def _opened(data: bytes, dictionaries: list[str] | None = None) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    return parquet.ParquetFile(pa.BufferReader(data), read_dictionary=dictionaries)


def _check(metadata: Any, source: Source) -> None:
    """By what the file says of itself, but for its columns: of a damaged one, Arrow's own code ends the process."""
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
