"""The confidence of the routers. This needs router logits: the weights of the chosen experts do not show it."""

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.inputs import needs_tokens
from moeviz.metrics.tokens import token_columns
from moeviz.metrics.words import one_row
from moeviz.routing_trace import RoutingTrace

CLEARLY_APART = 0.05  # medians, for a caption
QUANTILES = {"q10": 0.1, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q90": 0.9}


@needs_tokens
def router_entropy(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the indecision of each layer's router: 0 if it is certain of one expert, 1 if all seem equally good.

    Entropy of the router's probabilities over all experts of the layer, chosen or not: H = -sum p ln p of each token,
    then its mean over tokens. `share` is H / ln E, so that layers with different numbers of experts compare.

    One row per layer. Columns: layer int32 · entropy float64 (mean, nats) · maximum float64 (ln E, nats) · share
    float64 (mean of H / ln E) · q10, q25, q50, q75, q90 float64 (quantiles over tokens of H / ln E). A layer with one
    expert has nothing to decide: all its shares are NaN. Raises `MissingField` if the trace has no logits, or does not
    say how the router turns them into probabilities.

    Source: Shannon (1948), section 6, of the routing distribution.
    """
    entropy = _entropy(trace, "Router entropy")
    maximum = np.log(trace.model.num_experts)
    share = entropy / _nan_for_zero(maximum)
    columns = {"entropy": _mean(entropy), "maximum": maximum, "share": _mean(share)}
    return pd.DataFrame({"layer": np.asarray(trace.model.layers, np.int32)} | columns | _quantiles(share))


@needs_tokens
def top_margin(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the lead of the router's most probable expert over the second: 0 is a tie, 1 is complete certainty.

    Probability of the most probable expert minus that of the second, among all experts of the layer. The most probable
    expert is almost always the first choice, but not under a balancing bias, which moves choices and not probabilities.

    One row per layer. Columns: layer int32 · margin float64 (mean over tokens) · top float64 (mean probability of the
    most probable expert) · q10, q25, q50, q75, q90 float64 (quantiles over tokens of the margin). A layer with one
    expert has margin 1. Raises `MissingField` if the trace has no logits, or does not say how the router turns them
    into probabilities.

    Source: margin of a classifier, Scheffer, Decomain & Wrobel (2001), of the routing distribution.
    """
    probabilities = trace.probabilities("The top-1 to top-2 margin")
    second, top = np.stack([_two_highest(layer) for layer in probabilities], axis=1)
    columns = {"margin": _mean(top - second), "top": _mean(top)}
    return pd.DataFrame({"layer": np.asarray(trace.model.layers, np.int32)} | columns | _quantiles(top - second))


@needs_tokens
def token_entropy(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the entropy of every token at every layer, which shows where in the text each router was undecided.

    One row per token and layer. Columns: token, sequence, position, text, phase (as in `token_layer`) · layer int32 ·
    entropy float64 (nats) · share float64 (of ln E; NaN if the layer has one expert). Raises `MissingField` as
    `router_entropy` does.

    Source: Shannon (1948), section 6, of the routing distribution.
    """
    entropy = _entropy(trace, "Router entropy")
    share = entropy / _nan_for_zero(np.log(trace.model.num_experts))
    frame = token_columns(trace, len(trace.model.layers))
    layers = np.tile(np.asarray(trace.model.layers, np.int32), len(trace.tokens))
    return frame.assign(layer=layers, entropy=entropy.T.ravel(), share=share.T.ravel())


def _entropy(trace: RoutingTrace, why: str) -> np.ndarray:
    return np.stack([_entropy_of_layer(layer) for layer in trace.probabilities(why)])


def _entropy_of_layer(probabilities: np.ndarray) -> np.ndarray:
    p = probabilities.astype(np.float64)
    entropy: np.ndarray = np.abs((p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1))
    return entropy


def _two_highest(probabilities: np.ndarray) -> np.ndarray:
    """Return the second highest and highest of each row, (2, T); a single expert's rival has probability 0."""
    padded = np.pad(probabilities.astype(np.float64), ((0, 0), (1, 0)))
    return np.partition(padded, -2, axis=-1)[:, -2:].T


def _nan_for_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.nan, values)[:, None]


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)


def _quantiles(values: np.ndarray) -> dict[str, np.ndarray]:
    if not values.shape[1]:
        return dict.fromkeys(QUANTILES, np.full(len(values), np.nan))
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=1), strict=True))


def entropy_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layers are the most and the least undecided, if the middle halves of their tokens do not meet."""
    found = _furthest_apart(frame)
    return found and captions.undecided(*found)


def margin_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim in which layers the most probable expert leads most and least, under the same conditions."""
    found = _furthest_apart(frame)
    return found and captions.ahead(*found)


def _furthest_apart(frame: pd.DataFrame) -> tuple[int, int, float, float] | None:
    if not (frame["q10"] < frame["q90"]).any():  # one token, or one expert
        return None
    high, low = one_row(frame, frame["q50"].idxmax()), one_row(frame, frame["q50"].idxmin())
    if not (high.q25 > low.q75 and high.q50 >= low.q50 + CLEARLY_APART):
        return None
    return high.layer, low.layer, high.q50, low.q50
