"""A mixture of support vector machines trained by expectation and maximisation: every expert learns from all examples.

How much it learns from each is its responsibility, a number from 0 to 1, and no expert is ever full: the soft way,
beside the loop of 2002 in `model`. The task is that of 1991: four vowels, two classes, and no straight line
tells them apart. So two experts, each a line, have to share the vowels out.

Source: Jordan & Jacobs, Hierarchical Mixtures of Experts and the EM Algorithm, Neural Computation 6(2):181-214 (1994),
for the method. Support vector machines say no probabilities; Platt, Probabilistic Outputs for Support Vector Machines,
Advances in Large Margin Classifiers, 61-74 (1999), makes them so, here with a slope and no shift.

N samples, D inputs (F1 and F2 in kHz, and 1), K experts, R iterations.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.gates import check_samples, sigmoid, softmax, vowel_trace
from moeviz.history.shared.results import Watch, history_extra, unwatched
from moeviz.routing_trace import RoutingTrace

STARTS = ("k-means", "random")
ITERATIONS = 20
SURE = 0.9  # of the responsibility, of the expert that a sample starts with
ALWAYS = 5.0  # what an expert says that has seen one class alone
LEAST = 1e-3  # responsibility below which an expert does not learn from a sample
SLOPES = (0.05, 30.0)
GATE_DECAY, SLOPE_DECAY = 1e-3, 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class SoftMixture:
    """A trained mixture, and how it got there. Errors are shares of samples on the wrong side of 0.5."""

    settings: dict[str, int | str | bool]  # experts, start, hard, seed
    source: str  # of the data: says so where they are a stand-in
    recorded: tuple[int, ...]  # R iterations, from 1
    expert_lines: Float64[np.ndarray, "R D K"]  # a column is an expert's line: inputs @ column is its margin
    slopes: Float64[np.ndarray, "R K"]  # sigmoid(slope x margin) is an expert's probability of class 1
    gate_lines: Float64[np.ndarray, "R D K"]
    log_likelihood: Float64[np.ndarray, " R"] = field(repr=False)  # mean over the training samples, nats
    train_error: Float64[np.ndarray, " R"]
    test_error: Float64[np.ndarray, " R"]
    single_error: float  # on the test samples, of one support vector machine

    def logits(self, inputs: Float64[np.ndarray, "N D"], at: int = -1) -> Float64[np.ndarray, "N K"]:
        """Logits of the gate, before its softmax."""
        return inputs @ self.gate_lines[at]

    def answer(self, inputs: Float64[np.ndarray, "N D"], at: int = -1) -> Float64[np.ndarray, " N"]:
        """The mixture's probability of class 1: Σₖ pₖ(x) σ(bₖ sₖ(x))."""
        return mixture(inputs, self.expert_lines[at], self.slopes[at], self.gate_lines[at])


def train_soft(
    data: Vowels | None = None,
    experts: int = 2,
    start: str = "k-means",
    hard: bool = False,
    seed: int = 0,
    watch: Watch = unwatched,
) -> SoftMixture:
    """20 rounds of expectation and maximisation on the first 50 speakers.

    Samples start with the expert of their cluster, or with a random one (`start`). With `hard`, an expert learns only
    from the samples for which it is the most responsible, and gets them whole. The data are the stand-in unless given.
    The same arguments, the same result. `watch` is called before each round.

    Raises `MoevizError` for a start that is not in STARTS, or other than 1 to 16 experts; and where scikit-learn or
    scipy is missing.
    """
    if start not in STARTS or not 1 <= experts <= 16:
        raise MoevizError(
            f"Got {experts} experts and the start {start!r}. Choose 1 to 16 experts, and one of {list(STARTS)}."
        )
    data = stand_in() if data is None else data
    inputs, desired = encode(data)
    to_learn = standardised(inputs[data.training])
    mine, side = inputs[data.training] @ to_learn, 2 * desired[data.training] - 1
    responsible = _start(mine, experts, start, seed)
    gate, rows = np.zeros((mine.shape[1], experts)), []
    for round_ in range(ITERATIONS):
        watch(round_ / ITERATIONS, f"iteration {round_ + 1} of {ITERATIONS}")
        shares = _one_hot(responsible) if hard else responsible
        lines = np.stack([line(mine, side, share) for share in shares.T], axis=1)
        slopes = np.array([slope(mine @ lines[:, k] * side, shares[:, k]) for k in range(experts)])
        gate = fitted_gate(gate, mine, shares)
        responsible, likelihood = expectation(softmax(mine @ gate), slopes * (mine @ lines) * side[:, None])
        rows.append((to_learn @ lines, slopes, to_learn @ gate, likelihood))
    settings = {"experts": experts, "start": start, "hard": hard, "seed": seed}
    return _result(data, rows, to_learn @ line(mine, side, np.ones(len(mine))), settings)


def mixture(
    inputs: Float64[np.ndarray, "N D"],
    lines: Float64[np.ndarray, "D K"],
    slopes: Float64[np.ndarray, " K"],
    gate: Float64[np.ndarray, "D K"],
) -> Float64[np.ndarray, " N"]:
    """Σₖ pₖ(x) σ(bₖ sₖ(x)): the probability of class 1."""
    return (softmax(inputs @ gate) * sigmoid(slopes * (inputs @ lines))).sum(axis=1)


def expectation(
    gate: Float64[np.ndarray, "N K"], margins: Float64[np.ndarray, "N K"]
) -> tuple[Float64[np.ndarray, "N K"], float]:
    """The E step: hₖ = pₖ σ(bₖ y sₖ) / Σⱼ pⱼ σ(bⱼ y sⱼ), who is responsible for a sample.

    `margins` are bₖ y sₖ, above 0 where the expert is right. Returns the responsibilities, and the mean log likelihood.
    """
    joint = gate * sigmoid(np.clip(margins, -30, 30))
    likelihood = joint.sum(axis=1)
    return joint / likelihood[:, None], float(np.log(likelihood).mean())


def line(
    inputs: Float64[np.ndarray, "N D"], side: Float64[np.ndarray, " N"], share: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " D"]:
    """The M step of one expert: a linear support vector machine of samples that count by their shares.

    `side` is 1 or −1; the last input is 1. Of one class alone it always says that class, and of nothing, 0.
    """
    with history_extra():
        from sklearn.svm import LinearSVC
    seen = share > LEAST
    classes = np.unique(side[seen])
    if len(classes) < 2:
        return np.append(np.zeros(inputs.shape[1] - 1), ALWAYS * classes.sum())
    machine = LinearSVC(dual=False, random_state=0).fit(inputs[seen, :-1], side[seen], sample_weight=share[seen])
    return np.append(machine.coef_[0], machine.intercept_)


def slope(margins: Float64[np.ndarray, " N"], share: Float64[np.ndarray, " N"]) -> float:
    """The M step of an expert's slope b: the one by which Σ share log σ(b margin) is highest, by Newton's method.

    Source: Platt (1999), with a slope alone and samples that count by their shares.
    """
    found = 1.0
    for _ in range(15):
        right = sigmoid(found * margins)
        rise = (share * (1 - right) * margins).sum() - SLOPE_DECAY * found
        bend = (share * right * (1 - right) * margins**2).sum() + SLOPE_DECAY
        found = float(np.clip(found + rise / bend, *SLOPES))
    return found


def fitted_gate(
    gate: Float64[np.ndarray, "D K"], inputs: Float64[np.ndarray, "N D"], shares: Float64[np.ndarray, "N K"]
) -> Float64[np.ndarray, "D K"]:
    """The M step of the gate: softmax regression on the responsibilities, from where it is."""
    with history_extra():
        from scipy.optimize import minimize

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        lines = numbers.reshape(gate.shape)
        proportions = softmax(inputs @ lines)
        miss = -(shares * np.log(np.maximum(proportions, 1e-300))).sum(axis=1).mean()
        by_line = inputs.T @ (proportions - shares) / len(inputs) + 2 * GATE_DECAY * lines
        return miss + GATE_DECAY * (lines**2).sum(), by_line.ravel()

    return minimize(loss, gate.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 40}).x.reshape(gate.shape)


def standardised(inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "D D"]:
    """Matrix that gives each input mean 0 and deviation 1 when inputs are multiplied with it; the last, 1, stays."""
    mean, spread = inputs[:, :-1].mean(axis=0), inputs[:, :-1].std(axis=0)
    to_learn = np.diag(np.append(1 / spread, 1))
    to_learn[-1, :-1] = -mean / spread
    return to_learn


def _start(inputs: np.ndarray, experts: int, start: str, seed: int) -> Float64[np.ndarray, "N K"]:
    if start == "k-means":
        with history_extra():
            from sklearn.cluster import KMeans
        first = KMeans(experts, n_init=1, random_state=seed).fit_predict(inputs[:, :-1])
    else:
        first = np.random.default_rng(seed).integers(0, experts, len(inputs))
    return (1 - SURE) / experts + SURE * np.eye(experts)[first]


def _one_hot(responsible: Float64[np.ndarray, "N K"]) -> Float64[np.ndarray, "N K"]:
    return np.eye(responsible.shape[1])[responsible.argmax(axis=1)]


def _result(data: Vowels, rows: list[tuple], single: np.ndarray, settings: dict[str, int | str | bool]) -> SoftMixture:
    inputs, desired = encode(data)
    lines, slopes, gates, likelihoods = (np.stack(column) for column in zip(*rows, strict=True))
    answers = [mixture(inputs, *state) for state in zip(lines, slopes, gates, strict=True)]
    wrong = (np.stack(answers) > 0.5) != (desired > 0.5)
    return SoftMixture(
        settings=settings,
        source=data.source,
        recorded=tuple(range(1, len(rows) + 1)),
        expert_lines=lines,
        slopes=slopes,
        gate_lines=gates,
        log_likelihood=likelihoods,
        train_error=wrong[:, data.training].mean(axis=1),
        test_error=wrong[:, ~data.training].mean(axis=1),
        single_error=float(((inputs @ single > 0) != (desired > 0.5))[~data.training].mean()),
    )


def soft_trace_of(result: SoftMixture, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """How the gate of a soft mixture of support vector machines divided the vowels, at each iteration.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is an
    iteration, from 1. The gate is soft, so every sample goes to all K experts, with the mixing proportions as weights,
    which sum to 1; with `slots` 1 only the winner is kept. `data` are those it was trained on: the stand-in unless
    given.

    Raises `InvalidTrace` where `data` are not those of the result, or `slots` are not from 1 to K.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994).
    """
    data = stand_in() if data is None else data
    check_samples(result.source, data)
    inputs, _ = encode(data)
    iterations, _, experts = result.gate_lines.shape
    logits = np.stack([result.logits(inputs, at) for at in range(iterations)]).astype(np.float32)
    name = f"soft mixture of {experts} support vector machines, seed {result.settings['seed']}"
    return vowel_trace(name, data, logits, result.recorded, "iteration", slots)
