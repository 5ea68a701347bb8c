"""A trace with the experts that a test writes down."""

import numpy as np

from moeviz import ModelInfo, RoutingTrace
from moeviz.routing_trace import token_frame


def routed(sequences: list[list[list[int]]], num_experts: int) -> RoutingTrace:
    """A trace of one layer, 2: for each sequence the experts of each token."""
    sequence = np.repeat(np.arange(len(sequences)), [len(tokens) for tokens in sequences])
    position = np.concatenate([np.arange(len(tokens)) for tokens in sequences])
    chosen = np.array([slots for tokens in sequences for slots in tokens], np.int16)
    return RoutingTrace(
        model=ModelInfo("by hand", "test", layers=(2,), num_experts=(num_experts,), top_k=chosen.shape[1]),
        tokens=token_frame(sequence, position, ["x"] * len(sequence)),
        experts=chosen[None],
    )
