"""How a run ends: by so many of its last logs that luck has little part in it.

Letters: S logs, L layers, E experts.
"""

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.errors import MissingField
from moeviz.training.recorded.bins import max_violation, need_counts
from moeviz.training.recorded.run import TrainingRun

ENOUGH = 1_000  # assignments of a uniform share, mean over layers


def worst_layer(run: TrainingRun) -> int | None:
    """The layer to look at first: of those with an alarm on, or of all, the one with the greatest MaxVio at the end.

    None if the run has no layer, or no log yet.
    """
    layers = np.array(run.facts.layers)
    if not len(layers) or not len(run.logs):
        return None
    if run.counts is not None:
        sizes = zip(counts_at_end(run), run.facts.num_experts, strict=True)
        violation = np.array([float(max_violation(counts, size)) for counts, size in sizes])
    else:
        known = run.layers[run.layers["step"] == run.layers["step"].max()].drop_duplicates("layer")
        violation = known.set_index("layer")["max_violation"].reindex(layers).to_numpy()
    alarmed = np.isin(layers, run.alarms.loc[run.alarms["on"], "layer"])
    judged = np.where(alarmed | (not alarmed.any()), np.nan_to_num(violation, nan=-2), -3)
    return int(layers[judged.argmax()])


def counts_at_end(run: TrainingRun) -> Int64[np.ndarray, "L E"]:
    """Assignments of the last logs. Raises `MissingField` if the run has no counts."""
    found: np.ndarray = np.maximum(need_counts(run, "The load at the end")[_last_logs(run)], 0).sum(axis=0)
    return found


def _last_logs(run: TrainingRun) -> slice:
    counts = need_counts(run, "The load at the end")
    for most in (64, len(counts)):  # seldom more than a few: a long run need not be added up whole
        last = counts[-most:]
        even = np.maximum(last, 0).sum(axis=(1, 2)) / max(sum(run.facts.num_experts), 1)
        if even.sum() >= ENOUGH:
            break
    return slice(-min(int(np.searchsorted(even[::-1].cumsum(), ENOUGH)) + 1, len(counts)), None)


def place_of(run: TrainingRun, layer: int, what: str) -> tuple[int, int]:
    """The row of a layer, and its number of experts. Raises `MissingField` for a layer that the run has not."""
    if layer not in run.facts.layers:
        raise MissingField(f"{what} is of layer {layer}, and “{run.name[:60]}” has no such MoE layer.")
    row = run.facts.layers.index(layer)
    return row, run.facts.num_experts[row]


def importance_at_end(run: TrainingRun, layer: int) -> pd.DataFrame:
    """What the router of a layer found probable at the end, beside what it used.

    The importance of an expert is the router's mean probability for it. Far above its load, it is trusted but not used;
    far below, it is used though seldom trusted. Of the last logs, so many that a uniform share is 1,000 assignments.

    One row per expert. Columns: those of `expert_load`, and importance float64. Raises `MissingField` if the
    run has no counts, or no probabilities.

    Source: f_i and P_i of Switch Transformers (arXiv 2101.03961), eq. 5 and 6.
    """
    row, experts = place_of(run, layer, "Load against importance")
    counts, logs = need_counts(run, "Load against importance"), _last_logs(run)
    known = None if run.importance is None else run.importance[logs, row, :experts].astype(np.float64)
    good = np.zeros(1, bool) if known is None else np.isfinite(known).all(axis=1)
    if known is None or not good.any():
        raise MissingField("Load against importance needs the router's probabilities, and this run has none.")
    counted = np.maximum(counts[logs, row, :experts], 0)[good]
    tokens, each = counted.sum(axis=0), np.maximum(counted.sum(axis=1), 1)
    load = tokens / max(tokens.sum(), 1)
    return pd.DataFrame(
        {
            "layer": np.int32(layer),
            "expert": np.arange(experts, dtype=np.int16),
            "tokens": tokens,
            "load": load,
            "uniform": 1 / experts,
            "times_even": load * experts,
            "rank": np.argsort(np.argsort(-tokens, kind="stable")).astype(np.int16) + 1,
            "importance": np.average(known[good], axis=0, weights=each),
        }
    )
