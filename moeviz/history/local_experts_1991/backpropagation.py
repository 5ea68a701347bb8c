"""The rival in the paper of 1991: one network of a hidden layer, trained by backpropagation on the same vowels.

Sigmoid units, half the squared error, plain gradient descent over all training samples.

Source: Rumelhart, Hinton & Williams, Nature 323:533-536 (1986).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from moeviz.history.local_experts_1991.model import MAX_EPOCHS, STOP_AT
from moeviz.history.shared.activations import sigmoid
from moeviz.history.shared.vowels import Vowels, encode

HIDDEN = {2: 3, 4: 6, 8: 12}  # units of the network with about as many parameters as so many experts
STEP = 14.0  # the fastest of 6, 10, 14 and 20, as the paper chose one for each system
START = 0.5  # at ±0.1 the hidden units take long to part


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained network, and how it got there."""

    error_by_epoch: Float64[np.ndarray, " epochs"]  # average squared error on the training speakers, epoch 0 first
    epochs: int | None  # needed to reach STOP_AT; None where it did not
    train_accuracy: float  # share of the training samples on the right side of 0.5
    test_accuracy: float


def train_network(data: Vowels, hidden: int, seed: int, step: float = STEP) -> Network:
    """Train a network of so many hidden units until its error is 0.08. The same arguments, the same result."""
    inputs, desired = encode(data)
    mine, wanted = inputs[data.training], desired[data.training]
    rng = np.random.default_rng(seed)
    below = rng.uniform(-START, START, (inputs.shape[1], hidden))
    above = rng.uniform(-START, START, hidden + 1)
    errors: list[float] = []
    while True:
        units = sigmoid(mine @ below)
        output = sigmoid(units @ above[:-1] + above[-1])
        errors.append(float(((wanted - output) ** 2).mean()))
        if errors[-1] <= STOP_AT or len(errors) > MAX_EPOCHS:
            break
        push = (output - wanted) * output * (1 - output)
        pushed = push[:, None] * above[:-1] * units * (1 - units)
        above = above - step * np.append(push @ units, push.sum()) / len(mine)
        below = below - step * mine.T @ pushed / len(mine)
    right = (sigmoid(sigmoid(inputs @ below) @ above[:-1] + above[-1]) > 0.5) == (desired > 0.5)
    return Network(
        error_by_epoch=np.array(errors),
        epochs=len(errors) - 1 if errors[-1] <= STOP_AT else None,
        train_accuracy=float(right[data.training].mean()),
        test_accuracy=float(right[~data.training].mean()),
    )
