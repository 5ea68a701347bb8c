"""Experts over devices: how uneven the work falls, and to how many devices a token has to go."""

from itertools import combinations_with_replacement
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int, Int64

from moeviz.claims import Claim
from moeviz.metrics.inputs import LayerCounts, check_cells
from moeviz.metrics.placement import placement_sizes, planned_replicas, rebalance_experts
from moeviz.metrics.words import one_row
from moeviz.routing_trace import NOT_RECORDED, Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.requests import LayerSets, counts_of_labels, layer_sets, of_others, with_tokens

CONTIGUOUS, BALANCED, COACTIVE, COPIES = PLACEMENTS = ("contiguous", "balanced", "coactive", "copies")
Row = dict[str, object]
TAKEN = -np.inf
FEWEST = 250  # tokens that are judged, for a sentence on pairs of devices
BLOCK = 2**16  # tokens whose devices are looked up at a time
STEP = 64  # tokens of a step whose imbalance is measured


def serving_placement(trace: Counted, devices: int | None = None, copies: int | None = None) -> pd.DataFrame:
    """Return the imbalance of the devices' work, and the number of devices that a token reaches, for four placements.

    - `contiguous`: expert e on device e // (E / N), the default of serving frameworks
    - `balanced`: the same number on each device, packed by load (EPLB without copies)
    - `coactive`: experts that share tokens on one device, whatever their load: the other end of the trade
    - `copies`: balanced, with redundant copies of the hottest experts (EPLB's global policy)

    A plan is made from the first half of the tokens, and `imbalance_fit` judges it on these; all else judges it on the
    second half. All devices wait for the busiest, so 1 is the aim. Steps of 64 tokens are less even than their sum,
    by chance; a server waits for steps.

    One row per layer and placement. Columns: layer int32 · devices int16 (N) · copies int16 (0 for the others) ·
    placement str · imbalance_fit, imbalance float64 (busiest device / mean, of assignments; copies share an expert's
    work equally) · step_imbalance float64 (its mean over whole steps of 64 tokens in a row) · reached float64 (devices
    that hold a token's experts, the mean over tokens; of copies, each expert picks one at random) · reached_by_lot
    float64 (the same for experts chosen at random) · remote float64 (reached x (1 - 1 / N): devices other than the
    token's own) · plan str (the experts of each device, devices split by `|`). Dispatch sends remote x hidden size x
    bytes of a number per token and layer, and combining sends as much back.

    Counts give `contiguous`, `balanced` and `copies`, made and judged on all tokens (`imbalance_fit`), and NaN
    for what needs each token. Counts by label give `imbalance` too: each label is judged by a plan made from the
    others, and this is the mean over labels. `devices` and `copies` are by default those of
    `moeviz.metrics.placement`. Raises `MoevizError` if the experts or the copies cannot be divided equally among the
    devices.

    **Source**: EPLB (github.com/deepseek-ai/EPLB); device-limited routing: DeepSeek-V2 (arXiv 2405.04434), 2.2.2;
    experts that go together: ExFlow (arXiv 2401.08383).
    """
    if isinstance(trace, RoutingTrace):
        rows = [row for found in layer_sets(trace) for row in _of_layer(trace, found, devices, copies)]
    else:
        rows = [row for found in counts_of_labels(trace) for row in _of_counts(trace, found, devices, copies)]
    whole = {"layer": np.int32, "devices": np.int16, "copies": np.int16}
    return pd.DataFrame(rows).astype(whole).astype({"placement": "str", "plan": "str"})


def placement_sentence(table: pd.DataFrame) -> Claim | None:
    """Claim how even the devices' work is; None if nothing was judged. `table`: `serving_placement`."""
    means = table.groupby("placement")[["imbalance", "reached"]].mean()
    if means.isna().any(axis=None):
        return None
    load = means["imbalance"]
    return captions.busiest_device(
        *(table["devices"].min(), table["devices"].max()),
        *(load[CONTIGUOUS], load[BALANCED], load[COPIES], means["reached"][BALANCED]),
    )


def devices_said(table: pd.DataFrame) -> str:
    """Return the number of devices, which may differ where layers have different numbers of experts."""
    least, most = table["devices"].min(), table["devices"].max()
    return f"{most}" if least == most else f"{least} to {most}"


def coactive(sets: Int[np.ndarray, "T K"], num_experts: int, devices: int) -> Int64[np.ndarray, " E"]:
    """Experts device by device: the busiest one left, then always the one that shares most tokens with those there.

    Ties go to the lower id. `sets` has -1 where a token has no expert.
    """
    together = _shared_tokens(sets, num_experts)
    load, order = together.diagonal().copy(), []
    for _ in range(devices):
        shared = load.copy()
        for place in range(num_experts // devices):
            chosen = int(shared.argmax())
            order.append(chosen)
            load[chosen] = TAKEN
            shared = np.where(load == TAKEN, TAKEN, together[chosen]) if place == 0 else shared + together[chosen]
            shared[chosen] = TAKEN
    return np.array(order)


def kept_together(sets: Int[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, " E"]:
    """Rank experts so that the first C cover all experts of many tokens: E is the first, 1 the last.

    The busiest is first. The next is always the one that adds most, with each token counted by the square of the
    number of its experts that are there: so those that share tokens with the first ones come before others as busy.
    Ties go to the lower id. `sets` has -1 where a token has no expert.

    **Source**: placement by co-activation, as kvcache-ai/ktransformers' pull request 2093 proposes; this rule is ours.
    """
    together = _shared_tokens(sets, num_experts)
    gain, rank = together.diagonal().copy(), np.zeros(num_experts, np.int64)
    for place in range(num_experts, 0, -1):
        chosen = int(gain.argmax())
        rank[chosen] = place
        gain = gain + 2 * together[chosen]
        gain[rank > 0] = TAKEN
    return rank


def kept_whole(trace: RoutingTrace, first: Bool[np.ndarray, " T"]) -> tuple[float, float, float]:
    """Judge sets of half of each layer's experts by the other tokens: those that find all of theirs.

    `first` marks the tokens that the sets are made from. Returns the share of tokens, the mean over layers, for the
    busiest experts, for those of `kept_together`, and for a set chosen at random.
    """
    shares = []
    for found in layer_sets(trace):
        E, made = found.num_experts, first[trace.experts[found.row, :, 0] != NOT_RECORDED]
        fit, own = found.sets[made], found.sets[~made]
        half, k = (E + 1) // 2, min(trace.model.top_k, E)
        by_load = np.argsort(-_counts(fit, E), kind="stable")[:half]
        kept = [by_load, np.argsort(-kept_together(fit, E))[:half]]
        shares.append(
            [(np.isin(own, each) | (own < 0)).all(axis=1).sum() / (len(own) or np.nan) for each in kept]
            + [comb(half, k) / comb(E, k)]
        )
    return tuple(np.mean(shares, axis=0).tolist())


def together_sentence(trace: RoutingTrace) -> Claim:
    """Claim how many tokens need no expert but those kept, if these are the busiest and if they share tokens."""
    half = len(trace.tokens) // 2
    busiest, together, chance = kept_whole(trace, np.arange(len(trace.tokens)) < half)
    if half < FEWEST or np.isnan([busiest, together, chance]).any():
        return captions.kept_whole_unknown(2 * FEWEST)
    return captions.kept_whole(together, busiest, chance)


def _shared_tokens(sets: Int[np.ndarray, "T K"], num_experts: int) -> Float64[np.ndarray, "E E"]:
    """Count the tokens that two experts share; on the diagonal, those of each."""
    check_cells("Experts that share tokens", sets.size, experts=num_experts, experts_with_them=num_experts)
    pairs = np.zeros((num_experts, num_experts))
    for one, other in combinations_with_replacement(sets.T.astype(np.int64), 2):
        both = (one >= 0) & (other >= 0)
        pairs += np.bincount(one[both] * num_experts + other[both], minlength=pairs.size).reshape(pairs.shape)
    shared: Float64[np.ndarray, "E E"] = pairs + pairs.T - np.diag(pairs.diagonal())
    return shared


def device_loads(plan: Int64[np.ndarray, " S"], counts: Int64[np.ndarray, "*steps E"], devices: int) -> np.ndarray:
    """Count the assignments of each device, if the copies of an expert share its work equally."""
    each = counts / np.bincount(plan, minlength=counts.shape[-1])
    loads: np.ndarray = each[..., plan].reshape(*counts.shape[:-1], devices, len(plan) // devices).sum(axis=-1)
    return loads


def devices_reached(
    plan: Int64[np.ndarray, " S"], sets: Int[np.ndarray, "T K"], num_experts: int, devices: int
) -> float:
    """Distinct devices that hold a token's experts, the mean over tokens; each expert picks one of its copies."""
    held = np.zeros((devices, num_experts + 1))  # the last one for places without an expert, which -1 finds
    np.add.at(held, (np.repeat(np.arange(devices), len(plan) // devices), plan), 1)
    elsewhere = 1 - held / np.maximum(held.sum(axis=0), 1)
    return float(sum((1 - absent[sets].prod(axis=1)).mean() for absent in elsewhere)) if len(sets) else np.nan


def device_pairs(trace: Counted, devices: int) -> pd.DataFrame:
    """Count how often tokens need experts on both of two devices: the load of the link between them.

    With experts in order, and with a `balanced` plan from the first half of the tokens; counted in the second half.

    One row per placement and pair, each device also with itself. Columns: placement str · tokens int64 (that are
    judged, in the layer with fewest) · device, other int16 · share float64 (of these, the mean over layers, that have
    an expert on both) · by_lot float64 (the same for experts chosen at random). Raises `MissingField` for counts,
    and `MoevizError` if the experts cannot be divided equally.
    """
    rows, lots, tokens = [], [], []
    trace = with_tokens(trace, "The traffic between devices")
    for found in layer_sets(trace):
        placement_sizes(trace, found.row, devices, 0)
        E, half = found.num_experts, len(found.run) // 2
        plan = rebalance_experts(_counts(found.sets[:half], E)[None], E, 1, 1, devices)[0]
        rows.append([_together(order, found.sets[half:], devices) for order in (np.arange(E), plan)])
        tokens.append(len(found.sets) - half)
        lots.append(_pair_by_chance(E, min(trace.model.top_k, E), devices))
    one, other = np.triu_indices(devices)
    share, lot = np.mean(rows, axis=0)[:, one, other], np.mean(lots, axis=0)[one, other]
    facts = {"device": one.astype(np.int16), "other": other.astype(np.int16)}
    frames = [
        pd.DataFrame({"placement": name, "tokens": min(tokens), **facts, "share": of, "by_lot": lot})
        for name, of in zip((CONTIGUOUS, BALANCED), share, strict=True)
    ]
    return pd.concat(frames, ignore_index=True).astype({"placement": "str"})


def _together(plan: Int64[np.ndarray, " E"], sets: Int[np.ndarray, "T K"], devices: int) -> Float64[np.ndarray, "N N"]:
    """Return the share of tokens that needs both devices; NaN without tokens."""
    device = np.append(np.argsort(plan) // (len(plan) // devices), devices)  # the last one is found by -1
    shares: Float64[np.ndarray, "N N"] = np.zeros((devices, devices))
    for start in range(0, len(sets), BLOCK):
        part = sets[start : start + BLOCK]
        needs = np.zeros((len(part), devices + 1))
        np.put_along_axis(needs, device[part], 1, axis=1)
        shares += needs[:, :-1].T @ needs[:, :-1]
    return shares / (len(sets) or np.nan)


def _pair_by_chance(experts: int, k: int, devices: int) -> Float64[np.ndarray, "N N"]:
    """Return the chance that k experts at random lie on both devices."""
    missed = [comb(experts - number * (experts // devices), k) / comb(experts, k) for number in (1, 2)]
    both = 1 - 2 * missed[0] + missed[1]
    return np.where(np.eye(devices, dtype=bool), 1 - missed[0], both)


def device_pairs_sentence(frame: pd.DataFrame) -> Claim | None:
    """Claim which two devices tokens need together most and least; None of one device.

    Columns: those of `device_pairs`. Devices are named as with experts in order.
    """
    in_order = frame[frame["placement"] == CONTIGUOUS]
    pairs = in_order[in_order["device"] != in_order["other"]]
    if pairs.empty or pairs["share"].isna().any():
        return None
    if (tokens := int(frame["tokens"].iloc[0])) < FEWEST:
        return captions.few_tokens(tokens, FEWEST)
    most, least = (one_row(pairs, at) for at in (pairs["share"].idxmax(), pairs["share"].idxmin()))
    reached = frame[frame["device"] == frame["other"]].groupby("placement")["share"].sum()
    return captions.device_pairs(
        reached[CONTIGUOUS],
        reached[BALANCED],
        most=(most.device, most.other, most.share),
        least=(least.device, least.other, least.share) if len(pairs) > 1 else None,
        chance=most.by_lot,
    )


def _of_layer(trace: RoutingTrace, found: LayerSets, devices: int | None, copies: int | None) -> list[Row]:
    E, half = found.num_experts, len(found.run) // 2
    n, extra = placement_sizes(trace, found.row, devices, copies)
    first, second = found.sets[:half], found.sets[half:]
    fit, held_out = _counts(first, E), _counts(second, E)
    steps = _step_counts(second, E)
    plans = _plans(fit, n, extra) | {COACTIVE: coactive(first, E, n)}
    rows = []
    for name in PLACEMENTS:
        plan = plans[name]
        reached = devices_reached(plan, second, E, n)
        rows.append(
            _facts(found.layer, n, extra, name, plan)
            | {"imbalance_fit": float(_imbalance(plan, fit, n)), "imbalance": float(_imbalance(plan, held_out, n))}
            | {"step_imbalance": _mean(_imbalance(plan, steps, n)), "reached": reached}
            | {"reached_by_lot": _devices_by_chance(E, trace.model.top_k, n), "remote": reached * (1 - 1 / n)}
            | {"plan": plan_text(plan, n)}
        )
    return rows


def _of_counts(trace: Counted, found: LayerCounts, devices: int | None, copies: int | None) -> list[Row]:
    groups = found.counts[:, : found.num_experts - trace.model.zero_experts]
    counts = groups.sum(axis=0)
    n, extra = placement_sizes(trace, found.row, devices, copies)
    judged = [(_plans(others, n, extra), own) for others, own in of_others(groups)]
    return [
        _facts(found.layer, n, extra, name, plan)
        | {"imbalance_fit": float(_imbalance(plan, counts, n)), "step_imbalance": np.nan}
        | {"imbalance": _mean(np.array([_imbalance(plans[name], own, n) for plans, own in judged]))}
        | {"reached": np.nan, "reached_by_lot": _devices_by_chance(len(counts), trace.model.top_k, n), "remote": np.nan}
        | {"plan": plan_text(plan, n)}
        for name, plan in _plans(counts, n, extra).items()
    ]


def _plans(counts: Int64[np.ndarray, " E"], devices: int, copies: int) -> dict[str, Int64[np.ndarray, " S"]]:
    return dict(zip((CONTIGUOUS, BALANCED, COPIES), planned_replicas(counts, devices, copies), strict=True))


def _facts(layer: int, devices: int, copies: int, name: str, plan: np.ndarray) -> Row:
    return {"layer": layer, "devices": devices, "copies": copies if name == COPIES else 0, "placement": name}


def _counts(sets: Int[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, " E"]:
    return np.bincount(sets[sets >= 0], minlength=num_experts)


def _step_counts(sets: Int[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, "steps E"]:
    """Count the assignments of each whole step of 64 consecutive tokens."""
    steps = len(sets) // STEP
    whole = sets[: steps * STEP]
    step = np.broadcast_to(np.arange(len(whole))[:, None] // STEP, whole.shape)[whole >= 0]
    cells = np.bincount(step * num_experts + whole[whole >= 0], minlength=steps * num_experts)
    return cells.reshape(steps, num_experts)


def _imbalance(plan: np.ndarray, counts: Int64[np.ndarray, "*steps E"], devices: int) -> np.ndarray:
    loads, total = device_loads(plan, counts, devices), counts.sum(axis=-1)
    return np.where(total > 0, loads.max(axis=-1) * devices / np.maximum(total, 1), np.nan)


def _mean(values: Float64[np.ndarray, " steps"]) -> float:
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else np.nan


def _devices_by_chance(num_experts: int, top_k: int, devices: int) -> float:
    k = min(top_k, num_experts)
    return devices * (1 - comb(num_experts - num_experts // devices, k) / comb(num_experts, k))


def plan_text(plan: Int64[np.ndarray, " S"], devices: int) -> str:
    """Return the experts of each device, devices split by `|`.

    >>> plan_text(np.array([0, 3, 2, 1]), 2)
    '0 3|2 1'
    """
    return "|".join(" ".join(map(str, part)) for part in plan.reshape(devices, -1).tolist())


def serving_placement_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what balancing or copies change in the busiest device on held-out tokens, if a fifth or more."""
    means = frame.groupby("placement")["imbalance"].mean()
    if not {"contiguous", "balanced", "copies"} <= set(means.index) or not means["contiguous"] > 1:
        return None
    better = means[["balanced", "copies"]].min()
    if not abs(means["contiguous"] - better) >= 0.2 * means["contiguous"] or frame["imbalance"].isna().any():
        return None
    return captions.balanced_or_copied(means["contiguous"], means["balanced"], means["copies"])
