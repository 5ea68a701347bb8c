"""By how many rows a trace is off, found beside another trace of the same tokens, or by its own token ids."""

import numpy as np

from moeviz.metrics.doctor_of_rows import Rows
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace

FURTHEST = 2  # rows
ENOUGH = 200  # tokens, for what token ids alone say
CLEARLY = 1.1  # times as many shared experts as where nothing is moved


def shift_beside(trace: RoutingTrace, other: RoutingTrace) -> int:
    """The shift of -2 to 2 rows at which most sets of experts are those of another trace; 0 wins a tie.

    +1: row t of the trace is row t + 1 of the other, as where the trace lost its first row.
    """
    return max(range(-FURTHEST, FURTHEST + 1), key=lambda shift: (equal_sets(trace, other, shift), -abs(shift)))


def equal_sets(trace: RoutingTrace, other: RoutingTrace, shift: int) -> float:
    """The share of rows whose set is that of the other trace `shift` rows later, over the layers that both have."""
    mine, theirs = rows_at(trace, other, shift)
    shares = []
    for layer in sorted(set(trace.model.layers) & set(other.model.layers)):
        ours, others = (t.experts[t.model.layers.index(layer)] for t in (trace, other))
        if ours.shape[1] != others.shape[1]:
            continue
        ours, others = np.sort(ours[mine], axis=1), np.sort(others[theirs], axis=1)
        both = (ours[:, :1] != NOT_RECORDED).ravel() & (others[:, :1] != NOT_RECORDED).ravel()
        if both.any():
            shares.append(float((ours == others).all(axis=1)[both].mean()))
    return float(np.mean(shares)) if shares else 0.0


def rows_at(trace: RoutingTrace, other: RoutingTrace, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of two traces are of the same sequence, and `shift` positions apart."""
    keys = [t.tokens["sequence"].to_numpy(np.int64) * 2**32 + t.tokens["position"].to_numpy() for t in (trace, other)]
    _, mine, theirs = np.intersect1d(keys[0] + shift, keys[1], assume_unique=True, return_indices=True)
    return mine, theirs


def overlap(mine: int, theirs: int, shift: int) -> tuple[slice, slice]:
    """The rows of both that are there where row t of one is row t + shift of the other.

    >>> overlap(4, 5, 1)
    (slice(0, 4, None), slice(1, 5, None))
    """
    start, stop = max(0, -shift), min(mine, theirs - shift)
    return slice(start, stop), slice(start + shift, stop + shift)


def shift_of_tokens(rows: Rows) -> int:
    """The shift of -1 to 1 rows at which equal tokens share most experts at the first layer; 0 unless clearly more."""
    if rows.token_id is None or rows.tokens < ENOUGH:
        return 0
    shared = {shift: _shared(rows, rows.token_id, shift) for shift in (0, -1, 1)}
    best = max(shared, key=lambda shift: shared[shift])
    return best if shared[best] > CLEARLY * shared[0] else 0


def _shared(rows: Rows, token_id: np.ndarray, shift: int) -> float:
    """How many experts two rows of the same token share on average, where row t is of token t + shift."""
    mine, theirs = overlap(rows.tokens, rows.tokens, shift)
    experts, ids = rows.experts[0][mine].astype(np.int64), token_id[theirs]
    _, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    pairs = int((sizes * (sizes - 1)).sum())
    if pairs < ENOUGH:
        return 0.0
    used = experts >= 0
    key = (group.reshape(-1)[:, None] * rows.num_experts + experts)[used]
    _, counts = np.unique(key, return_counts=True)
    return float((counts * (counts - 1)).sum()) / pairs
