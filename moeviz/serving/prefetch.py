"""The prediction of a token's experts before its router has run."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int, Integer, Num

from moeviz.errors import MoevizError
from moeviz.metrics.inputs import check_cells
from moeviz.routing_trace import Counted
from moeviz.serving.requests import LayerSets, layer_sets, requests, with_tokens

Sets = tuple[Int[np.ndarray, "T K"], ...]  # as those of `LayerSets`
CELLS = 2**20  # of the tables of as many tokens as are processed together
DIGITS = 12  # scores that are equal on paper stay equal, in whatever order they were added up


def prefetch_recall(
    trace: Counted, most: int | None = None, ahead: Int[np.ndarray, "L T E"] | None = None, layers_ahead: int = 1
) -> pd.DataFrame:
    """Return the share of a token's experts that are among the first m that a predictor names.

    Predictors learn from the first half of the tokens and are judged on the second:

    - `popular` names the experts with the most requests
    - `recency` those used last; it needs no learning. Its recall is the hit rate of an LRU cache of m experts
    - `previous_token` goes by the experts of the token before: how often each was followed by each
    - `layer_before` goes by the same token's experts in the layer before, or as many MoE layers before as
      `layers_ahead` says: fetching may begin that much earlier
    - `chance`: any m experts
    - `next_router`, if `ahead` is given: the layer's own router, run that many MoE layers early; it learns nothing

    `previous_token` and `layer_before` add up n(a, b) / n(a) over the experts a that they go by: of the tokens with a,
    the share that then had b. Of equal scores, the lower id comes first. What a wrong guess costs is m minus the hits,
    in experts.

    ahead   of `moeviz.analyses.ahead.trace_ahead`, of the same trace and as many layers ahead.

    One row per layer and m (all, or up to `most`). Columns: layer int32 · m int32 · chance float64 · popular float64 ·
    previous_token float64 · layer_before float64 (NaN for the first layers) · recency float64 · next_router float64
    (with `ahead`; NaN for the first layers). NaN where a half has no experts to judge. A layer is compared with the one
    before it on the tokens recorded at both. Raises `MoevizError` for a look-ahead below 1.

    **Source**: ExFlow (arXiv 2401.08383), affinity between layers; MoE-Infinity (arXiv 2401.14361); the next router
    early: Eliseev and Mazur (arXiv 2312.17238).
    """
    trace = with_tokens(trace, "Prefetching")
    check_layers_ahead(layers_ahead)
    frames, before = [], dict[int, LayerSets]()
    recorded = trace.recorded
    for found in layer_sets(trace):
        asked = requests(found)
        half, E = asked.steps // 2, asked.num_experts
        late = asked.expert[asked.step >= half]
        popular = np.argsort(-np.bincount(asked.expert[: len(asked.expert) - len(late)], minlength=E), kind="stable")
        places = np.empty(E, np.int64)
        places[popular] = np.arange(E)
        columns = {"m": np.arange(1, E + 1, dtype=np.int32), "chance": np.arange(1, E + 1) / E}
        columns["popular"] = _recall([places[late]], E)
        columns["previous_token"] = _of_previous(found, half)
        columns["layer_before"] = _of_layer_before(before.pop(found.row - layers_ahead, None), found, recorded)
        columns["recency"] = _of_recency(found, half)
        if ahead is not None:
            columns["next_router"] = _of_next_router(found, ahead[found.row, recorded[found.row]], half)
        frames.append(pd.DataFrame({"layer": np.int32(found.layer)} | columns).iloc[:most])
        before[found.row] = found
    return pd.concat(frames, ignore_index=True)


def check_layers_ahead(layers: int) -> None:
    """Raise `MoevizError` for a look-ahead that is not a number of layers."""
    if layers < 1:
        raise MoevizError(f"Experts are named one MoE layer ahead or more; got {layers}.")


def _of_previous(found: LayerSets, half: int) -> Float64[np.ndarray, " E"]:
    follows = np.flatnonzero(np.diff(found.run) == 0) + 1
    learnt, judged = follows[follows < half], follows[follows > half]  # so that the token before is in the half too
    sets, E = found.sets, found.num_experts
    return _recall_by_score(_table(sets[learnt - 1], E, sets[learnt], E), sets[judged - 1], sets[judged])


def _of_layer_before(
    before: LayerSets | None, found: LayerSets, recorded: Bool[np.ndarray, "L T"]
) -> Float64[np.ndarray, " E"]:
    if before is None:
        return np.full(found.num_experts, np.nan)
    both = recorded[before.row] & recorded[found.row]
    first, then = before.sets[both[recorded[before.row]]], found.sets[both[recorded[found.row]]]
    half = len(then) // 2
    table = _table(first[:half], before.num_experts, then[:half], found.num_experts)
    return _recall_by_score(table, first[half:], then[half:])


def _of_recency(found: LayerSets, half: int) -> Float64[np.ndarray, " E"]:
    """Rank experts by recency, the latest first, ties by the lower id. An expert never used is not named."""
    E, T = found.num_experts, len(found.sets)
    kind = np.int32 if (T + 1) * E < 2**31 else np.int64
    steps, ids, ranks = np.arange(1, T + 1, dtype=kind)[:, None], np.arange(E - 1, -1, -1, dtype=kind)[:, None], []
    last = np.zeros(E + 1, kind)  # the last one for places without an expert: -1 finds it
    last[found.sets[:half]] = steps[:half]  # of several uses, the last one stays
    for (sets,), start in _blocks((found.sets[half:],), E):
        used = np.zeros((E + 1, len(sets) + 1), kind)
        used[:, 0] = last
        used[sets, np.arange(1, len(sets) + 1)[:, None]] = steps[half + start :][: len(sets)]
        last = np.maximum.accumulate(used, axis=1, out=used)[:, -1].copy()
        order = used[:-1, :-1] * E
        order += ids
        own, ranked = _ranks(order, sets)
        ranks.append(np.where(own < E, E, ranked))
    return _recall(ranks, E)


def _of_next_router(found: LayerSets, named: Int[np.ndarray, "T E"], half: int) -> Float64[np.ndarray, " E"]:
    """Compute the recall of the first m experts of each token's own order; the first layer names none."""
    E, sets, named = found.num_experts, found.sets[half:], named[half:, : found.num_experts]
    if not len(named) or (named < 0).any():
        return np.full(E, np.nan)
    places = np.argsort(named, axis=1)  # the place of each expert in its token's order
    return _recall([np.take_along_axis(places, np.maximum(sets, 0), axis=1)[sets >= 0]], E)


def _table(
    given: Int[np.ndarray, "T K"], width: int, then: Int[np.ndarray, "T K"], num_experts: int
) -> Float64[np.ndarray, "E A"]:
    """Compute n(a, b) / n(a): the share of the tokens with a that then had b."""
    check_cells("What follows what", then.size, experts=width, experts_that_follow=num_experts)
    pairs = np.zeros((num_experts, width))
    for (first, second), _ in _blocks((given, then), width + num_experts):
        pairs += _members(second, num_experts, np.float32) @ _members(first, width, np.float32).T
    return pairs / np.maximum(np.bincount(given[given >= 0], minlength=width), 1)


def _recall_by_score(
    table: Float64[np.ndarray, "E A"], given: Int[np.ndarray, "T K"], then: Int[np.ndarray, "T K"]
) -> Float64[np.ndarray, " E"]:
    E, width = table.shape
    scaled, ranks = table * 10**DIGITS, []
    ids = np.arange(E - 1, -1, -1)[:, None] / 2 ** E.bit_length()  # below 1: of equals, the lower id is above
    for (first, second), _ in _blocks((given, then), E + width):
        scores = scaled @ _members(first, width)
        np.rint(scores, out=scores)
        scores += ids
        ranks.append(_ranks(scores, second)[1])
    return _recall(ranks, E)


def _ranks(
    scores: Num[np.ndarray, "E T"], wanted: Int[np.ndarray, "T K"]
) -> tuple[Num[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
    """Return the score of each expert that is wanted, and the number of experts named before it."""
    slots = np.ascontiguousarray(wanted.T)
    own = np.take_along_axis(scores, np.maximum(slots, 0), axis=0)
    ranks, above = np.zeros(own.shape, np.min_scalar_type(len(scores))), np.empty(own.shape, np.uint8)
    for each in scores:  # expert by expert, for all tokens at once: fewest bytes are touched
        np.greater(each, own, out=above.view(bool))
        ranks += above
    return own[slots >= 0], ranks[slots >= 0]


def _members(sets: Int[np.ndarray, "T K"], num_experts: int, kind: type = np.float64) -> Float[np.ndarray, "E T"]:
    """Return 1 for each expert of a token, 0 elsewhere."""
    members: np.ndarray = np.zeros(
        (num_experts + 1, len(sets)), kind
    )  # the last one for places without an expert: -1 finds it
    members[sets, np.arange(len(sets))[:, None]] = 1
    return members[:-1]


def _blocks(tables: Sets, cells: int) -> Iterator[tuple[Sets, int]]:
    """Yield blocks of tokens whose tables of `cells` per token stay small; and the first token of each."""
    size = max(CELLS // cells, 1)
    for start in range(0, len(tables[0]), size):
        yield tuple(table[start : start + size] for table in tables), start


def _recall(ranks: Sequence[Integer[np.ndarray, " n"]], num_experts: int) -> Float64[np.ndarray, " E"]:
    """Return the share of ranks below m, for m from 1 on; the rank `num_experts` means never named."""
    counts = sum(np.bincount(part, minlength=num_experts + 1) for part in ranks) + np.zeros(num_experts + 1, np.int64)
    return counts[:-1].cumsum() / counts.sum() if counts.any() else np.full(num_experts, np.nan)
