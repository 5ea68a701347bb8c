"""What a run is drawn from: frames over steps, or over tokens, of one run or of two on the same axis.

In every frame the column of the axis is `step` or `tokens`, whichever was asked for. A long run has several logs in a
row, as many as `bins.bins_of` puts together: their assignments are summed, and then measured. What is no count is taken
from the last log of them.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from moeviz.errors import MissingField
from moeviz.training.recorded.at_end import counts_at_end, place_of
from moeviz.training.recorded.bins import (
    MOST_BINS,
    Over,
    bins_of,
    chance_violation,
    dead_since,
    effective_experts,
    max_violation,
    need_counts,
    sums,
)
from moeviz.training.recorded.run import TrainingRun

Runs = Mapping[str, TrainingRun]
MOST_CELLS = 2**13  # of a heat map: twice as many take a browser a second longer
MOST_EXPERTS = 256  # rows of a heat map
FEWEST_BINS = 24


def logs_in_a_column(run: TrainingRun) -> int:
    """How many logs at most are put together in a picture of this run."""
    rows = max(len(run.facts.layers), *(min(size, MOST_EXPERTS) for size in run.facts.num_experts), 1)
    return bins_of(run, "step", _columns(rows)).every


def load_over_steps(run: TrainingRun, layer: int, over: Over = "step") -> pd.DataFrame:
    """How much of a layer's work each expert did, from log to log, and which experts were dead.

    The load of an expert is its share of the layer's assignments of these steps, as a multiple of 1 / E.
    An expert is dead from the step after its last token, once a uniform share would have been 1,000 assignments since.

    One row per column of the picture and expert. Columns: after, and step or tokens, int64 (the assignments are of the
    steps after `after` up to that one) · expert int16 · assignments int64 · times_even float64 (NaN where nothing was
    assigned) · dead_since int32 (the step; -1: not dead in all of these steps) · place int16 (by load of
    the last column: 0 is the busiest). Of a layer with more than 256 experts, the 128 busiest at the end and the 128
    least busy. Raises `MissingField` if the run has no counts.
    """
    need_counts(run, "The load of each expert")
    row, experts = place_of(run, layer, "This heat map")
    bins = bins_of(run, over, _columns(min(experts, MOST_EXPERTS)))
    counts = sums(need_counts(run, "Load")[:, row, :experts], bins)
    total = counts.sum(axis=1, keepdims=True)
    order = np.argsort(-counts_at_end(run)[row, :experts], kind="stable")
    if experts > MOST_EXPERTS:
        order = np.concatenate([order[: MOST_EXPERTS // 2], order[-MOST_EXPERTS // 2 :]])
    since = np.minimum.reduceat(dead_since(run, row)[:, :experts], bins.first, axis=0)
    columns, shown = len(bins.at), len(order)
    return pd.DataFrame(
        {
            "after": np.repeat(bins.after, shown),
            over: np.repeat(bins.at, shown),
            "expert": np.tile(order.astype(np.int16), columns),
            "assignments": counts[:, order].ravel(),
            "times_even": np.where(total > 0, counts * experts / np.maximum(total, 1), np.nan)[:, order].ravel(),
            "dead_since": since[:, order].ravel().astype(np.int32),
            "place": np.tile(np.arange(shown, dtype=np.int16), columns),
        }
    )


def _columns(rows: int) -> int:
    """Of a heat map with so many rows."""
    return min(MOST_BINS, max(MOST_CELLS // max(rows, 1), FEWEST_BINS))


def violation_over_steps(run: TrainingRun, over: Over = "step") -> pd.DataFrame:
    """How uneven each layer was, from log to log: MaxVio, with what luck alone would give.

    MaxVio is the busiest expert's assignments over the uniform share, minus 1: 0 is even, E / k - 1 the most. It
    is measured of the sums of these steps; where a run has no counts, it is that of their last log.

    One row per column and layer. Columns: after, and step or tokens, int64 · layer int32 · assignments int64 ·
    max_violation, chance, effective float64 (chance: the mean MaxVio of tokens that choose k experts at random;
    effective: exp(entropy of load), in experts; NaN where it is not known) · num_experts int32. Raises `MissingField`
    if the run has neither counts nor figures of its layers.

    Source: MaxVio, arXiv 2408.15664, eq. 4. Chance: `moeviz.training.recorded.bins.chance_violation`.
    """
    if run.counts is None or not len(run.logs):
        return _violation_of_logs(run, over)
    bins, frames = bins_of(run, over, _columns(len(run.facts.layers))), []
    for row, (layer, experts) in enumerate(zip(run.facts.layers, run.facts.num_experts, strict=True)):
        counts = sums(run.counts[:, row, :experts], bins)
        assigned = counts.sum(axis=1)
        found = {"after": bins.after, over: bins.at, "layer": np.int32(layer), "assignments": assigned}
        found |= {"max_violation": max_violation(counts, experts), "effective": effective_experts(counts)}
        found |= {"chance": chance_violation(assigned, experts, run.facts.top_k), "num_experts": np.int32(experts)}
        frames.append(pd.DataFrame(found))
    return pd.concat(frames, ignore_index=True)


def _violation_of_logs(run: TrainingRun, over: Over) -> pd.DataFrame:
    if not run.layers["max_violation"].notna().any():
        raise MissingField("Balance over steps needs figures of layers, and this run has none.")
    bins = bins_of(run, over)
    where = run.logs.iloc[bins.last][["step"]].assign(after=bins.after, at=bins.at)
    found = run.layers[["step", "layer", "assignments", "max_violation", "normalised_entropy"]].merge(where, on="step")
    sizes = dict(zip(run.facts.layers, run.facts.num_experts, strict=False))
    experts = found["layer"].map(sizes)
    found = found.assign(num_experts=experts.fillna(0).astype("int32"), chance=np.nan)
    found["effective"] = experts ** found["normalised_entropy"]
    for size in {*sizes.values()}:
        mine = found["num_experts"] == size
        found.loc[mine, "chance"] = chance_violation(found.loc[mine, "assignments"].to_numpy(), size, run.facts.top_k)
    columns = ["after", over, "layer", "assignments", "max_violation", "chance", "effective", "num_experts"]
    return found.drop(columns="step").rename(columns={"at": over})[columns]


def balance_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """How uneven the layers of each run were over time: the worst of them, the median and the best.

    One row per run and column. Columns: run str · step or tokens int64 · worst, median, best float64 (MaxVio) ·
    worst_layer int32 · chance float64 (what luck alone would give the worst layer's number of assignments) ·
    fewest, median_effective float64 (effective experts as a share of all: exp(entropy of load) / E) · fewest_layer
    int32. Raises `MissingField` if none of the runs has figures of its layers.

    Source: those of `violation_over_steps`.
    """
    frames = []
    for name, run in runs.items():
        found = _balance_of(run, over)
        if found is not None:
            frames.append(found.assign(run=name))
    if not frames:
        raise MissingField("Balance over steps needs figures of layers, and this run has none.")
    whole = pd.concat(frames, ignore_index=True)
    return whole[["run", *whole.columns.drop("run")]]


def _balance_of(run: TrainingRun, over: Over) -> pd.DataFrame | None:
    try:
        found = violation_over_steps(run, over)
    except MissingField:
        return _balance_of_summary(run, over)
    found = found[found["max_violation"].notna()]
    if found.empty:
        return None
    found = found.assign(share=found["effective"] / found["num_experts"].where(found["num_experts"] > 0))
    grouped = found.groupby(over, sort=True)
    worst = found.loc[grouped["max_violation"].idxmax()].set_index(over)
    known = found[found["share"].notna()]
    few = known.loc[known.groupby(over)["share"].idxmin()].set_index(over)
    columns = {"worst": worst["max_violation"], "median": grouped["max_violation"].median()}
    columns |= {"best": grouped["max_violation"].min(), "worst_layer": worst["layer"], "chance": worst["chance"]}
    columns |= {"fewest": few["share"], "median_effective": grouped["share"].median(), "fewest_layer": few["layer"]}
    table = pd.DataFrame(columns).rename_axis(over).reset_index()
    return table.fillna({"fewest_layer": -1}).astype({"worst_layer": np.int32, "fewest_layer": np.int32})


def _balance_of_summary(run: TrainingRun, over: Over) -> pd.DataFrame | None:
    """Of a source that has means and worst values alone."""
    known = run.summary.pivot(index="step", columns="figure", values=["mean", "worst"])
    if ("worst", "max_violation") not in known or not len(run.logs):
        return None
    bins = bins_of(run, over)
    rows = known.reindex(run.logs["step"].iloc[bins.last])
    columns: dict[str, object] = {over: bins.at, "worst": rows["worst", "max_violation"].to_numpy()}
    columns |= {"median": rows["mean", "max_violation"].to_numpy(), "best": np.nan}
    columns |= {"worst_layer": np.int32(-1), "chance": np.nan, "fewest": np.nan, "median_effective": np.nan}
    return pd.DataFrame(columns | {"fewest_layer": np.int32(-1)})
