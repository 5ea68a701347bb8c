"""Any number of traces side by side, of models that have nothing in common except that they route."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.errors import MissingField
from moeviz.metrics.confidence import router_entropy
from moeviz.metrics.inputs import check_recorded
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace

OVER_TIME = "time step"  # a layer of this kind has the experts of the one before it


def work_side_by_side(traces: Mapping[str, RoutingTrace]) -> pd.DataFrame:
    """Compute the division of work among the experts of each trace's last layer, and the confidence of its router.

    Every token counts as 1, divided among its experts in proportion to their weights; that way, gates that send
    everything to all experts can be compared with those that choose one. Weights below 0 count as 0; a token without a
    positive weight counts for its first choice, and if a trace has no weights, the experts of a token count equally. A
    token without an expert does not count, nor does one that is not recorded. If layers are time steps, each token is
    taken at its last one. The shares of a trace sum to 1; the uniform share is 1 / E. Entropy is the mean of H / ln E
    over tokens in the last layer: 0 if the router is certain, 1 if it has no preference.

    One row per trace and expert, including unused ones. Columns: trace str · layer int32 (its last) · layer_kind str ·
    expert, num_experts int16 · share float64 · used float64 (mean number of experts per token) · entropy float64 (NaN
    if the trace does not say).

    Source: importance, Shazeer et al. (arXiv 1701.06538), eq. 6, divided by its sum; Shannon (1948), section 6.
    """
    return pd.concat([_of(name, trace) for name, trace in traces.items()], ignore_index=True)


def _of(name: str, trace: RoutingTrace) -> pd.DataFrame:
    at, num_experts = _ends(trace), trace.model.num_experts[-1]
    check_recorded(trace.select(layers=trace.model.layers[-1:]))
    token = np.flatnonzero(trace.experts[at, np.arange(len(at)), 0] != NOT_RECORDED)
    experts = trace.experts[at[token], token]
    parts = _parts(experts, None if trace.weights is None else trace.weights[at[token], token])
    filled = experts >= 0
    work = np.bincount(experts[filled], weights=parts[filled], minlength=num_experts)
    columns = {
        "trace": pd.Series([name] * num_experts, dtype="str"),
        "layer": np.int32(trace.model.layers[-1]),
        "layer_kind": pd.Series([trace.model.layer_kind] * num_experts, dtype="str"),
        "expert": np.arange(num_experts, dtype=np.int16),
        "num_experts": np.int16(num_experts),
        "share": work / max(work.sum(), np.finfo(float).tiny),
        "used": float(filled.sum(axis=1).mean()),
        "entropy": _entropy(trace.select(layers=trace.model.layers[-1:])),
    }
    return pd.DataFrame(columns)


def _ends(trace: RoutingTrace) -> np.ndarray:
    """Return the row of axis L at which each token is taken."""
    last = len(trace.model.layers) - 1
    if trace.model.layer_kind != OVER_TIME:
        return np.full(len(trace.tokens), last)
    ends: np.ndarray = last - (trace.experts[::-1, :, 0] >= 0).argmax(axis=0)
    return ends


def _parts(experts: np.ndarray, weights: np.ndarray | None) -> Float64[np.ndarray, "T K"]:
    """Divide each token among its slots; the parts of a token that has an expert sum to 1."""
    filled = experts >= 0
    parts = filled.astype(np.float64) if weights is None else np.maximum(weights, 0).astype(np.float64)
    parts[:, 0] = np.where((parts.sum(axis=1) == 0) & filled[:, 0], 1, parts[:, 0])
    shares: np.ndarray = parts / np.maximum(parts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return shares


def _entropy(trace: RoutingTrace) -> float:
    try:
        return float(router_entropy(trace)["share"].iloc[0])
    except MissingField:
        return np.nan
