"""Shares compared with chance: the probability of one, and the distance between the distributions of two rows."""

from math import log

import numpy as np
import pandas as pd
from jaxtyping import Float64, Num

RARE = 0.001  # the highest probability by chance of what a sentence reports
STANDS_OUT = 1.5  # times chance, from which on something is worth a word
HANDFUL = 8  # tokens: with fewer, no sentence reports what stands out


def divergence(share: Float64[np.ndarray, " N"], chance: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """KL divergence, in nats, of one coin from another: exp(-n KL) bounds the binomial tail (Chernoff 1952)."""
    tiny = np.finfo(np.float64).tiny
    heads = share * np.log(np.maximum(share, tiny) / np.maximum(chance, tiny))
    tails = (1 - share) * np.log(np.maximum(1 - share, tiny) / np.maximum(1 - chance, tiny))
    total: np.ndarray = heads + tails
    return total


def beyond_chance(share: pd.Series, tries: pd.Series, chance: pd.Series, at_least: float = STANDS_OUT) -> pd.Series:
    """Mark the rows whose share of this many tries chance does not explain.

    A share must be `at_least` times chance, of a handful of tries or more, and chance must bring such a row, among this
    many rows, at most once in a thousand times. That is stricter than for one text's tokens if they were independent,
    which they are not.
    """
    known = (share.notna() & (tries >= HANDFUL) & chance.notna()).to_numpy(bool)
    got, n, p = (each.fillna(0).to_numpy(np.float64) for each in (share, tries, chance))
    surprise = np.where(known & (got > 0) & (got >= at_least * p), n * divergence(got, p), 0.0)
    return pd.Series(surprise >= log(max(len(surprise), 1) / RARE), share.index)


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
    """Return the Shannon entropy of each row in bits; NaN stays NaN."""
    bits: np.ndarray = -(shares * np.log2(np.where(shares == 0, 1, shares))).sum(axis=-1)
    return bits
