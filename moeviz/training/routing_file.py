"""The files of a run, written and read: routing.jsonl, appended with a line per log; and files of counts.

    {"format": "moeviz training v1", "from_step": 0, "model": …, "layers": […], "num_experts": […], "top_k": …, …}
    {"step": 10, "steps": 10, "tokens": 5120, "loss": 6.9, "aux_loss": 2.1, "aux_coefficient": 0.02, "on": 1,
     "alarms": [{"kind": "load", "layer": 1, "on": true, "says": "step 10: layer 1: …"}],
     "layers": [{"layer": 0, "tokens": 5120, "assignments": 10240, "max_violation": 0.4, …, "dead": 1,
                 "counts": […], "importance": […], "dead_since": [[3, 42]]}, …]}
    {"evaluation": 10, "layers": […]}
    {"snapshot": 16, "tokens": 8192, "changed": [0.1, …]}
    {"said": "The routers are frozen: …"}

A line of facts begins a run, or goes on with it from a checkpoint: logs after `from_step` do not count any more. The
last line of a step wins. Nothing in a file is trusted: whatever is not a number is missing, and a line that makes no
sense is left out, with a note. It is read line by line; of one too long to be held, every nth log, with a note.

If layers x experts are many, `counts`, `importance` and `dead_since` are in Parquet files: a file per log, put together
as they become many. One row per layer: step int64 · layer int32 · counts list of int64 · importance list of
float32 · dead_since list of int32 (-1: not dead). Files are numbered in the order in which they were written; of two
rows of a step, the later one counts.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_ALL_EXPERTS, MAX_BYTES, MAX_EXPERTS, MAX_LAYERS
from moeviz.text import is_text
from moeviz.training.recorded.rules import KINDS, of_json
from moeviz.training.recorded.run import FIGURES, WHOLE_RUN, RunFacts
from moeviz.whole_files import replacing

FORMAT = "moeviz training v1"
FILE = "routing.jsonl"
MOST = 2**53  # whole numbers that JSON keeps
MAX_LINES = 2**20
MAX_LINE = 2**24  # bytes
MAX_READ = 2**26  # bytes of logs that are held; as values they take some eight times as much
# The beginnings of lines, and parts of them, as they are written.
A_BEGINNING, A_LOG, AN_EVALUATION = b'{"format"', b'{"step"', b'{"evaluation"'
LAYERS_BEGIN, NO_ALARM = b',"layers":[', b'"alarms":[]'
ReadLine = Callable[[int], bytes]
THINNED = (A_LOG, AN_EVALUATION)
LARGEST = np.finfo(np.float64).max
OTHER_FIGURES = ("router_grad_norm", "experts_without_grad")


@dataclass(slots=True)
class Lines:
    """Contents of the lines of a file, by step."""

    facts: dict[str, Any] = field(default_factory=dict)
    logs: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    evaluations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: dict[int, dict[str, Any]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    damaged: int = 0
    unfinished: bool = False
    every: int = 1  # every nth log is read

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader of the file has to know."""
        said = []
        if self.every > 1:
            said.append(
                f"{FILE} is long, so one log of {self.every} is read, and the last one. Alarms are those of all logs."
            )
        if self.damaged:
            lines = "One damaged line" if self.damaged == 1 else f"{self.damaged:,} damaged lines"
            said.append(f"{lines} of {FILE} {'was' if self.damaged == 1 else 'were'} left out.")
        if self.unfinished:
            said.append(
                f"The last line of {FILE} is not finished, and was left out: the run is writing it, or was ended."
            )
        return said


def lines_of(readline: ReadLine, size: int) -> Lines:
    """Read a file of `size` bytes, by its `readline`. Raises `InvalidTrace` if none of its lines is of a run."""
    found, last, seen = Lines(every=max(-(-size // MAX_READ), 1)), b"", Counter[bytes]()
    for number, line in enumerate(_lines(readline)):
        if number >= MAX_LINES:
            raise InvalidTrace(f"{FILE} has more than {MAX_LINES:,} lines, and no more are read. Log less often.")
        ended, kind = line.endswith(b"\n"), next((kind for kind in THINNED if line.startswith(kind)), b"")
        seen[kind] += 1
        if ended and kind and seen[kind] % found.every:
            good = _skip_log(found, line, kind)
            last = line if good and kind == A_LOG else last
        else:
            good = _take_line(found, line)
            last = b"" if good and line.startswith((A_LOG, A_BEGINNING)) else last
        found.damaged += found.unfinished + (ended and not good)  # what was not ended before was not the last
        found.unfinished = not (ended or good)  # without its end, a line counts if it is whole all the same
    if last:
        _take_line(found, last)
    if not (found.logs or found.facts or found.evaluations or found.snapshots):
        raise InvalidTrace(
            f"This is not a {FILE} that moeviz wrote: no line of it is a log of routing. Give the folder that was the "
            "`out` of a run, or the file in it."
        )
    return found


def _lines(readline: ReadLine) -> Iterator[bytes]:
    """Yield lines that are not empty; an overlong line comes in pieces, which are not valid."""
    while line := readline(MAX_LINE):
        if line.strip():
            yield line


def _skip_log(found: Lines, line: bytes, kind: bytes) -> bool:
    """Take only the alarms of a log; return whether the line looks valid."""
    head, begun, _ = line.partition(LAYERS_BEGIN)
    if not begun or not line.rstrip().endswith(b"]}"):
        return False
    if kind != A_LOG or NO_ALARM in head:
        return True
    return _take_line(found, head + b"}", skipped=True)


def _take_line(found: Lines, line: bytes, skipped: bool = False) -> bool:
    """Take a line if it is valid; True if it was taken."""
    try:
        said = json.loads(line)
        if "format" in said:
            _begin(found, said)
        elif "evaluation" in said:
            found.evaluations[whole(said["evaluation"])] = [layer_of(row) for row in said["layers"]]
        elif "snapshot" in said:
            found.snapshots[whole(said["snapshot"])] = _snapshot(said)
        elif "said" in said:
            found.said.append(str(said["said"]))
        else:
            step, events = whole(said["step"]), [_event(event) for event in said.get("alarms", [])]
            if not skipped:
                found.logs[step] = _log(said)
            found.events.pop(step, None)  # the last line of a step wins
            if events:
                found.events[step] = events
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return False
    return True


def _begin(found: Lines, said: dict[str, Any]) -> None:
    if said["format"] != FORMAT:
        raise ValueError
    start = whole(said.get("from_step", 0))
    found.facts, found.said = said, list(map(str, said.get("said") or []))
    for by_step in (found.logs, found.events, found.evaluations, found.snapshots):
        for step in [step for step in by_step if step > start or not start]:
            del by_step[step]


def _log(said: dict[str, Any]) -> dict[str, Any]:
    log: dict[str, Any] = {
        "step": whole(said["step"]),
        "steps": whole(said.get("steps", 1)),
        "tokens": whole(said["tokens"]),
    }
    log |= {name: number(said.get(name)) for name in ("loss", "aux_loss", "aux_coefficient", "aux_in_loss")}
    log["score_function"] = _text(said.get("score_function"))
    log["layers"] = [layer_of(row) for row in said["layers"]]
    return log


def _snapshot(said: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": whole(said["tokens"]), "changed": [number(value) for value in said.get("changed", [])]}


def _event(said: dict[str, Any]) -> dict[str, Any]:
    layer, says = said.get("layer"), said["says"]
    if said["kind"] not in KINDS or not is_text(says):
        raise ValueError
    layer = WHOLE_RUN if layer is None else whole(layer)
    return {"kind": said["kind"], "layer": layer, "on": bool(said["on"]), "says": says[:500]}


def layer_of(row: dict[str, Any]) -> dict[str, Any]:
    """Read the part of a line about a layer."""
    counts, importance = (np.asarray(row[name]) if name in row else None for name in ("counts", "importance"))
    if counts is not None and (counts.ndim != 1 or counts.dtype.kind != "i" or (counts < 0).any()):
        raise ValueError
    if importance is not None and (importance.ndim != 1 or importance.dtype.kind not in "if"):
        importance = None  # a router without logits has none
    layer: dict[str, Any] = {name: whole(row.get(name, 0)) for name in ("layer", "tokens", "assignments", "dead")}
    layer |= {name: number(row.get(name)) for name in (*FIGURES, *OTHER_FIGURES)}
    since = [(whole(expert), whole(step)) for expert, step in row.get("dead_since", [])]
    return layer | {"counts": counts, "importance": importance, "dead_since": since}


def facts_of(said: dict[str, Any], facts: Sequence[str] = (), score_function: str = "") -> RunFacts:
    """Return the facts of a run, from the line that began it, and from later lines of facts."""
    layers, experts = (_numbers(said.get(name)) for name in ("layers", "num_experts"))
    if len(layers) != len(experts) or len(layers) > MAX_LAYERS or list(layers) != sorted(set(layers)):
        layers = experts = ()
    if experts and (min(experts) < 1 or max(experts) > MAX_EXPERTS or len(layers) * max(experts) > MAX_ALL_EXPERTS):
        raise InvalidTrace(
            f"{FILE} names {len(layers):,} layers of up to {max(experts):,} experts, and at most {MAX_ALL_EXPERTS:,} "
            "experts are read. It is damaged, or not of a model."
        )
    top_k, has_aux = said.get("top_k"), said.get("has_aux")
    return RunFacts(
        "moeviz",
        _text(said.get("model")),
        layers,
        experts,
        top_k if type(top_k) is int and 0 < top_k <= MAX_EXPERTS else None,
        _text(said.get("counted")),
        score_function,
        has_aux if isinstance(has_aux, bool) else None,
        _none_if_nan(number(said.get("aux_coefficient"))),
        _none_if_nan(number(said.get("aux_effective"))),
        of_json(said.get("rules")),
        tuple(text[:500] for text in facts[:20] if is_text(text)),
    )


def whole(value: Any) -> int:
    """Return a whole number from 0 on. Raises `ValueError` for anything else."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError
    return value


def number(value: Any) -> float:
    """Return a number; NaN for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < LARGEST else np.nan


def _numbers(values: Any) -> tuple[int, ...]:
    good = isinstance(values, list) and all(type(value) is int and 0 <= value <= MOST for value in values)
    return tuple(values) if good else ()


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def _text(value: Any) -> str:
    return value[:200] if is_text(value) else ""


COUNTS_FOLDER = "counts"
LARGE = 1_024  # layers x experts of which a line has no counts: 48 x 128 would be 180 kB each
TOGETHER = 64  # files that become one
MAX_ROWS = TOGETHER * MAX_LAYERS
NAME = re.compile(r"part-(\d{6,12})\.parquet")
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("layer", pa.int32()),
        ("counts", pa.list_(pa.int64())),
        ("importance", pa.list_(pa.float32())),
        ("dead_since", pa.list_(pa.int32())),
    ]
)
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError)


def parts_of(folder: Path) -> list[Path]:
    """Return the files of counts of a run, as they were written."""
    found = {int(name[1]): file for file in folder.glob("part-*.parquet") if (name := NAME.fullmatch(file.name))}
    return [found[place] for place in sorted(found)]


def write_counts_of_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add the counts of a log, `rows` with the columns above; put files together where they have become many."""
    folder.mkdir(exist_ok=True)
    parts = parts_of(folder)
    number = int(NAME.fullmatch(parts[-1].name)[1]) + 1 if parts else 0  # type: ignore[index]
    _write(pa.Table.from_pylist(list(rows), SCHEMA), folder / f"part-{number:06d}.parquet")
    singles = [part for part in parts if int(NAME.fullmatch(part.name)[1]) % TOGETHER != TOGETHER - 1]  # type: ignore[index]
    if number % TOGETHER == TOGETHER - 1:
        tables = [parquet.read_table(part, schema=SCHEMA) for part in [*singles, folder / f"part-{number:06d}.parquet"]]
        _write(pa.concat_tables(tables), folder / f"part-{number:06d}.parquet")
        for part in singles:
            part.unlink()


def _write(table: pa.Table, target: Path) -> None:
    with replacing(target) as file:
        parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


class Arrays:
    """Counts, importance and the steps of death (S, L, E) of the logs of a run, filled part by part."""

    def __init__(self, steps: Sequence[int], layers: Sequence[int], experts: int) -> None:
        shape = (len(steps), len(layers), experts)
        self.steps, self.layers = np.asarray(steps, np.int64), np.asarray(layers, np.int64)
        self.counts = np.full(shape, -1, np.int64)
        self.importance = np.full(shape, np.nan, np.float32)
        self.dead_since = np.full(shape, -1, np.int32)

    def read(self, file: Path) -> None:
        """Take what a file has. Raises `InvalidTrace` for one that is damaged, or not of this run."""
        try:
            metadata = parquet.read_metadata(file)
            size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
            if size > MAX_BYTES or metadata.num_rows > MAX_ROWS:
                raise ValueError(f"it unpacks to {size:,} bytes in {metadata.num_rows:,} rows")
            table = parquet.read_table(file, schema=SCHEMA)
            table.validate(full=True)
            step, layer = (table.column(name).to_numpy() for name in ("step", "layer"))
            row, column = _places(self.steps, step), _places(self.layers, layer)
            kept = (row >= 0) & (column >= 0)
            for name in ("counts", "importance", "dead_since"):
                self._take(name, table.column(name).combine_chunks(), row, column, kept)
        except UNREADABLE as error:
            raise InvalidTrace(f"The counts in {file.name} cannot be read: {str(error)[:200]}.") from error

    def _take(self, name: str, lists: pa.ListArray, row: np.ndarray, column: np.ndarray, kept: np.ndarray) -> None:
        target = getattr(self, name)
        lengths = np.diff(lists.offsets.to_numpy())
        values = lists.flatten().to_numpy()
        if len(values) != lengths.sum() or (lengths > target.shape[2]).any() or lists.null_count:
            raise ValueError("its lists are not of the experts of this run")
        for length in np.unique(lengths):  # one, unless layers have different numbers of experts
            mine = lengths == length
            starts = lists.offsets.to_numpy()[:-1][mine & kept] - lists.offsets.to_numpy()[0]
            target[row[mine & kept], column[mine & kept], :length] = values[starts[:, None] + np.arange(length)]


def _places(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.full(len(values), -1)
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[at] == values, at, -1)
