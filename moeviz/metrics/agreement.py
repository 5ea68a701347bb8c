"""Two traces of the same tokens, in two precisions or from two checkpoints: where do they choose different experts?"""

import numpy as np
import pandas as pd
from jaxtyping import Int16

from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.budget import check_cells
from moeviz.metrics.recorded import of_tokens
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace


@of_tokens
def set_changes(reference: RoutingTrace, other: RoutingTrace, tied: np.ndarray | None = None) -> pd.DataFrame:
    """What share of tokens another trace sends to a different set of experts, layer by layer.

    One row per layer at which tokens are recorded in both. Columns: layer int32 · tokens int64 (those) · changed
    float64 (share of tokens whose set of experts differs) · tied float64 (share of tokens with a different set where
    `tied` (L, T) says that the reference's choice was a tie at the boundary of the top-k; NaN without `tied`) · flipped
    float64 (changed - tied) · first_changed float64 (share of tokens with a different first choice; NaN if a trace does
    not say which that is) · overlap float64 (mean share of the reference's experts that the other trace also has).

    Raises `InvalidTrace` if the traces are of different tokens or different layers, and `MissingField` if no token is
    recorded in both.

    Source: simple counting; overlap is recall of the top-k, as in OLMoE's router saturation (arXiv 2409.02060, section
    5.1).
    """
    _check_alike(reference, other)
    check_cells("Overlap", reference.experts.size, 2**24, 1024, choices=reference.experts.size, slots=other.model.top_k)
    rows = []
    for row, layer in enumerate(reference.model.layers):
        both = (reference.experts[row, :, 0] != NOT_RECORDED) & (other.experts[row, :, 0] != NOT_RECORDED)
        if both.any() or not len(both):
            mine, theirs = reference.experts[row, both], other.experts[row, both]
            facts = {"layer": layer, "tokens": len(mine)}
            rows.append(facts | _changes(mine, theirs, None if tied is None else tied[row, both]))
    if not rows:
        raise MissingField("No token is recorded in both traces, so there is nothing to compare. Choose another trace.")
    known = reference.ordered and other.ordered
    frame = pd.DataFrame(rows).astype({"layer": np.int32, "tokens": np.int64})
    return frame.assign(first_changed=frame["first_changed"] if known else np.nan)


def _changes(
    mine: Int16[np.ndarray, "T K"], theirs: Int16[np.ndarray, "T J"], tied: np.ndarray | None
) -> dict[str, float]:
    """How the choices of one layer differ: `first_changed` takes slot 0 for the first choice."""
    changed = (_sets(mine, theirs) != _sets(theirs, mine)).any(axis=1)
    ties = np.nan if tied is None else (changed & tied).mean()
    filled = mine >= 0
    shared = filled & (mine[..., None] == theirs[:, None, :]).any(axis=2)
    return {
        "changed": changed.mean(),
        "tied": ties,
        "flipped": changed.mean() - ties,
        "first_changed": (mine[:, 0] != theirs[:, 0]).mean(),
        "overlap": shared.sum() / max(filled.sum(), 1),
    }


def _sets(experts: Int16[np.ndarray, "T K"], beside: Int16[np.ndarray, "T J"]) -> np.ndarray:
    """The sorted experts of each token, with empty slots where the other trace has more."""
    missing = max(beside.shape[1] - experts.shape[1], 0)
    return np.sort(np.pad(experts, ((0, 0), (0, missing)), constant_values=NO_EXPERT))


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
