"""The balance of a layer's work over the devices that hold its experts, and the gain from a better placement.

The plans are those of EPLB, DeepSeek's expert parallelism load balancer, in numpy. E experts, R replicas (E and the
redundant copies of hot experts), N devices.
"""

from heapq import heappop, heapreplace

import numpy as np
import pandas as pd
from jaxtyping import Int64, Num

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.metrics import captions
from moeviz.metrics.inputs import LayerCounts, layer_counts
from moeviz.routing_trace import NOT_RECORDED, Counted, RoutingTrace

USUAL_DEVICES = (8, 4, 2)  # of a machine
CONTIGUOUS, BALANCED, COPIES = PLACEMENTS = ("contiguous", "balanced", "with copies")
SAME, HELD_OUT = JUDGED = ("same tokens", "held-out tokens")


def placement(trace: Counted, devices: int | None = None, copies: int | None = None) -> pd.DataFrame:
    """Compute the work of each device, with a layer's experts placed on several devices in three ways.

    `contiguous`: expert e on device e // (E / N), the default of serving frameworks. `balanced`: the same number of
    experts on each device, packed by load. `with copies`: in addition, `copies` redundant copies of the hottest
    experts; the copies of an expert share its work equally. The last two are EPLB's plans for one node. `devices` (N)
    is by default the largest of 2, 4 and 8 that gives every device the same number of experts, at least two; `copies`
    is by default one per device.

    Judged on the `same tokens`, a plan was made from the very load it is judged on, all tokens of the trace: the best
    case. On `held-out tokens`, it was made from the first half of the tokens (in the trace's order, so perhaps from
    other texts) and is judged on the second half, as in serving. The fewer the tokens, the less uniform any
    placement is, by chance. Counts do not distinguish their tokens: for them, there are only `same tokens`. Experts
    that compute nothing are on no device, and their assignments do not count.

    One row per layer, judgement, placement and device. Columns: layer int32 (the model's own index) · judged_on str ·
    placement str · device int16 · experts int16 (on it, including copies) · load float64 (share of the layer's
    assignments, so those of a placement sum to 1; 0 if there are none) · even float64 (1 / N) · times_uniform float64
    (load / even). Raises `MoevizError` if the experts or the copies cannot be divided equally among the devices.

    Source: EPLB (github.com/deepseek-ai/EPLB); DeepSeek-V3 (arXiv 2412.19437), section 3.4, 'redundant experts'.
    """
    frames = []
    for found in layer_counts(trace):
        layer = found.layer
        n, extra = placement_sizes(trace, found.row, devices, copies)
        for judged_on, planned, judged in _judgements(trace, found):
            for name, replicas in zip(PLACEMENTS, planned_replicas(planned, n, extra), strict=True):
                each = judged / np.bincount(replicas, minlength=len(judged))
                load: np.ndarray = each[replicas].reshape(n, -1).sum(axis=1) / max(judged.sum(), 1)
                columns = {"layer": np.int32(layer), "judged_on": judged_on, "placement": name}
                facts = {"device": np.arange(n, dtype=np.int16), "experts": np.int16(len(replicas) // n), "load": load}
                frames.append(pd.DataFrame(columns | facts | {"even": 1 / n, "times_uniform": load * n}))
    return pd.concat(frames, ignore_index=True).astype({"judged_on": "str", "placement": "str"})


def placement_imbalance(trace: Counted, devices: int | None = None, copies: int | None = None) -> pd.DataFrame:
    """The load of each layer's busiest device, as a multiple of the uniform load, under the placements of `placement`.

    All devices wait for the busiest, so 1 is the aim, and 2 takes twice the time of a uniform placement. Note which
    tokens a placement is judged on: a plan judged on the tokens that it was made from is the best case, and only
    `held-out tokens` tell what to expect.

    One row per layer, judgement and placement. Columns: layer int32 · judged_on str · placement str · devices int16 ·
    copies int16 (of all experts together; 0 if the placement makes none) · imbalance float64 (busiest device / mean;
    NaN if the layer has no assignments). Raises `MoevizError` as `placement` does.

    Source: as for `placement`; max / mean - 1 is MaxVio (arXiv 2408.15664) of devices instead of experts.
    """
    loads = placement(trace, devices, copies)
    groups = loads.groupby(["layer", "judged_on", "placement"], sort=False)
    frame = groups.agg(devices=("device", "size"), replicas=("experts", "sum"), imbalance=("times_uniform", "max"))
    frame = frame.reset_index()
    least = frame.groupby("layer")["replicas"].transform("min")
    frame.insert(4, "copies", frame.pop("replicas") - least)
    kinds = {"layer": np.int32, "devices": np.int16, "copies": np.int16}
    return frame.assign(imbalance=frame["imbalance"].where(frame["imbalance"] > 0)).astype(kinds)


def placement_sizes(trace: Counted, row: int, devices: int | None, copies: int | None) -> tuple[int, int]:
    """Return devices and copies, given or usual, after a check that they fit this layer."""
    num_experts = trace.model.num_experts[row] - trace.model.zero_experts
    where = f"Layer {trace.model.layers[row]} has {num_experts} expert{'s' * (num_experts != 1)}"
    if devices is None:
        fitting = [n for n in USUAL_DEVICES if num_experts % n == 0 and num_experts >= 2 * n]
        if not fitting:
            raise MoevizError(
                f"{where}, which cannot be divided equally among 2, 4 or 8 devices with at least two on each. Say how "
                "many devices there are: `placement(trace, devices=...)`, a number that divides the number of experts."
            )
        devices = fitting[0]
    if devices < 1 or num_experts % devices:
        raise MoevizError(
            f"{where}, which {devices} devices cannot hold in equal numbers. Choose a number of devices that divides "
            f"{num_experts}."
        )
    copies = devices if copies is None else copies
    if copies < 0 or copies % devices:
        raise MoevizError(
            f"{copies} copies cannot be spread over {devices} devices in equal numbers. Choose a multiple of {devices}."
        )
    return devices, copies


def _judgements(trace: Counted, found: LayerCounts) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the counts for making a plan and those for judging it, of the experts that compute something."""
    computing = found.num_experts - trace.model.zero_experts
    every = found.counts[0, :computing]
    if not isinstance(trace, RoutingTrace):
        return [(SAME, every, every)]
    experts = trace.experts[found.row]
    experts = experts[experts[:, 0] != NOT_RECORDED]
    half = experts[: len(experts) // 2]
    first = np.bincount(half[half >= 0], minlength=found.num_experts)[:computing]
    return [(SAME, every, every), (HELD_OUT, first, every - first)]


def planned_replicas(
    counts: Int64[np.ndarray, " E"], devices: int, copies: int
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"], Int64[np.ndarray, " R"]]:
    """Compute the expert of each replica, device by device: of experts in order, balanced, and balanced with copies."""
    plans = [rebalance_experts(counts[None], len(counts) + more, 1, 1, devices)[0] for more in (0, copies)]
    return np.arange(len(counts)), plans[0], plans[1]


def rebalance_experts(
    weights: Num[np.ndarray, "L E"], replicas: int, groups: int, nodes: int, devices: int
) -> Int64[np.ndarray, "L R"]:
    """Which expert each replica holds, layer by layer: the first R / N replicas are on device 0, and so on.

    `weights` are the experts' loads. The experts of each of the `groups` stay on one node, if the number of nodes
    divides the number of groups; otherwise all devices are treated as one node. Raises `MoevizError` if the numbers do
    not divide, or are more than every expert on every device takes.

    Source: EPLB (github.com/deepseek-ai/EPLB), `rebalance_experts`, hierarchical and global policy.
    """
    experts = weights.shape[1]
    _divides(devices, "devices", nodes, "nodes")
    _divides(replicas, "replicas", devices, "devices")
    if groups % nodes:
        groups = nodes = 1
    _divides(experts, "experts", groups, "groups")
    if replicas < experts:
        raise MoevizError(
            f"{replicas} replicas cannot hold {experts} experts; a plan needs at least one for each expert. Raise the "
            "number of replicas."
        )
    if replicas > experts * devices:
        raise MoevizError(
            f"{replicas:,} replicas are more than {experts * devices:,}, which is each of the {experts:,} experts "
            f"on each of the {devices:,} devices. Ask for fewer copies."
        )
    layers = [rebalance_experts_hierarchical(layer, replicas, groups, nodes, devices) for layer in weights]
    return np.stack(layers) if layers else np.zeros((0, replicas), np.int64)


def _divides(whole: int, what: str, parts: int, of: str) -> None:
    if parts < 1 or whole % parts:
        raise MoevizError(
            f"{whole} {what} cannot be divided equally among {parts} {of}, and a plan puts the same number on each. "
            "Change one of the two numbers."
        )


def rebalance_experts_hierarchical(
    weights: Num[np.ndarray, " E"], replicas: int, groups: int, nodes: int, devices: int
) -> Int64[np.ndarray, " R"]:
    """Plan one layer: groups are packed onto nodes; each node copies its hot experts and packs them onto devices.

    Source: EPLB (github.com/deepseek-ai/EPLB), the function of this name.
    """
    members = np.arange(len(weights)).reshape(groups, -1)
    order = _packed_order(weights[members].sum(axis=1), nodes)
    plan = []
    for experts in members[order].reshape(nodes, -1):
        copied = replicate_experts(weights[experts], replicas // nodes)
        share = weights[experts] / np.bincount(copied)
        plan.append(experts[copied[_packed_order(share[copied], devices // nodes)]])
    return np.concatenate(plan)


def _packed_order(weights: Num[np.ndarray, " n"], packs: int) -> Int64[np.ndarray, " n"]:
    """List the objects of the first pack, then those of the second, each pack in the order in which it was filled."""
    pack, place = balanced_packing(weights, packs)
    return np.lexsort((place, pack))


def balanced_packing(
    weights: Num[np.ndarray, " n"], packs: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Put n objects into packs of equal size and about equal weight: the pack of each object, and its place in it.

    The heaviest remaining object goes to the lightest pack that is not full; ties go to the lower id.

    Source: EPLB (github.com/deepseek-ai/EPLB), the function of this name.
    """
    n = len(weights)
    room = n // packs
    if room == 1:
        return np.arange(n), np.zeros(n, np.int64)
    pack, place = np.zeros(n, np.int64), np.zeros(n, np.int64)
    lightest, filled = [(0.0, number) for number in range(packs)], [0] * packs  # a heap of those that are not full
    loads = weights.astype(np.float64).tolist()
    for item in np.argsort(-weights, kind="stable").tolist():
        heavy, number = lightest[0]
        pack[item], place[item] = number, filled[number]
        filled[number] += 1
        if filled[number] == room:
            heappop(lightest)
        else:
            heapreplace(lightest, (heavy + loads[item], number))
    return pack, place


def replicate_experts(weights: Num[np.ndarray, " E"], replicas: int) -> Int64[np.ndarray, " R"]:
    """Return each replica's expert: all experts once, then copies, each of the expert with most load per replica.

    Source: EPLB (github.com/deepseek-ai/EPLB), the function of this name.
    """
    experts, held = list(range(len(weights))), np.ones(len(weights))
    while len(experts) < replicas:
        hottest = int((weights / held).argmax())
        experts.append(hottest)
        held[hottest] += 1
    return np.array(experts)


def imbalance_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what balancing changes over all layers, on tokens that it was not made from; None if less than a fifth."""
    held = frame[frame["judged_on"] == HELD_OUT]
    table = held.pivot(index="layer", columns="placement", values="imbalance")
    if not {CONTIGUOUS, BALANCED} <= set(table.columns):
        return None
    known = table.dropna(subset=[CONTIGUOUS, BALANCED])
    before, after = known[CONTIGUOUS], known[BALANCED]
    if known.empty or not abs(before.mean() - after.mean()) >= 0.2 * before.mean():
        return None
    counts = (after < before).sum(), len(known), (after > before).sum()
    return captions.balanced_devices(before.mean(), after.mean(), *counts)
