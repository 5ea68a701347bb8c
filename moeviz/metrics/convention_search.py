"""Candidates for what two recordings of one text do differently, and how far the two agree once each is undone.

A state says which row, layer and number of the second trace belongs to which of the first. Here are states, how many
expert ids differ in one, and how a row, a layer or a renumbering is looked for. What is named, and why, is in
`moeviz.metrics.conventions`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from moeviz.routing_trace import NOT_RECORDED, RoutingTrace, normalised_scores

Pair = tuple[RoutingTrace, RoutingTrace]


class Gap(NamedTuple):
    """The disagreement of two traces at a layer, and what it is worth."""

    ids: float = 1.0  # share of the first's ids that differ
    chance: float = 1.0  # the same if either router knew nothing of what the other chose
    rows: int = 0  # that both record
    bits: float = 0.0  # that agreement in all of them would take at chance


Gaps = dict[int, Gap]  # of layers
Layers = tuple[tuple[int, int], ...]  # the model's indices in both traces
FURTHEST_ROW, FURTHEST_LAYER = 2, 3
FEW, BITS = 8, 20.0  # rows, and bits of evidence: with fewer, chance explains what is looked for
LEFT = 0.1  # of the disagreement: undoing a convention must leave less
MOST_ROWS, MOST_LAYERS = 6_000, 8  # of a search; what is named is then judged on all
FOLDS = 4


@dataclass(frozen=True, slots=True)
class State:
    """The parts of two traces that are compared with each other. The default: equal places, layers and numbers."""

    rows: int = 0  # row t of the first is row t + rows of the second …
    starts: tuple[tuple[int, int], ...] = ()  # … in these sequences from these positions on; in all if empty
    layers: Layers = ()
    experts: dict[int, np.ndarray] = field(default_factory=dict)  # layer: the first's number of each of the second's
    rows_of: dict[int, int] = field(default_factory=dict)  # layer: more rows that it is moved by
    chosen: dict[int, np.ndarray] = field(default_factory=dict)  # layer: ids (T, K) for the first, without its bias
    theirs: dict[int, np.ndarray] = field(default_factory=dict)  # the second's layer: the same for the second
    left_out: dict[int, str] = field(default_factory=dict)  # layer: the kind of convention that explains it
    width: int | None = None  # slots that are compared

    @property
    def compared(self) -> Layers:
        """The layers that are compared."""
        return tuple(both for both in self.layers if both[0] not in self.left_out)


def row_keys(trace: RoutingTrace) -> np.ndarray:
    """Return one number for each row of a trace: of its sequence and position."""
    keys: np.ndarray = trace.tokens["sequence"].to_numpy(np.int64) * 2**32 + trace.tokens["position"].to_numpy()
    return keys


def rows_at(trace: RoutingTrace, other: RoutingTrace, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of two traces that are of the same sequence, and `shift` positions apart."""
    _, mine, theirs = np.intersect1d(row_keys(trace) + shift, row_keys(other), assume_unique=True, return_indices=True)
    return mine, theirs


def matched_rows(pair: Pair, state: State, extra: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both that belong together in a state."""
    one, other = pair
    by = np.full(len(one.tokens), state.rows + extra, np.int64)
    if state.starts:
        start = dict(state.starts)
        places = one.tokens["sequence"].map(lambda sequence: start.get(sequence, 2**31)).to_numpy()
        by = np.where(one.tokens["position"].to_numpy() >= places, by, extra)
    keys, theirs = row_keys(one) + by, row_keys(other)
    order = np.argsort(theirs, kind="stable")
    at = np.minimum(np.searchsorted(theirs[order], keys), len(theirs) - 1) if len(theirs) else np.zeros(0, int)
    if not len(at):
        return at, at
    found = np.flatnonzero(theirs[order[at]] == keys)
    return found, order[at[found]]


def ids_of(pair: Pair, state: State, both: tuple[int, int], most: int | None = None) -> tuple[np.ndarray, ...]:
    """Return the ids of a layer in both, (n, K) each, in rows that both record, and which rows those are."""
    (one, other), (layer, there) = pair, both
    mine, theirs = matched_rows(pair, state, state.rows_of.get(layer, 0))
    mine, theirs = mine[:most], theirs[:most]
    ours = state.chosen[layer] if layer in state.chosen else one.experts[one.model.layers.index(layer)]
    others = state.theirs[there] if there in state.theirs else other.experts[other.model.layers.index(there)]
    ours, others = ours[mine], others[theirs]
    kept = (ours[:, 0] != NOT_RECORDED) & (others[:, 0] != NOT_RECORDED)
    ours, others = ours[kept], others[kept]
    if layer in state.experts:
        others = renumbered(others, state.experts[layer])
    if state.width:
        ours, others = ours[:, : state.width], others[:, : state.width]
    return ours, others, mine[kept], theirs[kept]


def renumbered(ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Give expert ids other numbers, and leave empty slots as they are."""
    table = np.concatenate([numbers, [-2, -1]]).astype(ids.dtype)  # the last two are what -2 and -1 point to
    given: np.ndarray = table[ids]
    return given


def shared(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count, for each row, the experts of the first that the second has too."""
    found = np.zeros(ours.shape, bool)
    for slot in range(others.shape[1]):
        found |= ours == others[:, slot : slot + 1]
    count: np.ndarray = (found & (ours >= 0)).sum(axis=1)
    return count


def layer_gaps(pair: Pair, state: State, most: int | None = None) -> Gaps:
    """Measure how far the two disagree at each layer that is compared. Chance keeps the loads of both."""
    found = {}
    for both in state.compared:
        ours, others, rows, _ = ids_of(pair, state, both, most)
        filled = int((ours >= 0).sum())
        if filled:
            agree = shared(ours, others).sum() / filled
            chance = shared_at_random(ours, others)
            bits = -filled * float(np.log2(max(chance, 1e-9)))
            found[both[0]] = Gap(float(1 - agree), 1 - chance, len(rows), bits)
    return found


def shared_at_random(ours: np.ndarray, others: np.ndarray) -> float:
    """Return the share of the first's ids that the second would have if its rows were shuffled."""
    size = int(max(ours.max(initial=0), others.max(initial=0))) + 1
    loads = [np.bincount(ids[ids >= 0], minlength=size) for ids in (ours, others)]
    filled = max(int(loads[0].sum()), 1)
    return float((loads[0] * loads[1]).sum() / len(ours) / filled) if len(ours) else 0.0


def layer_matches(pair: Pair) -> list[Layers]:
    """Return which layers may belong together: equal indices first, then some layers off, the nth each, and the like.

    Layers are alike if they send the same pairs of tokens to common experts, under whatever numbers.
    """
    mine, theirs = (trace.model.layers for trace in pair)
    offsets = sorted(range(-FURTHEST_LAYER, FURTHEST_LAYER + 1), key=abs)
    ways = [tuple((layer, layer + by) for layer in mine if layer + by in theirs) for by in offsets]
    ways += [tuple(zip(mine, theirs, strict=False))]
    alike = likeness(pair, mine, theirs)
    best = {int(row.argmax()): at for at, row in enumerate(alike) if row.max() > ALIKE}
    rest = [layer for at, layer in enumerate(mine) if at not in best.values()]
    free = [layer for at, layer in enumerate(theirs) if at not in best]
    found = [(mine[at], theirs[there]) for there, at in best.items()]
    ways += [tuple(sorted([*found, *zip(rest, free, strict=False)]))]
    enough = min(len(mine), len(theirs)) / 2
    return [way for at, way in enumerate(ways) if len(way) >= enough and way not in ways[:at]]


ALIKE = 0.8  # correlation: more means one router
DRAWN = 4_000  # pairs of tokens


def likeness(pair: Pair, layers: Sequence[int], others: Sequence[int], shift: int = 0) -> np.ndarray:
    """Correlate, for layers of both, how many experts two tokens share, over pairs of tokens drawn at random.

    Numbers of experts play no part: layers under other numbers correlate to 1. 0 if nothing varies.
    """
    mine, theirs = (rows[:MOST_ROWS] for rows in rows_at(*pair, shift))
    found = np.zeros((len(layers), len(others)))
    if len(mine) < FEW:
        return found
    first, second = np.random.default_rng(0).integers(len(mine), size=(2, DRAWN))
    common = []
    for trace, rows, some in zip(pair, (mine, theirs), (layers, others), strict=True):
        ids = [trace.experts[trace.model.layers.index(layer), rows] for layer in some]
        common.append(np.stack([shared(part[first], part[second]) for part in ids]).astype(float))
    centred = [part - part.mean(axis=1, keepdims=True) for part in common]
    sizes = [np.sqrt((part**2).sum(axis=1)) for part in centred]
    correlated: np.ndarray = centred[0] @ centred[1].T / np.maximum(sizes[0][:, None] * sizes[1], 1e-9)
    return correlated


def split_rows(pair: Pair, state: State, by: int) -> State | None:
    """Move rows by `by` from where that agrees best in each sequence, or None if it agrees nowhere better."""
    some = state.compared[:: max(1, len(state.compared) // MOST_LAYERS)]
    agree = [_agreement_by_row(pair, replace(state, rows=shift, starts=()), some) for shift in (0, by)]
    sequence, position = (pair[0].tokens[name].to_numpy() for name in ("sequence", "position"))
    starts = []
    for text in np.unique(sequence):
        rows = np.flatnonzero(sequence == text)
        gain = np.cumsum((agree[1] - agree[0])[rows][::-1])[::-1]  # of moving this row and all after it
        at = int(gain.argmax())
        if gain[at] > 0.5:
            starts.append((int(text), int(position[rows[at]])))
    return replace(state, rows=by, starts=tuple(starts)) if starts else None


def _agreement_by_row(pair: Pair, state: State, layers: Layers) -> np.ndarray:
    """Return, for each row of the first, the mean share of its ids that the second has; 0 without a row there."""
    total = np.zeros(len(pair[0].tokens))
    for both in layers:
        ours, others, rows, _ = ids_of(pair, state, both)
        total[rows] += shared(ours, others) / np.maximum((ours >= 0).sum(axis=1), 1)
    return total / max(len(layers), 1)


def match_experts(pair: Pair, state: State, both: tuple[int, int]) -> tuple[np.ndarray, float] | None:
    """Find the first's number of each of the second's experts, and the share of ids that then differ.

    Numbers are matched on three quarters of the rows and judged on the others, four times. None if there are too few
    rows, or if not even the best number for each expert, two for one included, makes the two agree.
    """
    ours, others, *_ = ids_of(pair, state, both, MOST_ROWS)
    counts = [trace.model.num_experts[trace.model.layers.index(at)] for trace, at in zip(pair, both, strict=True)]
    if len(ours) < FEW or counts[0] != counts[1]:
        return None
    tables = np.stack([_together(ours[fold::FOLDS], others[fold::FOLDS], counts[0]) for fold in range(FOLDS)])
    whole, filled = tables.sum(axis=0), int((ours >= 0).sum())
    if whole.max(axis=0).sum() < (1 - 2 * LEFT) * filled:
        return None
    wrong = 0
    for fold in range(FOLDS):
        numbers = _one_to_one(whole - tables[fold])
        wrong += int((ours[fold::FOLDS] >= 0).sum())
        wrong -= int(shared(ours[fold::FOLDS], renumbered(others[fold::FOLDS], numbers)).sum())
    return _one_to_one(whole), wrong / filled


def _together(ours: np.ndarray, others: np.ndarray, experts: int) -> np.ndarray:
    """Count the rows in which the first chose one expert and the second the other, (E, E)."""
    table = np.zeros(experts * experts, np.int64)
    for slot in range(others.shape[1]):
        both = (ours >= 0) & (others[:, slot : slot + 1] >= 0)
        cells = ours.astype(np.int64) * experts + others[:, slot : slot + 1]
        table += np.bincount(cells[both], minlength=experts * experts)
    return table.reshape(experts, experts)


def _one_to_one(table: np.ndarray) -> np.ndarray:
    """Give each column its own row, the commonest pairs first; equal ones keep their number."""
    size = np.sqrt(np.maximum(table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True), 1))
    goes = table / size + 1e-9 * np.eye(len(table))
    numbers = np.full(len(table), -1)
    for _ in range(len(table)):
        row, column = np.unravel_index(int(goes.argmax()), goes.shape)
        numbers[column] = row
        goes[row], goes[:, column] = -1, -1
    return numbers


def by_token_alone(ids: np.ndarray, tokens: np.ndarray) -> float:
    """Return the share of tokens that go where the same token went before; NaN if too few come twice."""
    chosen, order = np.sort(ids, axis=1), np.argsort(tokens, kind="stable")
    order = order[tokens[order] >= 0]
    again = tokens[order][1:] == tokens[order][:-1]
    if again.sum() < FEW:
        return np.nan
    same = (chosen[order][1:] == chosen[order][:-1]).all(axis=1)
    return float(same[again].mean())


def without_bias(trace: RoutingTrace) -> dict[int, np.ndarray]:
    """Return, for each layer in which they differ, the ids that the logits without a bias would choose.

    None are if fewer than eight ids of the trace are others: these are changes of single rows.
    """
    if trace.logits is None:
        return {}
    plain = [highest(logits, trace.model.top_k) for logits in trace.logits]
    other = [int((ids >= 0).sum() - shared(ids, rows).sum()) for ids, rows in zip(trace.experts, plain, strict=True)]
    if sum(other) < FEW:
        return {}
    return {layer: rows for layer, rows, count in zip(trace.model.layers, plain, other, strict=True) if count}


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": lambda logits: normalised_scores(logits.astype(np.float32), "softmax").astype(np.float64),
    "sigmoid": lambda logits: np.exp(-np.logaddexp(0, -logits.astype(np.float64))),
    "sqrt_softplus": lambda logits: np.sqrt(np.logaddexp(0, logits.astype(np.float64))),
    "unknown": lambda logits: logits.astype(np.float64),
}


def scores_of(trace: RoutingTrace, layer: int) -> np.ndarray | None:
    """Return what a router adds its bias to: scores of all experts of a layer, (T, E); None without logits."""
    if trace.logits is None:
        return None
    return SCORES[trace.model.score_function](trace.logits[trace.model.layers.index(layer)])


def highest(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Return the ids of the highest scores of each row, highest first."""
    some = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1).astype(np.int16)


STEPS, FITTED = 80, 600  # of a fit, and rows that it reads


def fit_bias(scores: np.ndarray, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for either half of the rows, the ids that a bias fitted to the other half chooses."""
    for half in range(2):
        bias = fitted_bias(scores[1 - half :: 2], ids[1 - half :: 2])
        yield highest(scores[half::2] + bias, ids.shape[1])


def fitted_bias(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Fit a bias per expert with which these scores choose each expert as often as the ids do.

    The bias of an expert rises while it is chosen too rarely, as DeepSeek-V3's does (arXiv 2408.15664).
    """
    wanted = np.bincount(ids.ravel(), minlength=scores.shape[1])
    bias, step = np.zeros(scores.shape[1]), float(scores.std()) or 1.0
    for at in range(STEPS):
        lacking = wanted - np.bincount(highest(scores + bias, ids.shape[1]).ravel(), minlength=len(wanted))
        bias += step * 0.95**at * np.sign(lacking)
    return bias
