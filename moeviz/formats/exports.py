"""Ways to save a trace, most of which can be read back. One row of EXPORTS per file format.

| suffix | what it keeps | for |
|---|---|---|
| .csv | all but the logits of experts that were not chosen | spreadsheets, pandas, R |
| .parquet | the same, with dtypes | pandas, DuckDB, Spark |
| .json | everything | any language |
| .npz | everything, smallest | moeviz, numpy |
| .html | every chart, and the first few hundred rows of its numbers | people; it cannot be read back |
| .zip | every chart as a picture and as a table | people; it cannot be read back |

To add a format: write `trace -> bytes` and `bytes -> trace` in a new file, and add a row. What other programs write is
in `moeviz.formats.importers`: such files are recognised by what is in them, whatever they are called.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.assignments_table import UNNAMED
from moeviz.formats.counts_file import counts_in, is_counts
from moeviz.formats.csv_file import from_csv, to_csv
from moeviz.formats.importers.importer import NOTHING_TOLD, ImportOptions, Opened, Source, source_of
from moeviz.formats.importers.table import imported, importers, is_ours, named, recognised
from moeviz.formats.importers.torch_file import is_torch
from moeviz.formats.json_file import from_json, to_json
from moeviz.formats.parquet_file import from_parquet, to_parquet
from moeviz.formats.trace_facts import check_size
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.text import quoted, why_no_file, with_and
from moeviz.whole_files import check_place, write_file

OF_MODELS = (".gguf", ".safetensors", ".bin", ".pth")  # suffixes; a .pt file may hold what a router chose


@dataclass(frozen=True, slots=True)
class Export:
    """A file format: its button, its file ending, its media type, how to write it and how to read it."""

    label: str
    suffix: str
    mime: str
    write: Callable[..., bytes]  # of a trace; those for people take `pause` too
    read: Callable[[bytes, int], RoutingTrace] | None  # within a budget of bytes. None: for people, holds no trace
    needs: str = ""  # a module of the optional extra `report`, without which it is not written

    @property
    def ready(self) -> bool:
        """True if everything that writes it is installed."""
        return not self.needs or find_spec(self.needs) is not None


def _report(trace: RoutingTrace, pause: Callable[[], object] = lambda: None) -> bytes:
    from moeviz.report.page import html_report  # loads Altair, which no other format needs

    return html_report(trace, pause=pause)


def _charts(trace: RoutingTrace, pause: Callable[[], object] = lambda: None) -> bytes:
    from moeviz.report.all_charts import charts_zip

    return charts_zip(trace, pause=pause)


EXPORTS = (
    Export("CSV", ".csv", "text/csv", to_csv, from_csv),
    Export("Parquet", ".parquet", "application/vnd.apache.parquet", to_parquet, from_parquet),
    Export("JSON", ".json", "application/json", to_json, from_json),
    Export("Trace file", ".npz", "application/octet-stream", to_trace_file, from_trace_file),
    Export("HTML report", ".html", "text/html", _report, None, needs="vl_convert"),
    Export("All charts (zip)", ".zip", "application/zip", _charts, None),
)


def left_out(trace: RoutingTrace, suffix: str) -> str:
    """Return the sentence that names what a format does not keep of this trace; "" if it keeps all that there is.

    suffix    of one of `EXPORTS`; "" for the folder of a dataset.

    >>> from moeviz.testing import sample_trace
    >>> left_out(sample_trace(), ".json")
    ''
    """
    if suffix in (".json", ".npz"):
        return ""
    of_others = suffix in (".csv", ".parquet")
    parts = {
        "the router logits" + " of experts that were not chosen" * of_others: trace.logits,
        "the next tokens": trace.next_tokens,
        "the figures of the experts' outputs": trace.outputs,
        **({} if of_others else {"the segments of chats": trace.tokens.get("segment")}),
    }
    lost = [name for name, part in parts.items() if part is not None]
    if not lost:
        return ""
    place = f"in a {suffix} file" if suffix else "in a dataset"
    return f"{with_and(lost)} cannot be read back from what is {place}; .json and .npz keep everything"


def export_for(filename: str | Path) -> Export:
    """Return the row of EXPORTS that writes a file with that name, by its suffix.

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


def read_bytes(
    data: bytes, filename: str, max_bytes: int = MAX_BYTES, options: ImportOptions = NOTHING_TOLD
) -> RoutingTrace:
    """Read a trace from the bytes of a file: what another program wrote, or else the format that its name says.

    If a table does not say which model made it, the trace's model is "from <filename>" and its backend "file".
    `max_bytes` is the most that the file may have, and that it may unpack to; `options` is what a foreign file does not
    say. Raises `InvalidTrace` for any bytes that are not a trace; for those that are one larger than that, or than fits
    into memory; and for files of torch, which hold a pickle, and are read only from a path.
    """
    return _trace_of(open_bytes(data, filename, max_bytes, options).counted, filename)


def open_bytes(data: bytes, filename: str, max_bytes: int = MAX_BYTES, options: ImportOptions = NOTHING_TOLD) -> Opened:
    """Read a trace or counts from the bytes of a file, with the doctor's findings where another program wrote it."""
    check_size(data, max_bytes)
    if is_torch(data):
        raise InvalidTrace(
            f"{quoted(PurePath(filename).name)} is a file of torch, which only “moeviz "
            "convert” opens, on the machine that has it. Convert it to .npz first."
        )
    return opened_in(Source(PurePath(filename).name, {PurePath(filename).name: data}, max_bytes), None, options)


def read_trace(
    path: str | Path, max_bytes: int = MAX_BYTES, format: str | None = None, options: ImportOptions = NOTHING_TOLD
) -> RoutingTrace:
    """Read a trace from a `.csv`, `.parquet`, `.json` or `.npz` file, or from what another program wrote.

    Files of other programs, and folders of them, are recognised by what is in them, or read as the `format` that is
    named (`moeviz.formats.importers.table.importers` lists them). What such a file does not say is asked for, and given
    as `options`. `max_bytes` is the most that the file may have, and that it may unpack to. Raises `InvalidTrace` if it
    holds no trace, or one that is larger than `max_bytes` or than memory, or has a name that no file can have, and
    `OSError` if it cannot be read.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_trace(sample_trace(), f"{folder}/trace.csv")
    ...     moeviz.read_trace(f"{folder}/trace.csv").experts.shape  # layers, tokens, slots
    (4, 32, 2)
    """
    return _trace_of(read_counted(path, max_bytes, format, options), path)


def read_counts(
    path: str | Path, max_bytes: int = MAX_BYTES, format: str | None = None, options: ImportOptions = NOTHING_TOLD
) -> ExpertCounts:
    """Read how many tokens each expert got: from a file of counts, or from any that holds a trace.

    Files and errors as with `read_trace`.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_counts(sample_trace().counts(), f"{folder}/counts.json")
    ...     int(moeviz.read_counts(f"{folder}/counts.json").assignments.sum())  # 4 layers of 32 tokens of 2 slots
    256
    """
    found = read_counted(path, max_bytes, format, options)
    return found.counts() if isinstance(found, RoutingTrace) else found


def read_counted(
    path: str | Path, max_bytes: int = MAX_BYTES, format: str | None = None, options: ImportOptions = NOTHING_TOLD
) -> Counted:
    """Read a trace, or counts where the file has no more. Files and errors as with `read_trace`."""
    return open_path(path, max_bytes, format, options).counted


def open_path(
    path: str | Path, max_bytes: int = MAX_BYTES, format: str | None = None, options: ImportOptions = NOTHING_TOLD
) -> Opened:
    """Read a trace or counts, with the doctor's findings on another program's file. Errors as with `read_trace`."""
    path = Path(path)
    if why := why_no_file(path):
        raise InvalidTrace(f"No file can be called {quoted(path)}: the name {why}.")
    if not path.exists():
        _check_name(path)
    return opened_in(source_of(path, max_bytes), format, options)


def _check_name(path: Path) -> None:
    """Raise `InvalidTrace` for a name without a known suffix, and name those that there are."""
    if path.suffix.lower() in {export.suffix for export in EXPORTS}:
        _reader(path)  # says which can be read
        return
    model = f" --model {path.name[:200]}" if path.suffix.lower() in OF_MODELS else ""
    raise InvalidTrace(
        f"There is no file {quoted(path)}. Give a file with a trace; one is recorded by “moeviz trace PROMPT{model} -o "
        "trace.npz”."
    )


def _trace_of(found: Counted, filename: str | Path) -> RoutingTrace:
    if isinstance(found, RoutingTrace):
        return found
    raise InvalidTrace(
        f"{PurePath(filename).name[:200]!r} holds counts of how many tokens each expert got, and not where each token "
        "went. Read it with moeviz.read_counts, or “moeviz convert” it."
    )


def opened_in(source: Source, format: str | None, options: ImportOptions) -> Opened:
    """Read a trace or counts from a `Source`, whose bytes are in memory. Errors as with `read_trace`."""
    try:
        row = named(format) if format else None if is_ours(source) else recognised(source)
        if row is not None:
            return imported(source, row, options)
        return Opened(counts_in(source) if is_counts(source) else _own(source))
    except MemoryError as error:
        raise InvalidTrace(
            f"{source.name[:200]!r} needs more memory to read than there is here. Save fewer tokens or layers, or "
            "leave the logits out."
        ) from error


def _own(source: Source) -> RoutingTrace:
    """Read a trace in one of our own formats, by the suffix."""
    suffixes = [export.suffix for export in EXPORTS]
    if source.is_folder or (PurePath(source.name).suffix.lower() not in suffixes and not why_no_file(source.name)):
        if PurePath(source.name).suffix.lower() in OF_MODELS:
            raise InvalidTrace(
                f"{quoted(source.name)} holds a model, and no trace. “moeviz trace PROMPT --model MODEL -o trace.npz” "
                "records one."
            )
        raise _not_recognised(source)
    if isinstance(source.first, dict | list) and "format" not in source.first:
        raise _not_recognised(source)
    trace = _reader(source.name)(source.data, source.max_bytes)
    if trace.model.name != UNNAMED:
        return trace
    name = source.name[:200].encode(errors="replace").decode()
    return replace(trace, model=replace(trace.model, name=f"from {name}"))


def _not_recognised(source: Source) -> InvalidTrace:
    ours, kind = ", ".join(export.suffix for export in EXPORTS if export.read), "folder" if source.is_folder else "file"
    return InvalidTrace(
        f"The {kind} {quoted(source.name)} is not recognised: it is neither a trace that moeviz wrote ({ours}, or the "
        f"folder of a dataset), nor in one of the {len(importers())} formats of other programs that moeviz reads. If "
        "you know its format, name it: --format NAME (format= in Python)."
    )


def check_target(path: str | Path) -> None:
    """Raise what `write_trace` would raise there, before there is a trace to write: a run may take hours.

    Raises `InvalidTrace` for an unknown suffix, and `MoevizError` for what is not installed or a place where no file
    can be written.
    """
    path = Path(path)
    export_for(path)
    try:
        check_place(path)
    except OSError as error:
        raise MoevizError(
            f"{quoted(path)} cannot be written: {error.strerror or error}. Give another place."
        ) from error


def write_trace(trace: RoutingTrace, path: str | Path, plain: bool = False) -> None:
    """Write a trace to a `.csv`, `.parquet`, `.json` or `.npz` file, or a report of it to an `.html` file.

    `plain` writes a .csv file for spreadsheets and other programs: only its rows, without the model's facts.
    An existing file is replaced in one step, or left as it was. Raises `InvalidTrace` for an unknown suffix,
    `MoevizError` if the extra that writes reports is not installed, and `OSError` if the file cannot be written.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_trace(sample_trace(), f"{folder}/trace.csv")
    ...     moeviz.read_trace(f"{folder}/trace.csv").experts.shape  # layers, tokens, slots
    (4, 32, 2)
    """
    path = Path(path)
    if plain and path.suffix.lower() != ".csv":
        raise MoevizError(f"Only a .csv file can be plain, not {quoted(path.name)}. Give one, or leave plain out.")
    data = to_csv(trace, plain) if plain else export_for(path).write(trace)
    write_file(path, data)


_OPENED: dict[str, Opened] = {}  # by path: `moeviz app FILE` reads and serves in one process, and reads once


def keep_opened(path: str | Path, opened: Opened) -> None:
    """Keep the content of a file for `open_cached`."""
    _OPENED[str(Path(path).resolve())] = opened


def open_cached(path: str | Path) -> Opened:
    """Return the content of the file at a path, which is read only once. Raises the errors of `read_trace`."""
    known = _OPENED.get(str(Path(path).resolve()))
    return open_path(path) if known is None else known
