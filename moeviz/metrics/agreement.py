"""Two traces of the same tokens, in two precisions or from two checkpoints: where do they choose different experts?"""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.metrics.budget import check_cells
from moeviz.routing_trace import NO_EXPERT, RoutingTrace


def set_changes(reference: RoutingTrace, other: RoutingTrace, tied: np.ndarray | None = None) -> pd.DataFrame:
    """What share of tokens another trace sends to a different set of experts, layer by layer.

    One row per layer. Columns: layer int32 · tokens int64 · changed float64 (share of tokens whose set of experts
    differs) · tied float64 (share of tokens with a different set where `tied` (L, T) says that the reference's choice
    was a tie at the boundary of the top-k; NaN without `tied`) · flipped float64 (changed - tied) · first_changed
    float64 (share of tokens with a different first choice) · overlap float64 (mean share of the reference's experts
    that the other trace also has).

    Raises `InvalidTrace` if the traces are of different tokens or different layers.

    Source: simple counting; overlap is recall of the top-k, as in OLMoE's router saturation (arXiv 2409.02060, section
    5.1).
    """
    _check_alike(reference, other)
    changed = (_sets(reference, other) != _sets(other, reference)).any(axis=2)
    ties = np.full(len(changed), np.nan) if tied is None else (changed & tied).mean(axis=1)
    check_cells("Overlap", reference.experts.size, 2**24, 1024, choices=reference.experts.size, slots=other.model.top_k)
    filled = reference.experts != NO_EXPERT
    shared = filled & (reference.experts[..., None] == other.experts[..., None, :]).any(axis=3)
    return pd.DataFrame(
        {
            "layer": np.array(reference.model.layers, np.int32),
            "tokens": np.int64(changed.shape[1]),
            "changed": changed.mean(axis=1),
            "tied": ties,
            "flipped": changed.mean(axis=1) - ties,
            "first_changed": (reference.experts[..., 0] != other.experts[..., 0]).mean(axis=1),
            "overlap": shared.sum(axis=(1, 2)) / np.maximum(filled.sum(axis=(1, 2)), 1),
        }
    )


def _sets(trace: RoutingTrace, beside: RoutingTrace) -> np.ndarray:
    """The sorted experts of each token, with empty slots where the other trace has more."""
    missing = max(beside.experts.shape[2] - trace.experts.shape[2], 0)
    return np.sort(np.pad(trace.experts, ((0, 0), (0, 0), (0, missing)), constant_values=NO_EXPERT))


def _check_alike(reference: RoutingTrace, other: RoutingTrace) -> None:
    counts = len(reference.tokens), len(other.tokens)
    if counts[0] != counts[1]:
        raise InvalidTrace(
            f"Two traces are compared token by token only if they are of the same text; these have {counts[0]:,} and "
            f"{counts[1]:,} tokens. Give two traces of the same prompt."
        )
    if reference.model.layers != other.model.layers:
        raise InvalidTrace(
            f"Traces of layers {reference.model.layers} and {other.model.layers} cannot be compared choice by choice. "
            "Give two traces of models with the same layers."
        )
    same = reference.tokens["token_id"].to_numpy() == other.tokens["token_id"].to_numpy()
    if not same.all():
        first = int(np.flatnonzero(~same)[0])
        raise InvalidTrace(
            f"The traces have different tokens from token {first} on: {reference.tokens['text'].iloc[first]!r} and "
            f"{other.tokens['text'].iloc[first]!r}. Give two traces of the same prompt."
        )
