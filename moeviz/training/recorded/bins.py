"""Logs put together, so that a long run is as many columns as a picture has room for: sums first, then measures.

Letters: S logs, B bins of logs that follow each other, L layers, E experts.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Num

from moeviz.errors import MissingField
from moeviz.training.recorded.run import ALIVE, TrainingRun

MOST_BINS = 120
Over = Literal["step", "tokens"]  # what the axis is


@dataclass(frozen=True, slots=True)
class Bins:
    """Columns of a picture: which logs stand in each, and where it is on the axis."""

    every: int  # logs in each, the last may have fewer
    first: Int64[np.ndarray, " B"]  # its first log
    last: Int64[np.ndarray, " B"]
    after: Num[np.ndarray, " B"]  # the axis, before its first step
    at: Num[np.ndarray, " B"]  # and at its last


def bins_of(run: TrainingRun, over: Over, most: int = MOST_BINS) -> Bins:
    """At most so many bins of the logs of a run."""
    logs = len(run.logs)
    every = max(-(-logs // most), 1)
    first = np.arange(0, logs, every)
    last = np.minimum(first + every, logs) - 1
    at = run.logs[over].to_numpy()
    begin = int(run.logs["step"].iloc[0] - run.logs["steps"].iloc[0]) if logs and over == "step" else 0
    return Bins(every, first, last, np.concatenate([[max(begin, 0)], at[last[:-1]]])[: len(first)], at[last])


def need_counts(run: TrainingRun, why: str) -> Int64[np.ndarray, "S L E"]:
    """The counts of a run. Raises `MissingField` if it has none."""
    if run.counts is None or not len(run.logs):
        raise MissingField(f"{why} needs counts of experts, and this run has none. Open the folder that moeviz wrote.")
    return run.counts


def sums(counts: Int64[np.ndarray, "S ..."], bins: Bins) -> Int64[np.ndarray, "B ..."]:
    """Of the logs of each bin that have counts; 0 where none has."""
    return np.add.reduceat(np.maximum(counts, 0), bins.first, axis=0)


def max_violation(counts: Int64[np.ndarray, "... E"], experts: int) -> Float64[np.ndarray, "..."]:
    """Busiest expert / uniform share, minus 1; NaN where nothing was assigned."""
    total = counts.sum(axis=-1)
    return np.asarray(np.where(total > 0, counts.max(axis=-1) * experts / np.maximum(total, 1) - 1, np.nan))


def effective_experts(counts: Int64[np.ndarray, "... E"]) -> Float64[np.ndarray, "..."]:
    """exp(entropy of load): so many experts, used evenly, would be as uneven. NaN where nothing was assigned."""
    total = counts.sum(axis=-1, keepdims=True)
    share = counts / np.maximum(total, 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), np.nan)


def chance_violation(
    assignments: Num[np.ndarray, "..."], experts: int, top_k: int | None
) -> Float64[np.ndarray, "..."]:
    """The MaxVio that luck alone gives on average, if each token chose k different experts at random.

    The largest of E normal numbers (Blom 1958), as wide and as skewed as a binomial with p = k / E (Cornish & Fisher
    1938). Within a tenth of what a simulation gives, from 20 assignments a uniform share on.
    """
    share = (top_k or 1) / experts
    if experts < 2 or share >= 1:
        return np.zeros(np.shape(assignments))
    even = np.where(np.asarray(assignments) > 0, assignments, np.nan) / experts
    z = NormalDist().inv_cdf((experts - 0.375) / (experts + 0.25))
    wide = np.sqrt(even * (1 - share))
    found = (z + (z**2 - 1) * (1 - 2 * share) / wide / 6) * wide / even
    return np.asarray(found)


def dead_since(run: TrainingRun, row: int) -> Int64[np.ndarray, "S E"]:
    """The step since when each expert of a layer was dead in the steps of each log; ALIVE where it was not.

    Told afterwards: when an alarm says that an expert is dead, it has been so from after its last token on. A log that
    has tokens from before that is not among them.
    """
    counts = need_counts(run, "Dead experts")[:, row]
    found = np.full(counts.shape, ALIVE, np.int64)
    if run.dead_since is None:
        return found
    later = found[0]
    for log in range(len(found) - 1, -1, -1):
        now, step = run.dead_since[log, row], run.logs["step"].iloc[log]
        later = np.where(now != ALIVE, now, np.where(later <= step, later, ALIVE))
        found[log] = np.where(counts[log] == 0, later, ALIVE)
    return found
