"""How many different experts a batch of tokens needs: the weights that one decode step reads."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from moeviz.errors import MoevizError
from moeviz.metrics.recorded import counted_layers
from moeviz.names import listed
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.requests import NONE, LayerSets, layer_sets

USUAL_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def batch_coverage(trace: Counted, batches: Sequence[int] = USUAL_BATCHES) -> pd.DataFrame:
    """The expected number of distinct experts of a batch of B tokens, by how the batch comes about.

    A decode step reads the weights of each expert that any token of its batch needs, once. `random`: B tokens drawn
    independently from all of the trace. `sequences`: one token of each of B different sequences, as when B requests are
    served together. `consecutive`: B tokens in a row of one sequence, as in a chunk of a prompt or a draft. For
    comparison, `even`: tokens that choose k of E experts at random, and `most`: the highest number that there can be.
    `random` is never above `even`; the others may be, where texts of different kinds use different experts.

    One row per layer and batch. Columns: layer int32 · batch int32 (B) · random float64 · sequences float64 (NaN where
    there are fewer than B sequences) · consecutive float64 (NaN where no sequence has B tokens) · even float64 · most
    int32. Counts alone give `random`, `even` and `most`, and NaN for the two that need each token. Weights read by a
    step: the sum over layers of distinct experts x bytes of an expert, and all other weights once. Raises
    `MoevizError` for batches of no tokens.

    **Source**: the coupon collector's problem, E (1 - (1 - k / E)^B); for decoding with experts, MoESD
    (arXiv 2505.19645).
    """
    sizes = np.asarray(batches, np.int64)
    if not len(sizes) or sizes.min() < 1:
        raise MoevizError(f"A batch has one token or more; got {listed(sizes.tolist())}. Choose other sizes.")
    if isinstance(trace, RoutingTrace):
        frames = [_of_sets(found, sizes, trace.model.top_k) for found in layer_sets(trace)]
    else:
        frames = []
        for found in counted_layers(trace):
            counts = found.counts.sum(axis=0)[: found.num_experts - trace.model.zero_experts]
            frames.append(_frame(found.layer, sizes, counts, int(found.tokens.sum()), trace.model.top_k))
    return pd.concat(frames, ignore_index=True)


def _of_sets(found: LayerSets, sizes: Int64[np.ndarray, " B"], top_k: int) -> pd.DataFrame:
    expert, token = _by_expert(found)
    counts = np.bincount(expert, minlength=found.num_experts)
    frame = _frame(found.layer, sizes, counts, len(found.run), top_k)
    frame["sequences"] = _of_sequences(found, expert, token, sizes)
    frame["consecutive"] = _in_a_row(found, expert, token, sizes)
    return frame


def _frame(
    layer: int, sizes: Int64[np.ndarray, " B"], counts: Int64[np.ndarray, " E"], tokens: int, top_k: int
) -> pd.DataFrame:
    """What needs no order."""
    E, absent = len(counts), 1 - counts / max(tokens, 1)
    distinct = (1 - absent ** sizes[:, None]).sum(axis=1) if tokens else np.full(len(sizes), np.nan)
    facts = {"layer": np.int32(layer), "batch": sizes.astype(np.int32), "random": distinct}
    facts |= {"sequences": np.nan, "consecutive": np.nan, "even": E * (1 - (1 - min(top_k / E, 1)) ** sizes)}
    return pd.DataFrame(facts | {"most": np.minimum(E, sizes * top_k).astype(np.int32)})


def _by_expert(found: LayerSets) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Each expert of each token, expert by expert: which it is, and whose."""
    flat = found.sets.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[int((flat == NONE).sum()) :]  # they come first
    return flat[order].astype(np.int64), order // found.sets.shape[1]


def _of_sequences(
    found: LayerSets, expert: np.ndarray, token: np.ndarray, sizes: Int64[np.ndarray, " B"]
) -> Float64[np.ndarray, " B"]:
    """One token of each of B different sequences: each set of B alike, and each token of a sequence alike.

    For each expert, the mean over sets of B sequences of the product of (1 - share): an elementary symmetric
    polynomial. The means over sets of the first n sequences are made from those of the first n - 1.
    """
    sequence = found.sequence
    lengths = np.bincount(sequence)
    shares = np.bincount(sequence[token] * found.num_experts + expert, minlength=len(lengths) * found.num_experts)
    absent = 1 - shares.reshape(len(lengths), -1) / lengths[:, None]
    most = min(int(sizes.max()), len(lengths))
    means = np.zeros((most + 1, found.num_experts))
    means[0] = 1
    for n, factors in enumerate(absent, 1):
        top = min(n, most)
        share = np.arange(1, top + 1)[:, None] / n  # of the sets, those that hold this sequence
        means[1 : top + 1] += share * (means[:top] * factors - means[1 : top + 1])
    distinct = found.num_experts - means.sum(axis=1)
    return np.where(sizes <= most, distinct[np.minimum(sizes, most)], np.nan)


def _in_a_row(
    found: LayerSets, expert: np.ndarray, token: np.ndarray, sizes: Int64[np.ndarray, " B"]
) -> Float64[np.ndarray, " B"]:
    """B tokens in a row of one sequence, the mean over all places to begin.

    An expert is missing from the windows that lie between two of its uses: g - B + 1 of them in a gap of g tokens.
    """
    lengths = np.bincount(found.run)
    ends = np.concatenate([[0], (lengths + 1).cumsum()])  # places between runs, where every expert counts as used
    width = int(ends[-1]) + 1
    uses = expert * width + token + found.run[token] + 1
    between = (np.arange(found.num_experts)[:, None] * width + ends).ravel()
    uses = np.sort(np.concatenate([uses, between]), kind="stable")
    gaps = np.bincount(np.diff(uses) - 1, minlength=int(lengths.max()) + 1)
    windows, missing = _windows(np.bincount(lengths)), _windows(gaps)
    short = sizes < len(windows)
    place = np.where(short, sizes, 0)
    return np.where(short, found.num_experts - missing[place] / windows[place], np.nan)


def _windows(lengths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many windows of each size lie in stretches of which `lengths[g]` are g long."""
    return lengths[::-1].cumsum().cumsum()[::-1]
