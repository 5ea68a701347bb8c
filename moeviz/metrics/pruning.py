"""Criteria by which experts are cut, and the experts that go first: a trace's figures, and no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moeviz.errors import CaptureError, MissingField
from moeviz.metrics.expert_table import means_of_experts
from moeviz.routing_trace import RoutingTrace

RANDOM = "random"
CRITERIA = {  # by the name in tables: how a sentence says it
    "reap": "by gate × norm (REAP)",
    "reap_sum": "by the sum of gate × norm",
    "frequency": "by how often they are chosen",
    "gate_mass": "by the sum of their weights",
    "greatest": "by their greatest output",
    RANDOM: "at random",
}
ALL = "all texts"  # instead of a kind of text
FRESH = "texts like those that judge"  # what chose, if the texts that judge are of another recording
FEWEST = 2  # experts of a group: some routers judge a group by its two best
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of a layer's experts, cut unless others are asked for
Order = Mapping[int, tuple[int, ...]]  # by layer: expert ids, the first to be cut first


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Between what experts of one layer can be cut."""

    experts: int  # without those that compute nothing, which stay
    top_k: int
    groups: int = 1  # of experts in order and of equal size, from each of which as many are cut
    groups_kept: int = 1  # groups that the experts of one token come from

    def why_not(self, cut: int) -> str:
        """Say why this many experts cannot be cut, as a sentence without its subject; "" if they can."""
        if cut % self.groups:
            return (
                f"has {self.groups} groups of {self.experts // self.groups} experts, which must stay of one size. Cut "
                f"a multiple of {self.groups}."
            )
        left = (self.experts - cut) // self.groups
        needed = max(FEWEST, -(-self.top_k // self.groups_kept))
        if left >= needed:
            return ""
        most = self.experts - needed * self.groups
        of = "group" if self.groups > 1 else "layer"
        return (
            f"has {self.experts:,} experts, and a token takes {self.top_k}: {needed} must be left of each {of}. Cut at "
            f"most {max(most, 0):,}."
        )


def expert_scores(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the scores by which experts may be cut, the lowest first. An expert without a token has 0.

    trace   of the texts that choose, with experts' outputs (`moeviz.trace_corpus(…, outputs=True)`).

    One row per layer and expert. Columns: layer int32 · expert int16 · reap float64 (mean over its tokens of gate x
    norm of its output) · reap_sum float64 (their sum) · frequency float64 (its tokens) · gate_mass float64 (sum of its
    weights) · greatest float64 (largest absolute value in an output). Raises `MissingField` for a trace without
    outputs.

    Source: REAP (arXiv 2510.13999), equation 9; frequency and gate mass are what it is compared with there.
    """
    if trace.outputs is None or trace.weights is None:
        raise MissingField("Criteria of experts need their outputs. Trace the texts with outputs=True.")
    counts, model = trace.counts().assignments[0].astype(np.float64), trace.model
    there = np.arange(counts.shape[1]) < np.array(model.num_experts)[:, None]
    means = {name: np.nan_to_num(values) for name, values in means_of_experts(trace).items()}
    columns = {
        "reap": means["added"],
        "reap_sum": means["added"] * counts,
        "frequency": counts,
        "gate_mass": means["mean_weight"] * counts,
        "greatest": means["greatest"],
    }
    frame = pd.DataFrame(
        {
            "layer": np.repeat(model.layers, model.num_experts).astype(np.int32),
            "expert": np.concatenate([np.arange(count) for count in model.num_experts]).astype(np.int16),
        }
    )
    return frame.assign(**{name: values[there] for name, values in columns.items()})


def cut_order(
    scores: pd.DataFrame, criterion: str, limits: Mapping[int, LayerLimits], seed: int = 0, draw: int = 0
) -> Order:
    """Return each layer's experts in the order in which a criterion cuts them; ties go by the lower id. If a router
    chooses groups first, one expert of each group goes after the other, so that groups stay of one size.

    scores   of `expert_scores`.
    seed     with `draw`, of the order at random.
    """
    rng, order = np.random.default_rng([seed, draw]), {}
    for layer, limit in limits.items():
        if criterion == RANDOM:
            values = rng.permutation(limit.experts).astype(np.float64)
        else:
            values = scores.loc[scores["layer"] == layer, criterion].to_numpy(np.float64)[: limit.experts]
        by_group = np.argsort(values.reshape(limit.groups, -1), axis=1, kind="stable")
        by_group += np.arange(limit.groups)[:, None] * by_group.shape[1]
        order[layer] = tuple(by_group.T.ravel().tolist())
    return order


def first_to_go(order: Order, cut: int) -> dict[int, tuple[int, ...]]:
    """Return the first `cut` experts of each layer, as `moeviz.Mute` takes them."""
    return {layer: tuple(sorted(experts[:cut])) for layer, experts in order.items()}


def cut_in_all(
    scores: pd.DataFrame, criterion: str, limits: Mapping[int, LayerLimits], total: int, seed: int = 0, draw: int = 0
) -> dict[int, tuple[int, ...]]:
    """Choose experts of all layers together, `total` of them: other numbers per layer, under one budget.

    Within a layer they go in the order of `cut_order`. The layer that loses its next expert is the one where that has
    the smallest share of its layer's sum of the criterion, since outputs of later layers are larger; at random, any
    one. No layer loses more than it can. Of equal ones the earlier layer goes first. Raises `CaptureError` for a number
    that cannot be cut.
    """
    order, rng = cut_order(scores, criterion, limits, seed, draw), np.random.default_rng([seed, draw, total])
    gone, left = dict.fromkeys(limits, 0), total
    price: dict[int, np.ndarray] = {}
    for layer, limit in limits.items():
        if criterion == RANDOM:
            price[layer] = rng.random(limit.experts)
            continue
        values = scores.loc[scores["layer"] == layer, criterion].to_numpy(np.float64)[: limit.experts]
        price[layer] = values[[*order[layer]]] / (values.sum() or 1.0)
    while left:
        open_layers = [
            layer
            for layer, limit in limits.items()
            if limit.groups <= left and not limit.why_not(gone[layer] + limit.groups)
        ]
        if not open_layers:
            most = total - left
            raise CaptureError(
                f"{total:,} experts cannot be cut in all: {most:,} can, and each layer keeps what it needs."
            )
        layer = min(open_layers, key=lambda each: price[each][gone[each] : gone[each] + limits[each].groups].mean())
        gone[layer] += limits[layer].groups
        left -= limits[layer].groups
    return {layer: tuple(sorted(order[layer][: gone[layer]])) for layer in limits}


def cost_of_cuts(losses: pd.DataFrame) -> pd.DataFrame:
    """Compute the increase in loss of texts without experts that other texts chose; without rows of single kinds.

    Experts are ranked by each criterion on the texts that choose (REAP: mean gate x norm of output), and as many of
    each layer go. The texts that judge are read without them, as if the model did not have them: routers take their
    next best.

    losses   of `moeviz.analyses.pruning.result.PruningCurve`.

    One row per criterion and number cut. Columns: criterion str · cut int64 (experts per layer) · share float64 ·
    tokens int64 · loss, loss_increase float64 (nats per token) · sd float64 (of draws at random; NaN elsewhere).

    Source: REAP (arXiv 2510.13999), equation 9 for its criterion.
    """
    whole = losses[(losses["chosen_on"] == ALL) & (losses["judged_on"] == ALL)]
    return whole.drop(columns=["chosen_on", "judged_on"]).reset_index(drop=True)


def cost_by_kind(losses: pd.DataFrame) -> pd.DataFrame:
    """Compute the increase in loss of each kind of text without some experts, compared with as many cut at random.

    losses   rows of `PruningCurve` for one number cut, of one criterion and those of `random`.

    One row per kind of text, the one that loses most first; none if there is one kind. Columns: kind str · tokens
    int64 (predicted) · loss, loss_increase float64 (nats per token) · at_random float64 (mean increase over the draws;
    NaN without draws).
    """
    kinds = losses[(losses["chosen_on"] == ALL) & (losses["judged_on"] != ALL)].rename(columns={"judged_on": "kind"})
    chance = kinds[kinds["criterion"] == RANDOM].set_index("kind")["loss_increase"]
    chosen = kinds[kinds["criterion"] != RANDOM].sort_values("loss_increase", ascending=False, kind="stable")
    frame = chosen.assign(at_random=chosen["kind"].map(chance).astype("float64"))
    return frame[["kind", "tokens", "loss", "loss_increase", "at_random"]].reset_index(drop=True)


def check_cuts(cuts: Sequence[int], limits: Mapping[int, LayerLimits]) -> None:
    """Raise `CaptureError` if a layer cannot lose this many experts."""
    for cut in cuts:
        for layer, limit in limits.items():
            if why := limit.why_not(cut):
                experts = f"{cut:,} expert{'s' * (cut != 1)}"
                raise CaptureError(f"{experts} a layer cannot be cut: layer {layer} {why}")


def usual_cuts(limits: Mapping[int, LayerLimits]) -> tuple[int, ...]:
    """Return an eighth, a quarter and half of a layer's experts, as far as they can go; `CaptureError` if none can."""
    smallest = min(limits.values(), key=lambda limit: limit.experts)
    step = max(limit.groups for limit in limits.values())
    wished = {max(round(smallest.experts * share / step), 1) * step for share in SHARES}
    cuts = tuple(sorted(cut for cut in wished if not any(limit.why_not(cut) for limit in limits.values())))
    if not cuts:
        check_cuts([min(wished)], limits)
    return cuts


def check_criteria(criteria: Sequence[str]) -> None:
    """Raise `CaptureError` for a criterion that there is not."""
    if wrong := [name for name in criteria if name not in CRITERIA]:
        raise CaptureError(f"There is no criterion {wrong[0]!r}. Choose among {', '.join(CRITERIA)}.")
