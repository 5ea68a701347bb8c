"""A small corpus as a trace: what a dataset is compared with."""

from dataclasses import replace

import numpy as np
import pandas as pd

from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace


def texts_of(experts: int = 8, top_k: int = 2, tokens: int = 400) -> RoutingTrace:
    """Ten texts of two labels; one token lost a slot, and a stretch of tokens is not recorded at one layer."""
    trace = sample_trace(4, tokens, top_k, experts)
    each = tokens // 10
    labels = np.where(np.arange(tokens) // each < 6, "prose", "code")
    frame = trace.tokens.assign(
        sequence=(np.arange(tokens) // each).astype(np.int32), position=(np.arange(tokens) % each).astype(np.int32)
    ).assign(label=pd.Series(labels, dtype="str"))
    ids, weights = trace.experts.copy(), trace.weights.copy()
    ids[0, 3, 1:], weights[0, 3, 1:] = -1, 0
    ids[2, 7:30], weights[2, 7:30] = -2, 0
    return replace(trace, tokens=frame, experts=ids, weights=weights, logits=None)
