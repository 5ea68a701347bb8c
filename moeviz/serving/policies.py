"""Policies of caches of experts, for caches of all sizes at once.

Every policy here is a stack algorithm: what a cache of C experts holds, one of C + 1 holds too. So one pass gives, for
each request, the smallest cache that would have had the expert (its depth), and a cache of C hits the requests whose
depth is at most C. After a step, the experts that it used stay and others give way, by the order of the policy. Depths
stand step by step, and in no order within a step.

Source: Mattson, Gecsei, Slutz and Traiger, Evaluation techniques for storage hierarchies (IBM Systems Journal 9:2,
1970); Belady, A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5:2, 1966).
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappushpop
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from moeviz.serving.requests import Requests

BLOCK = 2**16  # cells of a table of comparisons
NEW = -1
Depths = Int64[np.ndarray, " n"]  # of each request; num_experts + 1 where the expert has never been used before


def lru_depths(asked: Requests) -> Depths:
    """The expert whose last use is longest ago gives way; of two used last in the same step, the higher id.

    The depth of an expert is how many were used later than it, and itself.
    """
    E = asked.num_experts
    ids = np.arange(E - 1, -1, -1)
    depths = np.empty(len(asked.step), np.int64)
    last = np.zeros(E, np.int32)
    size = max(BLOCK // (E * max(1, len(asked.step) // max(1, asked.steps))), 1)
    for start, stop, rows in _blocks(asked, size):
        used = np.zeros((stop - start + 1, E), np.int32)
        used[0] = last
        step, expert = asked.step[rows] - start, asked.expert[rows]
        used[step + 1, expert] = step + start + 1
        last = np.maximum.accumulate(used, axis=0, out=used)[-1].copy()
        order = used[:-1] * E + ids if asked.steps * E < 2**31 else used[:-1].astype(np.int64) * E + ids
        own = order[step, expert]
        deeper = np.count_nonzero(order[step] > own[:, None], axis=1) + 1
        depths[rows] = np.where(own < E, E + 1, deeper)
    return depths


def _blocks(asked: Requests, size: int) -> Iterator[tuple[int, int, slice]]:
    """So many steps at a time: first and last step, and which requests they are."""
    bounds = [*range(0, asked.steps, size), asked.steps]
    rows = np.searchsorted(asked.step, bounds)
    for (start, stop), (first, end) in zip(pairwise(bounds), pairwise(rows.tolist()), strict=True):
        yield start, stop, slice(first, end)


def belady_depths(asked: Requests) -> Depths:
    """The expert whose next use is furthest away gives way: the best of all policies that keep what a step used."""
    return _depths(asked, _next_uses(asked), bypass=False, by_next_use=True)


def bound_depths(asked: Requests) -> Depths:
    """Bound the hits: as Belady's policy, but an expert that was just used need not stay. No policy has more hits."""
    return _depths(asked, _next_uses(asked), bypass=True, by_next_use=True)


def lfu_depths(asked: Requests) -> Depths:
    """The expert with the fewest uses since the beginning gives way; then the one whose last use is longest ago."""
    E, T = asked.num_experts, asked.steps
    order, _ = _by_expert(asked)
    grouped = asked.expert[order]
    uses = np.empty(len(order), np.int64)
    uses[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return _depths(asked, ((T - uses) * (T + 1) + (T - asked.step)) * E + asked.expert, bypass=False)


def random_depths(asked: Requests, seed: int) -> Depths:
    """Any expert gives way that the step did not use, each with the same chance."""
    draws, experts = _draws(seed), asked.expert.tolist()
    found: list[int] = []
    stack: list[int] = []
    for first, end in _bounds(asked):
        used = experts[first:end]
        top, due = end - first, set(used)
        found += [depth for depth, expert in enumerate(stack[:top], 1) if expert in due]
        carried = [(next(draws), expert) for expert in stack[:top] if expert not in due]
        heapify(carried)
        out = sorted(used, key=lambda _: next(draws))
        for depth, expert in enumerate(stack[top:], top + 1):
            if expert in due:
                found.append(depth)
                out.append(heappop(carried)[1])
            else:
                out.append(heappushpop(carried, (next(draws), expert))[1])
        found += [asked.num_experts + 1] * (end - len(found))
        stack = out + [expert for _, expert in sorted(carried)]
    return np.array(found, np.int64)


def _draws(seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random(2**14).tolist()


def _next_uses(asked: Requests) -> Int64[np.ndarray, " n"]:
    """After each request, when the expert is used again, as a number: soonest lowest, then the lower id."""
    following = np.full(len(asked.step), asked.steps)
    order, again = _by_expert(asked)
    following[order[:-1][again]] = asked.step[order[1:][again]]
    keys: Int64[np.ndarray, " n"] = following * asked.num_experts + asked.expert
    return keys


def _by_expert(asked: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Requests, expert by expert; and which of them have the next one of the same expert behind them."""
    order = np.argsort(asked.expert, kind="stable")
    return order, asked.expert[order][1:] == asked.expert[order][:-1]


def _bounds(asked: Requests) -> Iterator[tuple[int, int]]:
    """The first request of each step, and the one after its last."""
    return pairwise(np.searchsorted(asked.step, np.arange(asked.steps + 1)).tolist())


def _depths(asked: Requests, keys: Int64[np.ndarray, " n"], bypass: bool, by_next_use: bool = False) -> Depths:
    """The depths of all requests, where the expert with the highest key gives way; `keys` are those after each request.

    The stack holds the keys of the experts: a cache of C has the first C. A step goes down the stack as far as it finds
    experts that it requests, carrying those for which the caches so far had no room, and leaves the best of them in
    each place. Requested experts are those with keys below `limit`; if keys are not next uses, they are marked.
    """
    found: list[int] = []
    stack: list[int] = []
    limit, old, new = 0, _keys_before(asked, keys), keys.tolist()
    for first, end in _bounds(asked):
        if by_next_use:
            limit += asked.num_experts
        else:
            for key in old[first:end]:
                if key != NEW:
                    stack[stack.index(key)] = NEW
        kept, top = sorted(new[first:end]), 0 if bypass else end - first
        out, carried = ([], kept) if bypass else (kept, [key for key in stack[:top] if key >= limit])
        heapify(carried)
        found += [depth for depth, key in enumerate(stack[:top], 1) if key < limit]
        depth = top
        if len(found) < end:
            for key in stack[top:]:
                depth += 1
                if key >= limit:
                    out.append(heappushpop(carried, key))
                    continue
                out.append(heappop(carried))
                found.append(depth)
                if len(found) == end:
                    break
            found += [asked.num_experts + 1] * (end - len(found))
        stack[:depth] = out
        stack += sorted(carried)
    return np.array(found, np.int64)


def _keys_before(asked: Requests, keys: Int64[np.ndarray, " n"]) -> list[int]:
    """The key that each requested expert had before; NEW if it was not used before."""
    before = np.full(len(keys), NEW)
    order, again = _by_expert(asked)
    before[order[1:][again]] = keys[order[:-1][again]]
    return before.tolist()
