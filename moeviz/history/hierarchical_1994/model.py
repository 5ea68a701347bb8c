"""Hierarchical mixtures of experts, 1994: a tree of gates, trained by expectation maximisation.

A gate at the root divides the cases between two branches, a gate in each branch between two experts. Every gate and
every expert is a straight line with a sigmoid. Not a gradient moves them all a little at a time: each in turn is fitted
outright to the cases for which it is held responsible, and then responsibility is shared out anew.

Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), sections 2 to 4; the vowels are those of the mixtures
of 1991, asked for the same answer.

N samples, D inputs (F1 and F2 in kHz, and 1), B branches (2), E experts (4: two a branch), P passes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.gates import check_samples, sigmoid, vowel_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.routing_trace import RoutingTrace

BRANCHES, LEAVES = 2, 4
PASSES = 40
NEWTON_STEPS = 4  # of each fit; more change nothing that can be seen
START = 1.0  # lines start at random: where all are alike, all stay alike
RIDGE = 1e-2  # keeps a line finite where it can part its cases without a mistake


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Seven lines: a case goes right at a gate with probability sigmoid(input · line)."""

    root: Float64[np.ndarray, " D"]
    gates: Float64[np.ndarray, "B D"]
    experts: Float64[np.ndarray, "E D"]

    def logits(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N B"]:
        """Logits of the root: 0 for the left branch, and its line's value for the right one."""
        return np.column_stack([np.zeros(len(inputs)), inputs @ self.root])

    def branches(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N B"]:
        """gᵢ, equation 2: how likely each branch is."""
        right = sigmoid(inputs @ self.root)
        return np.column_stack([1 - right, right])

    def leaves(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """gᵢ gⱼ|ᵢ, equations 2 and 4: how likely each expert is, left branch first. A row sums to 1."""
        right = sigmoid(inputs @ self.gates.T)
        within = np.stack([1 - right, right], axis=2)
        return (self.branches(inputs)[:, :, None] * within).reshape(len(inputs), LEAVES)

    def answers(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Answers of each expert, from 0 to 1."""
        return sigmoid(inputs @ self.experts.T)

    def answer(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
        """Return the answer of the tree, equation 5: Σᵢ gᵢ Σⱼ gⱼ|ᵢ μᵢⱼ."""
        return (self.leaves(inputs) * self.answers(inputs)).sum(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """A tree after each of its passes, and how well it does."""

    settings: dict[str, int]  # passes, seed
    source: str  # of the data: says so where they are a stand-in
    roots: Float64[np.ndarray, "P D"]  # before the first pass, and after each
    gates: Float64[np.ndarray, "P B D"]
    experts: Float64[np.ndarray, "P E D"]
    likelihood: Float64[np.ndarray, " P"]  # logarithm, mean of the training samples, less the penalty of RIDGE
    squared_error: Float64[np.ndarray, " P"]  # average, on the training samples
    train_accuracy: float  # share of samples on the right side of 0.5
    test_accuracy: float

    def tree(self, at: int = -1) -> Tree:
        """Return the tree after this many passes."""
        return Tree(self.roots[at], self.gates[at], self.experts[at])


def train(data: Vowels | None = None, passes: int = PASSES, seed: int = 0, watch: Watch = unwatched) -> Hierarchy:
    """Train a tree on the first 50 speakers. The data are the stand-in unless given. The same arguments give the
    same result. `watch` is called before each pass. Raises `MoevizError` for less than one
    pass.
    """
    if passes < 1:
        raise MoevizError(f"Got {passes} passes over the data; at least 1 is needed.")
    data = stand_in() if data is None else data
    inputs, desired = encode(data)
    mine, wanted = inputs[data.training], desired[data.training]
    trees = [at_random(inputs.shape[1], seed)]
    for done in range(passes):
        error = squared_error(trees[-1], mine, wanted)
        watch(done / passes, f"pass {done} of {passes}, average squared error {error:.3f}")
        trees.append(one_pass(trees[-1], mine, wanted))
    return Hierarchy(
        settings={"passes": passes, "seed": seed},
        source=data.source,
        roots=np.stack([tree.root for tree in trees]),
        gates=np.stack([tree.gates for tree in trees]),
        experts=np.stack([tree.experts for tree in trees]),
        likelihood=np.array([log_likelihood(tree, mine, wanted) for tree in trees]),
        squared_error=np.array([squared_error(tree, mine, wanted) for tree in trees]),
        train_accuracy=_right(trees[-1], mine, wanted),
        test_accuracy=_right(trees[-1], inputs[~data.training], desired[~data.training]),
    )


def responsibilities(
    tree: Tree, inputs: Float64[np.ndarray, "N D"], desired: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, "N E"]:
    """The expectation step, equations 6 to 8: how likely each expert made the desired answer. A row sums to 1."""
    return shared_out(tree.leaves(inputs), tree.answers(inputs), desired)


def shared_out(
    leaves: Float64[np.ndarray, "N E"], answers: Float64[np.ndarray, "N E"], desired: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, "N E"]:
    """Bayes' rule: from how likely each expert is and what it says, how far it is responsible. A row sums to 1."""
    joint = leaves * _chance(answers, desired[:, None])
    return joint / joint.sum(axis=1, keepdims=True)


def fitted(
    line: Float64[np.ndarray, " D"],
    inputs: Float64[np.ndarray, "N D"],
    wanted: Float64[np.ndarray, " N"],
    weight: Float64[np.ndarray, " N"],
) -> Float64[np.ndarray, " D"]:
    """A weighted logistic regression by iteratively reweighted least squares, appendix A: Newton's, from `line` on.

    A step that would lower the likelihood is halved until it does not, so that a pass never makes the tree worse.
    """
    for _ in range(NEWTON_STEPS):
        said = sigmoid(inputs @ line)
        push = inputs.T @ (weight * (wanted - said)) - RIDGE * line
        curve = (inputs * (weight * said * (1 - said))[:, None]).T @ inputs + RIDGE * np.eye(len(line))
        step, before = np.linalg.solve(curve, push), _fit(line, inputs, wanted, weight)
        while _fit(line + step, inputs, wanted, weight) < before:
            step = step / 2
        line = line + step
    return line


def log_likelihood(tree: Tree, inputs: Float64[np.ndarray, "N D"], desired: Float64[np.ndarray, " N"]) -> float:
    """Equation 6, its logarithm, mean of the samples; less what RIDGE takes, for that is what training raises."""
    joint = tree.leaves(inputs) * _chance(tree.answers(inputs), desired[:, None])
    lines = np.concatenate([tree.root[None], tree.gates, tree.experts])
    return float((np.log(joint.sum(axis=1)).sum() - RIDGE / 2 * (lines**2).sum()) / len(inputs))


def one_pass(tree: Tree, inputs: np.ndarray, desired: np.ndarray) -> Tree:
    """Take the maximisation step, equations 10 to 12: seven fits, each with its own responsibility for each case."""
    share = responsibilities(tree, inputs, desired).reshape(len(inputs), BRANCHES, -1)
    branch, everyone = share.sum(axis=2), np.ones(len(inputs))
    gates = [
        fitted(tree.gates[i], inputs, share[:, i, 1] / np.maximum(branch[:, i], 1e-300), branch[:, i])
        for i in range(BRANCHES)
    ]
    leaves = share.reshape(len(inputs), LEAVES)
    experts = [fitted(tree.experts[e], inputs, desired, leaves[:, e]) for e in range(LEAVES)]
    return Tree(fitted(tree.root, inputs, branch[:, 1], everyone), np.stack(gates), np.stack(experts))


def at_random(dimensions: int, seed: int) -> Tree:
    """Return a tree before training."""
    rng = np.random.default_rng(seed)
    shapes = ((dimensions,), (BRANCHES, dimensions), (LEAVES, dimensions))
    return Tree(*(rng.uniform(-START, START, shape) for shape in shapes))


def _chance(said: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """Return the probability that an expert with this output gives the desired answer, 0 or 1."""
    return np.clip(np.where(desired > 0.5, said, 1 - said), 1e-300, 1)


def _fit(line: np.ndarray, inputs: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> float:
    z = inputs @ line
    return float((weight * (wanted * z - np.logaddexp(0, z))).sum() - RIDGE / 2 * line @ line)


def squared_error(tree: Tree, inputs: np.ndarray, desired: np.ndarray) -> float:
    """Return the average squared error of a tree's answers."""
    return float(((desired - tree.answer(inputs)) ** 2).mean())


def _right(tree: Tree, inputs: np.ndarray, desired: np.ndarray) -> float:
    return float(((tree.answer(inputs) > 0.5) == (desired > 0.5)).mean())


# Made-up data that one cut does not part: a square in four quarters, each with a line of its own through its middle.
# Left and right of the root's cut, the gates below it have to cut the halves again, and every expert then has one line.

SAMPLES = 600
MADE_UP = "made-up points in a square, whose four quarters have a line each"
# By quarter, (right, upper): which way its line faces, as (along x, along y).
FACES = {(0, 0): (1, 0), (0, 1): (0, 1), (1, 0): (0, -1), (1, 1): (-1, 0)}


def two_cuts(seed: int = 0) -> Vowels:
    """600 points, uniform in a square of 2 by 2, to be answered with 1 on one side of their quarter's line. In the
    trees' training form: the first 400 are for learning.
    """
    points = np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 2))
    quarter = (points > 0).astype(int)
    face = np.array([FACES[right, upper] for right, upper in quarter])
    from_middle = points - np.where(quarter, 0.5, -0.5)
    one = (from_middle * face).sum(axis=1) > 0
    speaker = np.repeat(np.arange(SAMPLES // 8), 8) + 1
    return Vowels(1000 * points, np.where(one, 0, 1), speaker, MADE_UP, measured=False)


# The result as a trace.

LEVELS = (0, 1)  # the root, whose branches are its "experts"; the leaves


def trace_of(result: Hierarchy, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """Return the division of vowels by a trained tree: at level 0 between two branches, at level 1 among four experts.

    A token is one sample: `text` is "[i] speaker 12" and `label` the vowel. Gates are soft, so every sample goes
    everywhere; weights are probabilities, at level 1 the product along the way, and sum to 1 at each level. Logits are
    logarithms of these. With `slots` 1 only the likeliest is kept. `data` are those it was trained on: the stand-in
    unless given.

    Raises `InvalidTrace` if `data` are not those of the result, or `slots` are not from 1 to 4.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1.
    """
    data = stand_in() if data is None else data
    check_samples(result.source, data)
    (inputs, _), tree, tiny = encode(data), result.tree(), np.finfo(np.float32).tiny
    logits = np.full((len(LEVELS), len(inputs), LEAVES), -np.inf, np.float32)
    logits[0, :, :BRANCHES] = np.log(np.maximum(tree.branches(inputs), tiny))
    logits[1] = np.log(np.maximum(tree.leaves(inputs), tiny))
    name = f"hierarchical mixture of {LEAVES} experts, seed {result.settings['seed']}"
    return vowel_trace(name, data, logits, LEVELS, "level", slots)
