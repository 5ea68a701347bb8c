"""Ways to save a trace, most of which can be read back. One row of EXPORTS per file format.

| suffix | what it keeps | for |
|---|---|---|
| .csv | all but the logits of experts that were not chosen | spreadsheets, pandas, R |
| .parquet | the same, with dtypes | pandas, DuckDB, Spark |
| .json | everything | any language |
| .npz | everything, smallest | moeviz, numpy |
| .html | every chart, and the first few hundred rows of its numbers | people; it cannot be read back |
| .zip | every chart as a picture and as a table | people; it cannot be read back |

To add a format: write `trace -> bytes` and `bytes -> trace` in a new file, and add a row.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.assignments_table import UNNAMED
from moeviz.formats.csv_file import from_csv, to_csv
from moeviz.formats.json_file import from_json, to_json
from moeviz.formats.parquet_file import from_parquet, to_parquet
from moeviz.formats.trace_facts import MAX_BYTES
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.names import quoted, why_no_file
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class Export:
    """A file format: its button, its file ending, its media type, how to write it and how to read it."""

    label: str
    suffix: str
    mime: str
    write: Callable[[RoutingTrace], bytes]
    read: (
        Callable[[bytes, int], RoutingTrace] | None
    )  # within a budget of bytes. None: it is for people, and holds no trace
    needs: str = ""  # a module of the optional extra `report`, without which it is not written

    @property
    def ready(self) -> bool:
        """Whether everything that writes it is installed."""
        return not self.needs or find_spec(self.needs) is not None


def _report(trace: RoutingTrace) -> bytes:
    from moeviz.report.page import html_report  # loads Altair, which no other format needs

    return html_report(trace)


def _charts(trace: RoutingTrace) -> bytes:
    from moeviz.report.all_charts import charts_zip

    return charts_zip(trace)


EXPORTS = (
    Export("CSV", ".csv", "text/csv", to_csv, from_csv),
    Export("Parquet", ".parquet", "application/vnd.apache.parquet", to_parquet, from_parquet),
    Export("JSON", ".json", "application/json", to_json, from_json),
    Export("Trace file", ".npz", "application/octet-stream", to_trace_file, from_trace_file),
    Export("HTML report", ".html", "text/html", _report, None, needs="vl_convert"),
    Export("All charts (zip)", ".zip", "application/zip", _charts, None),
)


def export_for(filename: str | Path) -> Export:
    """The row of EXPORTS that writes a file with that name, by its suffix.

    Raises `InvalidTrace` for an unknown suffix, and `MoevizError` if a package needed to write it is not installed.
    """
    export = _row(filename)
    if not export.ready:
        raise MoevizError(
            f"Writing a {export.suffix} file needs packages that are not installed here: run `pip install "
            '"moeviz[report]"`.'
        )
    return export


def _row(filename: str | Path) -> Export:
    if why := why_no_file(filename):
        raise InvalidTrace(f"No file can be called {quoted(filename)}: the name {why}.")
    suffix = PurePath(filename).suffix.lower()
    for export in EXPORTS:
        if export.suffix == suffix:
            return export
    suffixes = ", ".join(export.suffix for export in EXPORTS)
    raise InvalidTrace(f"{PurePath(filename).name[:200]!r} does not have the suffix of a trace. Use one of {suffixes}.")


def _reader(filename: str | Path) -> Callable[[bytes, int], RoutingTrace]:
    if (read := _row(filename).read) is None:
        suffixes = ", ".join(export.suffix for export in EXPORTS if export.read)
        name = PurePath(filename).name[:200]
        raise InvalidTrace(
            f"{name!r} is for people to look at and cannot be read back. Open a trace in one of these formats: "
            f"{suffixes}."
        )
    return read


def read_bytes(data: bytes, filename: str, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from the bytes of a file, in the format that its name says.

    If a table does not say which model made it, the trace's model is "from <filename>" and its backend "file".
    `max_bytes` is the most that the file may have, and that it may unpack to. Raises `InvalidTrace` for any bytes that
    are not a trace, and for those that are one larger than that, or than fits into memory.
    """
    try:
        trace = _reader(filename)(data, max_bytes)
    except MemoryError as error:
        raise InvalidTrace(
            f"{PurePath(filename).name[:200]!r} needs more memory to read than there is here. Save fewer tokens or "
            "layers, or leave the logits out."
        ) from error
    if trace.model.name != UNNAMED:
        return trace
    name = PurePath(filename).name[:200].encode(errors="replace").decode()
    return replace(trace, model=replace(trace.model, name=f"from {name}"))


def read_trace(path: str | Path, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from a `.csv`, `.parquet`, `.json` or `.npz` file.

    `max_bytes` is the most that the file may have, and that it may unpack to. Raises `InvalidTrace` if the file does
    not hold a trace, or a larger one than that or than fits into memory, or has a name that no file can have, and
    `OSError` if it cannot be read.
    """
    path = Path(path)
    _reader(path)
    if (size := path.stat().st_size) > max_bytes:
        raise InvalidTrace(
            f"{path.name!r} has {size:,} bytes, and files of up to {max_bytes:,} bytes are read. Save fewer tokens or "
            "layers, or leave the logits out."
        )
    return read_bytes(path.read_bytes(), path.name, max_bytes)


def write_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace to a `.csv`, `.parquet`, `.json` or `.npz` file, or a report of it to an `.html` file.

    An existing file is replaced in one step, or left as it was. Raises `InvalidTrace` for an unknown suffix,
    `MoevizError` if the extra that writes reports is not installed, and `OSError` if the file cannot be written.
    """
    path = Path(path)
    data = export_for(path).write(trace)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
