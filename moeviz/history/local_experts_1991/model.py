"""Adaptive Mixtures of Local Experts: the first mixture of experts with a gate, trained as in 1991.

Every expert is a straight line through the plane of two formants, with a sigmoid output; so is every output of the
gate, with a softmax. One line cannot tell these vowels apart as asked here, so the experts must share the work.

Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), doi 10.1162/neco.1991.3.1.79. The paper
does not say how the classes are coded. One output per expert is our reading: it makes its numbers of parameters
agree, 24 for 4 experts against 25 for 6 hidden units. The steps are ours too: the paper searched one for each system
and does not print it, and the number of epochs goes with it. The first two errors are squares, whose gradient carries
a factor 2 that the third does not, so that a step of 10 moves them as far as one of 20 moves the third.

N samples, D inputs (F1 and F2 in kHz, and 1), E experts, R recorded epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.gates import check_samples, sigmoid, softmax, vowel_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.routing_trace import RoutingTrace

STOP_AT = 0.08  # average squared error on the training speakers
START = 0.1  # expert weights start uniform in ±0.1; all at 0 is a saddle
MAX_EPOCHS = 3000
RECORD_EVERY = 50

Terms = tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "N E"], Float64[np.ndarray, "N E"]]


def cooperative(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """Equation 1: the experts answer together. E = (d − Σᵢ pᵢ oᵢ)².

    Each expert is pushed to mend what all the others leave over. Returns E, ∂E/∂oᵢ and ∂E/∂xᵢ, x the gate's logits.
    """
    left = desired - (gate * outputs).sum(axis=1)
    by_gate = -2 * left[:, None] * outputs
    return left**2, -2 * gate * left[:, None], _through_softmax(gate, by_gate)


def competitive(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """Equation 2: one expert answers, drawn by the gate; the expected error. E = Σᵢ pᵢ (d − oᵢ)².

    Each expert is pushed to give the whole answer: ∂E/∂oᵢ = −2 pᵢ (d − oᵢ). Returns E, ∂E/∂oᵢ and ∂E/∂xᵢ.
    """
    miss = desired[:, None] - outputs
    return (gate * miss**2).sum(axis=1), -2 * gate * miss, _through_softmax(gate, miss**2)


def mixture_likelihood(outputs: np.ndarray, gate: np.ndarray, desired: np.ndarray) -> Terms:
    """Equation 3, the one of the paper: a mixture of Gaussians. E = −log Σᵢ pᵢ exp(−½ (d − oᵢ)²).

    With the posterior hᵢ = pᵢ exp(−½ (d − oᵢ)²) / Σⱼ pⱼ exp(−½ (d − oⱼ)²), ∂E/∂oᵢ = −hᵢ (d − oᵢ), so that the expert
    that fits a sample best learns it fastest, and ∂E/∂xᵢ = pᵢ − hᵢ. Returns E, ∂E/∂oᵢ and ∂E/∂xᵢ.
    """
    miss = desired[:, None] - outputs
    joint = gate * np.exp(-(miss**2) / 2)
    likelihood = joint.sum(axis=1)
    posterior = joint / likelihood[:, None]
    return -np.log(likelihood), -posterior * miss, gate - posterior


ERRORS: dict[str, Callable[..., Terms]] = {
    "cooperative": cooperative,
    "competitive": competitive,
    "mixture likelihood": mixture_likelihood,
}
# On the gradient averaged over the samples: of 5, 10, … 25 the largest before seeds differ by hundreds of epochs.
STEPS = {"cooperative": 10.0, "competitive": 10.0, "mixture likelihood": 20.0}


@dataclass(frozen=True, slots=True, eq=False)
class MixtureState:
    """The system at one epoch."""

    experts: Float64[np.ndarray, "D E"]  # a column is an expert's line: its output is 0.5 where inputs @ column is 0
    gate: Float64[np.ndarray, "D E"]
    error: float  # average squared error on the training speakers

    def logits(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Logits of the gate, before its softmax."""
        return inputs @ self.gate

    def proportions(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Return the mixing proportions pᵢ: each row sums to 1."""
        return softmax(self.logits(inputs))

    def outputs(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Answers of each expert, from 0 to 1."""
        return sigmoid(inputs @ self.experts)

    def answer(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
        """Answer of the mixture: Σᵢ pᵢ oᵢ."""
        return (self.proportions(inputs) * self.outputs(inputs)).sum(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveMixture:
    """A trained mixture, and how it got there."""

    settings: dict[str, int | float | str]  # experts, error, seed, step
    source: str  # of the data: says so where they are a stand-in
    recorded: tuple[int, ...]  # R epochs, 0 (before training) first, the last one trained last
    expert_lines: Float64[np.ndarray, "R D E"]
    gate_lines: Float64[np.ndarray, "R D E"]
    error_by_epoch: Float64[np.ndarray, " epochs"] = field(repr=False)  # average squared error, epoch 0 first
    epochs: int | None  # needed to reach STOP_AT; None if it did not
    train_accuracy: float  # share of the training samples on the right side of 0.5
    test_accuracy: float
    surviving: tuple[int, ...]  # experts with the highest proportion for at least one training sample

    def state(self, at: int = -1) -> MixtureState:
        """Return the mixture at one of its recorded epochs."""
        return MixtureState(self.expert_lines[at], self.gate_lines[at], float(self.error_by_epoch[self.recorded[at]]))


def train(
    data: Vowels | None = None,
    experts: int = 4,
    error: str = "mixture likelihood",
    seed: int = 0,
    step: float | None = None,
    max_epochs: int = MAX_EPOCHS,
    watch: Watch = unwatched,
) -> AdaptiveMixture:
    """Train a mixture on the first 50 speakers, by plain gradient descent over all samples, until its error is 0.08.

    No momentum, one update an epoch; the gate starts without a preference, the experts at random (`seed`). The step is
    the error's own, of STEPS, and the data are the stand-in, unless given. The same arguments, the same result. `watch`
    is called before each update.

    Raises `MoevizError` for an error function that is not in ERRORS, or fewer than 1 expert.
    """
    if error not in ERRORS or experts < 1:
        raise MoevizError(
            f"Got {experts} experts and the error {error!r}. Choose at least 1 expert, and one of {list(ERRORS)}."
        )
    data, step = stand_in() if data is None else data, STEPS[error] if step is None else step
    inputs, desired = encode(data)
    mine, wanted = inputs[data.training], desired[data.training]
    lines = np.random.default_rng(seed).uniform(-START, START, (inputs.shape[1], experts))
    gate, states = np.zeros_like(lines), []
    for epoch in range(max_epochs + 1):
        outputs, proportions = sigmoid(mine @ lines), softmax(mine @ gate)
        squared = float(((wanted - (proportions * outputs).sum(axis=1)) ** 2).mean())
        states.append(MixtureState(lines, gate, squared))
        watch(epoch / max_epochs, f"epoch {epoch}, average squared error {squared:.3f}")
        if squared <= STOP_AT:
            break
        _, by_output, by_logit = ERRORS[error](outputs, proportions, wanted)
        lines = lines - step * mine.T @ (by_output * outputs * (1 - outputs)) / len(mine)
        gate = gate - step * mine.T @ by_logit / len(mine)
    return _result(data, states, {"experts": experts, "error": error, "seed": seed, "step": step})


def _through_softmax(gate: np.ndarray, by_gate: np.ndarray) -> np.ndarray:
    """Compute ∂E/∂xᵢ from ∂E/∂pᵢ: pᵢ (∂E/∂pᵢ − Σⱼ pⱼ ∂E/∂pⱼ)."""
    return gate * (by_gate - (gate * by_gate).sum(axis=1, keepdims=True))


def _result(data: Vowels, states: list[MixtureState], settings: dict[str, int | float | str]) -> AdaptiveMixture:
    inputs, desired = encode(data)
    last = len(states) - 1
    recorded = tuple(sorted({*range(0, last, RECORD_EVERY), last}))
    right = (states[-1].answer(inputs) > 0.5) == (desired > 0.5)
    winners = states[-1].proportions(inputs[data.training]).argmax(axis=1)
    return AdaptiveMixture(
        settings=settings,
        source=data.source,
        recorded=recorded,
        expert_lines=np.stack([states[epoch].experts for epoch in recorded]),
        gate_lines=np.stack([states[epoch].gate for epoch in recorded]),
        error_by_epoch=np.array([state.error for state in states]),
        epochs=last if states[-1].error <= STOP_AT else None,
        train_accuracy=float(right[data.training].mean()),
        test_accuracy=float(right[~data.training].mean()),
        surviving=tuple(np.unique(winners).tolist()),
    )


# The rival in the paper of 1991: one network of a hidden layer, trained by backpropagation on the same vowels.
#
# Sigmoid units, half the squared error, plain gradient descent over all training samples.
#
# Source: Rumelhart, Hinton & Williams, Nature 323:533-536 (1986).

HIDDEN = {2: 3, 4: 6, 8: 12}  # experts, and hidden units of the network with about as many parameters
NETWORK_STEP = 14.0  # the fastest of 6, 10, 14 and 20, as the paper chose one for each system
NETWORK_START = 0.5  # at ±0.1 the hidden units take long to part


@dataclass(frozen=True, slots=True, eq=False)
class BackpropagationNetwork:
    """A trained network, and how it got there."""

    error_by_epoch: Float64[np.ndarray, " epochs"]  # average squared error on the training speakers, epoch 0 first
    epochs: int | None  # needed to reach STOP_AT; None if it did not
    train_accuracy: float  # share of the training samples on the right side of 0.5
    test_accuracy: float
    below: Float64[np.ndarray, "D hidden"]  # weights of the hidden units
    above: Float64[np.ndarray, " hidden_and_1"]  # weights of the output, its bias last

    def answer(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
        """Answer of the network, from 0 to 1."""
        return sigmoid(sigmoid(inputs @ self.below) @ self.above[:-1] + self.above[-1])


def train_network(data: Vowels, hidden: int, seed: int, step: float = NETWORK_STEP) -> BackpropagationNetwork:
    """Train a network with this number of hidden units until its error is 0.08. The same arguments, the same result."""
    inputs, desired = encode(data)
    mine, wanted = inputs[data.training], desired[data.training]
    rng = np.random.default_rng(seed)
    below = rng.uniform(-NETWORK_START, NETWORK_START, (inputs.shape[1], hidden))
    above = rng.uniform(-NETWORK_START, NETWORK_START, hidden + 1)
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
    epochs = len(errors) - 1 if errors[-1] <= STOP_AT else None
    trained = BackpropagationNetwork(np.array(errors), epochs, np.nan, np.nan, below, above)
    right = (trained.answer(inputs) > 0.5) == (desired > 0.5)
    train_accuracy, test_accuracy = (float(right[part].mean()) for part in (data.training, ~data.training))
    return replace(trained, train_accuracy=train_accuracy, test_accuracy=test_accuracy)


# The result as a trace.


def trace_of(result: AdaptiveMixture, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """Return the division of vowels by an adaptive mixture of local experts, at each recorded epoch of its training.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is a
    recorded epoch, 0 before training. The gate is soft, so every sample goes to all E experts, with the mixing
    proportions as weights, which sum to 1; counts of assignments are then the same for all experts. With `slots` 1
    only the expert with the highest proportion is kept, weight and all, and counts tell who wins. `data` are those it
    was trained on: the stand-in unless given.

    Raises `InvalidTrace` if `data` are not those of the result, or `slots` are not from 1 to E.

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991).
    """
    data = stand_in() if data is None else data
    check_samples(result.source, data)
    inputs, _ = encode(data)
    epochs, _, experts = result.gate_lines.shape
    logits = np.stack([result.state(at).logits(inputs) for at in range(epochs)]).astype(np.float32)
    name = f"adaptive mixture of {experts} local experts, seed {result.settings['seed']}"
    return vowel_trace(name, data, logits, result.recorded, "epoch", slots)
