"""Runs that other trainers wrote: event files of TensorBoard, and counts of Megatron."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.exports import read_counts
from moeviz.formats.importers.importer import ImportOptions
from moeviz.metrics.load import balance_of_counts
from moeviz.text import quoted
from moeviz.training.recorded.run import (
    FIGURES,
    LAYERS,
    LOGS,
    NOT_COUNTED,
    SUMMARY,
    RunFacts,
    TrainingRun,
    empty,
    summary_of,
)

PATTERN = "events.out.tfevents.*"
FIGURE = re.compile(r"(?:train/)?moe/(\w+)/(mean|worst|layer_(\d{1,4}))")
OTHERS = {"loss": "loss", "aux_loss_of_model": "aux_loss", "aux_coefficient": "aux_coefficient", "tokens": "tokens"}
OTHER = re.compile(rf"(?:train/)?(?:moe/)?({'|'.join(OTHERS)})")
MAX_SCALARS = 2**22
TENSORBOARD_NOTE = (
    "Event files of TensorBoard hold only figures: counts of experts, which alarms are on, and snapshots are in "
    "routing.jsonl."
)
MEGATRON_NOTE = (
    "Megatron-LM's files hold counts of the steps that were saved, and not of those between: which experts are dead, "
    "and what the router thought, is not known. With full recomputation Megatron-LM may count tokens twice."
)


def event_folder(path: Path) -> Path | None:
    """Return the file, or the folder, that has event files; in a folder `runs/` or below it, that of the newest."""
    if path.is_file():
        return path if ".tfevents." in path.name else None
    found = [file for place in (PATTERN, f"*/{PATTERN}", f"runs/*/{PATTERN}") for file in path.glob(place)]
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else None


def events_run(path: Path) -> TrainingRun:
    """Return the figures of routing in event files. Counts of experts and alarms are not in them.

    Raises `InvalidTrace` if tensorboard is not installed, or nothing in the files is of routing.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InvalidTrace(
            "Event files are read by the package tensorboard, and it is not installed: pip install tensorboard."
        )
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(path), size_guidance={SCALARS: MAX_SCALARS}).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}
    figures = [
        (name, step, value)
        for tag, values in found.items()
        if (name := FIGURE.fullmatch(tag))
        for step, value in values
    ]
    if not figures:
        raise InvalidTrace(
            f"The event files in {quoted(path.name)} have no figures of routing: no scalar of theirs begins with moe/. "
            "Were they written by a run that moeviz watched?"
        )
    layers = _layers_of_events([found for found in figures if found[0][3]])
    facts = RunFacts("tensorboard", layers=tuple(sorted({int(layer) for layer in layers["layer"]})))
    return TrainingRun(path.name, facts, _logs(found), layers, summary=_summary(figures), notes=(TENSORBOARD_NOTE,))


def _logs(found: dict[str, list[tuple[int, float]]]) -> pd.DataFrame:
    columns = {OTHERS[name[1]]: dict(values) for tag, values in found.items() if (name := OTHER.fullmatch(tag))}
    alarms = next((dict(values) for tag, values in found.items() if tag.endswith("moe/alarms")), {})
    steps = sorted(columns.get("tokens") or columns.get("loss") or alarms)
    rows: dict[str, Any] = {name: [values.get(step, np.nan) for step in steps] for name, values in columns.items()}
    rows |= {
        "step": steps,
        "steps": np.diff([0, *steps]),
        "alarms": [int(alarms.get(step, NOT_COUNTED)) for step in steps],
    }
    frame = pd.DataFrame(rows).reindex(columns=[*LOGS])
    return frame.fillna({"tokens": 0}).astype(LOGS)


def _summary(figures: list[tuple[re.Match[str], int, float]]) -> pd.DataFrame:
    rows: dict[tuple[int, str], dict[str, float]] = {}
    for name, step, value in figures:
        if name[1] in FIGURES and not name[3]:
            rows.setdefault((step, name[1]), {})[name[2]] = value
    frame = pd.DataFrame([{"step": step, "figure": name, **values} for (step, name), values in rows.items()])
    return frame.reindex(columns=[*SUMMARY]).astype(SUMMARY) if rows else empty(SUMMARY)


def _layers_of_events(figures: list[tuple[re.Match[str], int, float]]) -> pd.DataFrame:
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for name, step, value in figures:
        if name[1] in LAYERS:
            rows.setdefault((step, int(name[3])), {})[name[1]] = value
    frame = pd.DataFrame([{"step": step, "layer": layer, **rows[step, layer]} for step, layer in sorted(rows)])
    whole = {"tokens": 0, "assignments": 0, "dead": NOT_COUNTED}
    return frame.reindex(columns=[*LAYERS]).fillna(whole).astype(LAYERS) if rows else empty(LAYERS)


def megatron_folder(path: Path) -> Path | None:
    """Return the folder of ranks, or the file of one."""
    if path.is_file():
        return path if path.name.startswith("rank") and path.suffix == ".jsonl" else None
    return next((place for place in (path, path / "tokens_per_expert") if any(place.glob("rank*.jsonl"))), None)


def megatron_run(path: Path, options: ImportOptions) -> TrainingRun:
    """Return the run whose counts lie there. Raises what the importer of these files raises."""
    counts = read_counts(path, format="megatron-counts", options=options)
    if counts.group_kind != "step":
        raise InvalidTrace("These files do not say at which steps tokens were counted.")
    steps = [int(step) for step in counts.groups]
    layers = _layers_of_counts(counts, steps)
    tokens = counts.tokens.max(axis=1)
    logs = pd.DataFrame({"step": steps, "steps": 1, "tokens": tokens.cumsum(), "alarms": NOT_COUNTED}).reindex(
        columns=[*LOGS]
    )
    facts = RunFacts(
        "megatron-lm", counts.model.name, counts.model.layers, counts.model.num_experts, counts.model.top_k
    )
    return TrainingRun(
        path.parent.name if path.name == "tokens_per_expert" else path.name,
        facts,
        logs.astype(LOGS),
        layers,
        counts.assignments,
        summary=summary_of(layers),
        notes=(MEGATRON_NOTE, *filter(None, [counts.model.caution])),
    )


def _layers_of_counts(counts: ExpertCounts, steps: list[int]) -> pd.DataFrame:
    rows = []
    for at, step in enumerate(steps):
        for row, (layer, size) in enumerate(zip(counts.model.layers, counts.model.num_experts, strict=True)):
            mine = counts.assignments[at, row, :size]
            measured = balance_of_counts(mine)
            kept = {name: measured[name] for name in ("max_violation", "normalised_entropy")}
            facts = {"step": step, "layer": layer, "tokens": counts.tokens[at, row], "assignments": mine.sum()}
            rows.append({**facts, **kept, "dead": NOT_COUNTED})
    return pd.DataFrame(rows).reindex(columns=[*LAYERS]).astype(LAYERS)
