"""The inputs of metrics: recorded tokens, counts, sets of experts, sufficient statistics, and a table's limit.

Whether a token is recorded may differ from layer to layer. A token that is not recorded was not dropped: it went to
experts that the source does not name. A file of two rows may name expert 32,766, so a table that would become too large
is refused before it is made.

Sufficient statistics are sums over tokens, layer by layer, from which metrics follow. A trace has every token and makes
them on the way. A dataset keeps them next to its rows, so that no row is read (`moeviz.corpus.analyses`). What needs
the order of all tokens, such as shuffles, is NaN where there are only sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int16, Int64

from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted, RoutingTrace


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
    """Compute the fewest slots, above none, that a token fills; K if no token fills any."""
    return int((np.flatnonzero(slots[1:]) + 1).min(initial=len(slots) - 1))


COUNTS_ALONE = "This needs the routing of each token, and these are only counts."
P = ParamSpec("P")


def needs_tokens(metric: Callable[P, pd.DataFrame]) -> Callable[P, pd.DataFrame]:
    """Mark a metric that needs the routing of each token; it raises `MissingField` without any."""

    @wraps(metric)
    def checked(*args: P.args, **options: P.kwargs) -> pd.DataFrame:
        for trace in _flat(args):
            check_recorded(trace)
        return metric(*args, **options)

    return checked


def per_layer(metric: Callable[P, pd.DataFrame]) -> Callable[P, pd.DataFrame]:
    """A metric of tokens whose rows are about one layer each: it gets the tokens that are recorded at that layer.

    Layers at which nothing is recorded have no rows. Raises `MissingField` as `needs_tokens` does.
    """

    @wraps(metric)
    def measured(*args: P.args, **options: P.kwargs) -> pd.DataFrame:
        trace: Any = args[0]
        check_recorded(trace)
        if isinstance(trace, Statistics) or trace.recorded.all():
            return metric(*args, **options)
        frames = [metric(part, *args[1:], **options) for part in _parts(trace)]  # type: ignore[arg-type]
        return pd.concat(frames, ignore_index=True).sort_values("layer", kind="stable", ignore_index=True)

    return measured


def check_one_model(one: Any, other: Any, says: str) -> None:
    """Raise `InvalidTrace` unless both have the same layers and numbers of experts.

    says   the sentence, with places for {fact}, {here} of the first and {there} of the other.
    """
    for fact in ("layers", "num_experts"):
        here, there = getattr(one.model, fact), getattr(other.model, fact)
        if here != there:
            raise InvalidTrace(says.format(fact=fact, here=here, there=there))


def check_recorded(trace: Any) -> None:
    """Raise `MissingField` for counts, and for a trace whose tokens have no recorded routing."""
    if isinstance(trace, ExpertCounts):
        raise MissingField(COUNTS_ALONE)
    if isinstance(trace, RoutingTrace) and len(trace.tokens) and not trace.recorded.any():
        layers, tokens = trace.model.layers, len(trace.tokens)
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        which = "this token" if tokens == 1 else f"any of these {tokens:,} tokens"
        raise MissingField(f"No routing is recorded for {which} in {where}. Choose other tokens or another layer.")


def _flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for argument in arguments:
        yield from argument if isinstance(argument, tuple) else (argument,)


def _parts(trace: RoutingTrace) -> Iterator[RoutingTrace]:
    """Split the trace into parts whose every token is recorded at every layer."""
    masks, which = np.unique(trace.recorded, axis=0, return_inverse=True)
    layers = np.asarray(trace.model.layers)
    for number, mask in enumerate(masks):
        if mask.any():
            yield trace.select(layers=layers[which.ravel() == number].tolist(), tokens=mask)


class LayerCounts(NamedTuple):
    """The number of tokens of each expert of one layer."""

    row: int  # which of the L it is
    layer: int
    num_experts: int
    counts: Int64[np.ndarray, "G E"]  # of its own experts only
    tokens: Int64[np.ndarray, " G"]


def layer_counts(counted: Counted | Statistics, counts: ExpertCounts | None = None) -> list[LayerCounts]:
    """Return the layers at which tokens were counted; all of them if there are no tokens at all.

    `counts` are those of `counted` by label; by default, everything together. Raises `MissingField` for a trace in
    which nothing is recorded.
    """
    counts = counted.counts() if counts is None else counts
    model, some = counts.model, counts.tokens.sum(axis=0).tolist()
    if isinstance(counted, RoutingTrace) and not any(some):
        check_recorded(counted)
    return [
        LayerCounts(row, layer, E, counts.assignments[:, row, :E], counts.tokens[:, row])
        for row, (layer, E) in enumerate(zip(model.layers, model.num_experts, strict=True))
        if some[row] or not any(some)
    ]


def recorded_together(trace: RoutingTrace) -> RoutingTrace:
    """Return the tokens that are recorded at every layer of the trace. Raises `MissingField` if no token is."""
    together = np.asarray(trace.recorded.all(axis=0))
    if together.all():
        return trace
    if not together.any():
        layers = trace.model.layers
        raise MissingField(f"No token is recorded at every one of the layers {layers}. Choose other layers.")
    return trace.select(tokens=together)


MAX_CELLS = 2**21
CELLS_A_SLOT = 64  # a long trace may have more: real models have at most some 60 experts for each slot of a token


def check_cells(what: str, slots: int, most: int = MAX_CELLS, a_slot: int = CELLS_A_SLOT, /, **sizes: int) -> None:
    """Raise `InvalidTrace` if a table of these `sizes` (product: its cells) is larger than we make for this many slots.

    >>> check_cells("Load by label", 64, labels=3, experts=60_000)
    """
    cells, most = 1, max(most, a_slot * slots)
    for size in sizes.values():
        cells *= size
    if cells > most:
        product = " x ".join(f"{size:,} {name.replace('_', ' ')}" for name, size in sizes.items())
        raise InvalidTrace(
            f"{what} would be a table of {product}, {cells:,} cells in all, and at most {most:,} are made of a trace "
            "of this size. Choose fewer layers or tokens."
        )


MAX_CHOSEN_CELLS, CHOSEN_CELLS_A_SLOT = 2**24, 1024  # true or false takes a byte


def chosen_experts(experts: Int16[np.ndarray, "T K"], num_experts: int) -> Bool[np.ndarray, "T E"]:
    """Return, for each token, whether it has the expert in one of its slots.

    Raises `InvalidTrace` if that is a larger table than we make.
    """
    sizes = {"tokens": len(experts), "experts": num_experts}
    check_cells("Which token has which expert", experts.size, MAX_CHOSEN_CELLS, CHOSEN_CELLS_A_SLOT, **sizes)
    chosen = np.zeros((len(experts), num_experts), bool)
    token, slot = np.nonzero(experts >= 0)
    chosen[token, experts[token, slot]] = True
    return chosen


def distinct_so_far(experts: np.ndarray) -> np.ndarray:
    """Count the different experts that one layer, (T, K), has chosen after each token: (T,) int64.

    >>> distinct_so_far(np.array([[0, 1], [1, 0], [2, -1]]))
    array([2, 2, 3])
    """
    token, slot = np.nonzero(experts >= 0)
    _, first = np.unique(experts[token, slot], return_index=True)
    return np.bincount(token[first], minlength=len(experts)).cumsum()
