"""A trace that has everything a format may keep, and what each format gives back of it."""

import numpy as np
import pandas as pd
import pytest

from moeviz.formats.exports import EXPORTS, read_bytes
from moeviz.model_info import ModelInfo, ParameterCounts
from moeviz.routing_trace import RoutingTrace, token_frame

READABLE = [export for export in EXPORTS if export.read]
EVERY = pytest.mark.parametrize("export", READABLE, ids=lambda export: export.suffix)
TABLES = pytest.mark.parametrize("export", EXPORTS[:2], ids=lambda export: export.suffix)


def rich_trace() -> RoutingTrace:
    """Two layers of 4 and 2 experts, labels, two sequences out of order, and tokens that fill no slot at all."""
    experts = np.array([[[3, 0], [-1, -1], [2, -1], [-1, -1]], [[1, 0], [-1, -1], [0, -1], [-1, -1]]], np.int16)
    weights = np.array([[[0.7, 0.1], [0, 0], [0.3, 0], [0, 0]], [[2.5, 1e-42], [0, 0], [-0.5, 0], [0, 0]]], np.float32)
    logits = np.arange(32, dtype=np.float32).reshape(2, 4, 4) / 7
    logits[1, :, 2:] = -np.inf
    parameters = ParameterCounts(100, 0, 40, 8, 60, 5, 0, 2, per_expert=(15, 9))
    model = ModelInfo(
        "lab/tiny", "transformers", (1, 5), (4, 2), 2, "sigmoid", 6, "bfloat16", "abc123", parameters, "layer"
    )
    sequence, position = np.array([1, 1, 0, 0]), np.array([0, 1, 7, 8])
    tokens = token_frame(
        sequence, position, ["a", "", "=c", "NA"], np.array([5, -1, 7, 8]), ["prompt"] * 3 + ["generated"]
    )
    return RoutingTrace(
        model, tokens.assign(label=pd.Series(["fr", "", "-en", "NA"], dtype="str")), experts, weights, logits
    )


def again(export, trace: RoutingTrace) -> RoutingTrace:
    return read_bytes(export.write(trace), f"trace{export.suffix}")
