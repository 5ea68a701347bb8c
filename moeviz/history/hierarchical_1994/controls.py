"""The tree of 1994 with a part of it broken, and the claims that must miss then."""

import numpy as np

from moeviz.history.hierarchical_1994 import model
from moeviz.history.hierarchical_1994.checks import of_two_cuts, of_vowels
from moeviz.history.hierarchical_1994.model import Tree
from moeviz.history.shared.controls import Control


def _of_another_case(tree: Tree, inputs: np.ndarray, desired: np.ndarray, right=model.responsibilities) -> np.ndarray:
    """The responsibilities of the expectation step, each given to another case."""
    share = right(tree, inputs, desired)
    return share[np.random.default_rng(0).permutation(len(share))]


def _without_root(tree: Tree, inputs: np.ndarray, desired: np.ndarray, right=model.one_pass) -> Tree:
    fitted = right(tree, inputs, desired)
    return Tree(np.zeros_like(fitted.root), fitted.gates, fitted.experts)


def _without_lower_gates(tree: Tree, inputs: np.ndarray, desired: np.ndarray, right=model.one_pass) -> Tree:
    fitted = right(tree, inputs, desired)
    return Tree(fitted.root, np.zeros_like(fitted.gates), fitted.experts)


CONTROLS = (
    Control(
        "responsibilities go to other cases",
        (model, "responsibilities", _of_another_case),
        ("largest fall of the likelihood", "passes to error", "accuracy on test speakers"),
        of_vowels,
    ),
    Control("the root stays uniform", (model, "one_pass", _without_root), ("two cuts",), of_two_cuts),
    Control(
        "the gates below the root stay uniform", (model, "one_pass", _without_lower_gates), ("two cuts",), of_two_cuts
    ),
)
