"""A plan: which expert each slot of each layer holds, made from a trace, checked, and judged on other tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.claims import Claim
from moeviz.errors import MissingField, MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import layer_counts
from moeviz.metrics.placement import placement_sizes, rebalance_experts
from moeviz.metrics.words import label_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.batches import batch_coverage
from moeviz.serving.placement import BALANCED, COPIES, device_loads, kept_together, serving_placement
from moeviz.serving.requests import layer_sets
from moeviz.text import listed

Layers = dict[int, tuple[int, ...]]  # by the model's own index of a layer
BATCH = 8  # tokens of a step, for which layers are ranked
MOST_LAYERS = 2**12  # of a model: some files have a row for each


@dataclass(frozen=True, slots=True, eq=False)
class ExpertPlan:
    """A placement of a model's experts on devices. Layers have the model's own indices; dense ones are absent."""

    model: ModelInfo
    num_layers: int | None  # all of the model's, dense ones too; None if the trace does not say
    tokens: int  # from which it was made: of the layer that has most
    devices: int
    slots: Layers  # the expert in each slot; the first slots / devices are on device 0, and so on
    loads: Layers  # assignments of each expert
    together: Layers  # places of experts where those that share tokens stand together, E for the first; none of counts
    by_need: tuple[int, ...]  # layers, those first of which a step reads the largest share of the experts
    layers_on_gpu: int  # of these, whose experts are on the GPU where an engine places whole layers
    repaired: int  # slots that EPLB filled otherwise, changed so that no device has an expert twice
    judged: Claim  # on which tokens the plan was judged, and how it did

    @property
    def copies(self) -> int:
        """The number of slots that a layer has beyond one for each expert."""
        return max(len(slots) - len(self.loads[layer]) for layer, slots in self.slots.items())


def make_plan(
    trace: Counted,
    devices: int | None = None,
    copies: int | None = None,
    num_layers: int | None = None,
    layers_on_gpu: int | None = None,
    placed: pd.DataFrame | None = None,
) -> ExpertPlan:
    """Plan from all tokens: copies of the hottest experts, packed so that devices do about the same work (EPLB).

    EPLB may put two copies of an expert on one device; the second is wasted, and some engines refuse it: such
    slots change places with others (`without_duplicates`). `num_layers` is for traces that do not give the model's
    total number of layers; `layers_on_gpu` is for engines that place whole layers (by default, half of them). `placed`
    is `serving_placement` of the same trace and numbers, if available.

    Raises `MoevizError` for numbers that do not divide or that the model does not have, and layers without tokens.
    """
    slots: Layers = {}
    loads: Layers = {}
    moved, n = 0, 0
    found = layer_counts(trace)
    _check_layers(trace, [each.layer for each in found])
    for each in found:
        counts = each.counts.sum(axis=0)[: each.num_experts - trace.model.zero_experts]
        n, extra = placement_sizes(trace, each.row, devices, copies)
        planned = rebalance_experts(counts[None], len(counts) + extra, 1, 1, n)[0]
        mended, swaps = without_duplicates(planned, counts, n)
        slots[each.layer], loads[each.layer] = tuple(mended.tolist()), tuple(counts.tolist())
        moved += swaps
    on_gpu = len(found) // 2 if layers_on_gpu is None else layers_on_gpu
    if not 0 <= on_gpu <= len(found):
        raise MoevizError(
            f"The model has {len(found)} MoE layers, so 0 to {len(found)} can be on the GPU; got {on_gpu}."
        )
    in_all, tokens = num_layers or trace.model.num_layers, max(int(each.tokens.sum()) for each in found)
    _check_number(max(in_all or 0, max(slots) + 1))
    needs, judged = _by_need(trace), _claim_held_out(trace, tokens, n, copies, placed)
    sets = layer_sets(trace) if isinstance(trace, RoutingTrace) else ()
    together = {each.layer: tuple(kept_together(each.sets, each.num_experts).tolist()) for each in sets}
    plan = ExpertPlan(trace.model, in_all, tokens, n, slots, loads, together, needs, on_gpu, moved, judged)
    check_plan(plan)
    return plan


def without_duplicates(
    plan: Int64[np.ndarray, " S"], counts: Int64[np.ndarray, " E"], devices: int
) -> tuple[Int64[np.ndarray, " S"], int]:
    """Return the plan with no expert twice on a device, and how many repairs that took.

    Copies beyond one a device become copies of the expert with the next most load per copy. A second copy on a device
    changes places with a slot of another, so that the busiest device has least to do; of equals, the lower slot. Raises
    `MoevizError` if there are more slots than one of each expert on each device.
    """
    if len(plan) > devices * len(counts):
        raise MoevizError(
            f"{len(plan)} slots on {devices} devices cannot hold {len(counts)} experts without one of them being twice "
            "on a device. Plan with fewer copies."
        )
    plan, repairs = plan.copy(), 0
    while (held := np.bincount(plan, minlength=len(counts))).max() > devices:
        surplus = np.flatnonzero(plan == held.argmax())[-1]
        plan[surplus] = np.where(held < devices, counts / held, -1).argmax()
        repairs += 1
    while (slot := _duplicate(plan, devices)) is not None:
        others = _swap_slots(plan, slot, devices)
        if not others:
            raise MoevizError(
                f"No swap keeps expert {plan[slot]} from being twice on a device. Plan with fewer copies."
            )
        plan = min(others, key=lambda other: device_loads(other, counts, devices).max())
        repairs += 1
    return plan, repairs


def _duplicate(plan: Int64[np.ndarray, " S"], devices: int) -> int | None:
    """Return the first slot whose expert its device already has."""
    room = len(plan) // devices
    for slot, expert in enumerate(plan.tolist()):
        if expert in plan[slot // room * room : slot]:
            return slot
    return None


def _swap_slots(plan: Int64[np.ndarray, " S"], slot: int, devices: int) -> list[Int64[np.ndarray, " S"]]:
    """Yield the plans that swap this slot with one on another device, without a new duplicate on either."""
    room = len(plan) // devices
    here = slot // room
    own, found = set(plan[here * room : (here + 1) * room].tolist()), []
    for other, expert in enumerate(plan.tolist()):
        there = plan[other // room * room : (other // room + 1) * room]
        if other // room != here and expert not in own and plan[slot] not in there:
            swapped = plan.copy()
            swapped[[slot, other]] = swapped[[other, slot]]
            found.append(swapped)
    return found


def check_plan(plan: ExpertPlan) -> None:
    """Raise `MoevizError` unless every expert has a slot, slots divide, and no device has an expert twice."""
    for layer, slots in plan.slots.items():
        experts = range(len(plan.loads[layer]))
        if missing := set(experts) - set(slots):
            raise MoevizError(f"Layer {layer} of the plan has no slot for expert {min(missing)}. Plan again.")
        if unknown := set(slots) - set(experts):
            raise MoevizError(f"Layer {layer} of the plan has expert {max(unknown)}, of {len(experts)}. Plan again.")
        if len(slots) % plan.devices:
            raise MoevizError(f"Layer {layer} has {len(slots)} slots, which {plan.devices} devices cannot share.")
        if _duplicate(np.array(slots), plan.devices) is not None:
            raise MoevizError(f"Layer {layer} of the plan has an expert twice on a device. Plan again.")


def _check_layers(trace: Counted, found: list[int]) -> None:
    if missing := sorted(set(trace.model.layers) - set(found)):
        raise MissingField(
            f"A plan needs the load of every layer, and nothing is recorded at {listed(missing)}. Record these layers."
        )


def _check_number(layers: int) -> None:
    if layers > MOST_LAYERS:
        raise MoevizError(
            f"The model would have {layers:,} layers, and plans are made for up to {MOST_LAYERS:,}. Give the config's "
            "`num_hidden_layers`, or open the trace as it was recorded."
        )


def _by_need(trace: Counted) -> tuple[int, ...]:
    """Order layers by the share of their experts that a step reads, largest first: their cost in slow memory."""
    share = batch_coverage(trace, [BATCH]).set_index("layer")["random"]
    sizes = dict(zip(trace.model.layers, trace.model.num_experts, strict=True))
    return tuple(sorted(map(int, share.index), key=lambda layer: (-round(share[layer] / sizes[layer], 12), layer)))


def _claim_held_out(
    trace: Counted, tokens: int, devices: int, copies: int | None, placed: pd.DataFrame | None
) -> Claim:
    """Claim the figures of a plan made in this way on other tokens."""
    if devices == 1:
        return captions.plan_not_judged(tokens, "one device does all the work")
    table = (serving_placement(trace, devices, copies) if placed is None else placed).set_index("placement")
    counted = isinstance(trace, ExpertCounts)
    if table["imbalance"].isna().any():
        why = "counts do not distinguish tokens" if counted else "there are too few of them"
        return captions.plan_not_judged(tokens, why)
    loads = (table.loc[[name], "imbalance"].max() for name in (COPIES, BALANCED, "contiguous"))
    return captions.plan_judged(tokens, label_word(trace.model) if counted else None, *loads)


def layers_in_all(plan: ExpertPlan, engine: str) -> int:
    """All layers of the model, dense ones too. Raises `MissingField` if nobody says how many."""
    if plan.num_layers is None:
        raise MissingField(
            f"{engine} counts all layers of the model, dense ones too, and the trace does not say how many there are. "
            "Say it: `--num-layers`, the config's `num_hidden_layers`."
        )
    if plan.num_layers <= max(plan.slots):
        raise MoevizError(
            f"The model has {plan.num_layers} layers, counted from 0, and the plan is for layer {max(plan.slots)} too. "
            "Give the config's `num_hidden_layers`."
        )
    return plan.num_layers


def all_rows(rows: Layers, dense: Sequence[int], plan: ExpertPlan, engine: str) -> list[list[int]]:
    """Return a row for each layer of the model, in order; dense layers have `dense`."""
    return [list(rows.get(layer, dense)) for layer in range(layers_in_all(plan, engine))]


def even_experts(plan: ExpertPlan, engine: str) -> int:
    """Return the experts of a layer. Raises `MoevizError` if layers differ, which the engine's file cannot say."""
    sizes = {len(loads) for loads in plan.loads.values()}
    if len(sizes) > 1:
        raise MoevizError(
            f"{engine} counts the same number of experts in every layer, and this model has layers of "
            f"{' and '.join(map(str, sorted(sizes)))}. It cannot be given a plan for such a model."
        )
    return sizes.pop()
