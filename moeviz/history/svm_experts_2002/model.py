"""A parallel mixture of support vector machines: each learns from its own part of the examples, up to a largest size.

A support vector machine takes at least the square of its examples in time, so many that learn from few each are
quicker than one that learns from all. Here they tell odd from even digits: no straight line does, and each of these
machines is one.

The loop: 1. deal the examples out at random, N/M to each expert; 2. train every expert on its part; 3. leave the
experts as they are, and train the gater on all examples; 4. give every example to the expert that the gater weighs
highest and that still has room, at most N/M + c; and again from 2. Step 4 is a limit on an expert's capacity, 19
years before the capacity factor of Switch Transformers.

Source: Collobert, Bengio & Bengio, A Parallel Mixture of SVMs for Very Large Scale Problems, NIPS 14:633-640 (2001)
and Neural Computation 14(5):1105-1114 (2002). The digits are ours, the paper has forest cover types and speech; so
is the tanh on each expert's output, which keeps the gater steady.

N examples, D inputs, M experts, I iterations, S examples whose weights are kept.

The gater is a small network that weighs the experts, with no softmax at its end; that it is trained by Adam, and from
uniform weights, is ours. H hidden units of the gater.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.shared.datasets import Digits, digits
from moeviz.history.shared.gates import samples, system_trace
from moeviz.history.shared.results import Watch, history_extra, unwatched
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

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
        """Outputs of the hidden units, from −1 to 1."""
        return np.tanh(inputs @ self.hidden + self.hidden_bias)

    def weights(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N M"]:
        """wₘ(x): how much each expert counts for each example."""
        return self.units(inputs) @ self.output + self.output_bias


def new_gater(inputs: int, hidden: int, experts: int, rng: np.random.Generator) -> Gater:
    """Return a gater that weighs all experts about alike, 1 / M each: it begins as the uniform mixture."""
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


SETTINGS = ("experts", "room", "kernel", "iterations", "shuffled", "seed")
KERNELS = ("linear", "rbf")
COMPONENTS = 30  # of the images, by principal component analysis of those to train on
HIDDEN = 4  # units of the gater, few: with many it separates odd from even by itself, whatever the experts answer
MOST_EXPERTS = 64
KEPT = 1000  # training examples whose weights a result keeps
TOLD_EVERY = 25  # steps of the gater

Machine = Callable[[np.ndarray], Float64[np.ndarray, " N"]]  # inputs to outputs from −1 to 1
Teller = Callable[[str, float, int], None]  # who learns, the share of the iteration before, and the step


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Digits to classify: odd 1, even −1."""

    inputs: Float64[np.ndarray, "N D"]
    odd: Float64[np.ndarray, " N"]
    digit: Int64[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, eq=False)
class SVMMixture:
    """A trained mixture, and how it got there. Errors are shares of digits called odd that are even, or the reverse."""

    settings: dict[str, int | str | bool]  # experts, room, kernel, iterations, shuffled, seed
    capacity: int  # examples that an expert may learn from
    digit: UInt8[np.ndarray, " N"]  # what each training example shows
    first_choice: UInt8[np.ndarray, "I N"] = field(repr=False)  # the expert that the gater weighs highest
    assigned: UInt8[np.ndarray, "I N"] = field(repr=False)  # the expert that learns from it in the next iteration
    weights: Float32[np.ndarray, "I S M"] = field(repr=False)  # of the gater, for the first S training examples
    train_error: Float64[np.ndarray, " I"]
    test_error: Float64[np.ndarray, " I"]
    even_error: Float64[np.ndarray, " I"]  # on the test digits, were all experts of the iteration weighed alike
    single_error: float  # on the test digits, of one machine that learns from all examples

    @property
    def overflow(self) -> Float64[np.ndarray, " I"]:
        """Share of the examples that were not given to their first choice, since it was full."""
        return (self.first_choice != self.assigned).mean(axis=1)

    @property
    def uniform_error(self) -> float:
        """Return the test error of the uniform mixture: experts that learn from random parts, and count equally."""
        return float(self.even_error[0])


def train(
    experts: int = 8,
    room: int = 1,
    kernel: str = "linear",
    iterations: int = 6,
    shuffled: bool = False,
    seed: int = 0,
    watch: Watch = unwatched,
) -> SVMMixture:
    """Run the loop over 4,000 digits. An expert learns from N/M + `room` of them at most.

    With `shuffled`, every expert learns from its part with odd and even dealt out anew among the images: a control,
    whose experts know nothing, so that all that is right is the gater's. The same arguments, the same result. `watch`
    is called before each expert and every few steps of the gater.

    Raises `MoevizError` for a kernel that is not in KERNELS, other than 1 to 64 experts, a negative room, or no
    iteration; and where scikit-learn is missing.
    """
    _check(experts, room, kernel, iterations)
    watch(0.0, "images to numbers")
    task, test = odd_or_even()
    rng, capacity = np.random.default_rng(seed), capacity_of(len(task.odd), experts, room)
    part = rng.permutation(np.arange(len(task.odd)) % experts)
    gater, rows = new_gater(task.inputs.shape[1], HIDDEN, experts, rng), []
    for iteration in range(iterations):
        told = _teller(watch, iteration, iterations)
        classes = rng.permutation(task.odd) if shuffled else task.odd
        outputs, on_test = _experts_say(part, experts, kernel, replace(task, odd=classes), test, told)
        gater = trained(gater, task.inputs, outputs, task.odd, lambda step, told=told: told("gater", 0.5, step))
        weights = gater.weights(task.inputs)
        part = assign(weights, capacity, rng)
        rows.append(
            {
                "first_choice": weights.argmax(axis=1).astype(np.uint8),
                "assigned": part.astype(np.uint8),
                "weights": weights[:KEPT].astype(np.float32),
                "train_error": _error(mixed(weights, outputs), task),
                "test_error": _error(mixed(gater.weights(test.inputs), on_test), test),
                "even_error": _error(on_test.sum(axis=1), test),
            }
        )
    watch(1.0, "one machine for all")
    return SVMMixture(
        settings=dict(zip(SETTINGS, (experts, room, kernel, iterations, shuffled, seed), strict=True)),
        capacity=capacity,
        digit=task.digit.astype(np.uint8),
        single_error=_error(machine(task.inputs, task.odd, kernel)(test.inputs), test),
        **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
    )


def capacity_of(examples: int, experts: int, room: int) -> int:
    """N/M + c, N/M rounded up, so that there is room for all."""
    return -(-examples // experts) + room


def assign(weights: Float64[np.ndarray, "N M"], capacity: int, rng: np.random.Generator) -> Int64[np.ndarray, " N"]:
    """Step 4: the expert with the highest weight that still has room, for one example after the other.

    The examples come in random order, since who comes late finds experts full. Equal weights go to the lower id.
    Returns the expert of each example.
    """
    wanted = np.argsort(-weights, axis=1, kind="stable")
    left, given = np.full(weights.shape[1], capacity), np.empty(len(weights), np.int64)
    for example in rng.permutation(len(weights)):
        expert = next(expert for expert in wanted[example] if left[expert])
        given[example] = expert
        left[expert] -= 1
    return given


def machine(inputs: Float64[np.ndarray, "N D"], desired: Float64[np.ndarray, " N"], kernel: str) -> Machine:
    """A support vector machine that has learnt these examples: inputs to tanh of their distance from its boundary.

    With a single class it always answers that class; without any example, 0.
    """
    with history_extra():
        from sklearn.svm import SVC, LinearSVC
    classes = np.unique(desired)
    if len(classes) < 2:
        always = float(classes[0]) if len(classes) else 0.0
        return lambda inputs: np.full(len(inputs), always)
    # Neither draws anything here; without a seed of its own each would take one from the global generator.
    model = LinearSVC(dual=False, random_state=0) if kernel == "linear" else SVC(kernel=kernel, random_state=0)
    model.fit(inputs, desired)
    return lambda inputs: np.tanh(model.decision_function(inputs))


@cache
def odd_or_even() -> tuple[Task, Task]:
    """Return the digits as their first COMPONENTS principal components: those to train on, and those to test."""
    with history_extra():
        from sklearn.decomposition import PCA
    training, test = digits()
    inputs_of = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(_pixels(training)).transform
    return _task(inputs_of(_pixels(training)), training), _task(inputs_of(_pixels(test)), test)


def _task(inputs: Float64[np.ndarray, "N D"], images: Digits) -> Task:
    return Task(inputs, np.where(images.digit % 2, 1.0, -1.0), images.digit)


def _pixels(images: Digits) -> Float64[np.ndarray, "N pixels"]:
    return images.images.reshape(len(images.images), -1) / 255


def _experts_say(
    part: Int64[np.ndarray, " N"], experts: int, kernel: str, task: Task, test: Task, told: Teller
) -> tuple[Float64[np.ndarray, "N M"], Float64[np.ndarray, "_ M"]]:
    """Run step 2: train every expert on its part. Return each one's answers for all examples and the test digits."""
    said = []
    for expert in range(experts):
        told(f"expert {expert + 1} of {experts}", 0.5 * expert / experts, 0)
        learnt = machine(task.inputs[part == expert], task.odd[part == expert], kernel)
        said.append((learnt(task.inputs), learnt(test.inputs)))
    return tuple(np.stack(outputs, axis=1) for outputs in zip(*said, strict=True))


def _teller(watch: Watch, iteration: int, iterations: int) -> Teller:
    def told(who: str, done: float, step: int) -> None:
        if step % TOLD_EVERY == 0:
            watch((iteration + done + step / STEPS / 2) / iterations, f"iteration {iteration + 1}: {who}")

    return told


def _error(answers: Float64[np.ndarray, " N"], task: Task) -> float:
    return float(((answers > 0) != (task.odd > 0)).mean())


def _check(experts: int, room: int, kernel: str, iterations: int) -> None:
    if kernel not in KERNELS or not 1 <= experts <= MOST_EXPERTS or room < 0 or iterations < 1:
        raise MoevizError(
            f"Got {experts} experts, room {room}, kernel {kernel!r} and {iterations} iterations. Choose 1 to "
            f"{MOST_EXPERTS} experts, a room of at least 0, one of {list(KERNELS)}, and at least 1 iteration."
        )


# The result as a trace.

VIEWS = ("both", "first choice", "assigned")
CAUTION = (
    "All experts answer for every digit, with weights of any sign. Shown here are only the expert with the highest "
    "weight and, if that one was full, the one that learns from the digit instead."
)


def trace_of(result: SVMMixture, view: str = "both") -> RoutingTrace:
    """Return the expert with the highest weight for each digit, and the one that learns from it, as a trace.

    A token is a training digit, the first 1,000 of the 4,000, each a sequence of its own: `text` is "7, image 12" and
    `label` the digit. A layer is an iteration, from 1, after its gater has been trained. Slot 0 is the first choice,
    the expert with the highest weight. Slot 1 is the expert that the digit was given to, from which it learns in the
    next iteration; it is filled only where the first choice was full, so the share of tokens with two experts is the
    overflow. `view` keeps only one of the two, in one slot.

    Weights are the gater's, as the mixture applies them: signed, unbounded, and they sum to nothing in particular. The
    order is that of the sign too, since the rule of 2002 sorts by it. `logits` are the weights of all experts; there is
    no score function, so what needs probabilities says that it has none.

    Raises `InvalidTrace` for another view.

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002).
    """
    if view not in VIEWS:
        raise InvalidTrace(f"Got the view {view!r}. Choose one of {list(VIEWS)}.")
    iterations, kept, experts = result.weights.shape
    first, given = (part[:, :kept].astype(np.int16) for part in (result.first_choice, result.assigned))
    elsewhere = np.where(given == first, np.int16(NO_EXPERT), given)
    slots = {"both": [first, elsewhere], "first choice": [first], "assigned": [given]}[view]
    chosen = np.stack(slots, axis=-1)
    weights = np.take_along_axis(result.weights, np.maximum(chosen, 0).astype(np.intp), axis=-1)
    labels = [str(digit) for digit in result.digit[:kept]]
    name = f"mixture of {experts} support vector machines, seed {result.settings['seed']}"
    tokens = samples([f"{label}, image {number + 1}" for number, label in enumerate(labels)], labels)
    found = chosen, np.where(chosen == NO_EXPERT, np.float32(0), weights)
    facts = {"layer_kind": "iteration", "item_kind": "digit", "label_kind": "digit", "caution": CAUTION}
    return system_trace(name, tokens, found, result.weights, layers=tuple(range(1, iterations + 1)), **facts)
