"""A second recording of the same text, as another engine might give it."""

from dataclasses import replace

import numpy as np

from moeviz import RoutingTrace


def noisy(trace: RoutingTrace, size: float, seed: int = 1) -> RoutingTrace:
    """The same tokens by an engine whose logits are a little different."""
    logits = trace.logits + np.random.default_rng(seed).normal(size=trace.logits.shape).astype(np.float32) * np.float32(
        size
    )
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., : trace.model.top_k].astype(np.int16)
    return replace(trace, experts=chosen, weights=None, logits=logits)


def late(trace: RoutingTrace, by: int) -> RoutingTrace:
    """Rows of routing that stand `by` tokens too early, and tokens that stand where they were."""
    tokens = trace.tokens.iloc[: len(trace.tokens) - by].reset_index(drop=True)
    return RoutingTrace(trace.model, tokens, trace.experts[:, by:])
