"""Experts of a layer that are chosen for the same token, compared with chance, which depends on the loads."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int16, Int64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.inputs import Statistics, check_cells, chosen_experts, filled_slots, per_layer
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.words import one_row
from moeviz.routing_trace import RoutingTrace

MAX_ROUNDS = 500
CLOSE = 1e-6  # tokens by which a random load may miss the load that it should have
MOST_PAIRS = 2**20  # ordered pairs of a layer's experts, in a small trace: 1,024 experts, more than any model has
BLOCK = 2**20  # cells of a table that are worked on at a time


@per_layer
def co_activation(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the rate at which two experts of a layer are chosen for the same token, compared with chance.

    Of the N_i tokens routed to an expert, N_ij were also routed to its partner; co-activation is N_ij / N_i. It has a
    direction: an expert with few tokens may always come with a busy one, which seldom comes with it. Over all partners
    it sums to the number of other choices of a token, k - 1, and not to 1.

    Chance is the co-activation if each token drew its k different experts at random, in the one way that keeps the load
    of each expert and favours nothing else (of all such distributions, the one with the highest entropy). With uniform
    loads it is (k - 1) / (E - 1) for every pair. N_j / T would be too high: a slot taken by one expert is not free for
    another.

    One row per layer and ordered pair of different experts that some token chose, including pairs that none chose
    together. Columns: layer int32 (the model's own index) · expert int16 · partner int16 · expert_tokens int64 (N_i) ·
    tokens int64 (N_ij) · co_activation float64 (share of the expert's tokens) · chance float64 (the same at random) ·
    lift float64 (co_activation / chance; NaN if chance is 0) · chance_tokens float64 (N_ij expected at random). Raises
    `InvalidTrace` if each token has only one expert, or if too many experts occur.

    Source: OLMoE (arXiv 2409.02060), section 5.2, 'Expert co-activation', over all pairs; the random draw is the
    conditional Bernoulli distribution of Chen, Dempster & Liu (1994); lift as in Brin et al. (1997), 'interest'.
    """
    if trace.model.top_k < 2:
        raise InvalidTrace(
            f"Co-activation needs tokens with two experts or more, and {trace.model.name} gives each token one (top_k "
            "is 1), so there are no pairs. Use a trace of a model with a higher top_k."
        )
    slots, frames = filled_slots(trace), []
    assert slots is not None  # as of all that says more than counts
    for layer, (ids, together), filled in zip(trace.model.layers, _count_shared(trace), slots, strict=True):
        frames.append(pair_rows(layer, ids, together, pairs_of_loads(together.diagonal(), filled)))
    return pd.concat(frames, ignore_index=True)


def _count_shared(
    source: RoutingTrace | Statistics,
) -> Iterator[tuple[Int16[np.ndarray, " O"], Int64[np.ndarray, "O O"]]]:
    """Return each layer's experts that occur, and the tokens that two share; on the diagonal, those of each."""
    if isinstance(source, Statistics):
        for pairs in source.pairs():
            ids = np.flatnonzero(pairs.diagonal())
            yield ids.astype(np.int16), pairs[np.ix_(ids, ids)]
        return
    for row in range(len(source.model.layers)):
        ids, chosen = _experts_that_occur(source, row)
        yield ids, _together(chosen)


def pair_rows(
    layer: int, ids: Int16[np.ndarray, " O"], together: Int64[np.ndarray, "O O"], at_random: Float64[np.ndarray, "O O"]
) -> pd.DataFrame:
    """Return the rows of `co_activation` of a layer, from the shared tokens and those expected by chance."""
    expert, partner = np.nonzero(~np.eye(len(ids), dtype=bool))
    alone = together.diagonal()[expert]
    tokens = together[expert, partner]
    at_random = at_random[expert, partner]
    return pd.DataFrame(
        {
            "layer": np.full(len(expert), layer, np.int32),
            "expert": ids[expert],
            "partner": ids[partner],
            "expert_tokens": alone,
            "tokens": tokens,
            "co_activation": _ratio(tokens, alone),
            "chance": _ratio(at_random, alone),
            "lift": _ratio(tokens, at_random),
            "chance_tokens": at_random,
        }
    )


def _experts_that_occur(trace: RoutingTrace, row: int) -> tuple[Int16[np.ndarray, " O"], Bool[np.ndarray, "T O"]]:
    """Return ids in ascending order, and the tokens of each: a trace may name id 32,766 and use three experts."""
    experts, filled = trace.experts[row], trace.filled[row]
    ids = np.unique(experts[filled])
    what = f"Co-activation in layer {trace.model.layers[row]}"
    check_cells(what, experts.size, MOST_PAIRS, experts_that_occur=len(ids), partners=len(ids))
    among = np.where(filled, np.searchsorted(ids, experts), -1).astype(np.int16)
    return ids, chosen_experts(among, len(ids))


def _together(chosen: Bool[np.ndarray, "T O"]) -> Int64[np.ndarray, "O O"]:
    """Count the tokens that each pair of experts shares; on the diagonal, the tokens of each expert."""
    together, step = np.zeros((chosen.shape[1],) * 2, np.int64), max(1, BLOCK // max(chosen.shape[1], 1))
    for start in range(0, len(chosen), step):
        ones = chosen[start : start + step].astype(np.float32)
        together += (ones.T @ ones).astype(np.int64)  # exact: at most as many tokens as a block has
    return together


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return ratio


def pairs_of_loads(counts: Int64[np.ndarray, " E"], filled: Int64[np.ndarray, " S"]) -> Float64[np.ndarray, "E E"]:
    """Count the tokens that each pair of experts would share at random, given the loads and the filled slots.

    `counts` are the tokens of each expert, and `filled` how many tokens fill 0, 1, 2 … slots. A token with s filled
    slots draws a set of s different experts with a probability proportional to the product of its experts' weights; the
    weights are such that every expert gets as many tokens as it has. The diagonal means nothing.
    """
    tokens = int(filled[1:].sum())
    # An expert that every token has, or none, leaves nothing to chance.
    pairs: np.ndarray = np.outer(counts, counts) / max(tokens, 1)
    free = (counts > 0) & (counts < tokens)
    if free.any():
        sizes = filled.copy()
        sizes[0] = 0
        sizes = sizes[(counts == tokens).sum() :]
        sizes = sizes[: np.flatnonzero(sizes)[-1] + 1]
        pairs[np.ix_(free, free)] = _pairs_of(_weights(counts[free], sizes), sizes)
    return pairs


def _weights(counts: Int64[np.ndarray, " E"], sizes: Int64[np.ndarray, " S"]) -> Float64[np.ndarray, " E"]:
    """Return weights that give each expert its count of tokens, where sizes[s] tokens draw s experts."""
    tokens = sizes.sum()
    wanted = counts / (tokens - counts)
    weights: np.ndarray = wanted / np.exp(np.log(wanted).mean())
    for _ in range(MAX_ROUNDS):
        drawn = weights * _per_set(weights[None], sizes, taken=1)[0]
        if np.abs(drawn - counts).max() < CLOSE:
            break
        weights = weights * wanted * np.maximum(tokens - drawn, CLOSE) / drawn
        weights /= np.exp(np.log(weights).mean())  # only their proportions matter: this keeps products in range
    return weights


def _pairs_of(weights: Float64[np.ndarray, " E"], sizes: Int64[np.ndarray, " S"]) -> Float64[np.ndarray, "E E"]:
    pairs, step = np.outer(weights, weights), max(1, BLOCK // (len(weights) * len(sizes)))
    for start in range(0, len(weights), step):
        rows = np.arange(start, min(start + step, len(weights)))
        without_one = np.where(rows[:, None] == np.arange(len(weights)), 0, weights)
        pairs[rows] *= _per_set(without_one, sizes, taken=2, whole=weights)
    return pairs


def _per_set(
    weights: Float64[np.ndarray, "B E"],
    sizes: Int64[np.ndarray, " S"],
    taken: int,
    whole: Float64[np.ndarray, " E"] | None = None,
) -> Float64[np.ndarray, "B E"]:
    """Sum sizes[s] x (products of s - taken weights, one expert left out) / (products of s) over set sizes s."""
    top = len(sizes) - 1
    before = _products(weights, top)
    after = _products(weights[:, ::-1], top)[::-1]
    every = before[-1, 0] if whole is None else _products(whole[None], top)[-1, 0]
    total = np.zeros(weights.shape)
    for size in range(taken, top + 1):
        if sizes[size]:
            left = size - taken
            others = sum(before[:-1, :, d] * after[1:, :, left - d] for d in range(left + 1))
            total += sizes[size] / every[size] * others.T
    return total


def _products(weights: Float64[np.ndarray, "B E"], top: int) -> Float64[np.ndarray, "E+1 B D"]:
    """Return, for the first n weights, n = 0 to E, the sum of products of every d of them, d = 0 to top."""
    sums = np.zeros((weights.shape[1] + 1, len(weights), top + 1))
    sums[0, :, 0] = 1
    for n, weight in enumerate(weights.T):
        sums[n + 1] = sums[n]
        sums[n + 1, :, 1:] += weight[:, None] * sums[n, :, :-1]
    return sums


def co_activation_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim the largest co-activation beyond chance, and of how many pairs it is."""
    beyond = beyond_chance(frame["co_activation"], frame["expert_tokens"], frame["chance"])
    if not beyond.any():
        return None
    row = one_row(frame, frame["co_activation"][beyond].idxmax())
    pairs = int(beyond.sum()), len(frame)
    return captions.company(row.layer, row.co_activation, row.expert, row.partner, row.chance, *pairs)


def strongest_pairs_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which pair of experts shares most tokens above chance, of those beyond it, and how many these are."""
    beyond = beyond_chance(frame["co_activation"], frame["expert_tokens"], frame["chance"])
    if not beyond.any():
        return None
    row = one_row(frame, (frame["tokens"] - frame["chance_tokens"])[beyond].idxmax())
    names = np.sort(frame.loc[beyond, ["expert", "partner"]].to_numpy(), axis=1)
    first, second = sorted((row.expert, row.partner))
    pairs = len(np.unique(names, axis=0)), len(frame) // 2
    return captions.pair(first, second, row.layer, row.tokens, row.chance_tokens, *pairs)
