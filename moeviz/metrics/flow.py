"""The flow of tokens from layer to layer, by their first choices. Ids of different layers are unrelated experts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import Statistics, needs_tokens
from moeviz.metrics.layers import SHUFFLES, entropy_of_counts, first_choices_of_two, orders_at_random, overlap
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.words import one_row
from moeviz.routing_trace import RoutingTrace

MOST_PAIRS, MOST_PAIRED = 2**16, 2**26  # pairs of layers, and tokens of all of them: some seconds
MOST_SHUFFLED = 2**24
CLEAR_BITS = 0.1  # above what shuffling gives, for a caption


@needs_tokens
def consecutive_transitions(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """The experts that each expert's tokens go to next: from the first choice in one MoE layer to that in the next.

    One row per two consecutive MoE layers of the trace and pair of experts that some token took; `transitions`, which
    is about two layers, also has the pairs that no token took. Columns: from_layer int32 · to_layer int32 (the model's
    own indices) · from_expert int16 · to_expert int16 · tokens int64 · share float64 (of from_expert's tokens, sums to
    1) · chance float64 (share of all tokens that go to to_expert: what `share` is if the layers choose independently) ·
    lift float64 (share / chance). A token without an expert in one of the two layers is left out, and so is one that is
    not recorded in both; two layers in which no token is have no rows. Raises `InvalidTrace` if the trace has only one
    layer, and `MissingField` if it does not say which experts are first choices.

    Source: contingency tables; lift as in Brin et al. (1997), 'interest'. OLMoE (arXiv 2409.02060) and Mixtral of
    Experts (arXiv 2401.04088) study routing across layers.
    """
    frames = [transition_rows(*taken) for taken in _count_transitions(trace)]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _count_transitions(
    source: RoutingTrace | Statistics,
) -> Iterator[tuple[Sequence[int], np.ndarray, np.ndarray, np.ndarray]]:
    """Yield each two consecutive layers, with the pairs of experts that some token took, and the number of tokens."""
    if isinstance(source, Statistics):
        for layers, flow in source.transitions():
            before, after = np.nonzero(flow)
            yield layers, before, after, flow[before, after]
        return
    for pair in _consecutive(source):
        before, after = first_choices_of_two(pair).astype(np.int64)
        key, tokens = np.unique(before * pair.model.num_experts[1] + after, return_counts=True)
        yield pair.model.layers, *np.divmod(key, pair.model.num_experts[1]), tokens


def transition_rows(
    layers: Sequence[int], from_expert: np.ndarray, to_expert: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    """Return the rows of `consecutive_transitions` of two layers, from how many tokens took each pair of experts."""
    share = tokens / _sums(from_expert, tokens)[from_expert]
    chance = _sums(to_expert, tokens)[to_expert] / max(tokens.sum(), 1)
    columns = {"from_expert": from_expert.astype(np.int16), "to_expert": to_expert.astype(np.int16), "tokens": tokens}
    of_rows = (np.full(len(tokens), layer, np.int32) for layer in layers)
    ends = dict(zip(("from_layer", "to_layer"), of_rows, strict=True))
    return pd.DataFrame(ends | columns | {"share": share, "chance": chance, "lift": share / chance})


def _sums(ids: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    sums = np.zeros(int(ids.max(initial=-1)) + 1, np.int64)
    np.add.at(sums, ids, tokens)
    return sums


@needs_tokens
def consecutive_information(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the information that the expert in one MoE layer gives about the expert in the next, by first choices.

    `information` is the mutual information of the two first choices in bits: 0 if the layers choose independently, and
    at most the smaller of the two entropies, `maximum`. In a short text it is well above 0 by chance. `shuffled`
    measures that chance: it is the same with the next layer's tokens shuffled, which keeps both layers' loads (mean of
    100 shuffles, seed 0).

    One row per two consecutive MoE layers of the trace. Columns: from_layer int32 · to_layer int32 (the model's own
    indices) · tokens int64 (that have an expert in both) · information, shuffled, maximum float64 (bits; NaN without
    tokens). Two layers in which no token is recorded have no row. Raises `InvalidTrace` if the trace has only one
    layer, and `MissingField` if it does not say which experts are first choices.

    Source: Shannon (1948), section 12; a permutation baseline as in Vinh, Epps & Bailey (2010).
    """
    rows = _informed_by_sums(trace) if isinstance(trace, Statistics) else _information_of_layers(trace)
    columns = ["from_layer", "to_layer", "tokens", "information", "shuffled", "maximum"]
    kinds = {"from_layer": "int32", "to_layer": "int32", "tokens": "int64"}
    return pd.DataFrame(list(rows), columns=columns).astype(dict.fromkeys(columns, "float64") | kinds)


def _information_of_layers(trace: RoutingTrace) -> Iterator[tuple[float, ...]]:
    for pair in _consecutive(trace):
        tokens = int((pair.experts >= 0).all(axis=(0, 2)).sum())
        bits = overlap(pair).set_index("measure").loc["mutual information", ["value", "chance", "maximum"]]
        yield *pair.model.layers, tokens, *(bits if tokens else [np.nan] * 3)


def _informed_by_sums(statistics: Statistics) -> Iterator[tuple[float, ...]]:
    for layers, flow in statistics.transitions():
        if tokens := int(flow.sum()):
            before, after = (entropy_of_counts(flow.sum(axis=axis)) for axis in (1, 0))
            information = max(before + after - entropy_of_counts(flow.ravel()), 0.0)
            yield *layers, tokens, information, np.nan, min(before, after)


@needs_tokens
def information_between_layers(trace: RoutingTrace) -> pd.DataFrame:
    """The information that the expert in one MoE layer gives about the expert in any later one, by first choices.

    `information` is the mutual information of the two first choices in bits: 0 if the layers choose independently, and
    at most the smaller of the two entropies, `maximum`. `shuffled` is what chance gives: the same with the later
    layer's tokens shuffled (mean of `shuffles`, seed 0: 100 of them, as `overlap` has it, and fewer for very many
    layers and tokens). `above` is information less shuffled, and 0 where that is below 0.

    One row per two MoE layers of the trace in which some token has an expert in both. Columns: from_layer int32 ·
    to_layer int32 (the model's own indices) · tokens int64 (that have an expert in both) · information, shuffled,
    maximum, above float64 (bits) · shuffles int16. Raises `InvalidTrace` if the trace has only one layer or is too
    long to compare all of its layers, and `MissingField` if it does not say which experts are first choices.

    Source: Shannon (1948), section 12; a permutation baseline as in Vinh, Epps & Bailey (2010).
    """
    _several_layers(trace)
    first = trace.first_choices("Flow").astype(np.int32)[:, trace.recorded.any(axis=0)]
    if (count := comb(len(first), 2)) > MOST_PAIRS:
        raise InvalidTrace(
            f"{count:,} pairs of layers would be compared, and at most {MOST_PAIRS:,} are. Choose fewer layers."
        )
    if (work := count * first.shape[1]) > MOST_PAIRED:
        raise InvalidTrace(
            f"{count:,} pairs of layers with {first.shape[1]:,} tokens each would be compared, and at most "
            f"{MOST_PAIRED:,} tokens of pairs are. Choose fewer tokens, or compare two layers."
        )
    rows, shuffles = [], int(np.clip(MOST_SHUFFLED // max(work, 1), 1, SHUFFLES))
    for a, b in combinations(range(len(first)), 2):
        both = (first[a] >= 0) & (first[b] >= 0)
        if both.any():
            ends = trace.model.layers[a], trace.model.layers[b]
            tokens, after = int(both.sum()), first[b, both]
            told = _mutual_information(first[a, both], after, after[orders_at_random(tokens, shuffles)])
            rows.append((*ends, tokens, *told, shuffles))
    columns = ["from_layer", "to_layer", "tokens", "information", "shuffled", "maximum", "above", "shuffles"]
    kinds = {"from_layer": "int32", "to_layer": "int32", "tokens": "int64", "shuffles": "int16"}
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns, "float64") | kinds)


def _mutual_information(a: np.ndarray, b: np.ndarray, shuffles: np.ndarray) -> tuple[float, float, float, float]:
    """Return mutual information in bits, its mean over shuffles of `b`, its maximum, and its excess over that mean."""
    of_a, of_b = _bits(np.stack([a, b])).tolist()
    information, *luck = np.maximum(of_a + of_b - _bits(a * (int(b.max()) + 1) + np.vstack([b, shuffles])), 0.0)
    shuffled = float(np.mean(luck))
    return float(information), shuffled, min(of_a, of_b), max(float(information) - shuffled, 0.0)


def _bits(ids: np.ndarray) -> np.ndarray:
    """Compute the entropy of what occurs in each row, in bits. By sorting, which takes no longer if ids are many."""
    ids = np.sort(ids, axis=-1)
    starts = np.flatnonzero(np.diff(ids, axis=-1, prepend=-1))
    shares = np.diff(starts, append=ids.size) / ids.shape[-1]
    return np.abs(np.bincount(starts // ids.shape[-1], shares * np.log2(shares)))


def _several_layers(trace: RoutingTrace) -> None:
    if len(trace.model.layers) < 2:
        raise InvalidTrace(
            f"Flow goes from one MoE layer to the next, and this trace has only layer {trace.model.layers[0]}. Use a "
            "trace with two layers or more."
        )


def _consecutive(trace: RoutingTrace) -> list[RoutingTrace]:
    """Yield each two consecutive MoE layers in which tokens are recorded, with only the first choice of each token."""
    model = trace.model
    _several_layers(trace)
    first = replace(
        trace,
        model=replace(model, top_k=1),
        experts=trace.first_choices("Flow")[..., None].copy(),
        weights=None,
        logits=None,
    )
    pairs = [first.select(layers=pair) for pair in zip(model.layers, model.layers[1:], strict=False)]
    together = [pair for pair in pairs if trace.tokens.empty or pair.recorded.all(axis=0).any()]
    if not together:
        raise MissingField("No token is recorded at two consecutive MoE layers. Choose other tokens.")
    return together


def transitions_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim the largest share of an expert's tokens that goes on to one other, of those beyond chance."""
    taken = frame[frame["tokens"] > 0]
    from_tokens = taken.groupby(["from_layer", "from_expert"])["tokens"].transform("sum")
    beyond = beyond_chance(taken["share"], from_tokens, taken["chance"])
    if not beyond.any():
        return None
    row = one_row(taken, taken["share"][beyond].idxmax())
    begin, end = (row.from_expert, row.from_layer, row.share), (row.to_expert, row.to_layer, row.chance)
    return captions.next_choice(*begin, *end, int(beyond.sum()), len(taken))


def consecutive_information_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer best predicts the next beyond chance, if by half more than shuffled tokens do."""
    found = _tells_most(frame)
    return found and captions.information_about_next(*found)


def information_between_layers_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer best predicts a later one beyond chance, if by half more than shuffled tokens do."""
    found = _tells_most(frame)
    return found and captions.information_about_later(*found)


def _tells_most(frame: pd.DataFrame) -> tuple[int, int, float, float] | None:
    above = (frame["information"] - frame["shuffled"]).dropna()
    if above.empty or not above.max() >= CLEAR_BITS:
        return None
    row = one_row(frame, above.idxmax())
    if not row.information >= 1.5 * row.shuffled:
        return None
    return row.from_layer, row.to_layer, row.information, row.shuffled
