"""Which convention differs between two recordings of one text: rows, layers, numbers of experts, weights, or none.

A convention is named only if undoing it leaves less than a tenth of the disagreement that it causes, and if no other
does as well. Otherwise the two are compared as they are, and chance next to it says what their agreement is worth.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.convention_search import (
    ALIKE,
    BITS,
    FEW,
    FITTED,
    FURTHEST_ROW,
    LEFT,
    MOST_LAYERS,
    MOST_ROWS,
    Gap,
    Gaps,
    Layers,
    Pair,
    State,
    by_token_alone,
    fit_bias,
    fitted_bias,
    highest,
    ids_of,
    layer_gaps,
    layer_matches,
    likeness,
    match_experts,
    matched_rows,
    renumbered,
    rows_at,
    scores_of,
    shared,
    shared_at_random,
    split_rows,
    without_bias,
)
from moeviz.metrics.convention_weights import Undone, by_number, find_weighting, slot_rule, undo_weights, weighed
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, RoutingTrace
from moeviz.text import spans

SAME_TEXT = 0.95  # of tokens
MOST_FITS = 3  # of a bias, which takes long
FEW_LAYERS = 3  # with fewer, one layer is not distinguished from the others


class Distance(NamedTuple):
    """The disagreement of two traces: shares of 1, NaN if not known."""

    ids: float  # of the first's expert ids, those that the second does not have
    chance: float  # the same if neither knew what the other chose
    order: float  # of the tokens with the same experts, those with another order of them
    weights: float  # of these tokens, the sum of differences of weights over the sum of the first's weights


@dataclass(frozen=True, slots=True)
class Convention:
    """A convention that differs: its kind, where and by what; and the disagreement before and after it is undone.

    `moeviz.metrics.engine_difference.convention_sentence` puts it in words.
    """

    kind: str
    layers: tuple[int, ...]  # of the first trace
    detail: Any  # rows and layers: by how many; experts: how many have other numbers; a factor; names
    before: float  # share that disagrees with all others undone, and not this one
    after: float  # share that disagrees with all undone


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two recordings of one text: what differs by convention, and both with that undone, row by row the same tokens."""

    conventions: tuple[Convention, ...]
    recorded: Distance
    left: Distance
    undone: Pair


def explain(pair: Pair) -> Comparison:
    """Find which conventions differ between two recordings of one text, and undo them.

    Looked for, one or two at a time: positions or rows moved, a row lost or counted twice on the way; layers
    numbered differently; experts under other numbers, layer by layer; fewer slots; a layer that another model wrote,
    or that depends only on the token; a bias that one leaves out; weights scaled, normalised or scored differently,
    equal, or given to other slots; slots in another order.

    Raises `InvalidTrace` if the two are of different texts or have no layer in common, and `MissingField` if no token
    is recorded in both.

    Source: simple counting. What is fitted, numbers of experts and biases, is judged on tokens held out from the fit.
    """
    pair, moved = same_text(pair)
    common = set(pair[0].model.layers) & set(pair[1].model.layers)
    base = State(layers=tuple((layer, layer) for layer in sorted(common)))
    found, named = _necessary(pair, base, _search(pair, base))
    if not found.layers:
        mine, theirs = (trace.model.layers for trace in pair)
        raise InvalidTrace(
            f"The traces have no layer in common: {spans(mine)}; and {spans(theirs)}. If one numbers its MoE layers "
            "from 0, import it with the model's own indices."
        )
    recorded = distance(_undone(pair, base)) if base.layers else Distance(1.0, np.nan, np.nan, np.nan)
    undone = _undone(pair, found)
    layers = undone[0].model.layers
    weights = weighed(undone, [at for at, layer in enumerate(layers) if layer not in found.left_out])
    some: tuple[Undone, ...] = () if weights is None else find_weighting(weights)
    undone = undo_weights(undone, some)
    left = distance(undone, found.left_out)
    for one in some:
        named.append(Convention(one.kind, layers, one.detail, one.before, one.after))
        left = left._replace(weights=one.after)
    numbers = _undone(pair, replace(found, experts={}))[1].experts  # as the second counts them
    if left.order > 0 and (rule := slot_rule(undone, numbers)):
        named.append(Convention("slot order", layers, rule, left.order, 0.0))
        undone, left = (by_number(undone[0]), by_number(undone[1])), left._replace(order=0.0)
    return Comparison((*moved, *named), recorded, left, undone)


def distance(pair: Pair, without: Collection[int] = ()) -> Distance:
    """Measure how far two traces with the same rows and layers disagree, without some layers.

    Raises `MissingField` if no token is recorded in both.
    """
    one, other = pair
    kept = [at for at, layer in enumerate(one.model.layers) if layer not in without]
    filled, agree, chance, same, turned = 0, 0.0, 0.0, 0, 0
    for at in kept:
        both = one.recorded[at] & other.recorded[at]
        ours, others = one.experts[at, both], other.experts[at, both]
        slots = int((ours >= 0).sum())
        filled, agree = filled + slots, agree + float(shared(ours, others).sum())
        chance += slots * shared_at_random(ours, others)
        if ours.shape == others.shape:
            equal = (np.sort(ours, axis=1) == np.sort(others, axis=1)).all(axis=1)
            same, turned = same + int(equal.sum()), turned + int((equal & (ours != others).any(axis=1)).sum())
    if not filled:
        raise MissingField("No token is recorded in both traces, so there is nothing to compare. Choose another trace.")
    order = turned / same if same and one.ordered and other.ordered else np.nan
    weights = weighed(pair, kept)
    return Distance(1 - agree / filled, 1 - chance / filled, order, np.nan if weights is None else weights.apart)


# Which tokens are the same


def same_text(pair: Pair) -> tuple[Pair, list[Convention]]:
    """Move the second's positions if its tokens show that they are off, and leave out tokens that are other ones.

    Raises `InvalidTrace` for different texts.
    """
    pair, moved = in_place(pair)
    mine, theirs = rows_at(*pair, 0)
    other = mine[~same_tokens(pair, mine, theirs)[0]]
    if len(other):
        pair = pair[0].select(tokens=np.delete(np.arange(len(pair[0].tokens)), other)), pair[1]
    return pair, moved


def in_place(pair: Pair) -> tuple[Pair, list[Convention]]:
    """Move the second's positions if its tokens show that they are off. Raises `InvalidTrace` for different texts."""
    shares = {by: _share_of_text(pair, by) for by in sorted(range(-FURTHEST_ROW, FURTHEST_ROW + 1), key=abs)}
    if not any(len(rows_at(*pair, by)[0]) for by in shares):
        raise InvalidTrace("The traces have no sequence and position in common. Give two traces of the same text.")
    known = {by: share for by, share in shares.items() if not np.isnan(share)}
    best = next((by for by in known if known[by] >= SAME_TEXT), None)
    if known and best is None:
        raise InvalidTrace(
            f"The traces are of different texts: {1 - max(known.values()):.0%} of their tokens differ. Give two of the "
            "same text."
        )
    if not best:
        return pair, []
    second = pair[1].select(tokens=pair[1].tokens["position"].to_numpy() >= best)
    tokens = second.tokens.assign(position=(second.tokens["position"] - best).astype(np.int32))
    moved = Convention("positions", (), best, 1 - known.get(0, 0.0), 1 - known[best])
    return (pair[0], replace(second, tokens=tokens)), [moved]


def _share_of_text(pair: Pair, by: int) -> float:
    """Return the share of tokens that are equal if the second's are moved; NaN if nothing is known of them."""
    same, known = same_tokens(pair, *rows_at(*pair, by))
    return float(same[known].mean()) if known.any() else np.nan


def same_tokens(pair: Pair, mine: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mark the rows of equal tokens, those of which nothing is known among them; and mark those that are known."""
    tokens = [trace.tokens.iloc[rows] for trace, rows in zip(pair, (mine, theirs), strict=True)]
    ids, texts = ([part["token_id"].to_numpy() for part in tokens], [part["text"].to_numpy(object) for part in tokens])
    by_id = (ids[0] != NO_TOKEN_ID) & (ids[1] != NO_TOKEN_ID)
    known = by_id | ((texts[0] != "") & (texts[1] != ""))
    same = np.where(by_id, ids[0] == ids[1], texts[0] == texts[1])
    return (same | ~known).astype(bool), known.astype(bool)


# Conventions that explain the disagreement of ids


def _search(pair: Pair, base: State) -> State:
    """Return the simplest state that explains the disagreement: of the whole trace, then of single layers."""
    widths = [trace.model.top_k for trace in pair]
    start = replace(base, width=min(widths)) if widths[0] != widths[1] else base
    gaps = layer_gaps(pair, start, MOST_ROWS)
    state = _whole(pair, start, gaps) if not gaps or any(gap.ids for gap in gaps.values()) else start
    return _by_layer(pair, state)


class Candidate(NamedTuple):
    """The conventions that are undone in the whole trace."""

    layers: Layers
    rows: int
    split: bool  # rows are moved from some place on
    experts: bool  # experts have other numbers
    bias: bool  # neither has a bias besides its logits

    def state(self, pair: Pair, start: State, thin: bool = False) -> State | None:
        """Return this candidate as a state, or None if it cannot be; thin: of some layers, which is faster."""
        layers = self.layers[:: -(-len(self.layers) // MOST_LAYERS)] if thin else self.layers
        state = replace(start, layers=layers, rows=0 if self.split else self.rows)
        if self.bias:
            state = replace(state, chosen=without_bias(pair[0]), theirs=without_bias(pair[1]))
        if self.split and self.experts:  # the experts' numbers by one third of the rows, then where rows are moved
            third = len(pair[0].tokens) // 3
            for moved, part in ((0, slice(0, third)), (self.rows, slice(2 * third, None))):
                some = pair[0].select(tokens=part)
                found = _with_experts((some, pair[1]), replace(state, rows=moved)) if third >= FEW else None
                split = None if found is None else split_rows(pair, replace(found, rows=0), self.rows)
                if split is not None:
                    return split
            return None
        if self.split:
            return split_rows(pair, state, self.rows)
        return _with_experts(pair, state) if self.experts else state


def _whole(pair: Pair, start: State, gaps: Gaps) -> State:
    """Return the candidate of the fewest conventions that leaves less than a tenth, if no other does as well."""
    ways = layer_matches(pair)
    rows = [(0, False), *((by, False) for by in range(-FURTHEST_ROW, FURTHEST_ROW + 1) if by), (-1, True), (1, True)]
    biases = (False, True) if any(map(without_bias, pair)) else (False,)
    candidates = [Candidate(way, *move, *rest) for way, move, *rest in product(ways, rows, (False, True), biases)]
    known: dict[Candidate, tuple[float, float] | None] = {}
    for middle, level in product((0, 1), (1, 2)):  # a layer of its own spoils a mean, half of the layers a median
        passed: list[tuple[float, Candidate]] = []
        for one in candidates:
            if (one.layers != start.layers) + (one.rows != 0) + one.experts + one.bias != level:
                continue
            if one.split and any(other._replace(split=True) == one for _, other in passed):
                continue  # moved from the first row on
            if one not in known:
                state = one.state(pair, start, thin=True)
                known[one] = None if state is None else _remaining_gap(pair, state, gaps)
            left = known[one]
            if left is not None and not np.isnan(left[middle]):
                passed.append((left[middle], one))
        passed.sort(key=lambda found: found[0])
        if passed and (len(passed) == 1 or passed[1][0] > 2 * passed[0][0]):
            return passed[0][1].state(pair, start) or start
        if passed:
            return start
    return start


def _remaining_gap(pair: Pair, state: State, gaps: Gaps) -> tuple[float, float] | None:
    """Return the disagreement that a state leaves, as mean and median of layers; None if there are too few rows.

    NaN for a tenth and more of what it was, or of what it is at chance.
    """
    found = layer_gaps(pair, state, MOST_ROWS)
    if not found or min(one.rows for one in found.values()) < FEW or sum(one.bits for one in found.values()) < BITS:
        return None
    gap, chance = (np.array([getattr(one, name) for one in found.values()]) for name in ("ids", "chance"))
    before = np.array([gaps.get(layer, Gap()).ids for layer in found])
    mean, median = (
        float(middle(gap)) if middle(gap) < LEFT * min(middle(before), middle(chance)) else np.nan
        for middle in (np.mean, np.median)
    )
    return mean, median


def _with_experts(pair: Pair, state: State) -> State | None:
    """Give the second's experts other numbers in each layer in which that explains the disagreement."""
    gaps, numbers = layer_gaps(pair, state, MOST_ROWS), {}
    for both in state.layers:
        gap = gaps.get(both[0], Gap(ids=0.0))
        match = match_experts(pair, state, both) if gap.ids and gap.rows >= FEW else None
        if match is not None and match[1] < 2 * LEFT * gap.ids:
            numbers[both[0]] = match[0]
    return replace(state, experts=numbers) if numbers else None


def _by_layer(pair: Pair, state: State) -> State:
    """Look for differences in single layers, once those of the whole trace are undone."""
    gaps = layer_gaps(pair, state, MOST_ROWS)
    usual = float(np.median([gap.ids for gap in gaps.values()])) if gaps else 0.0
    fits = 0  # of a bias that explained nothing
    for both in state.layers:
        gap = gaps.get(both[0], Gap())
        if gap.rows < FEW or gap.bits < BITS or gap.ids * gap.rows * pair[0].model.top_k < FEW:
            continue
        found = _one_layer(pair, state, both, gap, fits < MOST_FITS)
        fits += found is None
        if found is not None:
            state = found
        elif len(gaps) > FEW_LAYERS and usual < LEFT * gap.ids and (kind := _foreign(pair, state, both, gap)):
            state = replace(state, left_out={**state.left_out, both[0]: kind})
    return state


def _foreign(pair: Pair, state: State, both: tuple[int, int], gap: Gap) -> str | None:
    """Return what kind of layer disagrees by itself: one that depends only on the token, or one of another model."""
    ours, others, mine, _ = ids_of(pair, state, both)
    tokens = pair[0].tokens["token_id"].to_numpy()[mine]
    alone = sorted(by_token_alone(ids, tokens) for ids in (ours, others))
    if alone[0] < 1 - LEFT and alone[1] > 1 - LEFT / 3:
        return "token alone"
    like = max(float(likeness(pair, both[:1], pair[1].model.layers, by).max()) for by in range(-2, 3))
    return "other model" if gap.ids > (1 - LEFT) * gap.chance and like < ALIKE else None


def _one_layer(pair: Pair, state: State, both: tuple[int, int], gap: Gap, fit: bool) -> State | None:
    """Return the state in which a layer agrees, if there is one: other rows, layer or numbers, or another bias."""
    layer, there = both
    limit = LEFT * min(gap.ids, gap.chance)
    states = [replace(state, rows_of={**state.rows_of, layer: by}) for by in (-2, -1, 1, 2)]
    if layer not in state.experts:
        for moved in (state, *states[:4]):
            match = match_experts(pair, moved, both)
            if match is not None and match[1] < limit and (match[0] != np.arange(len(match[0]))).any():
                states.append(replace(moved, experts={**moved.experts, layer: match[0]}))
    for other in pair[1].model.layers:
        if other != there:
            way = tuple((mine, other if mine == layer else theirs) for mine, theirs in state.layers)
            states.append(replace(state, layers=way))
    states += _other_bias(pair, state, both, gap, fit)
    passed = []
    for one in states:
        of_layer = replace(one, layers=tuple(mine for mine in one.layers if mine[0] == layer))
        found = layer_gaps(pair, of_layer, MOST_ROWS).get(layer, Gap())
        if found.rows >= FEW and found.bits >= BITS and found.ids < limit:
            passed.append((found.ids, one))
    passed.sort(key=lambda found: found[0])
    return passed[0][1] if passed and (len(passed) == 1 or passed[1][0] > 2 * passed[0][0]) else None


def _other_bias(pair: Pair, state: State, both: tuple[int, int], gap: Gap, fit: bool) -> list[State]:
    """Return the states in which one of the two has no bias at a layer, or the first one that is fitted."""
    (one, other), (layer, there) = pair, both
    plain, theirs = without_bias(one.select(layers=[layer])), without_bias(other.select(layers=[there]))
    scores = scores_of(one, layer)
    if plain or theirs:
        return [replace(state, chosen={**state.chosen, **plain}, theirs={**state.theirs, **theirs})]
    ours, others, mine, _ = (part[:FITTED] for part in ids_of(pair, state, both, MOST_ROWS))
    if not fit or scores is None or len(ours) < 4 * FEW or (others < 0).any() or state.width or state.experts:
        return []
    bias = fit_bias(scores[mine], others)
    wrong = sum(others[half::2].size - int(shared(others[half::2], ids).sum()) for half, ids in enumerate(bias))
    if wrong >= LEFT * gap.ids * others.size:
        return []
    chosen = highest(scores + fitted_bias(scores[mine], others), one.model.top_k)
    return [replace(state, chosen={**state.chosen, layer: chosen})]


# The conventions that are named


def _necessary(pair: Pair, base: State, found: State) -> tuple[State, list[Convention]]:
    """Drop what leaves a tenth or more of the disagreement that it should explain, on all rows; and name the rest."""
    while True:
        named, weak = [], None
        for kind, layers, detail, without in _parts(base, found):
            if kind in ("other model", "token alone"):
                gaps = layer_gaps(pair, without)
                before = float(np.mean([gaps[layer].ids for layer in layers]))
                after = float(np.median([gap.ids for layer, gap in gaps.items() if layer not in layers]))
            else:
                judged = set(layers) - set(found.left_out)
                before = _share(pair, without, judged) if set(dict(without.layers)) >= judged else 1.0
                after = _share(pair, found, judged)
            named.append(Convention(kind, tuple(sorted(layers)), detail, before, after))
            weak = without if after >= LEFT * before else weak
        if weak is None:
            return found, named
        found = weak


def _share(pair: Pair, state: State, layers: Collection[int]) -> float:
    """Return the share of the first's ids that differ in some layers; a slot that one trace lacks differs."""
    wrong, filled = 0.0, 0.0
    for both in state.layers:
        if both[0] in layers:
            ours, others, *_ = ids_of(pair, state, both)
            wider = max(ours.shape[1], others.shape[1]) / ours.shape[1] if ours.shape[1] < others.shape[1] else 1.0
            slots = int((ours >= 0).sum())
            filled, wrong = filled + slots * wider, wrong + slots * wider - int(shared(ours, others).sum())
    return wrong / filled if filled else 1.0


def _parts(base: State, found: State) -> list[tuple[str, tuple[int, ...], Any, State]]:
    """Return each convention of a state: its kind, layers and detail, and the state without it."""
    parts: list[tuple[str, tuple[int, ...], Any, State]] = []
    everywhere = tuple(layer for layer, _ in found.compared)
    if found.rows:
        parts.append(("rows", everywhere, (found.rows, found.starts), replace(found, rows=0, starts=())))
    if found.layers != base.layers:
        moved = tuple(both for both in found.layers if both not in base.layers)
        offsets = {there - mine for mine, there in moved}
        whole = len(moved) == len(found.layers) and len(offsets) == 1
        detail = ("offset", offsets.pop()) if whole else ("order", moved)
        parts.append(("layers", tuple(mine for mine, _ in moved), detail, replace(found, layers=base.layers)))
    if found.experts:
        most = max(int((numbers != np.arange(len(numbers))).sum()) for numbers in found.experts.values())
        alike = len({tuple(numbers) for numbers in found.experts.values()}) == 1
        parts.append(("experts", tuple(found.experts), (most, alike), replace(found, experts={})))
    if found.width:
        parts.append(("slots", everywhere, found.width, replace(found, width=None)))
    for by in sorted(set(found.rows_of.values())):
        layers = tuple(layer for layer, moved_by in found.rows_of.items() if moved_by == by)
        rest = {layer: other for layer, other in found.rows_of.items() if other != by}
        parts.append(("rows of layers", layers, by, replace(found, rows_of=rest)))
    if found.chosen or found.theirs:
        layers = tuple(mine for mine, there in found.layers if mine in found.chosen or there in found.theirs)
        parts.append(("bias", layers, None, replace(found, chosen={}, theirs={})))
    for kind in sorted(set(found.left_out.values())):
        layers = tuple(layer for layer, of in found.left_out.items() if of == kind)
        rest_out = {layer: of for layer, of in found.left_out.items() if of != kind}
        parts.append((kind, layers, None, replace(found, left_out=rest_out)))
    return parts


def _undone(pair: Pair, state: State) -> Pair:
    """Return both traces in the rows, layers and numbers of a state: row by row and layer by layer the same places."""
    one, other = pair
    mine, theirs = matched_rows(pair, state)
    first = one.select(layers=[layer for layer, _ in state.layers], tokens=mine)
    there = {layer: other.model.layers.index(at) for layer, at in state.layers}
    at = [there[layer] for layer in first.model.layers]
    experts, weights = other.experts[at][:, theirs], None if other.weights is None else other.weights[at][:, theirs]
    ours, our_weights = first.experts.copy(), None if first.weights is None else first.weights.copy()
    simple = other.logits is not None and not state.rows_of and not state.experts
    plain = {layer: state.theirs[there] for layer, there in state.layers if there in state.theirs}
    for row, layer in enumerate(first.model.layers):
        if layer in plain:
            _choose(experts, weights, row, plain[layer][theirs])
        if layer in state.rows_of:
            kept, source = matched_rows(pair, state, state.rows_of[layer])
            experts[row] = NOT_RECORDED
            place = np.searchsorted(mine, kept)
            here = (place < len(mine)) & (mine[np.minimum(place, len(mine) - 1)] == kept)
            experts[row, place[here]] = other.experts[at[row], source[here]]
            if weights is not None and other.weights is not None:
                weights[row] = 0
                weights[row, place[here]] = other.weights[at[row], source[here]]
        if layer in state.chosen:
            _choose(ours, our_weights, row, state.chosen[layer][mine])
        if layer in state.experts:
            experts[row] = renumbered(experts[row], state.experts[layer])
    width = state.width or one.model.top_k
    model = replace(
        other.model,
        layers=first.model.layers,
        num_experts=tuple(other.model.num_experts[row] for row in at),
        top_k=min(width, other.model.top_k),
        parameters=None,
    )
    logits = other.logits[at][:, theirs] if simple and other.logits is not None else None
    cut = slice(0, state.width)
    second = RoutingTrace(
        model, first.tokens, experts[..., cut], None if weights is None else weights[..., cut], logits
    )
    our_model = replace(first.model, top_k=min(width, first.model.top_k))
    our_weights = None if our_weights is None else our_weights[..., cut]
    return RoutingTrace(our_model, first.tokens, ours[..., cut], our_weights, first.logits), second


def _choose(experts: np.ndarray, weights: np.ndarray | None, row: int, chosen: np.ndarray) -> None:
    """Put other ids into a layer, with no weights for tokens with other experts, since no router gave any."""
    moved = (np.sort(chosen, axis=1) != np.sort(experts[row], axis=1)).any(axis=1)
    experts[row, moved] = chosen[moved]
    if weights is not None:
        weights[row, moved] = 0
