"""Megatron-LM's --save-tokens-per-expert-interval, as a run of training: counts, and what follows from them."""

from pathlib import Path

import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.exports import read_counts
from moeviz.formats.importers.options import ImportOptions
from moeviz.metrics.load import balance_of_counts
from moeviz.training.recorded.run import LAYERS, LOGS, NOT_COUNTED, RunFacts, TrainingRun, summary_of

NOTE = (
    "Megatron-LM's files hold counts of the steps that were saved, and not of those between: which experts are dead, "
    "and what the router thought, is not known. With full recomputation Megatron-LM may count tokens twice."
)


def megatron_folder(path: Path) -> Path | None:
    """The folder of ranks, or the file of one."""
    if path.is_file():
        return path if path.name.startswith("rank") and path.suffix == ".jsonl" else None
    return next((place for place in (path, path / "tokens_per_expert") if any(place.glob("rank*.jsonl"))), None)


def megatron_run(path: Path, options: ImportOptions) -> TrainingRun:
    """The run whose counts lie there. Raises what the importer of these files raises."""
    counts = read_counts(path, format="megatron-counts", options=options)
    if counts.group_kind != "step":
        raise InvalidTrace("These files do not say at which steps tokens were counted.")
    steps = [int(step) for step in counts.groups]
    layers = _layers(counts, steps)
    tokens = counts.tokens.max(axis=1)
    logs = pd.DataFrame({"step": steps, "steps": 1, "tokens": tokens.cumsum(), "alarms": 0}).reindex(columns=[*LOGS])
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
        notes=(NOTE,),
    )


def _layers(counts: ExpertCounts, steps: list[int]) -> pd.DataFrame:
    rows = []
    for at, step in enumerate(steps):
        for row, (layer, size) in enumerate(zip(counts.model.layers, counts.model.num_experts, strict=True)):
            mine = counts.assignments[at, row, :size]
            measured = balance_of_counts(mine)
            kept = {name: measured[name] for name in ("max_violation", "normalised_entropy")}
            facts = {"step": step, "layer": layer, "tokens": counts.tokens[at, row], "assignments": mine.sum()}
            rows.append({**facts, **kept, "dead": NOT_COUNTED})
    return pd.DataFrame(rows).reindex(columns=[*LAYERS]).astype(LAYERS)
