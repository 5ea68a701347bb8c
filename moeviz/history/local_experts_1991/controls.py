"""The mixture of 1991 with a part of it broken, and the claims that must miss then."""

import numpy as np

from moeviz.history.local_experts_1991 import model
from moeviz.history.local_experts_1991.checks import ONE_ANSWERS, claims
from moeviz.history.local_experts_1991.model import ERRORS, competitive, cooperative, mixture_likelihood
from moeviz.history.shared import vowels
from moeviz.history.shared.controls import Control
from moeviz.history.shared.vowels import VOWELS

Terms = tuple[np.ndarray, np.ndarray, np.ndarray]
TOLD = "which vowel an expert takes is told to the gate"


def _even_gate(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """The gate stays as it starts: without a preference."""
    error, by_output, by_logit = mixture_likelihood(outputs, gate, desired)
    return error, by_output, np.zeros_like(by_logit)


def _told(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """No competition: each vowel has its expert from the start. Samples are in the order speaker, vowel, repetition."""
    vowel = np.arange(len(desired)) // 2 % len(VOWELS) % gate.shape[1]
    own = np.eye(gate.shape[1])[vowel]
    error, _, _ = mixture_likelihood(outputs, gate, desired)
    return error, -own * (desired[:, None] - outputs), gate - own


def _small_steps(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """Half the step: that of the other two errors, whose gradients have a factor 2."""
    error, by_output, by_logit = mixture_likelihood(outputs, gate, desired)
    return error, by_output / 2, by_logit / 2


def _large_steps(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """The first error at the step of the third: too large for it."""
    return cooperative(outputs, gate, desired)


def _half(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """The first error, its factor 2 taken out."""
    error, by_output, by_logit = cooperative(outputs, gate, desired)
    return error, by_output / 2, by_logit / 2


def _backwards(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """Experts learn the opposite answers."""
    return mixture_likelihood(outputs, gate, 1 - desired)


def _instead(error) -> tuple:
    return model, "ERRORS", ERRORS | {"mixture likelihood": error}


CONTROLS = (
    Control("experts learn by the first error", _instead(_half), (ONE_ANSWERS,), claims),
    Control("a step half as long", _instead(_small_steps), ("mean epochs",), claims),
    Control(
        "the first error at the step of the third", _instead(_large_steps), ("standard deviation of epochs",), claims
    ),
    Control(TOLD, _instead(_told), ("experts, most of any run",), claims),
    Control("experts learn the opposite", _instead(_backwards), ("mean accuracy", "reach error"), claims),
    Control("the gate stays uniform", _instead(_even_gate), ("experts, fewest of any run", "any other expert"), claims),
    Control("experts learn by the second error", _instead(competitive), ("reach error",), claims),
    Control("a task that one line can do", (vowels, "ONES", (0, 1)), ("only 1 expert",), claims),
)
