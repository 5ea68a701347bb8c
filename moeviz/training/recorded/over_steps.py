"""Frames of a run for charts: over steps, or over tokens, of one run or of two on the same axis.

In every frame the column of the axis is `step` or `tokens`, whichever was asked for. A long run has several logs in a
row, as many as `run.bins_of` puts together: their assignments are summed, and then measured. Anything but a count is
taken from the last log of them.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.errors import MissingField
from moeviz.training.recorded.run import (
    ALIVE,
    MOST_BINS,
    WHOLE_RUN,
    Over,
    TrainingRun,
    bins_of,
    chance_violation,
    dead_since,
    effective_experts,
    max_violation,
    need_counts,
    sums,
)

Runs = Mapping[str, TrainingRun]
MOST_CELLS = 2**13  # of a heat map: twice as many take a browser a second longer
MOST_EXPERTS = 256  # rows of a heat map
FEWEST_BINS = 24
ENOUGH = 1_000  # assignments of a uniform share, mean over layers


def logs_in_a_column(run: TrainingRun) -> int:
    """Return the most logs that are put together in a picture of this run."""
    rows = max(len(run.facts.layers), *(min(size, MOST_EXPERTS) for size in run.facts.num_experts), 1)
    return bins_of(run, "step", _columns(rows)).every


def load_over_steps(run: TrainingRun, layer: int, over: Over = "step") -> pd.DataFrame:
    """Measure each expert's share of a layer's work, from log to log, and which experts were dead.

    The load of an expert is its share of the layer's assignments of these steps, as a multiple of 1 / E.
    An expert is dead from the step after its last token, once a uniform share would have been 1,000 assignments since.

    One row per column of the picture and expert. Columns: after, and step or tokens, int64 (the assignments are of the
    steps after `after` up to that one) · expert int16 · assignments int64 · times_uniform float64 (NaN where nothing
    was assigned) · dead_since int32 (the step; -1: not dead in all of these steps) · place int16 (by load of
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
    of_logs = dead_since(run, row)[:, :experts]
    always = np.minimum.reduceat(of_logs, bins.first, axis=0) != ALIVE
    since = np.where(always, np.maximum.reduceat(of_logs, bins.first, axis=0), ALIVE)
    columns, shown = len(bins.at), len(order)
    return pd.DataFrame(
        {
            "after": np.repeat(bins.after, shown),
            over: np.repeat(bins.at, shown),
            "expert": np.tile(order.astype(np.int16), columns),
            "assignments": counts[:, order].ravel(),
            "times_uniform": np.where(total > 0, counts * experts / np.maximum(total, 1), np.nan)[:, order].ravel(),
            "dead_since": since[:, order].ravel().astype(np.int32),
            "place": np.tile(np.arange(shown, dtype=np.int16), columns),
        }
    )


def _columns(rows: int) -> int:
    return min(MOST_BINS, max(MOST_CELLS // max(rows, 1), FEWEST_BINS))


def violation_over_steps(run: TrainingRun, over: Over = "step") -> pd.DataFrame:
    """Measure how uneven each layer was, from log to log: MaxVio, with what chance would give.

    MaxVio is the busiest expert's assignments over the uniform share, minus 1: 0 is even, E / k - 1 the most. It
    is measured of the sums of these steps; if a run has no counts, it is that of their last log.

    One row per column and layer. Columns: after, and step or tokens, int64 · layer int32 · assignments int64 ·
    max_violation, chance, effective float64 (chance: the mean MaxVio of tokens that choose k experts at random;
    effective: exp(entropy of load), in experts; NaN where it is not known) · num_experts int32. Raises `MissingField`
    if the run has neither counts nor figures of its layers.

    Source: MaxVio, arXiv 2408.15664, eq. 4. Chance: `moeviz.training.recorded.run.chance_violation`.
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


def health_over_steps(run: TrainingRun, over: Over = "step") -> pd.DataFrame:
    """Measure how uneven each layer was, from log to log, and when which alarm was on.

    One row per column and layer, then one per alarm. Columns: those of `violation_over_steps` · busiest float64 (its
    busiest expert, × a uniform share) · alarm str (its kind; "" in rows of load) · says str (its last sentence). An
    alarm's `after` is where it began, its layer is -1 if it is of the whole run, and it ends where it was over, or at
    the last log. Raises `MissingField` as `violation_over_steps` does.

    Source: those of `violation_over_steps`.
    """
    load = violation_over_steps(run, over)
    load = load.assign(busiest=load["max_violation"] + 1, alarm="", says="")
    alarms, logs = run.alarms[run.alarms["layer"].isin([WHOLE_RUN, *run.facts.layers])], run.logs
    ends = alarms["over"].fillna(logs["step"].iloc[-1])
    at = [logs["step"].to_numpy().searchsorted(steps).clip(max=len(logs) - 1) for steps in (alarms["began"], ends)]
    began, end = (alarms["began"], ends) if over == "step" else (logs[over].to_numpy()[place] for place in at)
    rows = alarms[["layer", "says"]].assign(alarm=alarms["kind"], after=began, **{over: end})
    whole = pd.concat([load, rows], ignore_index=True)
    counted = {"after": np.int64, over: np.int64, "layer": np.int32, "assignments": np.int64, "num_experts": np.int32}
    return whole.fillna({"assignments": 0, "num_experts": 0}).astype(counted | {"alarm": "str", "says": "str"})


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
    """Measure how uneven the layers of each run were over time: the worst of them, the median and the best.

    One row per run and column. Columns: run str · step or tokens int64 · worst, median, best float64 (MaxVio) ·
    worst_layer int32 · chance float64 (what chance would give the worst layer's number of assignments) ·
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
    return _join_runs(frames)


def _join_runs(frames: list[pd.DataFrame]) -> pd.DataFrame:
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
    """Return the balance of a source that has only means and worst values."""
    known = run.summary.pivot(index="step", columns="figure", values=["mean", "worst"])
    if ("worst", "max_violation") not in known or not len(run.logs):
        return None
    bins = bins_of(run, over)
    rows = known.reindex(run.logs["step"].iloc[bins.last])
    columns: dict[str, object] = {over: bins.at, "worst": rows["worst", "max_violation"].to_numpy()}
    columns |= {"median": rows["mean", "max_violation"].to_numpy(), "best": np.nan}
    columns |= {"worst_layer": np.int32(-1), "chance": np.nan, "fewest": np.nan, "median_effective": np.nan}
    return pd.DataFrame(columns | {"fewest_layer": np.int32(-1)})


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
    """The row of a layer, and its number of experts. Raises `MissingField` if the run does not have or say them."""
    if layer not in run.facts.layers:
        raise MissingField(f"{what} is of layer {layer}, and “{run.name[:60]}” has no such MoE layer.")
    if not run.facts.num_experts:
        need_counts(run, what)  # which are what says it
    row = run.facts.layers.index(layer)
    return row, run.facts.num_experts[row]


def importance_at_end(run: TrainingRun, layer: int) -> pd.DataFrame:
    """Compare what the router of a layer found probable at the end with what it used.

    The importance of an expert is the router's mean probability for it. Far above its load, it is trusted but not used;
    far below, it is used though seldom trusted. It is of as many of the last logs as make a uniform share 1,000
    assignments.

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
            "times_uniform": load * experts,
            "rank": np.argsort(np.argsort(-tokens, kind="stable")).astype(np.int16) + 1,
            "importance": np.average(known[good], axis=0, weights=each),
        }
    )


def loss_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """Return the loss that each run logged, what it is without the aux loss, and the aux loss with its coefficient.

    One row per run and column: the last log of those that stand in one. Columns: run str · step or tokens int64 · loss
    float64 · without_aux float64 (the loss minus coefficient x aux loss, by which runs with and without one compare;
    NaN where it is not known whether the loss has that in it) · aux_loss float64 (as the model computed it, mean over
    micro-batches; models of transformers pool their layers, so k is even) · aux_coefficient float64 · aux_mean,
    aux_worst float64 (E sum f P of each layer's sums, mean and worst layer; 1 is even, whatever the model computes).
    NaN where not known. Raises `MissingField` if no run has a log.

    Source: Switch Transformers (arXiv 2101.03961), eq. 4, without its coefficient.
    """
    rows = {name: run.logs.iloc[bins_of(run, over).last] for name, run in runs.items() if len(run.logs)}
    if not rows:
        raise MissingField("A loss over steps needs logs, and this run has none yet.")
    frames = []
    for name, logs in rows.items():
        aux = runs[name].summary.query("figure == 'aux'").set_index("step").reindex(logs["step"])
        found = logs[[over, "loss", "aux_loss", "aux_coefficient"]].assign(run=name)
        found.insert(2, "without_aux", logs["loss"] - logs["aux_in_loss"])
        frames.append(found.assign(aux_mean=aux["mean"].to_numpy(), aux_worst=aux["worst"].to_numpy()))
    return _join_runs(frames)


def aux_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """Return the aux loss of each run, measured of each layer, and as its model computed it. See `loss_over_steps`.

    Columns: those of `loss_over_steps`. Raises `MissingField` if no run has either.

    Source: Switch Transformers (arXiv 2101.03961), eq. 4, without its coefficient.
    """
    found = loss_over_steps(runs, over)
    if found[["aux_loss", "aux_worst"]].isna().all(axis=None):
        raise MissingField("The aux loss needs the routers' probabilities, and this run has none.")
    return found


def logits_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """Measure the size of the routers' logits: the z-loss and the root mean square, of the worst layer.

    Logits that grow without end make the router sure of everything, and overflow in half precision. The z-loss is the
    mean of the squared log-sum-exp of a token's logits; logits of 0 give (ln E) squared.

    One row per run, column and figure. Columns: run str · step or tokens int64 · figure str ("z-loss", "logit RMS") ·
    mean, worst float64 over layers. Raises `MissingField` if no run has logits.

    Source: z-loss of ST-MoE (arXiv 2202.08906), eq. 5.
    """
    names = {"z_loss": "z-loss", "logit_rms": "logit RMS"}
    frames = [_summary_of(name, run, over, names) for name, run in runs.items() if len(run.logs)]
    if not frames or not sum(map(len, frames)):
        raise MissingField("The size of logits needs the routers' logits, and this run has none.")
    return pd.concat(frames, ignore_index=True)


def _summary_of(name: str, run: TrainingRun, over: Over, figures: dict[str, str]) -> pd.DataFrame:
    where = run.logs.iloc[bins_of(run, over).last]
    at = dict(zip(where["step"], where[over], strict=True))
    found = run.summary[run.summary["figure"].isin(list(figures)) & run.summary["step"].isin(list(at))]
    found = found.assign(run=name, at=found["step"].map(at), figure=found["figure"].map(figures))
    return found[["run", "at", "figure", "mean", "worst"]].rename(columns={"at": over})


def change_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """Measure the change of the probe set's routing since the snapshot before: 1 - router saturation of each layer.

    One row per run and snapshot, but the first. Columns: run str · step or tokens int64 · mean, most, least float64
    over layers · most_layer int32. Raises `MissingField` if no run has two snapshots.

    Source: OLMoE (arXiv 2409.02060), section 5.1, router saturation, between successive snapshots.
    """
    frames = []
    for name, run in runs.items():
        found = run.changed[run.changed["changed"].notna()]
        if len(found):
            grouped = found.groupby(over, sort=True)["changed"]
            layers = found.loc[grouped.idxmax(), "layer"].to_numpy()
            table = grouped.agg(mean="mean", most="max", least="min").reset_index()
            frames.append(table.assign(run=name, most_layer=layers))
    if not frames:
        raise MissingField("Change of the routing needs snapshots of a probe set, and this run has none.")
    return _join_runs(frames)


def gradients_over_steps(run: TrainingRun, over: Over = "step") -> pd.DataFrame:
    """Measure the gradient of each router, and count the experts that had none.

    One row per column and layer: the last log of those that stand in one. Columns: after, and step or tokens, int64 ·
    layer int32 · router_grad_norm float64 (L2 norm of the gradient of the router's parameters) · experts_without_grad
    float64 (experts; NaN where it is not known). Raises `MissingField` if no gradient was recorded.
    """
    known = run.layers[run.layers["router_grad_norm"].notna()]
    if known.empty:
        raise MissingField(
            "Gradients of routers need a run that recorded them: call health.gradients() after backward, before the "
            "optimizer sets them to zero."
        )
    bins = bins_of(run, over)
    where = pd.DataFrame({"step": run.logs["step"].iloc[bins.last], "after": bins.after, "at": bins.at})
    found = known[["step", "layer", "router_grad_norm", "experts_without_grad"]].merge(where, on="step")
    found = found.drop(columns="step").rename(columns={"at": over})
    return found[["after", over, "layer", "router_grad_norm", "experts_without_grad"]].reset_index(drop=True)
