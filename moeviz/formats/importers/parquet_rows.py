"""Parquet from anyone: what it declares is looked at before it is unpacked."""

from typing import Any

import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.source import BYTES_A_VALUE, Source
from moeviz.names import quoted

BATCH = 4096  # rows that are unpacked at a time


def is_parquet(data: bytes) -> bool:
    """Whether these bytes begin like a Parquet file."""
    return data.startswith(b"PAR1")


def columns_of(data: bytes) -> list[str]:
    """The names of the columns; none if the file is damaged."""
    import pyarrow as pa

    try:
        return list(_opened(data).schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return []


def rows_of(source: Source, columns: list[str], rows: list[int] | None = None) -> pd.DataFrame:
    """Some columns of all rows, or of some. A text is kept once, however many rows repeat it.

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
