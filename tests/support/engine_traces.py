"""A second recording of the same text, as another engine might give it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from moeviz import RoutingTrace
from moeviz.routing_trace import ARRAYS, normalised_scores, sort_slots


def noisy(trace: RoutingTrace, size: float, seed: int = 1) -> RoutingTrace:
    """The same tokens by an engine whose logits are a little different."""
    logits = trace.logits + np.random.default_rng(seed).normal(size=trace.logits.shape).astype(np.float32) * np.float32(
        size
    )
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., : trace.model.top_k].astype(np.int16)
    return replace(trace, experts=chosen, weights=None, logits=logits)


def late(trace: RoutingTrace, by: int) -> RoutingTrace:
    """Rows of routing that stand `by` tokens too early, and tokens that stand where they were."""
    tokens = trace.tokens.iloc[: len(trace.tokens) - by].reset_index(drop=True)
    return RoutingTrace(trace.model, tokens, trace.experts[:, by:])


# Conventions in which engines differ, each planted in a second recording of the same tokens


def rows_from(trace: RoutingTrace, source: np.ndarray) -> RoutingTrace:
    """Give each token the routing of another row of the same trace; the last tokens go without rows."""
    arrays = {name: None if (part := getattr(trace, name)) is None else part[:, source] for name in ARRAYS}
    return RoutingTrace(trace.model, trace.tokens.iloc[: len(source)].reset_index(drop=True), **arrays)


def all_rows(trace: RoutingTrace) -> np.ndarray:
    return np.arange(len(trace.tokens))


def later(trace: RoutingTrace) -> RoutingTrace:
    """One token more is counted before all others, as a token that begins a text."""
    return replace(trace, tokens=trace.tokens.assign(position=trace.tokens["position"] + np.int32(1)))


def numbered(trace: RoutingTrace, layers: Sequence[int]) -> RoutingTrace:
    return replace(trace, model=replace(trace.model, layers=tuple(layers)))


def with_arrays(trace: RoutingTrace, change: Callable[[np.ndarray], np.ndarray]) -> RoutingTrace:
    """Change the arrays of all layers alike."""
    arrays = {name: None if (part := getattr(trace, name)) is None else change(part) for name in ARRAYS}
    return RoutingTrace(trace.model, trace.tokens, **arrays)


def renumber(trace: RoutingTrace, layers: Sequence[int], numbers: Callable[[int], np.ndarray]) -> RoutingTrace:
    """Give the experts of some layers other numbers."""
    experts = trace.experts.copy()
    logits = None if trace.logits is None else trace.logits.copy()
    for layer in layers:
        of = numbers(layer)
        experts[layer] = of[experts[layer]]
        if logits is not None:
            logits[layer][:, of] = trace.logits[layer]
    return replace(trace, experts=experts, logits=logits)


def shuffled(trace: RoutingTrace, layer: int) -> np.ndarray:
    numbers = np.random.default_rng(layer).permutation(trace.model.num_experts[0])
    return np.roll(numbers, 1) if (numbers == np.arange(len(numbers))).all() else numbers


def weighed(trace: RoutingTrace, change: Callable[[np.ndarray], np.ndarray]) -> RoutingTrace:
    """Change the weights, and put the slots in their order."""
    experts, weights = sort_slots(trace.experts, change(trace.weights).astype(np.float32))
    return replace(trace, experts=experts, weights=weights)


def other_layer(trace: RoutingTrace, layer: int, seed: int = 3) -> RoutingTrace:
    """A layer that another model wrote, with loads of its own."""
    experts = trace.experts.copy()
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(trace.tokens), trace.model.num_experts[0])) + rng.normal(
        size=trace.model.num_experts[0]
    )
    experts[layer] = np.argsort(-noise, axis=1)[:, : trace.model.top_k]
    return replace(trace, experts=experts, logits=None)


def hashed(trace: RoutingTrace, layer: int) -> RoutingTrace:
    """A layer that goes by the token alone."""
    experts, rng = trace.experts.copy(), np.random.default_rng(5)
    for token in trace.tokens["token_id"].unique():
        chosen = rng.permutation(trace.model.num_experts[0])[: trace.model.top_k]
        experts[layer, (trace.tokens["token_id"] == token).to_numpy()] = chosen
    return replace(trace, experts=experts, logits=None)


def biased(trace: RoutingTrace, size: float = 0.15) -> RoutingTrace:
    """The same scores with a bias per expert, which the weights do not have."""
    bias = np.random.default_rng(7).normal(size=(len(trace.experts), 1, trace.model.num_experts[0])) * size
    scores = normalised_scores(trace.logits, "softmax")
    experts = np.argsort(-(scores + bias), axis=-1)[..., : trace.model.top_k].astype(np.int16)
    chosen = np.take_along_axis(scores, experts.astype(np.int64), -1)
    experts, weights = sort_slots(experts, chosen / chosen.sum(axis=-1, keepdims=True))
    return replace(trace, experts=experts, weights=weights.astype(np.float32))


def sigmoid_weights(trace: RoutingTrace) -> RoutingTrace:
    chosen = np.take_along_axis(1 / (1 + np.exp(-trace.logits)), trace.experts.astype(np.int64), -1)
    return replace(trace, weights=(chosen / chosen.sum(axis=-1, keepdims=True)).astype(np.float32))


def raw_weights(trace: RoutingTrace) -> RoutingTrace:
    """Softmax over all experts, not normalised over the chosen ones."""
    scores = normalised_scores(trace.logits, "softmax")
    return replace(trace, weights=np.take_along_axis(scores, trace.experts.astype(np.int64), -1).astype(np.float32))


def exchanged_weights(trace: RoutingTrace) -> RoutingTrace:
    """The weights of a token belong to other slots, as where ids are sorted and weights are not."""
    order = np.argsort(trace.experts, axis=-1)
    return replace(trace, experts=np.take_along_axis(trace.experts, order, -1))


def cut_slots(trace: RoutingTrace) -> RoutingTrace:
    top_k = trace.model.top_k - 1
    weights = None if trace.weights is None else trace.weights[..., :top_k]
    model = replace(trace.model, top_k=top_k)
    return RoutingTrace(model, trace.tokens, trace.experts[..., :top_k], weights, trace.logits)


def swapped_layers(trace: RoutingTrace) -> RoutingTrace:
    order = [0, 2, 1, *range(3, len(trace.experts))]
    return with_arrays(trace, lambda part: part[order])


def moved_layer(trace: RoutingTrace) -> RoutingTrace:
    def change(part: np.ndarray) -> np.ndarray:
        part = part.copy()
        part[1, :-1] = part[1, 1:].copy()
        return part

    return with_arrays(trace, change)


def by_id(trace: RoutingTrace) -> RoutingTrace:
    return replace(trace, experts=np.sort(trace.experts, axis=-1), weights=None)


# By the kind of convention that has to be named; a second of the same kind after a dot.
OF_IDS: dict[str, Callable[[RoutingTrace], RoutingTrace]] = {
    "positions": later,
    "rows": lambda trace: rows_from(trace, all_rows(trace)[1:]),
    "rows.twice": lambda trace: rows_from(trace, np.r_[0, all_rows(trace)[:-1]]),
    "rows.lost on the way": lambda trace: rows_from(trace, np.delete(all_rows(trace), len(trace.tokens) // 3)),
    "rows.twice on the way": lambda trace: rows_from(trace, np.sort(np.r_[all_rows(trace), 70])[:-1]),
    "layers": lambda trace: numbered(trace, [layer + 1 for layer in trace.model.layers]),
    "layers.every second": lambda trace: numbered(trace, [2 * layer + 11 for layer in trace.model.layers]),
    "layers.exchanged": swapped_layers,
    "experts": lambda trace: renumber(trace, range(len(trace.experts)), lambda layer: shuffled(trace, layer)),
    "experts.by one": lambda trace: renumber(
        trace, range(len(trace.experts)), lambda _: np.roll(np.arange(trace.model.num_experts[0]), 1)
    ),
    "experts.of one layer": lambda trace: renumber(trace, [2], lambda layer: shuffled(trace, layer)),
    "slots": cut_slots,
    "rows of layers": moved_layer,
    "other model": lambda trace: other_layer(trace, 0),
    "token alone": lambda trace: hashed(trace, 1),
    "bias": biased,
}
OF_WEIGHTS: dict[str, Callable[[RoutingTrace], RoutingTrace]] = {
    "scale": lambda trace: weighed(trace, lambda weights: weights * 2.5),
    "scale by layer": lambda trace: weighed(
        trace, lambda weights: weights * np.linspace(1, 3, len(weights))[:, None, None]
    ),
    "normalisation": raw_weights,
    "score function": sigmoid_weights,
    "equal weights": lambda trace: weighed(trace, lambda weights: np.full_like(weights, 1 / weights.shape[-1])),
    "weights of other slots": exchanged_weights,
    "slot order": by_id,
}


def bare(trace: RoutingTrace) -> RoutingTrace:
    """Return ids alone, as a server sends them."""
    return replace(trace, weights=None, logits=None)
