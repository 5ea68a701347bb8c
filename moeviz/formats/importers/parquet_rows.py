"""Parquet from anyone: what it declares is looked at before it is unpacked."""

import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.source import BYTES_A_VALUE, Source
from moeviz.formats.trace_facts import shown
from moeviz.names import quoted


def is_parquet(data: bytes) -> bool:
    """Whether these bytes begin like a Parquet file."""
    return data.startswith(b"PAR1")


def columns_of(data: bytes) -> list[str]:
    """The names of the columns; none if the file is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return list(parquet.ParquetFile(pa.BufferReader(data)).schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return []


def rows_of(source: Source, columns: list[str], row: int | None = None) -> pd.DataFrame:
    """Some columns of all rows, texts kept once each; or of one row. Raises `InvalidTrace` for more than we read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(source.data), read_dictionary=["text"] if row is None else [])
        _check(file.metadata, columns, source)
        if row is None:
            table = file.read(columns=columns)
        else:
            table = next(batch for start, batch in _batches(file, columns) if row < start + len(batch)).slice(0)
            table = pa.Table.from_batches([table.slice(row % BATCH, 1)])
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas()
        return frame
    except (pa.ArrowException, OSError, ValueError, TypeError, StopIteration) as error:
        raise InvalidTrace(f"This Parquet file is damaged: {str(error)[:100]}. Write it again.") from error


BATCH = 1024


def _batches(file, columns):  # type: ignore[no-untyped-def]
    start = 0
    for batch in file.iter_batches(BATCH, columns=columns):
        yield start, batch
        start += len(batch)


def _check(metadata, columns: list[str], source: Source) -> None:  # type: ignore[no-untyped-def]
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
    values, size = sum(c.num_values for c in wanted), sum(c.total_uncompressed_size for c in wanted)
    if size > source.max_bytes or values > source.max_bytes // BYTES_A_VALUE:
        raise InvalidTrace(
            f"{quoted(source.name)} unpacks to {values:,} values in {size:,} bytes of {shown(columns)}, and at most "
            f"{source.max_bytes // BYTES_A_VALUE:,} values in {source.max_bytes:,} bytes are read. Split it."
        )
