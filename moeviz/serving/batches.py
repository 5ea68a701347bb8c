"""The number of different experts that a batch of tokens needs: the weights that one decode step reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int32, Int64, Num

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.metrics.inputs import LayerCounts, layer_counts
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.requests import NONE, LayerSets, layer_sets
from moeviz.text import listed

Columns = dict[str, Num[np.ndarray, " B"]]
FEWEST_DRAFTED = 500  # tokens of a trace, for what a draft needs
USUAL_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Uses(NamedTuple):
    """Which tokens use which experts, in the order of experts, and of tokens for each. A stretch: uses of one expert in
    one run."""

    token: Int32[np.ndarray, " n"]
    first: Int64[np.ndarray, " s"]  # which use is the first of a stretch
    last: Int64[np.ndarray, " s"]
    expert: Int64[np.ndarray, " s"]  # of a stretch
    run: Int32[np.ndarray, " s"]

    @property
    def number(self) -> Int64[np.ndarray, " s"]:
        """Return the number of uses in a stretch."""
        number: Int64[np.ndarray, " s"] = self.last - self.first + 1
        return number


def batch_coverage(trace: Counted, batches: Sequence[int] = USUAL_BATCHES) -> pd.DataFrame:
    """Return the expected number of distinct experts of a batch of B tokens, by how the batch comes about.

    A decode step reads the weights of each expert that any token of its batch needs, once. `random`: B tokens drawn
    independently from all of the trace. `sequences`: one token of each of B different sequences, as when B requests are
    served together. `consecutive`: B tokens in a row of one sequence, as in a chunk of a prompt or a draft. For
    comparison, `even`: tokens that choose k of E experts at random, and `most`: the highest number that there can be.
    `random` is never above `even`; the others may be, where texts of different kinds use different experts.

    One row per layer and batch. Columns: layer int32 · batch int32 (B) · random float64 · sequences float64 (NaN for
    fewer than B sequences) · consecutive float64 (NaN where no sequence has B tokens) · even float64 · most
    int32. Counts give `random`, `even` and `most`, and NaN for the two that need each token. Weights read by a
    step: the sum over layers of distinct experts x bytes of an expert, and all other weights once. Raises
    `MoevizError` for batches of no tokens.

    **Source**: the coupon collector's problem, E (1 - (1 - k / E)^B); for decoding with experts, MoESD
    (arXiv 2505.19645).
    """
    sizes = np.asarray(batches, np.int64)
    if not len(sizes) or sizes.min() < 1:
        raise MoevizError(f"A batch has one token or more; got {listed(sizes.tolist())}. Choose other sizes.")
    k = trace.model.top_k
    if isinstance(trace, RoutingTrace):
        parts = [_of_sets(found, sizes, k) for found in layer_sets(trace)]
    else:
        parts = [
            _of_counts(found, found.num_experts - trace.model.zero_experts, sizes, k) for found in layer_counts(trace)
        ]
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _of_sets(found: LayerSets, sizes: Int64[np.ndarray, " B"], top_k: int) -> Columns:
    uses = _uses(found)
    counts = np.bincount(uses.expert, uses.number, minlength=found.num_experts)
    columns = _without_order(found.layer, sizes, counts, len(found.run), top_k)
    return columns | {"sequences": _of_sequences(found, uses, sizes), "consecutive": _in_a_row(found, uses, sizes)}


def _of_counts(found: LayerCounts, experts: int, sizes: Int64[np.ndarray, " B"], top_k: int) -> Columns:
    return _without_order(found.layer, sizes, found.counts.sum(axis=0)[:experts], int(found.tokens.sum()), top_k)


def _without_order(
    layer: int, sizes: Int64[np.ndarray, " B"], counts: Num[np.ndarray, " E"], tokens: int, top_k: int
) -> Columns:
    E, absent, unknown = len(counts), 1 - counts / max(tokens, 1), np.full(len(sizes), np.nan)
    columns: Columns = {"layer": np.full(len(sizes), layer, np.int32), "batch": sizes.astype(np.int32)}
    columns["random"] = (1 - absent ** sizes[:, None]).sum(axis=1) if tokens else unknown
    columns |= {"sequences": unknown, "consecutive": unknown, "even": E * (1 - (1 - min(top_k / E, 1)) ** sizes)}
    return columns | {"most": np.minimum(E, sizes * top_k).astype(np.int32)}


def _uses(found: LayerSets) -> Uses:
    flat = found.sets.ravel()
    order = np.argsort(flat, kind="stable")[np.count_nonzero(flat == NONE) :]  # places without an expert come first
    token = (order // found.sets.shape[1]).astype(np.int32)
    expert, run = flat.take(order), found.run.take(token)
    begins = np.ones(len(token), bool)
    begins[1:] = (expert[1:] != expert[:-1]) | (run[1:] != run[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(token))[: len(first)] - 1
    return Uses(token, first, last, expert[first].astype(np.int64), run[first])


def _of_sequences(found: LayerSets, uses: Uses, sizes: Int64[np.ndarray, " B"]) -> Float64[np.ndarray, " B"]:
    """Draw one token from each of B different sequences: all sets of B and all tokens are equally likely.

    For each expert, the mean over sets of B sequences of the product of (1 - share): an elementary symmetric
    polynomial over the number of sets, C(N, B), by which it is divided from the start: so it cannot overflow.
    """
    E, lengths = found.num_experts, np.bincount(found.sequence)
    N, sequence = len(lengths), found.sequence[uses.token[uses.first]]
    shares = np.bincount(sequence * E + uses.expert, uses.number, minlength=N * E)
    most = min(int(sizes.max()), N)
    means, place = np.zeros((most + 1, E)), np.arange(1, most + 1)[:, None]
    means[0] = 1
    smaller, larger, added = means[:-1], means[1:], np.empty((most, E))
    weight = place / (N + 1 - place)  # C(N, B - 1) / C(N, B)
    for absent in 1 - shares.reshape(N, E) / lengths[:, None]:
        np.multiply(smaller, absent, out=added)
        added *= weight
        larger += added
    distinct = E - means.sum(axis=1)
    return np.where(sizes <= most, distinct[np.minimum(sizes, most)], np.nan)


def _in_a_row(found: LayerSets, uses: Uses, sizes: Int64[np.ndarray, " B"]) -> Float64[np.ndarray, " B"]:
    """B tokens in a row of one sequence, the mean over all places to begin.

    An expert is missing from the windows that lie in its gaps: between two of its uses, before the first and after the
    last of a run, and in runs that do not use it.
    """
    lengths = np.bincount(found.run)
    ends = lengths.cumsum()
    steps = np.diff(uses.token)
    steps[uses.last[:-1]] = 1  # what follows is another stretch
    before = uses.token[uses.first] - (ends - lengths)[uses.run]
    after = ends[uses.run] - 1 - uses.token[uses.last]
    unused = found.num_experts - np.bincount(uses.run, minlength=len(lengths))
    widest = int(lengths.max())
    gaps = np.bincount(steps, minlength=widest + 2)[1:] + np.bincount(lengths, unused).astype(np.int64)
    gaps += np.bincount(before, minlength=widest + 1) + np.bincount(after, minlength=widest + 1)
    windows, missing = _windows(np.bincount(lengths)), _windows(gaps)
    short = sizes < len(windows)
    place = np.where(short, sizes, 0)
    return np.where(short, found.num_experts - missing[place] / windows[place], np.nan)


def _windows(lengths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Count the windows of each size in stretches of which `lengths[g]` are g long."""
    return lengths[::-1].cumsum().cumsum()[::-1]


def batch_coverage_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what the largest batch in a row that is short of all experts needs, if a fifth less than at random."""
    several = frame[(frame["batch"] >= HANDFUL) & frame["consecutive"].notna()]
    means = several.groupby("batch")[["consecutive", "even"]].mean().reset_index()
    fewer = means[means["consecutive"] <= (1 - 0.2) * means["even"]]
    if fewer.empty:
        return None
    row = one_row(fewer, fewer.index[-1])
    return captions.batch_needs(int(row.batch), row.consecutive, row.even)


def draft_sentence(trace: Counted, draft: int) -> Claim:
    """Claim how many more experts a draft of tokens in a row needs than one token: the cost of speculative decoding.

    A step that checks a draft reads the experts of all its tokens, and keeps some of them. Raises `MoevizError` for a
    draft of fewer than two tokens.
    """
    if draft < 2:
        raise MoevizError(f"A draft has two tokens or more; got {draft}. Choose another length.")
    means = batch_coverage(trace, [1, draft]).groupby("batch")[["random", "consecutive", "even"]].mean()
    one, row, most = means["random"].iloc[0], means.iloc[-1], max(trace.model.num_experts) - trace.model.zero_experts
    if not isinstance(trace, RoutingTrace):
        return captions.draft_unknown(draft, row["random"], most)
    if len(trace.tokens) < FEWEST_DRAFTED or np.isnan(row["consecutive"]):
        return captions.few_tokens(len(trace.tokens), FEWEST_DRAFTED)
    return captions.draft_needs(draft, one, row["consecutive"], most, row["even"])
