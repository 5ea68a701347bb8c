"""Experts over devices: how uneven the work falls, and to how many devices a token has to go."""

from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Int64

from moeviz.metrics.inputs import LayerCounts, check_cells
from moeviz.metrics.placement import placement_sizes, rebalance_experts
from moeviz.metrics.words import percent
from moeviz.routing_trace import NOT_RECORDED, Counted, RoutingTrace
from moeviz.serving.requests import LayerSets, counts_of_labels, layer_sets, of_others

CONTIGUOUS, BALANCED, COACTIVE, COPIES = PLACEMENTS = ("contiguous", "balanced", "coactive", "copies")
Row = dict[str, object]
TAKEN = -np.inf
STEP = 64  # tokens of a step whose imbalance is measured
ENOUGH = 1_000  # choices of a device, for a verdict
TEXTS = 8  # of so many, a verdict takes how they differ into account
WORTH = 0.05  # of the load of the busiest device
Pair = tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]


def serving_placement(trace: Counted, devices: int | None = None, copies: int | None = None) -> pd.DataFrame:
    """How uneven the devices' work is, and how many devices a token reaches, for four placements of the experts.

    - `contiguous`: expert e on device e // (E / N), the default of serving frameworks
    - `balanced`: the same number on each device, packed by load (EPLB without copies)
    - `coactive`: experts that share tokens on one device, whatever their load: the other end of the trade
    - `copies`: balanced, with redundant copies of the hottest experts (EPLB's global policy)

    A plan is made from the first half of the tokens, and `imbalance_fit` judges it on these; all else judges it on the
    second half. All devices wait for the busiest, so 1 is the aim. Steps of 64 tokens are less even than their sum, by
    luck; a server waits for steps.

    One row per layer and placement. Columns: layer int32 · devices int16 (N) · copies int16 (0 for the others) ·
    placement str · imbalance_fit, imbalance float64 (busiest device / mean, of assignments; copies share an expert's
    work equally) · step_imbalance float64 (its mean over whole steps of 64 tokens in a row) · reached float64 (devices
    that hold a token's experts, the mean over tokens; of copies, each expert picks one at random) · reached_by_lot
    float64 (the same for experts chosen at random) · remote float64 (reached x (1 - 1 / N): devices other than the
    token's own) · plan str (the experts of each device, devices split by `|`). Dispatch sends remote x hidden size x
    bytes of a number per token and layer, and combining sends as much back.

    Counts alone give `contiguous`, `balanced` and `copies`, made and judged on all tokens (`imbalance_fit`), and NaN
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


def placement_sentence(table: pd.DataFrame) -> str | None:
    """How even the devices' work is, in a sentence; None where nothing was judged. `table`: `serving_placement`."""
    means = table.groupby("placement")[["imbalance", "reached"]].mean()
    if means.isna().any(axis=None):
        return None
    load = means["imbalance"]
    return (
        f"On {devices_said(table)} devices, the busiest has {load[BALANCED]:.2f} times the mean load if experts are "
        f"balanced, {load[COPIES]:.2f} with copies and {load[CONTIGUOUS]:.2f} in order; a token reaches "
        f"{means['reached'][BALANCED]:.1f} devices at a layer."
    )


def placement_judgements(trace: Counted, devices: int) -> pd.DataFrame:
    """Judge how even devices' work is, with experts in order and balanced, on tokens that no plan was made from.

    Of a trace, the plan of the first half of the tokens is judged on the second half, and that of the second on the
    first; of eight texts or more also those of half of the texts on the others: 1 and 2 of each four, 1 and 3, 1 and 4,
    and the other way round. Of counts by label, a plan of all other labels is judged on each. The plan is `balanced` of
    `serving_placement`: the same number of experts on each device, without copies. Counts of everything together have
    no rows.

    One row per judgement and layer. Columns: judged_on str · layer int32 · devices int16 · num_experts int16 ·
    in_order, planned float64 (busiest device / mean, of assignments) · choices float64 (assignments of a device, the
    mean, on the smaller side of the two). Raises `MoevizError` if the experts cannot be divided equally.

    **Source**: EPLB (github.com/deepseek-ai/EPLB).
    """
    rows: list[Row] = []
    for number, experts, judged in _judged_twice(trace):
        placement_sizes(trace, number, devices, 0)
        for judged_on, (fit, own) in judged.items():
            plan = rebalance_experts(fit[None], experts, 1, 1, devices)[0]
            facts = {"judged_on": judged_on, "layer": trace.model.layers[number], "devices": devices}
            loads = {
                name: float(_imbalance(of, own, devices))
                for name, of in (("in_order", np.arange(experts)), ("planned", plan))
            }
            rows.append(facts | {"num_experts": experts} | loads | {"choices": min(fit.sum(), own.sum()) / devices})
    columns = ["judged_on", "layer", "devices", "num_experts", "in_order", "planned", "choices"]
    kinds: dict[str, Any] = {"judged_on": "str", "layer": np.int32, "devices": np.int16, "num_experts": np.int16}
    return pd.DataFrame(rows, columns=columns).astype(kinds | dict.fromkeys(columns[-3:], np.float64))


def _judged_twice(trace: Counted) -> Iterator[tuple[int, int, dict[str, Pair]]]:
    """Layer by layer: its place, its experts, and counts to plan from with counts to judge on, by what these are of."""
    if isinstance(trace, RoutingTrace):
        for found in layer_sets(trace):
            judged: dict[str, Pair] = {}
            for of, (plan_from, judge_on) in _sides(trace, found).items():
                fit, own = (_counts(found.sets[rows], found.num_experts) for rows in (plan_from, judge_on))
                if fit.any() and own.any():
                    judged[of] = fit, own
            yield found.row, found.num_experts, judged
        return
    for counts in counts_of_labels(trace):
        groups = counts.counts[:, : counts.num_experts - trace.model.zero_experts]
        names = [str(name) for name, own in zip(trace.groups, groups, strict=False) if own.any()]
        yield counts.row, groups.shape[1], dict(zip(names, of_others(groups), strict=False))


def _sides(trace: RoutingTrace, found: LayerSets) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pairs of tokens that a plan is made from and tokens that judge it, by the way they are split."""
    first = np.arange(len(found.run)) < len(found.run) // 2
    sides = {"the second half": (first, ~first), "the first half": (~first, first)}
    text = pd.factorize(trace.tokens["sequence"])[0][trace.experts[found.row, :, 0] != NOT_RECORDED] % 4
    if trace.tokens["sequence"].nunique() >= TEXTS:
        for other in (1, 2, 3):
            some = np.isin(text, (0, other))
            texts = f"texts 1 and {other + 1} of each four"
            sides |= {f"all but {texts}": (some, ~some), texts: (~some, some)}
    return sides


def placement_verdict(frame: pd.DataFrame, enough: int = ENOUGH) -> str | None:
    """Say whether balancing experts over devices is worth a trial. Columns: those of `placement_judgements`.

    It is where every judgement takes a twentieth or more off the busiest device, and it is not where none does. Where
    they differ, and where a device has under `enough` choices, there is too little evidence. None where nothing was
    judged.
    """
    if frame.empty:
        return None
    devices, experts = int(frame["devices"].max()), int(frame["num_experts"].max())
    if experts == devices:
        return f"{experts} experts on {devices} devices are one each, so there is nothing to place."
    if (choices := frame["choices"].min()) < enough:
        has = f"a device has {choices:,.0f} choices in a part of them"
        return f"Too few tokens: {has}, where luck alone makes it uneven. It takes {enough:,}."
    means = frame.groupby("judged_on")[["in_order", "planned"]].mean()
    change = means["planned"] / means["in_order"] - 1
    least, most = change.min(), change.max()
    begin = "Worth a trial" if most <= -WORTH else "Not now" if least > -WORTH else "Too little evidence"
    span = _signed(least) if len(change) == 1 else f"{_signed(least)} to {_signed(most)}"
    on = f"on {devices} devices a balanced plan changes the load of the busiest by {span}"
    return (
        f"{begin}: {on}, judged on tokens it was not made from. {percent(WORTH)} less is asked for, in every judgement."
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}%".replace("-", "−")


def devices_said(table: pd.DataFrame) -> str:
    """The number of devices, which may differ where layers have different numbers of experts."""
    least, most = table["devices"].min(), table["devices"].max()
    return f"{most}" if least == most else f"{least} to {most}"


def traffic_bytes(remote: float, hidden: int, bits: int = 16, scale_every: int | None = None) -> float:
    """Bytes that one token sends to other devices at one layer: a vector to each, with scales where it has them.

    >>> traffic_bytes(3.0, 2048), traffic_bytes(3.0, 2048, bits=8, scale_every=128)
    (12288.0, 6336.0)
    """
    return remote * (hidden * bits / 8 + (0 if scale_every is None else hidden / scale_every * 4))


def coactive(sets: Int[np.ndarray, "T K"], num_experts: int, devices: int) -> Int64[np.ndarray, " E"]:
    """Experts device by device: the busiest one left, then always the one that shares most tokens with those there.

    Ties go to the lower id. `sets` has -1 where a token has no expert.
    """
    check_cells("Experts that share tokens", sets.size, experts=num_experts, experts_with_them=num_experts)
    members = np.zeros((len(sets), num_experts))
    token, slot = np.nonzero(sets >= 0)
    members[token, sets[token, slot]] = 1
    together = members.T @ members
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


def device_loads(plan: Int64[np.ndarray, " S"], counts: Int64[np.ndarray, "*steps E"], devices: int) -> np.ndarray:
    """Assignments of each device, where the copies of an expert share its work equally."""
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
            | {"reached_by_lot": _by_lot(E, trace.model.top_k, n), "remote": reached * (1 - 1 / n)}
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
        | {"reached": np.nan, "reached_by_lot": _by_lot(len(counts), trace.model.top_k, n), "remote": np.nan}
        | {"plan": plan_text(plan, n)}
        for name, plan in _plans(counts, n, extra).items()
    ]


def _plans(counts: Int64[np.ndarray, " E"], devices: int, copies: int) -> dict[str, Int64[np.ndarray, " S"]]:
    made = {BALANCED: len(counts), COPIES: len(counts) + copies}
    planned = {name: rebalance_experts(counts[None], slots, 1, 1, devices)[0] for name, slots in made.items()}
    return {CONTIGUOUS: np.arange(len(counts))} | planned


def _facts(layer: int, devices: int, copies: int, name: str, plan: np.ndarray) -> Row:
    return {"layer": layer, "devices": devices, "copies": copies if name == COPIES else 0, "placement": name}


def _counts(sets: Int[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, " E"]:
    return np.bincount(sets[sets >= 0], minlength=num_experts)


def _step_counts(sets: Int[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, "steps E"]:
    """Assignments of each whole step of 64 tokens in a row."""
    steps = len(sets) // STEP
    whole = sets[: steps * STEP]
    step = np.broadcast_to(np.arange(len(whole))[:, None] // STEP, whole.shape)[whole >= 0]
    cells = np.bincount(step * num_experts + whole[whole >= 0], minlength=steps * num_experts)
    return cells.reshape(steps, num_experts)


def _imbalance(plan: np.ndarray, counts: Int64[np.ndarray, "*steps E"], devices: int) -> np.ndarray:
    """Busiest device / mean device; NaN without assignments."""
    loads, total = device_loads(plan, counts, devices), counts.sum(axis=-1)
    return np.where(total > 0, loads.max(axis=-1) * devices / np.maximum(total, 1), np.nan)


def _mean(values: Float64[np.ndarray, " steps"]) -> float:
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else np.nan


def _by_lot(num_experts: int, top_k: int, devices: int) -> float:
    k = min(top_k, num_experts)
    return devices * (1 - comb(num_experts - num_experts // devices, k) / comb(num_experts, k))


def plan_text(plan: Int64[np.ndarray, " S"], devices: int) -> str:
    """The experts of each device, devices split by `|`.

    >>> plan_text(np.array([0, 3, 2, 1]), 2)
    '0 3|2 1'
    """
    return "|".join(" ".join(map(str, part)) for part in plan.reshape(devices, -1).tolist())


def serving_placement_caption(frame: pd.DataFrame) -> str | None:
    """Say what balancing or copies change in the busiest device on held-out tokens, if a fifth or more."""
    means = frame.groupby("placement")["imbalance"].mean()
    if not {"contiguous", "balanced", "copies"} <= set(means.index) or not means["contiguous"] > 1:
        return None
    better = means[["balanced", "copies"]].min()
    if not abs(means["contiguous"] - better) >= 0.2 * means["contiguous"] or frame["imbalance"].isna().any():
        return None
    plan = f"balanced {means['balanced']:.2f}×, with copies {means['copies']:.2f}×"
    return f"The busiest device has {means['contiguous']:.2f}× the mean load with experts in order, {plan} (held out)."
