"""The trace on which the reference figures of `tests/data/serving` were computed, and those figures."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz import ModelInfo, RoutingTrace
from moeviz.routing_trace import sort_slots, token_frame

HERE = Path(__file__).parents[1] / "data" / "serving"


@cache
def reference_trace() -> RoutingTrace:
    """The embedded model on one held-out text of each of 15 kinds: 8,502 tokens, 6 layers, top-2 of 8 experts."""
    arrays = np.load(HERE / "embedded_trace.npz")
    lengths = arrays["lengths"]
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    tokens = token_frame(sequence, position, ["x"] * len(sequence), arrays["token_ids"])
    experts, weights = sort_slots(arrays["ids"].astype(np.int16), arrays["weights"])
    model = ModelInfo("embedded", "test", tuple(range(6)), (8,) * 6, 2, num_layers=6)
    return RoutingTrace(model, tokens, experts, weights)


def figures(name: str) -> pd.DataFrame:
    """A table of reference figures."""
    return pd.read_csv(HERE / f"{name}.csv")
