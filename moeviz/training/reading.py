"""Recognise and open runs of training: the folder that moeviz wrote, or logs of TensorBoard or Megatron-LM."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.importers.importer import NOTHING_TOLD, ImportOptions
from moeviz.text import quoted, why_no_file
from moeviz.training.recorded.run import (
    ALARMS,
    CHANGED,
    FIGURES,
    LAYERS,
    LOGS,
    SNAPSHOTS,
    RunFacts,
    TrainingRun,
    empty,
    summary_of,
)
from moeviz.training.routing_file import (
    COUNTS_FOLDER,
    FILE,
    FORMAT,
    OTHER_FIGURES,
    Arrays,
    Lines,
    facts_of,
    lines_of,
    parts_of,
)
from moeviz.training.trainer_logs import PATTERN, event_folder, events_run, megatron_folder, megatron_run

USUAL = ("", "routing", "moeviz")  # where in a folder a run may lie
MAX_CELLS = 2**24  # logs x layers x experts that are held, at 16 bytes each
MAX_FILE = 2**36  # bytes: it is read line by line, and only some of the lines of a long one are held


def read_run(path: str | Path, options: ImportOptions = NOTHING_TOLD, max_bytes: int = MAX_FILE) -> TrainingRun:
    """Open a run of training: whole, damaged, or still growing.

    path     a folder that was the `out` of a run, or that has one in `routing/`; its `routing.jsonl`; a folder with
             event files of TensorBoard, or such a file; a folder of Megatron-LM's `tokens_per_expert`, or a file of it.
    options  what Megatron-LM's files do not say: `top_k` and `expert_parallel`.

    Lines that make no sense, and a last one that is half written, are left out; `notes` say so. Of a run that is too
    long to be held, every nth log and the last one are read, and all alarms; `notes` say so too.

    Raises `InvalidTrace` if the run is missing or too large; `OSError` if it cannot be read.
    """
    if why := why_no_file(path := Path(path)):
        raise InvalidTrace(f"There is no run of training at {quoted(path)}: the name {why}.")
    if (file := _routing_file(path)) is not None:
        _check_size(file.stat().st_size, file.name, max_bytes)
        named = file.parent.parent if file.parent.name in USUAL else file.parent
        with file.open("rb") as opened:
            lines = lines_of(opened.readline, file.stat().st_size)
        return _run_of(lines, named.name or file.parent.name or file.name, file.parent)
    if (place := megatron_folder(path)) is not None:
        return megatron_run(place, options)
    if (place := event_folder(path)) is not None:
        return events_run(place)
    path.stat()
    raise InvalidTrace(
        f"There is no run of training at {quoted(path)}. Give the folder that was the `out` of `watch` or "
        f"`RoutingHealth`, with {FILE} in it, event files of TensorBoard, or Megatron-LM's tokens_per_expert."
    )


def read_run_file(data: bytes, filename: str, max_bytes: int = MAX_BYTES) -> TrainingRun:
    """Read a run from the bytes of a `routing.jsonl`, without the other files of its folder. Raises `InvalidTrace`."""
    _check_size(len(data), filename, max_bytes)
    return _run_of(lines_of(BytesIO(data).readline, len(data)), filename, None)


def _routing_file(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".jsonl" and path.parent.name != "tokens_per_expert":
        return path if not path.name.startswith("rank") else None
    return next((file for place in USUAL if (file := path / place / FILE).is_file()), None)


def _check_size(size: int, name: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise InvalidTrace(f"{quoted(name)} has {size:,} bytes, and at most {max_bytes:,} are read. Log less often.")


def _run_of(lines: Lines, name: str, folder: Path | None) -> TrainingRun:
    logs = [lines.logs[step] for step in sorted(lines.logs)]
    facts = _facts(lines, logs)
    logs, notes = _thin_logs(facts, logs)
    layers = _layer_frame([(log["step"], row) for log in logs for row in log["layers"]])
    events = [(step, event) for step in sorted(lines.events) for event in lines.events[step]]
    counts, importance, dead_since = _arrays(facts, logs, folder, notes)
    alarms = alarm_frame(events)
    evaluated = [(step, row) for step, rows in sorted(lines.evaluations.items()) for row in rows]
    return TrainingRun(
        name,
        facts,
        _log_frame(logs, alarms),
        layers,
        counts,
        importance,
        dead_since,
        alarms=alarms,
        evaluations=_layer_frame(evaluated),
        changed=_read_changed(lines, facts),
        summary=summary_of(layers),
        snapshots=_snapshots(lines, folder),
        notes=tuple(lines.notes + notes),
        events=tuple(events),
    )


def _facts(lines: Lines, logs: list[dict[str, Any]]) -> RunFacts:
    """Return the facts in the file; from its rows if its first line is missing."""
    function = logs[-1]["score_function"] if logs else ""
    facts = facts_of(lines.facts, lines.said, function)
    if facts.layers or not logs:
        return facts
    rows = {row["layer"]: row for log in logs for row in log["layers"]}
    experts = [1 if rows[layer]["counts"] is None else len(rows[layer]["counts"]) for layer in sorted(rows)]
    return facts_of(lines.facts | {"layers": sorted(rows), "num_experts": experts}, lines.said, function)


def _log_frame(logs: list[dict[str, Any]], alarms: pd.DataFrame) -> pd.DataFrame:
    if not logs:
        return empty(LOGS)
    columns = {name: [log.get(name, 0) for log in logs] for name in LOGS}
    over = alarms["over"].fillna(np.inf).to_numpy()
    began = alarms["began"].to_numpy()
    columns["alarms"] = [int(((began <= step) & (over > step)).sum()) for step in columns["step"]]
    return pd.DataFrame(columns).astype(LOGS)


def _layer_frame(rows: list[tuple[int, dict[str, Any]]]) -> pd.DataFrame:
    if not rows:
        return empty(LAYERS)
    names = ("layer", "tokens", "assignments", *FIGURES, "dead", *OTHER_FIGURES)
    columns = {"step": [step for step, _ in rows]} | {name: [row[name] for _, row in rows] for name in names}
    return pd.DataFrame(columns).astype(LAYERS)[[*LAYERS]]


def as_of(run: TrainingRun, step: int) -> TrainingRun:
    """Return the run as it was when this step had been logged: what came later is not known in it."""
    logs = run.logs[run.logs["step"] <= step]
    arrays = (run.counts, run.importance, run.dead_since)
    counts, importance, dead = (None if array is None else array[: len(logs)] for array in arrays)
    tokens = logs["tokens"].max()
    frames = {name: getattr(run, name) for name in ("layers", "evaluations", "changed", "summary")}
    return replace(
        run,
        logs=logs,
        counts=counts,
        importance=importance,
        dead_since=dead,
        alarms=alarm_frame([event for event in run.events if event[0] <= step]),
        snapshots={at: file for at, file in run.snapshots.items() if at <= tokens},
        events=tuple(event for event in run.events if event[0] <= step),
        **{name: frame[frame["step"] <= step] for name, frame in frames.items()},
    )


def alarm_frame(events: list[tuple[int, dict[str, Any]]]) -> pd.DataFrame:
    """Return alarms from their events: each with the step of its beginning and of its end."""
    alarms: list[dict[str, Any]] = []
    on: dict[tuple[str, int], dict[str, Any]] = {}
    for step, event in events:
        key = (event["kind"], event["layer"])
        if event["on"] and key not in on:
            on[key] = {"kind": key[0], "layer": key[1], "began": step, "over": np.nan, "on": True}
            alarms.append(on[key])
        if event["on"]:
            on[key]["says"] = event["says"]
        elif key in on:
            on.pop(key).update(over=step, on=False)
    return pd.DataFrame(alarms, columns=[*ALARMS]).astype(ALARMS) if alarms else empty(ALARMS)


def _thin_logs(facts: RunFacts, logs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the logs whose counts are held, the last among them, and the notes about that."""
    cells = len(logs) * len(facts.layers) * max(facts.num_experts, default=0)
    if (every := -(-cells // MAX_CELLS)) < 2:
        return logs, []
    return logs[::-1][::every][::-1], [f"The run has {cells:,} counts, so one log of {every} is shown."]


def _arrays(facts: RunFacts, logs: list[dict[str, Any]], folder: Path | None, notes: list[str]) -> list[Any]:
    """Return counts, importance and steps of death, or None each; adds to `notes`."""
    if not logs or not facts.layers:
        return [None, None, None]
    found = Arrays([log["step"] for log in logs], facts.layers, max(facts.num_experts))
    _take_lines(found, logs)
    before = len(notes)
    for part in parts_of(folder / COUNTS_FOLDER) if folder is not None else []:
        try:
            found.read(part)
        except InvalidTrace as error:
            notes.append(str(error))
    for row, experts in enumerate(facts.num_experts):
        counted = found.counts[:, row, 0] >= 0
        found.counts[counted, row, experts:] = 0
    if (found.counts >= 0).any():
        return [found.counts, found.importance, found.dead_since]
    if folder is None or len(notes) == before:
        notes.append(
            "Counts of experts are in Parquet files next to routing.jsonl, and are missing here. Open the folder."
        )
    return [None, None, None]


def _take_lines(found: Arrays, logs: list[dict[str, Any]]) -> None:
    places = {int(layer): place for place, layer in enumerate(found.layers)}
    for at, log in enumerate(logs):
        for row in (row for row in log["layers"] if row["layer"] in places):
            place = places[row["layer"]]
            for name in ("counts", "importance"):
                values = row[name]
                if values is not None and len(values) <= found.counts.shape[2]:
                    getattr(found, name)[at, place, : len(values)] = values
            for expert, step in row["dead_since"]:
                if expert < found.counts.shape[2] and step < 2**31:
                    found.dead_since[at, place, expert] = step


def _read_changed(lines: Lines, facts: RunFacts) -> pd.DataFrame:
    rows = [
        {"step": step, "tokens": found["tokens"], "layer": layer, "changed": changed}
        for step, found in sorted(lines.snapshots.items())
        for layer, changed in zip(facts.layers, found["changed"], strict=False)
    ]
    return pd.DataFrame(rows, columns=[*CHANGED]).astype(CHANGED) if rows else empty(CHANGED)


def _snapshots(lines: Lines, folder: Path | None) -> dict[int, Path]:
    """Return the trace files of this run: the folder may hold others, of a run that was started over."""
    if folder is None:
        return {}
    files = {
        found["tokens"]: folder / SNAPSHOTS / f"tokens-{found['tokens']:013d}.npz" for found in lines.snapshots.values()
    }
    return {tokens: file for tokens, file in sorted(files.items()) if file.is_file()}


SNAPSHOT = re.compile(r"tokens-(\d{1,18})\.npz")
HEAD = 4096  # bytes of a file that say what it is
MOST_KEPT = 8
Signature = tuple[tuple[str, int, int], ...]
_kept: dict[str, tuple[Signature, TrainingRun]] = {}


def is_run(path: str | Path) -> bool:
    """Return True if there is a run at a path, as its folder or its file; or a folder of snapshots."""
    path = Path(path)
    if path.is_dir():
        return _routing_file(path) is not None or event_folder(path) is not None or bool(_snapshot_files(path))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return event_folder(path) is not None or is_run_file(file.read(HEAD), path.name)


def is_run_file(data: bytes, name: str) -> bool:
    """Return True if these bytes begin as a run's file does, or the file is called so."""
    return name == FILE or (data.lstrip()[:1] == b"{" and FORMAT.encode() in data[:HEAD])


def run_at(path: str | Path, options: ImportOptions = NOTHING_TOLD) -> TrainingRun:
    """Return the run at a path; a folder of only snapshots is a run without logs. Read again only if it has changed.

    Raises what `read_run` raises.
    """
    key, now = str(Path(path).resolve()), signature(path)
    known = _kept.get(key)
    if known is not None and known[0] == now:
        return known[1]
    path = Path(path)
    logged = not path.is_dir() or _routing_file(path) is not None or event_folder(path) is not None
    run = read_run(path, options) if logged or not _snapshot_files(path) else snapshots_run(path)
    while len(_kept) >= MOST_KEPT:
        _kept.pop(next(iter(_kept)), None)
    _kept[key] = (now, run)
    return run


def signature(path: str | Path) -> Signature:
    """Return facts that change when a run grows: size and time of its files."""
    return tuple(sorted((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in _stats(Path(path))))


def _stats(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    folders = [path / place for place in USUAL] if path.is_dir() else [path.parent]
    files = [path] if path.is_file() else [folder / FILE for folder in folders]
    if (events := event_folder(path)) is not None and events.is_dir():
        files += events.glob(PATTERN)
    for file in [*files, *(folder / part for folder in folders for part in (COUNTS_FOLDER, SNAPSHOTS))]:
        try:
            yield file, file.stat()
        except OSError:
            continue


def snapshots_run(folder: Path) -> TrainingRun:
    """Return a run of only snapshots: traces of the same texts, named by the number of training tokens.

    Raises `InvalidTrace` if the folder has no snapshots.
    """
    found = _snapshot_files(folder)
    if not found:
        raise InvalidTrace(f"There are no snapshots in {quoted(folder.name)}: no file has a name like tokens-512.npz.")
    return TrainingRun(folder.name, RunFacts(SNAPSHOTS), empty(LOGS), empty(LAYERS), snapshots=found)


def _snapshot_files(folder: Path) -> dict[int, Path]:
    named = {int(name[1]): file for file in folder.iterdir() if (name := SNAPSHOT.fullmatch(file.name))}
    return dict(sorted(named.items()))


EXAMPLE_FOLDER = Path(__file__).parent / "example"
EXAMPLE_NAMES = ("aux-on", "aux-off")


def example_runs() -> dict[str, TrainingRun]:
    """Return two recorded runs by name, with snapshots: the same tiny model and texts, with the aux loss and without.

    `python -m benchmarks.training_pair --write` trains them anew.
    """
    return {name: read_run(EXAMPLE_FOLDER / name) for name in EXAMPLE_NAMES}
