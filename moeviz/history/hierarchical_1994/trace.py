"""A hierarchical mixture of experts, 1994 as a `RoutingTrace`."""

import numpy as np

from moeviz.history.hierarchical_1994.model import BRANCHES, LEAVES, Hierarchy
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.gates import check_samples, vowel_trace
from moeviz.routing_trace import RoutingTrace

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
