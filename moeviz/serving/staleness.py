"""Judge plans of one recording on another: placements on devices, and sets of experts kept in memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import layer_counts
from moeviz.metrics.placement import placement_sizes, rebalance_experts
from moeviz.metrics.staleness import MANY, Staleness, staleness, staleness_claim
from moeviz.routing_trace import NO_TOKEN_ID, Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.decision import ENOUGH, judged_twice
from moeviz.serving.placement import BALANCED, COPIES, device_loads

Counts = Int64[np.ndarray, " E"]
COLUMNS: dict[str, Any] = dict.fromkeys(("plan", "figure", "verdict"), "str")
COLUMNS |= {"layers": np.int32, "choices": np.int64}


class JudgedPlan(NamedTuple):
    """A plan of one layer: how it is made from counts, and judged on other counts."""

    name: str
    figure: str  # of `moeviz.metrics.captions.FIGURES`
    make: Callable[[Counts], np.ndarray]
    worth: Callable[[np.ndarray, Counts], float]


Plans = Callable[[Counted, int, int], Iterator[JudgedPlan]]  # of a recording, a row of its layers and the experts there


def placements(devices: int | None = None, copies: int | None = None) -> Plans:
    """Plan experts over devices: `balanced`, and with `copies` of the hottest (see `serving_placement`)."""

    def of_layer(counted: Counted, row: int, experts: int) -> Iterator[JudgedPlan]:
        n, extra = placement_sizes(counted, row, devices, copies)

        def worth(plan: np.ndarray, own: Counts) -> float:
            return float(device_loads(plan, own, n).max() * n / own.sum())

        def packed(more: int, counts: Counts) -> np.ndarray:
            slots: np.ndarray = rebalance_experts(counts[None], experts + more, 1, 1, n)[0]
            return slots

        for name, more in ((BALANCED, 0), (COPIES, extra)):
            yield JudgedPlan(name, "imbalance", partial(packed, more), worth)

    return of_layer


def kept_sets(capacities: Sequence[int] | None = None) -> Plans:
    """Plan which experts of each layer stay in fast memory: those used most. By default half of them."""

    def of_layer(_counted: Counted, _row: int, experts: int) -> Iterator[JudgedPlan]:
        def busiest(size: int, counts: Counts) -> np.ndarray:
            return np.argsort(-counts, kind="stable")[:size]

        def worth(plan: np.ndarray, own: Counts) -> float:
            return float(own[plan].sum() / own.sum())

        for capacity in [(experts + 1) // 2] if capacities is None else capacities:
            yield JudgedPlan(f"{capacity} experts in memory", "hits", partial(busiest, min(capacity, experts)), worth)

    return of_layer


def plan_staleness(made_on: Counted, judged_on: Counted, plans: Plans) -> pd.DataFrame:
    """Judge plans of one recording on another: of another day, customer or checkpoint.

    `fresh` is a plan of the second recording itself, made from half of its windows and judged on the other half, as in
    `placement_judgements`. The plan of the first, and the same plan with its experts shuffled, a hundred times, are
    judged on the same halves: so no plan is called good for its form. Counts that are in no order, and have no labels,
    have no halves: there the fresh plan is judged on the tokens that it is made from. Layers that one recording does
    not have, or that have another number of experts there, are left out.

    One row per plan, with means over layers. Columns: plan, figure str ("imbalance": busiest device / mean; "hits":
    share of choices) · stale, fresh, chance, luck float64 (the plan of the first recording, the fresh one, the mean of
    those at random, and one that 19 of 20 of these do not reach) · kept float64 ((stale - chance) / (fresh - chance);
    NaN if the fresh plan is not better than chance) · verdict str · layers int32 (that are judged) · choices int64
    (that make or judge a plan, in the part and layer with fewest). Raises `MissingField` if no layer can be judged.

    **Source**: staleness recovery, NVIDIA/Megatron-LM tools/moe_routing, there next to experts in order.
    """
    first, found, choices = _counts(made_on), dict[str, list[tuple[str, list[float]]]](), list[int]()
    for row, experts, sides in _sides(judged_on):
        before = first.get(judged_on.model.layers[row])
        if before is None or len(before) != experts or not sides:
            continue
        choices += [int(min(before.sum(), *map(np.sum, pair))) for pair in sides]
        for plan in plans(judged_on, row, experts):
            stale = plan.make(before)
            drawn = [np.random.default_rng((draw, row)).permutation(experts)[stale] for draw in range(MANY)]
            of_sides = [[plan.worth(each, own) for each in (stale, plan.make(fit), *drawn)] for fit, own in sides]
            found.setdefault(plan.name, []).append((plan.figure, np.mean(of_sides, axis=0).tolist()))
    if not found:
        raise MissingField(
            f"Nothing of {judged_on.model.name!r} can judge a plan of {made_on.model.name!r}: no layer has choices, "
            "and as many experts, in both. Give two recordings of one model, or of two checkpoints of it."
        )
    rows = []
    for name, layers in found.items():
        stale, fresh, *drawn = np.mean([figures for _, figures in layers], axis=0).tolist()
        facts = {"layers": len(layers), "choices": min(choices)}
        rows.append(staleness(name, layers[0][0], stale, fresh, drawn)._asdict() | facts)
    return pd.DataFrame(rows).astype(COLUMNS)


def _counts(counted: Counted) -> dict[int, Counts]:
    return {
        each.layer: each.counts.sum(axis=0)[: each.num_experts - counted.model.zero_experts]
        for each in layer_counts(counted)
        if each.counts.any()
    }


def _sides(judged: Counted) -> Iterator[tuple[int, int, list[tuple[Counts, Counts]]]]:
    """Yield, for each layer, its row, its experts, and counts for a fresh plan with counts that judge."""
    if isinstance(judged, ExpertCounts) and not _has_halves(judged):
        for row, layer in enumerate(judged.model.layers):
            counts = _counts(judged).get(layer)
            if counts is not None and counts.any():
                yield row, len(counts), [(counts, counts)]
        return
    for row, experts, sides in judged_twice(judged):
        yield row, experts, [*sides.values()]


def _has_halves(judged: Counted) -> bool:
    return isinstance(judged, RoutingTrace) or (judged.group_kind in ("step", "label") and len(judged.groups) > 1)


def staleness_claims(made_on: Counted, judged_on: Counted, frame: pd.DataFrame) -> list[Claim]:
    """Claim for each plan what it keeps, and what limits that. `frame`: `plan_staleness` of the two."""
    if (choices := int(frame["choices"].min())) < ENOUGH:
        return [captions.few_choices_for_staleness(choices, ENOUGH)]
    claims = [staleness_claim(Staleness(*row)) for row in frame[[*Staleness._fields]].itertuples(index=False)]
    if (judged := int(frame["layers"].min())) < (layers := len(made_on.model.layers)):
        claims.append(captions.layers_judged(judged, layers))
    if not _has_halves(judged_on):
        claims.append(captions.fresh_plan_fits())
    if again := texts_of_both(made_on, judged_on):
        claims.append(captions.texts_in_both(*again))
    return claims


def texts_of_both(made_on: Counted, judged_on: Counted) -> tuple[int, int] | None:
    """Return how many texts of the second recording are in the first, of how many; None if none, or not known."""
    if not (isinstance(made_on, RoutingTrace) and isinstance(judged_on, RoutingTrace)):
        return None
    first, second = map(_texts, (made_on, judged_on))
    again = sum(text in first for text in second)
    return (again, len(second)) if again else None


def _texts(trace: RoutingTrace) -> set[bytes]:
    ids = trace.tokens["token_id"].to_numpy()
    rows = trace.tokens.groupby("sequence", sort=False).indices.values()
    return {ids[at].tobytes() for at in rows if (ids[at] != NO_TOKEN_ID).all()}
