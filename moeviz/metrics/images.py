"""Where the tokens of an image go: the box and the first expert of each, and how images and text share the experts."""

import numpy as np
import pandas as pd

from moeviz.errors import MissingField
from moeviz.image_tokens import BOX, IMAGE, TEXT
from moeviz.metrics.specialization import information_of_counts
from moeviz.routing_trace import RoutingTrace


def patches(trace: RoutingTrace, image: int = 0, view: str | None = None) -> pd.DataFrame:
    """Return the first expert of each patch of an image, in each layer.

    image  its number.
    view   "whole", "tile" or "overview"; default: of the views that its tokens have, the one with the whole image.

    Columns: layer int32 · token int32 (row of the trace) · expert int16 · weight float32 (NaN if unknown) · x0, y0, x1,
    y1 float32, in pixels. Only tokens with a box are here. Raises `MissingField` if none of the image has one, or first
    choices are not known.
    """
    first, tokens = trace.first_choices("Patches of an image"), trace.tokens
    views = image_views(trace, image)
    if not views:
        raise MissingField("The boxes of this image's tokens are not known, so there is no picture of where they go.")
    chosen = views[-1] if view is None else view
    rows = np.flatnonzero((tokens["image"] == image) & (tokens["view"] == chosen) & tokens["x0"].notna())
    weights = np.full(first.shape, np.nan, np.float32) if trace.weights is None else trace.weights[..., 0]
    at = tokens[[*BOX]].iloc[rows].reset_index(drop=True)
    parts = [
        at.assign(layer=np.int32(layer), token=rows.astype(np.int32), expert=ids[rows], weight=weight[rows])
        for layer, ids, weight in zip(trace.model.layers, first, weights, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[["layer", "token", "expert", "weight", *BOX]]


def image_views(trace: RoutingTrace, image: int = 0) -> list[str]:
    """Return the views that the placed tokens of an image have: tile before overview, or whole."""
    tokens = trace.tokens
    if "image" not in tokens:
        return []
    return sorted(set(tokens["view"][(tokens["image"] == image) & tokens["x0"].notna()]), reverse=True)


def shares_of_kinds(trace: RoutingTrace) -> pd.DataFrame:
    """Return which share of the image tokens, and of the tokens of text, each expert of each layer takes.

    A token counts for each of its experts, so the shares of a layer sum to its experts per token. Marks around images
    count for neither. Columns: layer int32 · expert int16 · image, text float64. Raises `MissingField` if the trace has
    no image tokens, or no text.
    """
    of = _rows_of_kinds(trace)
    parts = []
    for layer, ids, count in zip(trace.model.layers, trace.experts, trace.model.num_experts, strict=True):
        shares = {
            name: np.bincount(ids[rows][ids[rows] >= 0], minlength=count) / len(rows) for name, rows in of.items()
        }
        parts.append(pd.DataFrame({"layer": np.int32(layer), "expert": np.arange(count, dtype=np.int16), **shares}))
    return pd.concat(parts, ignore_index=True)


def kind_information(trace: RoutingTrace) -> pd.DataFrame:
    """Return how well the experts of each layer tell image tokens from text, in bits: both alike often, 1 at most.

    Every token counts for each of its experts. An untrained router parts the two as well (`moeviz.analyses.untrained`).
    Columns: layer int32 · information float64. Raises `MissingField` if the trace has no image tokens, or no text.
    """
    rows = _rows_of_kinds(trace).values()
    bits = [
        information_of_counts(np.stack([np.bincount(ids[at][ids[at] >= 0], minlength=count) for at in rows]))
        for ids, count in zip(trace.experts, trace.model.num_experts, strict=True)
    ]
    return pd.DataFrame({"layer": np.array(trace.model.layers, np.int32), "information": bits})


def _rows_of_kinds(trace: RoutingTrace) -> dict[str, np.ndarray]:
    kind = trace.tokens["kind"] if "kind" in trace.tokens else pd.Series(dtype="str")
    of = {name: np.flatnonzero(kind == name) for name in (IMAGE, TEXT)}
    if not all(map(len, of.values())):
        raise MissingField("Comparing images with text needs a trace with tokens of both.")
    return of
