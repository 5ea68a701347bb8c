"""Recognise a router's score function by what it did, instead of trusting a class name or a config."""

from collections.abc import Sequence

import numpy as np

from moeviz.model_info import ScoreFunction
from moeviz.routing_trace import normalised_scores

FUNCTIONS: tuple[ScoreFunction, ...] = ("softmax", "sigmoid", "sqrt_softplus")
TOLERANCE = 0.02  # weights in bfloat16 carry errors of 0.4%; a wrong function is off by far more on real logits
CLEARLY_BETTER = 4


def score_function(samples: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ScoreFunction:
    """Find the function that explains the weights, from rows of (logits (T, E), weights (T, K), experts (T, K)).

    Weights are scores of the chosen experts up to a factor per token (renormalising, scaling), so within a row the
    ratios of weights equal the ratios of scores. "unknown" if no function fits, or if two fit about equally well. With
    one slot per token there are no ratios to compare; then "softmax" if the weights are its probabilities.
    """
    if samples and all(weights.shape[-1] == 1 for _, weights, _ in samples):
        return "softmax" if all(_are_probabilities(*sample) for sample in samples) else "unknown"
    errors = {name: max((_misfit(name, *sample) for sample in samples), default=np.inf) for name in FUNCTIONS}
    best, second = sorted(FUNCTIONS, key=errors.__getitem__)[:2]
    clear = errors[best] <= TOLERANCE and errors[second] > CLEARLY_BETTER * errors[best]
    return best if clear else "unknown"


def _are_probabilities(logits: np.ndarray, weights: np.ndarray, experts: np.ndarray) -> bool:
    chosen = (experts >= 0) & (weights > 0)
    scores = np.take_along_axis(normalised_scores(logits, "softmax"), np.where(chosen, experts, 0).astype(np.int64), -1)
    return bool(chosen.any() and np.abs(scores - weights)[chosen].max() <= TOLERANCE)


def _misfit(name: str, logits: np.ndarray, weights: np.ndarray, experts: np.ndarray) -> float:
    chosen = (experts >= 0) & (experts < logits.shape[-1]) & (weights > 0)
    scores = np.take_along_axis(normalised_scores(logits, name), np.where(chosen, experts, 0).astype(np.int64), -1)
    # A row holds for one factor: compare each slot's share of the row's weights with its share of the row's scores.
    weights, scores = np.where(chosen, weights, 0), np.where(chosen, scores, 0)
    shares = [part / np.maximum(part.sum(-1, keepdims=True), 1e-30) for part in (weights, scores)]
    return float(np.abs(shares[0] - shares[1]).max(initial=0))
