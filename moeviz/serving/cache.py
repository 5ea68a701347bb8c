"""The share of a step's experts that are already in fast memory, by the cache's size and policy.

Every policy but `static` is a stack algorithm: what a cache of C experts holds, one of C + 1 holds too. So one pass
gives, for each request, the smallest cache that would have had the expert (its depth), and a cache of C hits the
requests whose depth is at most C. After a step, the experts that it used stay and others give way, by the order of the
policy. Depths stand step by step, and in no order within a step.

Source: Mattson, Gecsei, Slutz and Traiger, Evaluation techniques for storage hierarchies (IBM Systems Journal 9:2,
1970); Belady, A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5:2, 1966).
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappushpop
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.errors import MoevizError
from moeviz.metrics.inputs import recorded_together
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.requests import (
    Requests,
    check_chunk,
    counts_of_labels,
    layer_sets,
    of_others,
    requests,
    with_tokens,
)
from moeviz.text import listed

BLOCK = 2**16  # cells of a table of comparisons
NEW = -1
Depths = Int64[np.ndarray, " n"]  # of each request; num_experts + 1 where the expert has never been used before


def lru_depths(asked: Requests) -> Depths:
    """Let the expert go whose last use is longest ago; of two used last in the same step, the higher id.

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
    """Yield blocks of at most `size` steps: first and last step, and their requests."""
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


def lfru_depths(asked: Requests) -> Depths:
    """Let the expert with the fewest uses per step since its last one go: frequency, weighed by recency."""
    uses, last = [0] * asked.num_experts, [0] * asked.num_experts

    def use(step: int, experts: list[int]) -> None:
        for expert in experts:
            uses[expert] += 1
            last[expert] = step

    return _depths_of_new_keys(
        asked, lambda step, expert: (-uses[expert] / (step - last[expert] + 1), -last[expert]), use
    )


def random_depths(asked: Requests, seed: int) -> Depths:
    """Any expert gives way that the step did not use, each with the same chance."""
    draws = _draws(seed)
    return _depths_of_new_keys(asked, lambda _step, _expert: (next(draws),), lambda _step, _experts: None)


def _depths_of_new_keys(
    asked: Requests, key: Callable[[int, int], tuple[float, ...]], use: Callable[[int, list[int]], None]
) -> Depths:
    """Return the depths of all requests, as `_depths`, if all keys change with each step: the highest is evicted."""
    experts = asked.expert.tolist()
    found: list[int] = []
    stack: list[int] = []
    for step, (first, end) in enumerate(_bounds(asked)):
        used = experts[first:end]
        use(step, used)
        top, due = end - first, set(used)
        found += [depth for depth, expert in enumerate(stack[:top], 1) if expert in due]
        carried = [(key(step, expert), expert) for expert in stack[:top] if expert not in due]
        heapify(carried)
        out = sorted(used, key=lambda expert: key(step, expert))
        for depth, expert in enumerate(stack[top:], top + 1):
            if expert in due:
                found.append(depth)
                out.append(heappop(carried)[1])
            else:
                out.append(heappushpop(carried, (key(step, expert), expert))[1])
        found += [asked.num_experts + 1] * (end - len(found))
        stack = out + [expert for _, expert in sorted(carried)]
    return np.array(found, np.int64)


def _draws(seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random(2**14).tolist()


def _next_uses(asked: Requests) -> Int64[np.ndarray, " n"]:
    """Rank each request's next use of the same expert: soonest lowest, then the lower id."""
    following = np.full(len(asked.step), asked.steps)
    order, again = _by_expert(asked)
    following[order[:-1][again]] = asked.step[order[1:][again]]
    keys: Int64[np.ndarray, " n"] = following * asked.num_experts + asked.expert
    return keys


def _by_expert(asked: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Sort requests by expert, and mark those that are followed by a request for the same expert."""
    order = np.argsort(asked.expert, kind="stable")
    return order, asked.expert[order][1:] == asked.expert[order][:-1]


def _bounds(asked: Requests) -> Iterator[tuple[int, int]]:
    return pairwise(np.searchsorted(asked.step, np.arange(asked.steps + 1)).tolist())


def _depths(asked: Requests, keys: Int64[np.ndarray, " n"], bypass: bool, by_next_use: bool = False) -> Depths:
    """Return the depths of all requests if the highest key is evicted; `keys` are those after each request.

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
    """Return each requested expert's key before the request; NEW if it was not used before."""
    before = np.full(len(keys), NEW)
    order, again = _by_expert(asked)
    before[order[1:][again]] = keys[order[:-1][again]]
    return before.tolist()


POLICIES = ("lru", "lfu", "lfru", "random", "static", "belady", "bound")
USUAL_SHARED = ("lru", "static", "belady", "bound")
DRAWS, DRAWN, MOST_DRAWS = 3, 50_000, 100  # draws of `random`: at least, requests to draw for, and at most
DEPTHS: dict[str, Callable[[Requests], list[np.ndarray]]] = {
    "lru": lambda asked: [lru_depths(asked)],
    "lfu": lambda asked: [lfu_depths(asked)],
    "lfru": lambda asked: [lfru_depths(asked)],
    "random": lambda asked: [random_depths(asked, seed) for seed in range(draws_of(asked))],
    "belady": lambda asked: [belady_depths(asked)],
    "bound": lambda asked: [bound_depths(asked)],
}


def expert_cache(
    trace: Counted, capacities: Sequence[int] | None = None, policies: Sequence[str] = POLICIES, chunk: int = 1
) -> pd.DataFrame:
    """Return the hit rate of a cache of C experts per layer: the share of requested experts that are already there.

    A step is `chunk` tokens in a row of one sequence: 1 when text is generated, more when a prompt is read in chunks.
    It requests the distinct experts of its tokens: so with chunks a hit counts once for all tokens that share the
    expert. The cache is empty at first and lives on from sequence to sequence. What a step used stays, as far as it
    fits, and the others give way by policy:

    - `lru`: the one whose last use is longest ago
    - `lfu`: the one with the fewest uses since the beginning
    - `lfru`: the one with the fewest uses per step since its last use
    - `random`: any of them (the mean of three draws, and of up to a hundred where requests are few)
    - `belady`: the one whose next use is furthest away. This needs to know the future: no policy that keeps what it has
      just used is better
    - `bound`: the same, but what was just used need not stay. No policy at all has more hits
    - `static`: the C experts with the most requests stay for good, and a miss takes up no place. `static` is made from
      the very steps it is judged on; `static_warm` from the first half of them, and judged on the second (held out).
      Compare it with `bound`

    Columns ending in `_warm` count the second half of the steps only, after the first has filled the cache.

    One row per layer and capacity (all by default). Columns: layer int32 (the model's own index) · capacity int32 (C) ·
    chunk int32 · steps int64 · requests int64 (the distinct experts of each step, added up) · compulsory int64 (first
    uses, which every cache misses) · chance float64 (C / E: a fixed set of C experts chosen at random) · then for each
    policy its rate and its `_warm` rate float64 (hits / requests; NaN if there are no requests). Counts give
    `static`, and NaN for what needs the order of tokens; counts by label give `static_warm` too, which then judges
    each label by the experts that the others use most. Raises `MoevizError` for capacities that a layer cannot have.

    **Source**: Mattson et al. 1970 (all sizes in one pass); Belady 1966; expert caches: Eliseev and Mazur
    (arXiv 2312.17238), MoE-Infinity (arXiv 2401.14361); LFRU: the idea of vllm-project/vllm's pull request 37190, by a
    rule of ours.
    """
    check_chunk(chunk)
    _check_policies(policies)
    if not isinstance(trace, RoutingTrace):
        if chunk > 1:
            with_tokens(trace, "A cache for chunks of a prompt")
        return _of_counts(trace, capacities, policies)
    frames = []
    for found in layer_sets(trace):
        asked = requests(found, chunk)
        sizes = _capacities(capacities, asked.num_experts, f"Layer {found.layer}")
        facts = {"layer": np.int32(found.layer), "capacity": sizes.astype(np.int32), "chunk": np.int32(chunk)}
        frames.append(pd.DataFrame(facts | _rates(asked, sizes, policies)))
    return pd.concat(frames, ignore_index=True)


def cache_tiers(trace: Counted, gpu: int, ram: int, policies: Sequence[str] = POLICIES, chunk: int = 1) -> pd.DataFrame:
    """The tier that has a requested expert, if each layer keeps some in the GPU's memory, more in RAM, and all on disk.

    An expert evicted from the GPU goes to RAM, and one evicted from there is only on disk: so both together hold what
    one cache of `gpu + ram` experts holds, and the GPU what one of `gpu` holds (see `expert_cache`). `static` keeps the
    most used on the GPU, and the next in RAM.

    One row per policy, and `chance` for experts placed at random. Columns: policy str · gpu, ram, disk float64 (shares
    of the requests in the second half of the steps; layers weigh as they have requests). For counts, only `static`
    is known, judged on the same tokens, or, by label, on the other labels. Raises `MoevizError` for sizes that a layer
    cannot have.

    **Source**: as for `expert_cache`.
    """
    if gpu < 1 or ram < 1:
        raise MoevizError(f"The GPU and RAM hold an expert or more per layer; got {gpu} and {ram}.")
    names = [name for name in policies if isinstance(trace, RoutingTrace) or name == "static"]
    rates = expert_cache(trace, [gpu, gpu + ram], names, chunk)
    columns = {name: rates[f"{name}_warm"].fillna(rates[name]) for name in names} | {"chance": rates["chance"]}
    rows = []
    for name, rate in columns.items():
        hits = (rate * rates["requests"]).groupby(rates["capacity"]).sum()
        held = (hits / rates.groupby("capacity")["requests"].sum()).tolist()
        rows.append((name, held[0], held[1] - held[0], 1 - held[1]))
    return pd.DataFrame(rows, columns=["policy", "gpu", "ram", "disk"]).astype({"policy": "str"})


def shared_cache(
    trace: Counted, slots: Sequence[int] | None = None, policies: Sequence[str] = USUAL_SHARED
) -> pd.DataFrame:
    """Return the hit rate of one cache for the experts of all layers, as in `expert_cache`, by its number of slots.

    Steps run layer by layer within each token, so an expert is an expert of one layer. One row per number of slots
    (by default, as many as 1 … E - 1 experts per layer need). Columns: slots int64 · per_layer float64 (slots / L)
    · requests, compulsory int64 · chance float64 · for each policy its rate and its `_warm` rate, over the tokens from
    T // 2 on. Only tokens that are recorded at every layer count.

    **Source**: as for `expert_cache`.
    """
    trace = with_tokens(trace, "A cache that all layers share")
    _check_policies(policies)
    asked = _of_all_layers(trace)
    layers = len(trace.model.layers)
    if slots is None:
        slots = range(layers, asked.num_experts, layers)
    sizes = _capacities(slots, asked.num_experts, "The model")
    rates = _rates(asked, sizes, policies, half=asked.steps // layers // 2 * layers)
    rates.pop("steps")
    return pd.DataFrame({"slots": sizes, "per_layer": sizes / layers} | rates)


def _of_all_layers(trace: RoutingTrace) -> Requests:
    """Order steps as token 0 layer 0, token 0 layer 1, …; number experts through all layers."""
    parts, first, layers = [], 0, len(trace.model.layers)
    for found in layer_sets(recorded_together(trace)):
        asked = requests(found)
        parts.append((asked.step * layers + found.row, asked.expert + first, asked.steps))
        first += asked.num_experts
    step, expert = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    order = np.argsort(step, kind="stable")
    return Requests(-1, first, parts[0][2] * layers, step[order], expert[order])


def draws_of(asked: Requests) -> int:
    """Return the number of draws of `random` for a mean near the expected one: more if requests are few."""
    return min(max(DRAWS, -(-DRAWN // max(len(asked.step), 1))), MOST_DRAWS)


def _rates(
    asked: Requests, sizes: Int64[np.ndarray, " C"], policies: Sequence[str], half: int | None = None
) -> dict[str, object]:
    late = asked.step >= (asked.steps // 2 if half is None else half)
    total, compulsory = len(asked.step), len(np.unique(asked.expert))
    columns: dict[str, object] = {"steps": asked.steps, "requests": total, "compulsory": compulsory}
    columns["chance"] = sizes / asked.num_experts
    for policy in policies:
        if policy == "static":
            found = [_static_hits(asked, late)]
        else:
            found = [_hits(depths, late, asked.num_experts) for depths in DEPTHS[policy](asked)]
        for name, of, which in ((policy, total, 0), (f"{policy}_warm", int(late.sum()), 1)):
            columns[name] = np.mean([hits[which][sizes] for hits in found], axis=0) / of if of else np.nan
    return columns


def _hits(depths: np.ndarray, late: np.ndarray, num_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the hits of a cache of each size from 0 on, in all steps and in late ones."""
    every, second = (np.bincount(part, minlength=num_experts + 2).cumsum() for part in (depths, depths[late]))
    return every, second


def _static_hits(asked: Requests, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    every = np.bincount(asked.expert, minlength=asked.num_experts)
    first, second = (np.bincount(asked.expert[which], minlength=asked.num_experts) for which in (~late, late))
    return hits_of_most(every, every - (every > 0)), hits_of_most(first, second)


def hits_of_most(requested: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Hits of the C experts with the most requests, for C from 0 on; of equals, the lower ids."""
    order = np.argsort(-requested, kind="stable")
    return np.concatenate([[0], hits[order].cumsum()])


def _of_counts(counts: Counted, capacities: Sequence[int] | None, policies: Sequence[str]) -> pd.DataFrame:
    frames = []
    for found in counts_of_labels(counts):
        width = found.num_experts - counts.model.zero_experts
        groups = found.counts[:, :width]
        every = groups.sum(axis=0)
        sizes = _capacities(capacities, width, f"Layer {found.layer}")
        total, compulsory = int(every.sum()), int((every > 0).sum())
        facts: dict[str, object] = {"layer": np.int32(found.layer), "capacity": sizes.astype(np.int32)}
        facts |= {"chunk": np.int32(1)}
        facts |= {"steps": int(found.tokens.sum()), "requests": total, "compulsory": compulsory}
        facts |= {"chance": sizes / width}
        facts |= {column: np.nan for policy in policies for column in (policy, f"{policy}_warm")}
        if "static" in policies and total:
            facts["static"] = hits_of_most(every, every - (every > 0))[sizes] / total
            if pairs := of_others(groups):
                hits = np.sum([hits_of_most(others, own) for others, own in pairs], axis=0)
                facts["static_warm"] = hits[sizes] / sum(int(own.sum()) for _, own in pairs)
        frames.append(pd.DataFrame(facts))
    return pd.concat(frames, ignore_index=True)


def _capacities(asked: Sequence[int] | None, most: int, where: str) -> Int64[np.ndarray, " C"]:
    if asked is None:
        return np.arange(1, most + 1)
    if not len(asked) or min(asked) < 1 or max(asked) > most:  # before they are made numbers of 64 bits
        raise MoevizError(
            f"{where} has {most} experts, so a cache holds from 1 to {most} of them; got {listed(asked)}. "
            "Choose other sizes."
        )
    return np.asarray(asked, np.int64)


def _check_policies(policies: Sequence[str]) -> None:
    for policy in policies:
        if policy not in POLICIES:
            raise MoevizError(f"There is no cache policy {policy!r}. Choose one of {', '.join(POLICIES)}.")
