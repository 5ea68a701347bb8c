"""Figures of a run beside its load: loss, aux loss, logits, the probe set, gradients. Frames of one run or of two."""

import pandas as pd

from moeviz.errors import MissingField
from moeviz.training.recorded.bins import Over, bins_of
from moeviz.training.recorded.over_steps import Runs
from moeviz.training.recorded.run import TrainingRun


def loss_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """The loss that each run logged, and its aux loss with the coefficient.

    One row per run and column: the last log of those that stand in one. Columns: run str · step or tokens int64 · loss,
    aux_loss float64 (as the model computed it, mean over micro-batches; models of transformers pool their layers, so k
    is even) · aux_coefficient float64 · aux_mean, aux_worst float64 (E sum f P of each layer's sums, mean and worst
    layer; 1 is even, whatever the model computes). NaN where not known. Raises `MissingField` if no run has a log.

    Source: Switch Transformers (arXiv 2101.03961), eq. 4, without its coefficient.
    """
    rows = {name: run.logs.iloc[bins_of(run, over).last] for name, run in runs.items() if len(run.logs)}
    if not rows:
        raise MissingField("A loss over steps needs logs, and this run has none yet.")
    frames = []
    for name, logs in rows.items():
        aux = runs[name].summary.query("figure == 'aux'").set_index("step").reindex(logs["step"])
        found = logs[[over, "loss", "aux_loss", "aux_coefficient"]].assign(run=name)
        frames.append(found.assign(aux_mean=aux["mean"].to_numpy(), aux_worst=aux["worst"].to_numpy()))
    whole = pd.concat(frames, ignore_index=True)
    return whole[["run", *whole.columns.drop("run")]]


def aux_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """The aux loss of each run, measured of each layer, and as its model computed it. See `loss_over_steps`.

    Columns: those of `loss_over_steps`. Raises `MissingField` if no run has either.

    Source: Switch Transformers (arXiv 2101.03961), eq. 4, without its coefficient.
    """
    found = loss_over_steps(runs, over)
    if found[["aux_loss", "aux_worst"]].isna().all(axis=None):
        raise MissingField("The aux loss needs the routers' probabilities, and this run has none.")
    return found


def logits_over_steps(runs: Runs, over: Over = "step") -> pd.DataFrame:
    """How large the routers' logits are: the z-loss and the root mean square, of the worst layer.

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
    """How much of the probe set's routing changed since the snapshot before: 1 - router saturation of each layer.

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
    whole = pd.concat(frames, ignore_index=True)
    return whole[["run", *whole.columns.drop("run")]]


def gradients_over_steps(run: TrainingRun, over: Over = "step") -> pd.DataFrame:
    """How large the gradient of each router was, and how many experts had none.

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
