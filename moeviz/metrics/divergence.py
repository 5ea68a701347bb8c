"""How far apart distributions are, in bits."""

import numpy as np
from jaxtyping import Float64, Num


def divergences(counts: Num[np.ndarray, "D E"], first: np.ndarray, second: np.ndarray) -> Float64[np.ndarray, " P"]:
    """Jensen-Shannon divergence of pairs of rows: 0 if both are alike, 1 if they share nothing.

    Each row counts how often each of E values occurred; NaN if a row of the pair is empty.

    >>> divergences(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]]), np.array([0, 0]), np.array([1, 2])).tolist()
    [0.5, nan]

    Source: Lin (1991), section IV, with the logarithm to base 2.
    """
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    each = entropy(shares)
    both = entropy((shares[first] + shares[second]) / 2)
    apart: np.ndarray = np.maximum(both - (each[first] + each[second]) / 2, 0)
    return apart


def entropy(shares: Float64[np.ndarray, "D E"]) -> Float64[np.ndarray, " D"]:
    """Shannon entropy in bits of each row; NaN stays NaN."""
    bits: np.ndarray = -(shares * np.log2(np.where(shares == 0, 1, shares))).sum(axis=-1)
    return bits
