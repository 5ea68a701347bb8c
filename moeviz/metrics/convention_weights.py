"""Differences between two recordings of one text in mixing weights and in the order of slots."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from moeviz.metrics.convention_search import FEW, LEFT, SCORES, Pair
from moeviz.routing_trace import RoutingTrace, sort_slots

TINY = 1e-30
NOTICED, MANY = 0.005, 0.2  # of a token's weights, and of tokens: a convention concerns more than a few
CONSTANT = 0.01  # relative spread: sums of weights that vary less are one number
FUNCTIONS = ("softmax", "sigmoid", "sqrt_softplus")


class Weighed(NamedTuple):
    """Weights of the same experts in both, (rows, K) each, the logits of these experts, and the layer of each row."""

    ours: np.ndarray
    others: np.ndarray
    layer: np.ndarray
    logits: np.ndarray | None  # (rows, E)
    ids: np.ndarray
    ranked: bool = False  # weights stand by size, not by expert

    @property
    def apart(self) -> float:
        """The sum of differences over the sum of the first's weights."""
        return relative(self.ours, self.others)


class Undone(NamedTuple):
    """A convention of weights: its kind and detail, what undoes it, and what disagrees before and after that."""

    kind: str
    detail: Any
    change: Callable[[Weighed], Weighed]
    before: float = 0.0
    after: float = 0.0


def relative(ours: np.ndarray, others: np.ndarray) -> float:
    """Return the sum of differences over the sum of the first's weights."""
    return float(np.abs(ours - others).sum() / max(np.abs(ours).sum(), 1e-12))


def weighed(pair: Pair, rows: list[int] | None = None) -> Weighed | None:
    """Collect the tokens with the same experts whose weights are known in both; None if there are too few.

    `rows` says which of the L layers count: all by default.
    """
    one, other = pair
    if one.weights is None or other.weights is None or one.experts.shape != other.experts.shape:
        return None
    order = [np.argsort(trace.experts, axis=2, kind="stable") for trace in pair]
    ids = [np.take_along_axis(trace.experts, at, 2) for trace, at in zip(pair, order, strict=True)]
    weights = [np.take_along_axis(trace.weights, at, 2) for trace, at in zip(pair, order, strict=True)]
    known = [part.any(axis=2) for part in weights]  # the rows of a choice that no router made have none
    same = (ids[0] == ids[1]).all(axis=2) & (ids[0] >= 0).all(axis=2) & known[0] & known[1]
    if rows is not None:
        same[[at for at in range(len(same)) if at not in rows]] = False
    if same.sum() < FEW:
        return None
    source = one if one.logits is not None else other
    logits = None if source.logits is None else source.logits[same].astype(np.float64)
    ours, others = (part[same].astype(np.float64) for part in weights)
    return Weighed(ours, others, np.nonzero(same)[0], logits, ids[0][same])


def find_weighting(found: Weighed) -> tuple[Undone, ...]:
    """Return the fewest conventions that leave less than a tenth of the difference, if no other set comes near."""
    by_row = np.abs(found.ours - found.others).sum(axis=1) / np.maximum(np.abs(found.ours).sum(axis=1), TINY)
    if (by_row > NOTICED).mean() < MANY:
        return ()
    single = _candidates(found)
    for number in (1, 2):
        passed = []
        for some in combinations(single, number):
            left = _undone(found, some).apart
            without = [_undone(found, [one for one in some if one is not other]).apart for other in some]
            if left < LEFT * min(without):
                named = zip(some, without, strict=True)
                passed.append((left, tuple(one._replace(before=before, after=left) for one, before in named)))
        passed.sort(key=lambda one: one[0])
        if passed and (len(passed) == 1 or passed[1][0] > 2 * passed[0][0]):
            return passed[0][1]
        if passed:
            return ()
    return ()


def _undone(found: Weighed, some: Any) -> Weighed:
    for one in some:
        found = one.change(found)
    return found


def _candidates(found: Weighed) -> list[Undone]:
    """Return the differences that may be undone, in the order in which to undo them if there are two."""
    made = []
    constant = [_constant(part.sum(axis=1), found.layer) for part in (found.ours, found.others)]
    if constant[0] != constant[1]:
        made.append(Undone("normalisation", "first" if constant[0] else "second", _normalise))
    if found.ours.shape[1] > 1:
        turned = [not np.allclose(part, part[:, :1], rtol=1e-5) for part in (found.ours, found.others)]
        if all(turned):
            made.append(Undone("weights of other slots", None, _sort_both))
        elif turned[0]:
            made.append(Undone("equal weights", "second", lambda w: w._replace(others=w.ours)))
        elif turned[1]:
            made.append(Undone("equal weights", "first", lambda w: w._replace(others=w.ours)))
    functions = _functions(found)
    if functions is not None:
        made.append(Undone("score function", functions, lambda w: _rescore(w, functions)))
    factor = _factor(found)
    by_layer = {layer: _factor(_of(found, found.layer == layer)) for layer in np.unique(found.layer).tolist()}
    if max(by_layer.values()) - min(by_layer.values()) < CONSTANT * factor:
        made.append(Undone("scale", factor, lambda w: w._replace(others=w.others * _factor(w))))
    else:
        made.append(Undone("scale by layer", tuple(by_layer.items()), _scaled_by_layer))
    return made


def _of(found: Weighed, rows: np.ndarray) -> Weighed:
    logits = None if found.logits is None else found.logits[rows]
    return Weighed(found.ours[rows], found.others[rows], found.layer[rows], logits, found.ids[rows])


def _factor(found: Weighed) -> float:
    sums = found.ours.sum(axis=1), found.others.sum(axis=1)
    some = np.abs(sums[1]) > 1e-12
    return float(np.median(sums[0][some] / sums[1][some])) if some.any() else 1.0


def _scaled_by_layer(found: Weighed) -> Weighed:
    others = found.others.copy()
    for layer in np.unique(found.layer):
        rows = found.layer == layer
        others[rows] *= _factor(_of(found, rows))
    return found._replace(others=others)


def _constant(sums: np.ndarray, layer: np.ndarray) -> bool:
    """Return whether nearly all tokens of each layer have one sum of weights."""
    for at in np.unique(layer):
        of_layer = sums[layer == at]
        usual = np.median(of_layer)
        if (np.abs(of_layer - usual) > CONSTANT * abs(usual)).mean() > 0.05:
            return False
    return True


def _normalise(found: Weighed) -> Weighed:
    parts = (part / np.maximum(part.sum(axis=1, keepdims=True), 1e-12) for part in (found.ours, found.others))
    ours, others = parts
    return found._replace(ours=ours, others=others)


def _sort_both(found: Weighed) -> Weighed:
    return found._replace(ours=np.sort(found.ours, axis=1), others=np.sort(found.others, axis=1), ranked=True)


def _functions(found: Weighed) -> tuple[str, str] | None:
    """Return the score functions that the weights of both follow, if they are known and not the same."""
    if found.logits is None or not np.isfinite(np.take_along_axis(found.logits, found.ids.astype(np.int64), 1)).all():
        return None
    both, scaled = [], _normalise(_sort_both(found))  # each function keeps the order of the logits
    limit = LEFT * scaled.apart
    for part in (scaled.ours, scaled.others):
        scores = {name: np.sort(_chosen_scores(found.logits, found.ids, name), axis=1) for name in FUNCTIONS}
        left = sorted((relative(of, part), name) for name, of in scores.items())
        if left[0][0] > limit or left[1][0] <= 2 * left[0][0]:
            return None
        both.append(left[0][1])
    return None if both[0] == both[1] else (both[0], both[1])


def _rescore(found: Weighed, functions: tuple[str, str]) -> Weighed:
    """Give the second's weights the first's score function, and keep each row's sum."""
    assert found.logits is not None, "the score function is known by the logits"
    mine, theirs = (_chosen_scores(found.logits, found.ids, name) for name in functions)
    if found.ranked:
        mine, theirs = np.sort(mine, axis=1), np.sort(theirs, axis=1)
    others = found.others * mine / np.maximum(theirs, TINY)
    kept = found.others.sum(axis=1, keepdims=True) / np.maximum(others.sum(axis=1, keepdims=True), TINY)
    return found._replace(others=others * kept)


def undo_weights(pair: Pair, some: tuple[Undone, ...]) -> Pair:
    """Return two traces with these conventions of weights undone."""
    one, other = pair
    for undone in some:
        ours, others = one.weights, other.weights
        if others is None or ours is None:
            break
        if undone.kind == "weights of other slots":
            other = repaired(other, one)
        elif undone.kind == "equal weights":
            other = replace(other, weights=None)
        elif undone.kind == "normalisation":
            one, other = (
                replace(trace, weights=part / np.maximum(np.abs(part).sum(axis=2, keepdims=True), 1e-12))
                for trace, part in ((one, ours), (other, others))
            )
        elif undone.kind == "score function":
            logits = one.logits if one.logits is not None else other.logits
            assert logits is not None, "the score function is known by the logits"
            mine, theirs = (_chosen_scores(logits, other.experts, name) for name in undone.detail)
            scored = others * mine / np.maximum(theirs, TINY)
            kept = others.sum(axis=2, keepdims=True) / np.maximum(scored.sum(axis=2, keepdims=True), TINY)
            experts, weights = sort_slots(other.experts, (scored * kept).astype(np.float32))
            other = replace(other, experts=experts, weights=weights)
        else:
            by_layer = dict(undone.detail) if undone.kind == "scale by layer" else {}
            layers = range(len(other.model.layers))
            factors = np.array([by_layer.get(at, 1.0) if by_layer else undone.detail for at in layers], np.float32)
            if (factors > 0).all():
                other = replace(other, weights=others * factors[:, None, None])
    return one, other


def _chosen_scores(logits: np.ndarray, experts: np.ndarray, name: str) -> np.ndarray:
    """Return a function's scores of the experts in each slot, each row with sum 1; 0 in an empty slot."""
    found = np.take_along_axis(SCORES[name](logits), experts.clip(0).astype(np.int64), -1) * (experts >= 0)
    scaled: np.ndarray = found / np.maximum(found.sum(axis=-1, keepdims=True), TINY)
    return scaled


def slot_rule(pair: Pair, numbers: np.ndarray) -> str | None:
    """Return the rule by which the second's slots stand in another order than the first's, if nearly all keep it.

    `numbers` are the second's ids as it counts them.
    """
    one, other = pair
    same = np.sort(one.experts, axis=2) == np.sort(other.experts, axis=2)
    rows = same.all(axis=2) & (one.experts >= 0).all(axis=2)
    ours, others = one.experts[rows], other.experts[rows]
    if len(ours) < FEW:
        return None
    ascending = np.diff(numbers[rows].astype(np.int64), axis=1) > 0
    rules = {"ascending": ascending, "descending": ~ascending, "reversed": ours[:, ::-1] == others}
    held = {name: float(kept.all(axis=1).mean()) for name, kept in rules.items()}
    best = max(held, key=lambda name: held[name])
    return best if held[best] > 1 - LEFT else None


def repaired(trace: RoutingTrace, like: RoutingTrace) -> RoutingTrace:
    """Give a trace's weights, the highest first, to the experts in the order of another, where both have the same."""
    same = (np.sort(trace.experts, axis=2) == np.sort(like.experts, axis=2)).all(axis=2, keepdims=True)
    return replace(trace, experts=np.where(same, like.experts, trace.experts))


def by_number(trace: RoutingTrace) -> RoutingTrace:
    """Return a trace without weights whose slots stand in the order of their numbers."""
    numbered, _ = sort_slots(np.sort(trace.experts, axis=2), None)
    return replace(trace, experts=numbered, weights=None, outputs=None)
