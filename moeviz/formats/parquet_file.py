"""Parquet: the long table of a trace with real dtypes, for pandas, DuckDB, Spark and R.

The columns are those of `moeviz.formats.assignments_table`; the model's facts are JSON in the schema's metadata under
`moeviz`. Pages and facts have checksums, which are compared when they are read. Reading gives the same trace, without
its logits. A Parquet file from elsewhere opens like a plain CSV.
"""

import json
from hashlib import sha256

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet, types

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.assignments_table import check_cells, table_of, trace_of_table
from moeviz.formats.table_facts import INTEGERS, TEXTS, check_names, facts_beside_table
from moeviz.formats.trace_facts import check_facts_size, check_size, parse_json
from moeviz.image_tokens import BOX, IMAGE_COLUMNS
from moeviz.routing_trace import RoutingTrace

KEY, DIGEST = b"moeviz", b"moeviz_sha256"  # of the metadata: the facts, and their digest
MAX_TEXT_BYTES, TEXT_A_BYTE = 2**23, 16  # of text for each row of a small file, or of a larger one, by its size
READ = (*INTEGERS, *TEXTS, *BOX, "weight")
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError)


def to_parquet(trace: RoutingTrace) -> bytes:
    """Write the long table of a trace as Parquet."""
    table = pa.Table.from_pandas(table_of(trace), preserve_index=False)
    facts = json.dumps(facts_beside_table(trace)).encode()
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table.replace_schema_metadata(
            {**table.schema.metadata, KEY: facts, DIGEST: sha256(facts).hexdigest().encode()}
        ),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return bytes(sink.getvalue())


def from_parquet(data: bytes, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from `to_parquet`, or from any Parquet file with the columns `position`, `layer` and `expert`.

    See `moeviz.formats.assignments_table.trace_of_table` for what a plain table can leave out, and for the errors.
    `max_bytes` is the most that the file may have, that it may unpack to, and that its rows may take while they are
    read.
    """
    check_size(data, max_bytes)
    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        _check_declared_size(file.metadata, max_bytes)
        metadata = file.schema_arrow.metadata or {}
        facts = metadata.get(KEY)
        known = READ if facts is not None else set(READ) - set(IMAGE_COLUMNS)
        names = [name for name in file.schema_arrow.names if name in known]
        check_names(names)
        texts = [name for name in names if name in TEXTS]
        # A dictionary keeps a text once, however many rows repeat it: a small file cannot unfold into a large table.
        file = parquet.ParquetFile(pa.BufferReader(data), read_dictionary=texts, page_checksum_verification=True)
        table = file.read(columns=names)
        table.validate(full=True)
    except UNREADABLE as error:
        raise InvalidTrace(
            f"This is not a Parquet file, or it is damaged: {' '.join(str(error).split())[:200]}. Write it again, or "
            "use another format."
        ) from error
    most = min(max_bytes, max(MAX_TEXT_BYTES, TEXT_A_BYTE * len(data)))
    columns = {name: _column(name, table.column(name), most) for name in names}
    if facts is None:
        table = pd.DataFrame(columns, columns=names or file.schema_arrow.names)
        return trace_of_table(table, max_bytes=max_bytes)
    check_facts_size(len(facts), "metadata 'moeviz'", max_bytes)
    if metadata.get(DIGEST, written := sha256(facts).hexdigest().encode()) != written:
        raise InvalidTrace("The facts about the model are not what was written: the file is damaged. Write it again.")
    return trace_of_table(pd.DataFrame(columns), parse_json(facts, "metadata 'moeviz'"), max_bytes)


def _check_declared_size(metadata: parquet.FileMetaData, max_bytes: int) -> None:
    check_cells(metadata.num_rows, 1, max_bytes)
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if size > max_bytes:
        raise InvalidTrace(
            f"The file unpacks to {size:,} bytes, and at most {max_bytes:,} are read. Use .npz for more."
        )


def _column(name: str, column: pa.ChunkedArray, most: int) -> pd.Series:
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if name in TEXTS:
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise InvalidTrace(f"Column {name!r} is of type {kind}; it must be text.")
        if (size := _unfolded_bytes(column)) > most:
            raise InvalidTrace(
                f"Column {name!r} unpacks to {size:,} bytes of text, and at most {most:,} are read from a file of this "
                "size. Use .npz for more."
            )
        column = column.cast(pa.string())
    elif not (types.is_integer(column.type) or types.is_floating(column.type)):
        raise InvalidTrace(f"Column {name!r} is of type {column.type}; it must hold numbers.")
    series: pd.Series = column.to_pandas()
    return series


def _unfolded_bytes(column: pa.ChunkedArray) -> int:
    """Count the bytes of text if each row had its own copy."""
    if not types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = [pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    return sum(pc.sum(pc.cast(chunk, pa.int64())).as_py() or 0 for chunk in lengths)
