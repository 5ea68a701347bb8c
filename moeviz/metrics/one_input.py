"""One input and every expert: the numbers behind a drawing of boxes, one for each expert."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.metrics.words import layer_word
from moeviz.routing_trace import RoutingTrace


def experts_of_one(trace: RoutingTrace, token: int) -> pd.DataFrame:
    """List the experts of each layer, those that are computed for one token, and their weights.

    An expert is computed if the token has it in a slot; its weight is the factor on its output. An expert whose weight
    is nearly 0 is computed all the same. What only some systems have is left open: no expert refuses, and how busy an
    expert is, and for how many inputs it has room, is missing.

    One row per layer and expert. Columns: row str ("layer 3", in the trace's own word) · expert, experts int16 (of this
    layer) · computed bool · weight float64 (0 where not computed; 1 / experts computed if the trace has no weights) ·
    refused bool (False; by an expert that is full) · load, capacity float64 (inputs; NaN).

    Raises `InvalidTrace` for a token that is not there.

    Source: the definition; the drawing is our own.
    """
    if not 0 <= token < len(trace.tokens):
        raise InvalidTrace(f"There is no token {token} in this trace. Choose one from 0 to {len(trace.tokens) - 1}.")
    word = layer_word(trace.model)
    rows = [
        _of_layer(f"{word} {layer}", experts, *_slots(trace, row, token))
        for row, (layer, experts) in enumerate(zip(trace.model.layers, trace.model.num_experts, strict=True))
    ]
    return pd.concat(rows, ignore_index=True)


def _slots(trace: RoutingTrace, row: int, token: int) -> tuple[np.ndarray, np.ndarray]:
    """The experts of a token in a layer and their weights, filled slots alone."""
    experts = trace.experts[row, token]
    filled = experts >= 0
    if trace.weights is None:
        return experts[filled], np.full(filled.sum(), 1 / max(filled.sum(), 1))
    return experts[filled], trace.weights[row, token][filled].astype(np.float64)


def _of_layer(name: str, experts: int, chosen: np.ndarray, weights: np.ndarray) -> pd.DataFrame:
    computed, weight = np.zeros(experts, bool), np.zeros(experts)
    computed[chosen], weight[chosen] = True, weights
    return pd.DataFrame(
        {
            "row": pd.Series([name] * experts, dtype="str"),
            "expert": np.arange(experts, dtype=np.int16),
            "experts": np.int16(experts),
            "computed": computed,
            "weight": weight,
            "refused": False,
            "load": np.nan,
            "capacity": np.nan,
        }
    )
