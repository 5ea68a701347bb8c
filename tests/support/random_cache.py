"""What a cache with random replacement hits in expectation: by the chance of each set of experts that it can hold."""

from functools import cache
from itertools import combinations

import numpy as np

from moeviz.serving.requests import Requests

Experts = frozenset[int]


def expected_hits(asked: Requests, capacity: int) -> np.ndarray:
    """Hits of each step, exactly. For few experts: there may be as many sets as there are subsets of them."""
    chances, hits = {frozenset(): 1.0}, np.zeros(asked.steps)
    bounds = np.searchsorted(asked.step, np.arange(asked.steps + 1))
    for step in range(asked.steps):
        used = frozenset(asked.expert[bounds[step] : bounds[step + 1]].tolist())
        after: dict[Experts, float] = {}
        for held, chance in chances.items():
            hits[step] += chance * len(held & used)
            then = kept(held, used, capacity)
            for one in then:
                after[one] = after.get(one, 0.0) + chance / len(then)
        chances = after
    return hits


@cache
def kept(held: Experts, used: Experts, capacity: int) -> list[Experts]:
    """What may be held after a step, each alike: what it used, as far as that fits, and any of the others."""
    if len(held | used) <= capacity:
        return [held | used]
    if len(used) <= capacity:
        return [used | frozenset(rest) for rest in combinations(sorted(held - used), capacity - len(used))]
    return [frozenset(part) for part in combinations(sorted(used), capacity)]
