"""A trace as the doctor looks at it: sets of experts without an order; and what it finds."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, RoutingTrace

FEW = 8  # tokens: of fewer, chance alone may do what is looked for


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not plausible, and where: the model's own index of the layer, and the first row of `tokens`; -1: none."""

    check: str
    layer: int
    token: int
    rows: int
    says: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The numbers of a trace, and what follows from them."""

    layers: tuple[int, ...]
    num_experts: int
    experts: np.ndarray  # L, T, K
    sets: np.ndarray  # the same, sorted
    recorded: np.ndarray  # L, T
    whole: np.ndarray  # T: recorded at all layers
    codes: np.ndarray  # T: one number for the sets of all layers
    neighbours: np.ndarray  # T - 1: whether a row and the next are of one sequence
    sequences: list[tuple[int, int]]  # first row, and the row after the last
    weights: np.ndarray | None
    token_id: np.ndarray | None

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.experts.shape[1])

    @property
    def top_k(self) -> int:
        """K."""
        return int(self.experts.shape[2])

    @property
    def layers_by_slots(self) -> int:
        """L x K."""
        return len(self.layers) * self.top_k

    @property
    def choice(self) -> bool:
        """Whether a router has anything to choose."""
        return self.top_k < self.num_experts

    def filled(self, at: int) -> np.ndarray:
        """The ids in the filled slots of a layer."""
        ids: np.ndarray = self.experts[at][self.experts[at] >= 0]
        return ids


def rows_of(trace: RoutingTrace) -> Rows:
    """A trace, ready to be looked at."""
    sets = np.sort(trace.experts, axis=-1)
    tokens = trace.experts.shape[1]
    flat = np.ascontiguousarray(sets.transpose(1, 0, 2)).reshape(tokens, -1)
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    codes = np.unique(keys, return_inverse=True)[1].reshape(-1)
    sequence = trace.tokens["sequence"].to_numpy()
    neighbours = np.diff(sequence) == 0
    starts = [0, *(np.flatnonzero(~neighbours) + 1).tolist(), tokens] if tokens else [0]
    ids = trace.tokens["token_id"].to_numpy()
    recorded = trace.experts[..., 0] != NOT_RECORDED
    return Rows(
        trace.model.layers,
        max(trace.model.num_experts),
        trace.experts,
        sets,
        recorded,
        recorded.all(axis=0),
        codes,
        neighbours,
        list(pairwise(starts)),
        trace.weights,
        None if (ids == NO_TOKEN_ID).all() else ids,
    )
