"""Ways to take a trace home, and to bring it back. One row of EXPORTS a file format.

| suffix | what it keeps | for |
|---|---|---|
| .csv | all but the logits of experts that were not chosen | spreadsheets, pandas, R |
| .parquet | the same, with dtypes | pandas, DuckDB, Spark |
| .json | everything | any language |
| .npz | everything, smallest | moeviz, numpy |

To add a format: write `trace -> bytes` and `bytes -> trace` in a file of its own, and add a row.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from moeviz.errors import InvalidTrace
from moeviz.files.assignments_table import UNNAMED
from moeviz.files.csv_file import from_csv, to_csv
from moeviz.files.json_file import from_json, to_json
from moeviz.files.parquet_file import from_parquet, to_parquet
from moeviz.files.trace_facts import MAX_BYTES
from moeviz.files.trace_file import from_trace_file, to_trace_file
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class Export:
    """A file format: its button, its file ending, its media type, how to write it and how to read it."""

    label: str
    suffix: str
    mime: str
    write: Callable[[RoutingTrace], bytes]
    read: Callable[[bytes], RoutingTrace]


EXPORTS = (
    Export("CSV", ".csv", "text/csv", to_csv, from_csv),
    Export("Parquet", ".parquet", "application/vnd.apache.parquet", to_parquet, from_parquet),
    Export("JSON", ".json", "application/json", to_json, from_json),
    Export("Trace file", ".npz", "application/octet-stream", to_trace_file, from_trace_file),
)


def export_for(filename: str | Path) -> Export:
    """The row of EXPORTS for a file name, by its suffix. Raises `InvalidTrace` for a suffix that no row has."""
    suffix = PurePath(filename).suffix.lower()
    for export in EXPORTS:
        if export.suffix == suffix:
            return export
    suffixes = ", ".join(export.suffix for export in EXPORTS)
    raise InvalidTrace(f"{PurePath(filename).name[:200]!r} has no suffix of a trace; a trace is one of {suffixes}.")


def read_bytes(data: bytes, filename: str) -> RoutingTrace:
    """Read a trace from the bytes of a file, in the format that its name says.

    A table that does not say which model made it gives a trace of the model "from <filename>" and the backend "file".
    Raises `InvalidTrace`, whatever the bytes are.
    """
    trace = export_for(filename).read(data)
    if trace.model.name != UNNAMED:
        return trace
    name = PurePath(filename).name[:200].encode(errors="replace").decode()
    return replace(trace, model=replace(trace.model, name=f"from {name}"))


def read_trace(path: str | Path) -> RoutingTrace:
    """Read a trace from a `.csv`, `.parquet`, `.json` or `.npz` file.

    Raises `InvalidTrace` for a file that holds no trace, and `OSError` for one that cannot be read.
    """
    path = Path(path)
    export_for(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InvalidTrace(f"{path.name!r} has {size:,} bytes; this moeviz reads files of up to {MAX_BYTES:,}.")
    return read_bytes(path.read_bytes(), path.name)


def write_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace to a `.csv`, `.parquet`, `.json` or `.npz` file.

    A file that is there already is replaced in one step, or left as it was. Raises `InvalidTrace` for another suffix,
    and `OSError` where nothing can be written.
    """
    path = Path(path)
    data = export_for(path).write(trace)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
