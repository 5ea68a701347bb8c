"""Sufficient statistics: sums over tokens, layer by layer, from which metrics follow.

A trace has every token and makes them on the way. A dataset keeps them beside its rows, so that no row is read
(`moeviz.corpus.analyses`). What needs the order of all tokens, such as shuffles, is NaN where there are only sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from moeviz.expert_counts import ExpertCounts
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted


class Statistics(ABC):
    """Sums over the tokens of a corpus, for the L layers of `model`. K slots, E experts, D labels."""

    model: ModelInfo

    @abstractmethod
    def counts(self) -> ExpertCounts:
        """Count the tokens of each expert."""

    @abstractmethod
    def counts_by_label(self, why: str = "This") -> ExpertCounts:
        """Count them by label. Raises `MissingField`, with a sentence that starts with `why`, without labels."""

    @abstractmethod
    def texts_by_label(self, names: list[str]) -> Int64[np.ndarray, " D"]:
        """Count the texts of each of these labels."""

    def output_means(self) -> dict[str, np.ndarray]:
        """The figures of experts' outputs by name, (L, E) each, as means; empty where they were not recorded."""
        return {}

    @abstractmethod
    def filled_slots(self) -> Int64[np.ndarray, "L S"]:
        """Count the recorded tokens of each layer by the slots that they fill: 0 to K, so S is K + 1."""

    @abstractmethod
    def first_choices(self) -> Int64[np.ndarray, "L E"]:
        """Count the tokens of each layer by their first choice."""

    @abstractmethod
    def first_choices_by_label(self, names: list[str], why: str) -> Int64[np.ndarray, "D L E"]:
        """Count them by label. Raises `MissingField`, starting with `why`, if first choices are not known."""

    @abstractmethod
    def pairs(self) -> Iterator[Int64[np.ndarray, "E E"]]:
        """Count, layer by layer, the tokens that two experts share; on the diagonal, those that each has."""

    @abstractmethod
    def transitions(self) -> Iterator[tuple[tuple[int, int], Int64[np.ndarray, "E E"]]]:
        """Count, for each two consecutive layers, tokens by their first choices in both."""

    @abstractmethod
    def repeats(self) -> Int64[np.ndarray, "L 3"]:
        """Count neighbouring tokens: all pairs, those with the same first choice, those with any expert in common."""


def filled_slots(source: Counted | Statistics) -> Int64[np.ndarray, "L S"] | None:
    """Count the recorded tokens of each layer by the slots that they fill, 0 to K; None where only counts are known."""
    if isinstance(source, Statistics):
        return source.filled_slots()
    if isinstance(source, ExpertCounts):
        return None
    rows = zip(source.filled.sum(axis=2), source.recorded, strict=True)
    return np.stack([np.bincount(filled[known], minlength=source.model.top_k + 1) for filled, known in rows])


def fewest_slots(slots: Int64[np.ndarray, " S"]) -> int:
    """The fewest slots, above none, that a token fills; K if no token fills any."""
    return int((np.flatnonzero(slots[1:]) + 1).min(initial=len(slots) - 1))
