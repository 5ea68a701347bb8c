"""The case for a trial of a balanced placement: plans from some windows of time, judged on others, and by chance."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from moeviz.claims import Claim
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import check_cells
from moeviz.metrics.placement import placement_sizes, rebalance_experts
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.captions import LITTLE
from moeviz.serving.requests import LayerSets, counts_of_labels, layer_sets, of_others

ENOUGH = 1_000  # choices of a device, for a verdict
TEXTS, STRETCHES = 8, 16  # each of this many texts is a window; fewer are cut into this many stretches
MOST = 240  # windows; of more texts, neighbours share one
WORTH = 0.05  # of the load of the busiest device
DRAWS, RANK = 20, 1  # placements at random, and the place of the one to be beaten: 19 of 20 are worse
ORDERS, STATES = 100, 30  # random orders of windows, and independent windows that are needed if neighbours are alike
Pair = tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]
Judged = dict[str, Pair]
TRIAL, NOT_NOW = "Worth a trial", "Not now"


class LayerWindows(NamedTuple):
    """Choices of one layer's experts in windows of time, in their order."""

    row: int  # which of the L it is
    layer: int
    counts: Int64[np.ndarray, "W E"]  # of the experts that compute


def windows(trace: Counted) -> Iterator[LayerWindows]:
    """Cut a recording into windows of time, layer by layer.

    A trace's window is a text or, with fewer than eight texts, a sixteenth of its tokens; with more than 240 texts,
    neighbours share a window. A window of counts by step is a step. Counts by label and counts of everything together
    are in no order, and have no windows. Raises `InvalidTrace` if the counts are a larger table than we make.
    """
    if isinstance(trace, RoutingTrace):
        texts = trace.tokens["sequence"].nunique()
        for found in layer_sets(trace):
            yield LayerWindows(found.row, found.layer, _by_window(found, texts >= TEXTS))
    elif trace.group_kind == "step":
        for row, (layer, experts) in enumerate(zip(trace.model.layers, trace.model.num_experts, strict=True)):
            yield LayerWindows(row, layer, trace.assignments[:, row, : experts - trace.model.zero_experts])


def _by_window(found: LayerSets, by_text: bool) -> Int64[np.ndarray, "W E"]:
    tokens = len(found.run)
    if by_text:
        texts = int(found.sequence.max()) + 1
        number = min(texts, MOST)
        window = found.sequence * number // texts
    else:
        number = min(STRETCHES, tokens)
        window = np.arange(tokens) * number // tokens
    check_cells("Choices in windows of time", found.sets.size, windows=number, experts=found.num_experts)
    cells = (window[:, None] * found.num_experts + found.sets)[found.sets >= 0]
    return np.bincount(cells, minlength=number * found.num_experts).reshape(number, found.num_experts)


def placement_judgements(trace: Counted, devices: int) -> pd.DataFrame:
    """Judge how even devices' work is, with experts in order and balanced, on tokens from which no plan was made.

    A plan of the first half of the windows (`windows`) is judged on the second half, and that of the second on the
    first; of eight windows or more also those of half of them on the others: 1 and 2 of each four, 1 and 3, 1 and 4,
    and the other way round. Of counts by label, a plan of all other labels is judged on each. The plan is `balanced` of
    `serving_placement`: the same number of experts on each device, without copies. Counts of everything together have
    no rows.

    One row per judgement, with means over layers. Columns: judged_on str · devices int16 · num_experts int16 (the most
    of a layer) · in_order, planned float64 (busiest device / mean, of assignments) · at_random, luck float64 (the mean
    of twenty placements at random, and the second best of them) · kept, chance float64 (of the busiest quarter of
    experts that a plan was made from, the share that is the busiest again; at random) · choices float64 (assignments of
    a device, the mean, on the smaller side of the two and in the layer with fewest) · stretches float64 (the number of
    independent windows that these are worth, the same in each row; NaN if neighbours are no more alike than chance, of
    fewer than eight windows, and of labels). Raises `MoevizError` if the experts cannot be divided equally.

    **Source**: EPLB (github.com/deepseek-ai/EPLB); for `stretches` the effective sample size of a series (Bartlett
    1946), of lags beyond 100 random orders.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    names = ["in_order", "planned", "at_random", "luck", "kept", "chance", "choices", "num_experts"]
    for row, experts, judged in judged_twice(trace):
        placement_sizes(trace, row, devices, 0)
        draws = [np.random.default_rng((draw, row)).permutation(experts) for draw in range(DRAWS)]
        for judged_on, (fit, own) in judged.items():
            plan = rebalance_experts(fit[None], experts, 1, 1, devices)[0]
            loads = own[np.stack([np.arange(experts), plan, *draws])].reshape(DRAWS + 2, devices, -1).sum(axis=2)
            busiest = loads.max(axis=1) * devices / own.sum()
            facts = (
                _share_still_busy(fit, own),
                _busiest(experts) / experts,
                min(fit.sum(), own.sum()) / devices,
                experts,
            )
            rows.setdefault(judged_on, []).append((*busiest, *facts))
    found = []
    for judged_on, of_layers in rows.items():
        table = np.array(of_layers)
        (in_order, planned, *drawn), (*kept, _, _) = np.split(table.mean(axis=0), [DRAWS + 2])
        choices, most = table[:, -2].min(), table[:, -1].max()
        figures = (in_order, planned, np.mean(drawn), np.sort(drawn)[RANK], *kept, choices, most)
        found.append({"judged_on": judged_on, "devices": devices} | dict(zip(names, figures, strict=True)))
    kinds: dict[str, Any] = {"judged_on": "str", "devices": np.int16} | dict.fromkeys(names, np.float64)
    judgements = pd.DataFrame(found, columns=[*kinds]).astype(kinds | {"num_experts": np.int16})
    return judgements.assign(stretches=_stretches(trace) if found else np.nan)


def _stretches(trace: Counted) -> float:
    """Count the independent windows: all, over one and twice the likeness of those one apart, two apart, and so on.

    A window's loads differ from the mean by some vector; likeness is the product of two. That of neighbours is 1, and
    lags count as long as their likeness is beyond each random order. NaN if that of neighbours is not.
    """
    alike: dict[int, Float64[np.ndarray, "W W"]] = {}  # by the number of windows, which layers may differ in
    for _, _, counts in windows(trace):
        tokens = counts.sum(axis=1, keepdims=True)
        apart = (counts - tokens * counts.sum(axis=0) / max(tokens.sum(), 1)) / np.sqrt(np.maximum(tokens, 1))
        alike[len(counts)] = alike.get(len(counts), np.zeros(())) + apart @ apart.T
    if (number := min(alike, default=0)) < TEXTS:
        return np.nan
    drawn = [np.random.default_rng(draw) for draw in range(ORDERS)]
    orders = {of: [np.arange(of), *(rng.permutation(of) for rng in drawn)] for of in sorted(alike)}
    length, first = 1.0, 0.0
    for lag in range(1, number // 2):
        each = [[alike[of][order[:-lag], order[lag:]].mean() for order in orders[of]] for of in orders]
        found, *others = np.sum(each, axis=0)
        if found <= max(others) * (1 + 1e-9) or found <= 0:
            break
        first = first or found
        length += 2 * found / first
    return number / length if first else np.nan


def _busiest(experts: int) -> int:
    return max(experts // 4, 1)


def _share_still_busy(one: Int64[np.ndarray, " E"], other: Int64[np.ndarray, " E"]) -> float:
    """Return the share of the busiest quarter of experts that is the busiest again."""
    busiest = _busiest(len(one))
    first, second = ({*np.argsort(-counts, kind="stable")[:busiest].tolist()} for counts in (one, other))
    return len(first & second) / busiest


def judged_twice(trace: Counted) -> Iterator[tuple[int, int, Judged]]:
    """Layer by layer: its place, its experts, and counts to plan from with counts to judge on, by what these are of."""
    if isinstance(trace, ExpertCounts) and trace.group_kind == "label":
        for counts in counts_of_labels(trace):
            groups = counts.counts[:, : counts.num_experts - trace.model.zero_experts]
            names = [str(name) for name, own in zip(trace.groups, groups, strict=False) if own.any()]
            yield counts.row, groups.shape[1], dict(zip(names, of_others(groups), strict=False))
        return
    for row, _, counted in windows(trace):
        judged = {of: (counted[fit].sum(axis=0), counted[own].sum(axis=0)) for of, fit, own in _sides(len(counted))}
        yield row, counted.shape[1], {of: pair for of, pair in judged.items() if pair[0].any() and pair[1].any()}


def _sides(number: int) -> Iterator[tuple[str, Bool[np.ndarray, " W"], Bool[np.ndarray, " W"]]]:
    """Yield a name, the windows for the plan, and the windows that judge it."""
    place = np.arange(number)
    yield "the second half", place < number // 2, place >= number // 2
    yield "the first half", place >= number // 2, place < number // 2
    if number < TEXTS:
        return
    for other in (1, 2, 3):
        some, name = np.isin(place % 4, (0, other)), f"windows 1 and {other + 1} of each four"
        yield f"all but {name}", some, ~some
        yield name, ~some, some


def placement_verdict(frame: pd.DataFrame, enough: int = ENOUGH) -> Claim | None:
    """Claim whether balancing experts over devices is worth a trial. Columns: those of `placement_judgements`.

    It is if every judgement takes a twentieth or more off the busiest device, leaves less on it than 19 of 20
    placements at random, and finds more of the busiest experts busy again than chance; and if neighbouring windows are
    no more alike than chance, or count as 30 independent ones: a log that stays in a state for long has otherwise seen
    too few of its states. It is not if no judgement takes a twentieth off. Otherwise, and if a device has under
    `enough` choices, there is too little evidence. None if nothing was judged.

    **Error rates**: `benchmarks/decide.py` compares the verdicts on twenty simulated processes, in logs of three sizes
    and 20 draws each, with what a plan does afterwards. In each of 60 rows at most one verdict in 20 is wrong. A period
    that is longer than the log, or a state that it has not seen, is not seen.
    """
    if frame.empty:
        return None
    devices, experts = int(frame["devices"].max()), int(frame["num_experts"].max())
    if experts == devices:
        return captions.one_expert_per_device(experts, devices)
    if (choices := frame["choices"].min()) < enough:
        return captions.few_choices_per_device(choices, enough)
    change = frame["planned"] / frame["in_order"] - 1
    least, most = change.min(), change.max()
    beats = ((frame["planned"] < frame["luck"]) & (frame["kept"] > frame["chance"])).all()
    verdict = TRIAL if most <= -WORTH and beats else NOT_NOW if least > -WORTH else LITTLE
    stretches = frame["stretches"].iloc[0]
    verdict = LITTLE if verdict == TRIAL and stretches < STATES else verdict
    drawn = (frame["at_random"] / frame["in_order"]).mean() - 1
    again = frame["kept"].min(), frame["chance"].mean()
    alike = None if np.isnan(stretches) else float(stretches)
    return captions.placement_trial(verdict, devices, least, most, alike, drawn, *again, WORTH, STATES)


def persistence(trace: Counted) -> pd.DataFrame:
    """Measure whether the same experts are busy in the first half of the windows and in the second.

    One row per layer. Columns: layer int32 · num_experts, busiest int16 (a quarter of the experts, one at least) ·
    windows, choices int64 (choices on the smaller side of the two) · kept float64 (of the busiest of the first half,
    the share that is the busiest again) · chance float64 (busiest / num_experts) · moved float64 (share of choices that
    went to other experts: the total variation distance between the halves' loads) · dealt float64 (its mean where
    windows are dealt to halves at random, twenty times) · beyond bool (whether `moved` is more than in every one of
    these deals, which chance brings once in 21 times). Layers without a choice in either half have no rows, and counts
    by label or of everything together have none.

    **Source**: a permutation test (Fisher 1935) that deals whole windows, whose tokens are alike.
    """
    rows = []
    for _, layer, counts in windows(trace):
        number, experts = counts.shape
        first = np.arange(number) < number // 2
        deals = [np.random.default_rng(draw).permutation(first) for draw in range(DRAWS)]
        halves = [(counts[some].sum(axis=0), counts[~some].sum(axis=0)) for some in (first, *deals)]
        if not all(half.any() for half in halves[0]):
            continue
        moved, *dealt = (_share_moved(*pair) for pair in halves)
        facts = {"layer": layer, "num_experts": experts, "busiest": _busiest(experts), "windows": number}
        facts |= {"choices": min(half.sum() for half in halves[0]), "kept": _share_still_busy(*halves[0])}
        rows.append(
            facts
            | {"chance": _busiest(experts) / experts, "moved": moved, "dealt": np.nanmean(dealt)}
            | {"beyond": moved > np.nanmax(dealt)}
        )
    kinds: dict[str, Any] = {"layer": np.int32, "num_experts": np.int16, "busiest": np.int16}
    kinds |= dict.fromkeys(("windows", "choices"), np.int64)
    kinds |= dict.fromkeys(("kept", "chance", "moved", "dealt"), np.float64) | {"beyond": np.bool_}
    return pd.DataFrame(rows, columns=[*kinds]).astype(kinds)


def _share_moved(one: Int64[np.ndarray, " E"], other: Int64[np.ndarray, " E"]) -> float:
    if not one.any() or not other.any():
        return np.nan
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def persistence_sentence(frame: pd.DataFrame, enough: int = ENOUGH) -> Claim | None:
    """Claim whether experts stay busy, and whether loads drift. Columns: those of `persistence`; None without rows.

    They drift if more than half of the layers are beyond all twenty random orders. Of fewer than eight windows, or if a
    half has under `enough` choices at a layer, nothing is claimed.
    """
    if frame.empty:
        return None
    if (number := frame["windows"].min()) < TEXTS:
        return captions.few_windows(number, TEXTS)
    if (choices := frame["choices"].min()) < enough:
        return captions.few_choices(choices, enough)
    kept, chance, moved, dealt = (float(frame[name].mean()) for name in ("kept", "chance", "moved", "dealt"))
    beyond, layers = int(frame["beyond"].sum()), len(frame)
    verdict = "Loads drift" if 2 * beyond > layers else "No drift beyond chance"
    return captions.drift(verdict, kept, chance, moved, dealt, beyond, layers)
