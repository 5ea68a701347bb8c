"""How well the experts of a token can be named before its router has run."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from moeviz.metrics.budget import check_cells
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.policies import BLOCK, lru_depths
from moeviz.serving.requests import LayerSets, layer_sets, requests, with_tokens

DIGITS = 12  # scores that are equal on paper stay equal, in whatever order they were added up


def prefetch_recall(trace: Counted, most: int | None = None) -> pd.DataFrame:
    """The share of a token's experts that are among the first m that a predictor names.

    Predictors learn from the first half of the tokens and are judged on the second:

    - `popular` names the experts with the most requests
    - `recency` those used last; it needs no learning. Its recall is the hit rate of an LRU cache of m experts
    - `previous_token` goes by the experts of the token before: how often each was followed by each
    - `layer_before` goes by the same token's experts in the layer before
    - `chance`: any m experts

    The last two add up n(a, b) / n(a) over the experts a that they go by: of the tokens with a, the share that then
    had b. Of equal scores, the lower id comes first. What a wrong guess costs is m minus the hits, in experts.

    One row per layer and m (all, or up to `most`). Columns: layer int32 · m int32 · chance float64 · popular float64 ·
    previous_token float64 · layer_before float64 (NaN for the first layer) · recency float64. NaN where a half has no
    experts to judge. A layer is compared with the one before it on the tokens recorded at both.

    **Source**: ExFlow (arXiv 2401.08383), affinity between layers; MoE-Infinity (arXiv 2401.14361). Predictors that see
    hidden states do much better: Eliseev and Mazur (arXiv 2312.17238).
    """
    trace = with_tokens(trace, "Prefetching")
    frames, before = [], None
    recorded = trace.recorded
    for found in layer_sets(trace):
        asked = requests(found)
        half, E = asked.steps // 2, asked.num_experts
        late = asked.step >= half
        popular = np.argsort(-np.bincount(asked.expert[~late], minlength=E), kind="stable")
        places = np.empty(E, np.int64)
        places[popular] = np.arange(E)
        columns = {"m": np.arange(1, E + 1, dtype=np.int32), "chance": np.arange(1, E + 1) / E}
        columns["popular"] = _recall(places[asked.expert[late]], E)
        columns["previous_token"] = _of_previous(found, half)
        columns["layer_before"] = _of_layer_before(trace, before, found, recorded)
        columns["recency"] = _recall(lru_depths(asked)[late] - 1, E)
        frames.append(pd.DataFrame({"layer": np.int32(found.layer)} | columns).head(most))
        before = found
    return pd.concat(frames, ignore_index=True)


def _of_previous(found: LayerSets, half: int) -> Float64[np.ndarray, " E"]:
    follows = np.flatnonzero(np.diff(found.run) == 0) + 1
    learnt, judged = follows[follows < half], follows[follows > half]  # so that the token before is in the half too
    sets, E = found.sets, found.num_experts
    return _judged(_table(sets[learnt - 1], E, sets[learnt], E), sets[judged - 1], sets[judged])


def _of_layer_before(
    trace: RoutingTrace, before: LayerSets | None, found: LayerSets, recorded: np.ndarray
) -> Float64[np.ndarray, " E"]:
    if before is None or before.row != found.row - 1:
        return np.full(found.num_experts, np.nan)
    both = recorded[before.row] & recorded[found.row]
    first, then = before.sets[both[recorded[before.row]]], found.sets[both[recorded[found.row]]]
    half = len(then) // 2
    table = _table(first[:half], before.num_experts, then[:half], found.num_experts)
    return _judged(table, first[half:], then[half:])


def _table(
    given: Int[np.ndarray, "T K"], width: int, then: Int[np.ndarray, "T K"], num_experts: int
) -> Float64[np.ndarray, "A E"]:
    """n(a, b) / n(a): of the tokens with a, the share that then had b."""
    check_cells("What follows what", then.size, experts=width, experts_that_follow=num_experts)
    pairs = sum(_members(a, width).T @ _members(b, num_experts) for a, b in _blocks(given, then, width + num_experts))
    seen = np.bincount(given[given >= 0], minlength=width)
    return (pairs if len(given) else np.zeros((width, num_experts))) / np.maximum(seen, 1)[:, None]


def _judged(
    table: Float64[np.ndarray, "A E"], given: Int[np.ndarray, "T K"], then: Int[np.ndarray, "T K"]
) -> Float64[np.ndarray, " E"]:
    """Recall of the first m experts by score, for each m."""
    width, E = table.shape
    ranks = [_ranks(_members(a, width) @ table, b) for a, b in _blocks(given, then, E * max(given.shape[1] + 1, 1))]
    return _recall(np.concatenate(ranks) if ranks else np.zeros(0, np.int64), E)


def _ranks(scores: Float64[np.ndarray, "T E"], wanted: Int[np.ndarray, "T K"]) -> np.ndarray:
    """How many experts are named before each one that is wanted."""
    E = scores.shape[1]
    order = np.rint(scores * 10**DIGITS) * E + np.arange(E - 1, -1, -1)  # whole numbers below 2^53
    own = np.take_along_axis(order, np.maximum(wanted, 0).astype(np.int64), axis=1)
    return np.count_nonzero(order[:, None, :] > own[:, :, None], axis=2)[wanted >= 0]


def _members(sets: Int[np.ndarray, "T K"], num_experts: int) -> Float64[np.ndarray, "T E"]:
    members = np.zeros((len(sets), num_experts))
    token, slot = np.nonzero(sets >= 0)
    members[token, sets[token, slot]] = 1
    return members


def _blocks(given: np.ndarray, then: np.ndarray, cells: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many tokens at a time that tables stay small."""
    size = max(BLOCK // max(cells, 1), 1)
    for start in range(0, len(given), size):
        yield given[start : start + size], then[start : start + size]


def _recall(ranks: np.ndarray, num_experts: int) -> Float64[np.ndarray, " E"]:
    """The share of ranks below m, for m from 1 on; a rank may be as high as `num_experts`: never named."""
    counts = np.bincount(ranks, minlength=num_experts)[:num_experts]
    return counts.cumsum() / len(ranks) if len(ranks) else np.full(num_experts, np.nan)
