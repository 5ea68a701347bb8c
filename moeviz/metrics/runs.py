"""Runs: tokens in a row that one expert has, in any slot. And how likely such things are if the order says nothing."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class LayerRuns:
    """The runs of all experts of one layer, among the tokens that are recorded there."""

    layer: int
    recorded: Int64[np.ndarray, " N"]  # rows of the trace
    stretches: int  # of text without a gap: a run ends where another text begins, or tokens are not recorded
    filled: float  # slots that a token fills, on average
    tokens: Int64[np.ndarray, " E"]  # that each expert has
    expert: Int64[np.ndarray, " R"]
    start: Int64[np.ndarray, " R"]  # row of the trace
    length: Int64[np.ndarray, " R"]

    @property
    def runs(self) -> Int64[np.ndarray, " E"]:
        """How many runs each expert has."""
        return np.bincount(self.expert, minlength=len(self.tokens))


def runs_of_layers(trace: RoutingTrace) -> list[LayerRuns]:
    """Layer by layer; a layer at which nothing is recorded is left out."""
    follows = _follows(trace)
    return [_runs(trace, row, follows) for row in np.flatnonzero(trace.recorded.any(axis=1)).tolist()]


def _follows(trace: RoutingTrace) -> Bool[np.ndarray, " T"]:
    """Which tokens come directly after the row before them."""
    sequence, position = (trace.tokens[name].to_numpy() for name in ("sequence", "position"))
    follows = np.zeros(len(sequence), bool)
    follows[1:] = (np.diff(sequence) == 0) & (np.diff(position) == 1)
    return follows


def _runs(trace: RoutingTrace, row: int, follows: Bool[np.ndarray, " T"]) -> LayerRuns:
    chosen, recorded = trace.experts[row], trace.recorded[row]
    begins = recorded & ~(follows & np.concatenate([[False], recorded[:-1]]))
    at = np.arange(len(chosen)) + np.cumsum(begins)  # a gap before each stretch
    width, slots = int(at[-1]) + 2, chosen >= 0
    keys = np.sort((chosen.astype(np.int64) * width + at[:, None])[slots])
    keys = keys[np.diff(keys, prepend=-1) != 0]  # an expert has a token once
    first = np.flatnonzero(np.diff(keys, prepend=-2) != 1)
    place = np.searchsorted(at, keys[first] % width)
    return LayerRuns(
        layer=trace.model.layers[row],
        recorded=np.flatnonzero(recorded),
        stretches=int(begins.sum()),
        filled=float(slots.sum() / recorded.sum()),
        tokens=np.bincount(keys // width, minlength=trace.model.num_experts[row]),
        expert=keys[first] // width,
        start=place,
        length=np.diff(np.append(first, len(keys))),
    )


def all_in_one(places: int, has: Int64[np.ndarray, " N"], of: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """The logarithm of how likely an expert that has some of so many places has all `of` given ones, in random order.

    C(T - n, m - n) / C(T, m) = m! (T - n)! / ((m - n)! T!); `of` is at most `has`.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, places + 1)))])
    likely: np.ndarray = logs[has] + logs[places - of] - logs[has - of] - logs[places]
    return likely
