"""The gater of a mixture of support vector machines: a small network that weighs them, with no softmax at its end.

N examples, D inputs, H hidden units, M experts.

Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002). That it is trained by Adam, and from even
weights, is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

STEPS = 300  # over all examples, in each iteration of the mixture
STEP = 0.02
MEMORY = (0.9, 0.999)  # how much of its averages Adam keeps


@dataclass(frozen=True, slots=True, eq=False)
class Gater:
    """A layer of tanh units and a linear one: weights of any sign and size, that sum to nothing in particular."""

    hidden: Float64[np.ndarray, "D H"]
    hidden_bias: Float64[np.ndarray, " H"]
    output: Float64[np.ndarray, "H M"]
    output_bias: Float64[np.ndarray, " M"]

    @property
    def numbers(self) -> tuple[np.ndarray, ...]:
        """All of them, in the order of the fields."""
        return self.hidden, self.hidden_bias, self.output, self.output_bias

    def units(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N H"]:
        """What the hidden units say, from −1 to 1."""
        return np.tanh(inputs @ self.hidden + self.hidden_bias)

    def weights(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N M"]:
        """wₘ(x): how much each expert counts for each example."""
        return self.units(inputs) @ self.output + self.output_bias


def new_gater(inputs: int, hidden: int, experts: int, rng: np.random.Generator) -> Gater:
    """A gater that weighs all experts about alike, 1 / M each: it begins as the uniform mixture."""
    return Gater(
        rng.normal(0, inputs**-0.5, (inputs, hidden)),
        rng.normal(0, 0.5, hidden),
        rng.normal(0, 0.1, (hidden, experts)),
        np.full(experts, 1 / experts),
    )


def mixed(weights: Float64[np.ndarray, "N M"], outputs: Float64[np.ndarray, "N M"]) -> Float64[np.ndarray, " N"]:
    """f(x) = tanh(Σₘ wₘ(x) sₘ(x)): what the mixture answers, from −1 to 1."""
    return np.tanh((weights * outputs).sum(axis=1))


def squared_error(
    gater: Gater,
    inputs: Float64[np.ndarray, "N D"],
    outputs: Float64[np.ndarray, "N M"],
    desired: Float64[np.ndarray, " N"],
) -> tuple[float, Gater]:
    """The mean of (f(x) − y)² with the experts as they are, and its gradient: a number for each one of the gater."""
    units = gater.units(inputs)
    answer = mixed(units @ gater.output + gater.output_bias, outputs)
    miss = answer - desired
    by_weight = (2 * miss * (1 - answer**2) / len(inputs))[:, None] * outputs
    by_unit = by_weight @ gater.output.T * (1 - units**2)
    gradient = Gater(inputs.T @ by_unit, by_unit.sum(axis=0), units.T @ by_weight, by_weight.sum(axis=0))
    return float((miss**2).mean()), gradient


def trained(
    gater: Gater,
    inputs: Float64[np.ndarray, "N D"],
    outputs: Float64[np.ndarray, "N M"],
    desired: Float64[np.ndarray, " N"],
    each_step: Callable[[int], None] = lambda step: None,
) -> Gater:
    """The gater after STEPS steps down the squared error of all examples, by Adam. `each_step` is called before each.

    Source: Kingma & Ba, Adam: A Method for Stochastic Optimization (arXiv 1412.6980), algorithm 1.
    """
    numbers = gater.numbers
    mean, square = ([np.zeros_like(number) for number in numbers] for _ in MEMORY)
    for step in range(1, STEPS + 1):
        each_step(step)
        gradient = squared_error(Gater(*numbers), inputs, outputs, desired)[1].numbers
        mean = [MEMORY[0] * old + (1 - MEMORY[0]) * new for old, new in zip(mean, gradient, strict=True)]
        square = [MEMORY[1] * old + (1 - MEMORY[1]) * new**2 for old, new in zip(square, gradient, strict=True)]
        fresh = [1 - memory**step for memory in MEMORY]
        numbers = tuple(
            number - STEP * (m / fresh[0]) / (np.sqrt(s / fresh[1]) + 1e-8)
            for number, m, s in zip(numbers, mean, square, strict=True)
        )
    return Gater(*numbers)
