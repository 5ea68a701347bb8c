"""Small made-up traces, for tests and for examples in the docs. Never shown as if a model had made them."""

import numpy as np

from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, normalised_scores, sort_slots, token_frame

WORDS = ("The", " router", " sends", " each", " token", " to", " two", " experts", ".", "\n")


def sample_trace(layers: int = 4, tokens: int = 32, top_k: int = 2, experts: int = 8, seed: int = 0) -> RoutingTrace:
    """Return the trace of a softmax top-k router with random logits that favour some experts, the same for a seed.

    >>> sample_trace(layers=2, tokens=5).experts.shape
    (2, 5, 2)
    """
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(layers, tokens, experts)) + rng.normal(size=(layers, 1, experts))).astype(np.float32)
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k].astype(np.int16)
    scores = normalised_scores(np.take_along_axis(logits, chosen.astype(np.int64), -1), "softmax")
    chosen, weights = sort_slots(chosen, scores)
    prompt = tokens - tokens // 4
    return RoutingTrace(
        model=ModelInfo(
            name="sample",
            backend="sample",
            layers=tuple(range(layers)),
            num_experts=(experts,) * layers,
            top_k=top_k,
            score_function="softmax",
            num_layers=layers,
            dtype="float32",
        ),
        tokens=token_frame(
            sequence=np.zeros(tokens),
            position=np.arange(tokens),
            text=[WORDS[i % len(WORDS)] for i in range(tokens)],
            token_id=np.arange(tokens) % len(WORDS),
            phase=["prompt"] * prompt + ["generated"] * (tokens - prompt),
        ),
        experts=chosen,
        weights=weights,
        logits=logits,
    )
