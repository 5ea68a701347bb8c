"""The shapes of gates that the tree of 1994 is compared with: the curves that ship next to its model.

Each has four experts. If a tree's root stays uniform, only one cut is left; a flat mixture has one gate over all four
experts, as in 1991. All learn by the same likelihood, equation 6, from the points that need two cuts, by expectation
maximisation or by gradient descent. `python -m benchmarks.history hierarchical --sweeps` writes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.history.hierarchical_1994.exhibit import ALL_PASSES, EM, FLAT, SEEDS, SHAPES, TREE
from moeviz.history.hierarchical_1994.model import (
    BRANCHES,
    LEAVES,
    NEWTON_STEPS,
    RIDGE,
    START,
    Tree,
    at_random,
    fitted,
    one_pass,
    responsibilities,
    shared_out,
    two_cuts,
)
from moeviz.history.shared.datasets import encode
from moeviz.history.shared.gates import sigmoid, softmax

STEP = 20.0  # on the gradient averaged over the samples; of 5, 20 and 40 the largest with which no run falls back


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """One gate over all experts, a softmax of lines."""

    gate: Float64[np.ndarray, "E D"]
    experts: Float64[np.ndarray, "E D"]

    def leaves(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Return the probability of each expert. A row sums to 1."""
        return softmax(inputs @ self.gate.T)

    def answers(self, inputs: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N E"]:
        """Answers of each expert, from 0 to 1."""
        return sigmoid(inputs @ self.experts.T)

    def responsibilities(self, inputs: np.ndarray, desired: np.ndarray) -> Float64[np.ndarray, "N E"]:
        """Return the probability that each expert made the desired answer. A row sums to 1."""
        return shared_out(self.leaves(inputs), self.answers(inputs), desired)


Shape = Tree | Flat
Pass = Callable[..., Shape]  # of a shape, inputs and desired answers


def errors(way: str, shape: str, seed: int, passes: int) -> Float64[np.ndarray, " passes"]:
    """Return the average squared error after each pass over the training points."""
    data = two_cuts()
    inputs, desired = (part[data.training] for part in encode(data))
    found, one, each = _start(shape, inputs.shape[1], seed), _passes(way, shape), []
    for _ in range(passes):
        found = one(found, inputs, desired)
        answer = (found.leaves(inputs) * found.answers(inputs)).sum(axis=1)
        each.append(((desired - answer) ** 2).mean())
    return np.array(each)


def tree_climbs(tree: Tree, inputs: np.ndarray, desired: np.ndarray) -> Tree:
    """Take one step along the gradient of the likelihood: a line moves by what its answers lack, times the inputs."""
    share, step = responsibilities(tree, inputs, desired), STEP / len(inputs)
    within, right = share.reshape(len(inputs), BRANCHES, -1), sigmoid(inputs @ tree.gates.T)
    branch = within.sum(axis=2)
    return Tree(
        tree.root + step * inputs.T @ (branch - tree.branches(inputs))[:, 1],
        tree.gates + step * (within[:, :, 1] - branch * right).T @ inputs,
        tree.experts + step * (share * (desired[:, None] - tree.answers(inputs))).T @ inputs,
    )


def flat_climbs(flat: Flat, inputs: np.ndarray, desired: np.ndarray) -> Flat:
    """Take one step of a flat mixture along that gradient."""
    share, step = flat.responsibilities(inputs, desired), STEP / len(inputs)
    return Flat(
        flat.gate + step * (share - flat.leaves(inputs)).T @ inputs,
        flat.experts + step * (share * (desired[:, None] - flat.answers(inputs))).T @ inputs,
    )


def flat_pass(flat: Flat, inputs: np.ndarray, desired: np.ndarray) -> Flat:
    """Run a pass of expectation maximisation over a flat mixture."""
    share = flat.responsibilities(inputs, desired)
    experts = [fitted(flat.experts[e], inputs, desired, share[:, e]) for e in range(LEAVES)]
    return Flat(fitted_gate(flat.gate, inputs, share), np.stack(experts))


def fitted_gate(
    gate: Float64[np.ndarray, "E D"], inputs: Float64[np.ndarray, "N D"], share: Float64[np.ndarray, "N E"]
) -> Float64[np.ndarray, "E D"]:
    """Fit a softmax regression by Newton's method, from `gate` on; a step that makes it worse is halved until it
    does not. All lines are fitted at once; a tree fits one at a time.
    """
    for _ in range(NEWTON_STEPS):
        said = softmax(inputs @ gate.T)
        push = ((share - said).T @ inputs - RIDGE * gate).ravel()
        between = said[:, :, None] * (np.eye(len(gate)) - said[:, None, :])
        curve = np.einsum("nef,nd,nk->edfk", between, inputs, inputs, optimize=True).reshape(push.size, push.size)
        step = np.linalg.solve(curve + RIDGE * np.eye(push.size), push).reshape(gate.shape)
        before = _gate_fit(gate, inputs, share)
        while _gate_fit(gate + step, inputs, share) < before:
            step = step / 2
        gate = gate + step
    return gate


def _start(shape: str, dimensions: int, seed: int) -> Shape:
    if shape == FLAT:
        return Flat(*np.random.default_rng(seed).uniform(-START, START, (2, LEAVES, dimensions)))
    tree = at_random(dimensions, seed)
    return tree if shape == TREE else _uniform_root(tree)


def _passes(way: str, shape: str) -> Pass:
    if shape == FLAT:
        return flat_pass if way == EM else flat_climbs
    one = one_pass if way == EM else tree_climbs
    return one if shape == TREE else lambda tree, *data: _uniform_root(one(tree, *data))


def _uniform_root(tree: Tree) -> Tree:
    return Tree(np.zeros_like(tree.root), tree.gates, tree.experts)


def _gate_fit(gate: np.ndarray, inputs: np.ndarray, share: np.ndarray) -> float:
    logits = inputs @ gate.T
    said = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    return float((share * said).sum() - RIDGE / 2 * (gate**2).sum())


def error_by_shape(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Train the table of `shipped_error_by_shape` anew."""
    frames = [_curve(way, shape, seeds) for way in ALL_PASSES for shape in SHAPES]
    return pd.concat(frames, ignore_index=True)


def _curve(way: str, shape: str, seeds: Sequence[int]) -> pd.DataFrame:
    runs = np.stack([errors(way, shape, seed, ALL_PASSES[way]) for seed in seeds])
    passes = np.unique(np.geomspace(1, ALL_PASSES[way], 50).round().astype(np.int64))
    lower, median, upper = np.quantile(runs[:, passes - 1], (0.25, 0.5, 0.75), axis=0)
    columns = {"passes": passes, "squared_error": median, "lower": lower, "upper": upper, "seeds": len(seeds)}
    return pd.DataFrame({"way": way, "shape": shape} | columns).astype({"way": "str", "shape": "str"})
