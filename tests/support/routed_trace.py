"""A trace with the experts that a test writes down."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from moeviz import ModelInfo, RoutingTrace
from moeviz.expert_outputs import ExpertOutputs
from moeviz.routing_trace import NO_EXPERT, token_frame


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


def with_outputs() -> RoutingTrace:
    """Two slots, three tokens "a b a" in two texts, three experts of layer 4, worked by hand.

    norms 2 4 / 6 8 / 10 -: expert 0 has 2, 8 and 10, expert 1 has 4 and 6. Weights 3/4 and 1/4, then 1.
    """
    weights = np.array([[[0.75, 0.25], [0.75, 0.25], [1, 0]]], np.float32)
    norm = np.array([[[2, 4], [6, 8], [10, 0]]], np.float32)
    outputs = ExpertOutputs(norm, norm * weights, norm / 2, np.sign(norm), -np.sign(norm) / 2)
    texts = {"text": list("aba"), "token_id": [1, 2, 1], "weights": weights}
    return replace(routed([[[0, 1], [1, 0]], [[0, NO_EXPERT]]], 3, layers=(4,), **texts), outputs=outputs)
