"""A trace with the experts that a test writes down."""

from typing import Any

import numpy as np
import pandas as pd

from moeviz import ModelInfo, RoutingTrace
from moeviz.routing_trace import token_frame


def trace_of(experts: Any, num_experts: int | tuple[int, ...] = 8, **given: Any) -> RoutingTrace:
    """A trace of these experts (layers, tokens, slots); else one text of words, at layers 0, 1 …, with ids alone.

    Given may be weights, logits, columns of the tokens, and facts of the model.
    """
    experts = np.asarray(experts, np.int16)
    layers, tokens, slots = experts.shape
    arrays = {name: np.array(given.pop(name), np.float32) for name in ("weights", "logits") if name in given}
    columns = {"sequence": np.zeros(tokens), "position": np.arange(tokens), "text": [f" w{n}" for n in range(tokens)]}
    columns |= {name: given.pop(name) for name in (*columns, "phase") if name in given}
    ids = given.pop("token_id", None)
    frame = token_frame(**columns, token_id=None if ids is None else np.array(ids))
    if "label" in given:
        frame["label"] = pd.Series(given.pop("label"), dtype="str")
    sizes = num_experts if isinstance(num_experts, tuple) else (num_experts,) * layers
    facts = {"name": "by hand", "backend": "test", "layers": tuple(range(layers)), "top_k": slots} | given
    return RoutingTrace(ModelInfo(num_experts=sizes, **facts), frame, experts, **arrays)


def routed(sequences: list[list[list[int]]], num_experts: int, **given: Any) -> RoutingTrace:
    """A trace of one layer, 2: for each sequence the experts of each token."""
    sequence = np.repeat(np.arange(len(sequences)), [len(tokens) for tokens in sequences])
    position = np.concatenate([np.arange(len(tokens)) for tokens in sequences])
    chosen = [[slots for tokens in sequences for slots in tokens]]
    more = {"layers": (2,), "text": ["x"] * len(sequence)} | given
    return trace_of(chosen, num_experts, sequence=sequence, position=position, **more)
