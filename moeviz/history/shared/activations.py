"""The functions that squash the outputs of gates and experts."""

import numpy as np


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−z), written so that it overflows for no z."""
    return (1 + np.tanh(values / 2)) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Positive numbers in proportion to e^x; each row sums to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
