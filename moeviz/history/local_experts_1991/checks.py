"""Do adaptive mixtures of local experts behave as their paper of 1991 says?"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from moeviz.errors import MoevizError
from moeviz.history.local_experts_1991.model import MAX_EPOCHS, STOP_AT, Mixture, train
from moeviz.history.shared.activations import sigmoid
from moeviz.history.shared.claims import NOT_PRINTED, Claim
from moeviz.history.shared.vowels import Vowels, at_hand, encode, stand_in

HIDDEN = {4: 6, 8: 12}  # units of the backpropagation network with about as many parameters as so many experts
SPREADS = {4: (23, 83), 8: (12, 124)}  # the paper's standard deviations of epochs: mixture, backpropagation
ACCURACY = {"training": (0.88, 0.06), "test": (0.90, 0.05)}  # the paper's, and how far off we may be
BEST_LINE = 0.75  # no line through the plane of F1 and F2 is right for so many of the training samples, measured or not
ALONE_STEP = 5.0  # one expert swings to and fro at the step of the mixture
BACKPROP_STEP = 14.0  # the fastest of 6, 10, 14 and 20, as the paper chose one for each system
BACKPROP_START = 0.5  # at ±0.1 the hidden units take long to part


def claims(quick: bool = False) -> list[Claim]:
    """25 seeds, as in the paper; 3 where it is to be quick. Of the measured vowels too, where they can be read."""
    return [claim for data in at_hand() for claim in acceptance(range(3 if quick else 25), data)]


def acceptance(seeds: Iterable[int] = range(25), data: Vowels | None = None, experts: int = 4) -> list[Claim]:
    """What the mixtures of these seeds do, beside what the paper says of its 25.

    `data` are the stand-in unless given: the paper's accuracies are asked of measured vowels alone, and no figure of
    the paper stands beside a stand-in. Numbers of epochs are compared in spread only: they go with the step, which the
    paper does not print, and which system needs fewer depends on ours.

    Raises `MoevizError` for fewer than two seeds, or other than 4 or 8 experts.

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), section 2 and table 1.
    """
    data, seeds = stand_in() if data is None else data, list(seeds)
    if experts not in HIDDEN or len(seeds) < 2:
        raise MoevizError(
            f"Got {experts} experts and {len(seeds)} seeds; 4 or 8 experts and at least two seeds are needed."
        )
    runs = [train(data, experts, seed=seed) for seed in seeds]
    lines = [train(data, 1, seed=seed, step=ALONE_STEP) for seed in seeds[:2]]  # all end in the same place
    found = [*_experts(runs, data), *_accuracies(runs, lines, data), _spread(runs, data, seeds, experts)]
    if not data.measured:
        found = [replace(claim, paper=NOT_PRINTED) for claim in found]
    return [replace(claim, remark=data.source) for claim in found]


def backprop_epochs(data: Vowels, hidden: int, seed: int, step: float = BACKPROP_STEP) -> int | None:
    """Epochs that a network of one hidden layer needs to come to the same error; None where it does not.

    Sigmoid units, half the squared error, plain gradient descent over all training samples.

    Source: Rumelhart, Hinton & Williams, Nature 323:533-536 (1986); the rival in table 1 of the paper.
    """
    inputs, desired = (part[data.training] for part in encode(data))
    rng = np.random.default_rng(seed)
    below = rng.uniform(-BACKPROP_START, BACKPROP_START, (inputs.shape[1], hidden))
    above = rng.uniform(-BACKPROP_START, BACKPROP_START, hidden + 1)
    for epoch in range(MAX_EPOCHS + 1):
        units = sigmoid(inputs @ below)
        output = sigmoid(units @ above[:-1] + above[-1])
        if ((desired - output) ** 2).mean() <= STOP_AT:
            return epoch
        push = (output - desired) * output * (1 - output)
        pushed = push[:, None] * above[:-1] * units * (1 - units)
        above = above - step * np.append(push @ units, push.sum()) / len(inputs)
        below = below - step * inputs.T @ pushed / len(inputs)
    return None


def _experts(runs: list[Mixture], data: Vowels) -> list[Claim]:
    """Whether training ends, and how many experts are left."""
    reached = _mean(run.epochs is not None for run in runs)
    left = [len(run.surviving) for run in runs]
    rest = max(_of_the_rest(run, data) for run in runs)
    return [
        Claim(f"share of runs that reach error {STOP_AT}", reached, 1.0, "all", reached == 1),
        Claim("surviving experts, fewest of any run", min(left), 2, "2 or 3", min(left) >= 2),
        Claim("surviving experts, most of any run", max(left), 3, "2 or 3", max(left) <= 3),
        Claim("highest proportion of any other expert", rest, 0.0, "below 0.05", rest < 0.05),
    ]


def _accuracies(runs: list[Mixture], lines: list[Mixture], data: Vowels) -> list[Claim]:
    """How good the answers are, and that one expert alone would not do."""
    ours = {"training": _mean(run.train_accuracy for run in runs), "test": _mean(run.test_accuracy for run in runs)}
    alone = float(min(run.error_by_epoch[-1] for run in lines))
    rows = [Claim("average squared error with only 1 expert", alone, NOT_PRINTED, "above 0.2", alone > 0.2)]
    for part, (paper, off) in ACCURACY.items():
        what = f"mean accuracy on the {part} speakers"
        if data.measured:
            rows.append(Claim(what, ours[part], paper, f"within {off}", abs(ours[part] - paper) <= off))
        else:
            rows.append(Claim(what, ours[part], NOT_PRINTED, f"above {BEST_LINE}", ours[part] > BEST_LINE))
    return rows


def _spread(runs: list[Mixture], data: Vowels, seeds: list[int], experts: int) -> Claim:
    """How much the epochs needed depend on the seed, against backpropagation. A run that fails counts as the limit."""
    mixture = [MAX_EPOCHS if run.epochs is None else run.epochs for run in runs]
    needed = [backprop_epochs(data, HIDDEN[experts], seed) for seed in seeds]
    rival = [MAX_EPOCHS if epochs is None else epochs for epochs in needed]
    paper, rivals = SPREADS[experts]
    ratio = float(np.std(mixture) / np.std(rival))
    what = "standard deviation of epochs, mixture / backpropagation"
    return Claim(what, ratio, paper / rivals, "below 0.5", ratio < 0.5)


def _of_the_rest(run: Mixture, data: Vowels) -> float:
    """The highest proportion that an expert which does not survive has for any training sample; 0 where all do."""
    highest = run.state().proportions(encode(data)[0][data.training]).max(axis=0)
    return float(np.delete(highest, run.surviving).max(initial=0))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
