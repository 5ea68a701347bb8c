"""Print and write a command's results: findings, tables and JSON to stdout, notes and progress to stderr, traces to
files. No text from a file or a model can move the cursor of a terminal, or break its lines.
"""

import json
import shutil
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from textwrap import wrap
from threading import Event
from typing import TYPE_CHECKING, Any

from moeviz.errors import MoevizError, StopReading
from moeviz.text import quoted, why_no_file

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.routing_trace import Counted

# Exit codes: done; something was found that was asked for; wrong usage (set by argparse); an error.
DONE, FOUND, USAGE, ERROR = 0, 1, 2, 3
WIDTH = 120  # columns of a terminal that does not report its width
QUIET = Event()  # set with -q
ALL = Event()  # set with --all
LONG = 40  # rows of a table on a terminal without --all
EVERY = 10.0  # seconds between two lines of progress where no terminal shows it
STOP, STOPPED = Event(), Event()  # set by Ctrl-C after `keep_when_stopped`: until reading ends; until the command does
MOST_NAMED = 24  # columns that a table leaves out and names
ROWS = 10_000  # rows that become text at a time: text takes ten times the memory of numbers


def note(sentence: str) -> None:
    """Print a sentence that is not a result to stderr; nothing with -q."""
    if not QUIET.is_set():
        complain(sentence)


def complain(sentence: str) -> None:
    """Print what is wrong to stderr, also with -q."""
    print(f"moeviz: {sentence}", file=sys.stderr, flush=True)


def watched() -> bool:
    """Return whether a person watches the progress of a run."""
    return sys.stderr.isatty() and not QUIET.is_set()


class _Run:
    """The run whose progress is shown: what it says, and when it began and was last shown."""

    says, done, shown = "", 0, ""
    began = spoke = 0.0


def progress(done: int, total: int, says: str = "generated {} of {} tokens") -> None:
    """Show the progress of a run and the time left: on a terminal at once, elsewhere a line every ten seconds.

    Raises `StopReading` after Ctrl-C, if the command keeps what it has read.
    """
    now = time.monotonic()
    if says != _Run.says or done < _Run.done:
        _Run.says, _Run.shown, _Run.began, _Run.spoke = says, "", now, now
    _Run.done = done
    left = (now - _Run.began) * (total - done) / max(done - 1, 1)
    line = says.format(done, total) + (f", {duration(left)} left" if left >= 1 else "")
    if watched():
        print(f"\rmoeviz: {line:<{len(_Run.shown)}}", end="\n" * (done == total), file=sys.stderr, flush=True)
        _Run.shown = line
    elif now - _Run.spoke >= EVERY or (done == total and _Run.shown):
        note(line)
        _Run.shown, _Run.spoke = line, now
    if STOP.is_set():
        STOP.clear()
        raise StopReading


def keep_when_stopped() -> None:
    """From here on, Ctrl-C ends the reading of texts, and the command goes on with those read so far; again ends it."""
    with suppress(ValueError):  # only the first thread of a process receives Ctrl-C
        signal.signal(signal.SIGINT, _stop_reading)


def end_keeping() -> None:
    """Have Ctrl-C end a command at once again."""
    STOP.clear()
    STOPPED.clear()
    if signal.getsignal(signal.SIGINT) is _stop_reading:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop_reading(*_signal: object) -> None:
    if STOP.is_set():
        raise KeyboardInterrupt
    STOP.set()
    STOPPED.set()
    note("stopping: the result is of what was read so far. Ctrl-C again ends at once")


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(8.0), duration(170.0), duration(7300.0), duration(205000.0)
    ('8 s', '3 min', '2 h 2 min', '2 d 8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def check_output(path: str | None, counts_only: bool = False) -> None:
    """Raise `MoevizError` for a file that cannot be written, before the model has run."""
    from moeviz.formats.counts_file import check_counts_target
    from moeviz.formats.exports import check_target

    if counts_only:
        if path is None or is_dataset_target(path):
            raise MoevizError("--counts-only writes one small file, which needs a name that ends in .json or .csv.")
        check_counts_target(path)
    if path is not None:
        check_target(path)


def check_parent(path: str | None) -> None:
    """Raise `MoevizError` for a file whose folder does not exist, or whose name no file can have."""
    if path is not None and (why_no_file(path) or not Path(path).absolute().parent.is_dir()):
        raise MoevizError(f"The folder of the file {quoted(path)} does not exist. Create it, or name another file.")


def is_dataset_target(target: str | None) -> bool:
    """Return whether a target is a dataset: a name without a suffix, a folder that holds one, or a place in a store."""
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.dataset.s3 import is_store

    if is_store(target):
        return True
    if not target or why_no_file(target):
        return False
    named = not PurePath(target).suffix and not PurePath(target).name.startswith(".")
    return named or target.endswith("/") or is_dataset(target)


def write(trace: "Counted", path: str | None, counts_only: bool = False) -> None:
    """Write a trace, or only its counts, if a path is given, and note it."""
    from moeviz.expert_counts import ExpertCounts
    from moeviz.formats.counts_file import counts_alone, write_counts
    from moeviz.formats.exports import left_out, write_trace

    if path is None:
        return
    if counts_only or isinstance(trace, ExpertCounts):
        counts = counts_alone(trace)
        write_counts(counts, path)
        note(f"wrote {path}: {counts!r}")
    else:
        write_trace(trace, path)
        note(f"wrote {path}")
        if lost := left_out(trace, PurePath(path).suffix.lower()):
            note(lost)


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a table, for JSON."""
    return json.loads(frame.to_json(orient="records", double_precision=15))  # NaN is null


def print_findings(sentences: Iterable[str]) -> None:
    """Print sentences that answer what was asked, one per line: they are results, as the table below them is."""
    for sentence in sentences:
        print(visible_line(sentence))


def print_tables(tables: dict[str, "pd.DataFrame"], findings: Iterable[str] = ()) -> None:
    """Print one JSON object on one line: the sentences under "findings", and the rows of each table under its name."""
    sys.stdout.write(f'{{"findings": {json.dumps([*findings])}')
    for name, frame in tables.items():
        sys.stdout.write(f", {json.dumps(name)}: [")
        for start in range(0, len(frame), ROWS):
            rows = frame.iloc[start : start + ROWS].to_json(orient="records", double_precision=15)  # NaN is null
            sys.stdout.write((", " if start else "") + rows[1:-1])
        sys.stdout.write("]")
    sys.stdout.write("}\n")


def print_answer(
    as_json: bool, tables: dict[str, "pd.DataFrame"], findings: Iterable[str], *shown: "pd.DataFrame"
) -> int:
    """Print findings and the tables to be `shown`, if they have rows; or all `tables` as JSON. Returns exit code 0."""
    if as_json:
        print_tables(tables, findings)
        return DONE
    print_findings(findings)
    if texts := [frame_text(table) for table in shown if len(table)]:
        print("\n\n".join(texts))
    return DONE


def frame_text(frame: "pd.DataFrame") -> str:
    """Return a table as text: on a terminal its first 40 rows unless --all is given, elsewhere all of them."""
    if len(frame) > LONG and sys.stdout.isatty() and not ALL.is_set():
        more = f"The first {LONG} of {len(frame):,} rows. More: --all, or --json for programs."
        return f"{frame_text(frame.head(LONG))}\n{more}"
    texts = [name for name, column in frame.items() if column.dtype.kind == "O"]
    return frame.assign(**{name: frame[name].astype("str").map(visible_line) for name in texts}).to_string(index=False)


def fitting_text(frame: "pd.DataFrame", more: str = "--wide") -> str:
    """Return a table as text that fits the terminal, and a line that names the other columns; `more` shows those."""
    width = shutil.get_terminal_size((WIDTH, 24)).columns

    def too_wide(columns: int) -> bool:
        return max(map(len, frame_text(frame.iloc[:, :columns]).splitlines())) > width

    fit = range(1, min(len(frame.columns), width) + 1)  # numbers of columns: each takes a character at least
    shown = max(1, bisect_left(fit, True, key=too_wide))
    text, left_out = frame_text(frame.iloc[:, :shown]), [*map(str, frame.columns[shown:])]
    if not left_out:
        return text
    if len(left_out) > MOST_NAMED:
        left_out[MOST_NAMED - 2 : -1] = ["…"]
    note = f"{len(frame.columns) - shown:,} more columns with {more}: {', '.join(left_out)}"
    return "\n".join([text, *wrap(note, width)])


def frame_texts(frame: "pd.DataFrame") -> Iterator[str]:
    """Yield a long table as texts of up to 10,000 rows, each of which begins with the names of the columns."""
    if sys.stdout.isatty() and not ALL.is_set():
        yield frame_text(frame)
        return
    for start in range(0, max(len(frame), 1), ROWS):
        yield frame_text(frame.iloc[start : start + ROWS])


def visible_line(text: str) -> str:
    """Return a text from anywhere as one line for a terminal, with its control characters spelled out."""
    from moeviz.metrics.tokens import visible

    return visible(text)
