"""How often the experts that a step needs are already in fast memory, by the size of the cache and what it keeps."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64

from moeviz.errors import MoevizError
from moeviz.metrics.inputs import recorded_together
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.policies import belady_depths, bound_depths, lfu_depths, lru_depths, random_depths
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

POLICIES = ("lru", "lfu", "random", "static", "belady", "bound")
USUAL_SHARED = ("lru", "static", "belady", "bound")
DRAWS, DRAWN, MOST_DRAWS = 3, 50_000, 100  # of `random`: at least so many, for so many requests, and at most so many
DEPTHS: dict[str, Callable[[Requests], list[np.ndarray]]] = {
    "lru": lambda asked: [lru_depths(asked)],
    "lfu": lambda asked: [lfu_depths(asked)],
    "random": lambda asked: [random_depths(asked, seed) for seed in range(draws_of(asked))],
    "belady": lambda asked: [belady_depths(asked)],
    "bound": lambda asked: [bound_depths(asked)],
}


def expert_cache(
    trace: Counted,
    capacities: Sequence[int] | None = None,
    policies: Sequence[str] = POLICIES,
    chunk: int = 1,
) -> pd.DataFrame:
    """The hit rate of a cache of C experts in each layer: how many of the requested experts are already there.

    A step is `chunk` tokens in a row of one sequence: 1 when text is generated, more when a prompt is read in chunks.
    It requests the distinct experts of its tokens: so with chunks a hit counts once for all tokens that share the
    expert. The cache is empty at first and lives on from sequence to sequence. What a step used stays, as far as it
    fits, and the others give way by policy:

    - `lru`: the one whose last use is longest ago
    - `lfu`: the one with the fewest uses since the beginning
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
    policy its rate and its `_warm` rate float64 (hits / requests; NaN if there are no requests). Counts alone give
    `static`, and NaN where the order of tokens is needed; counts by label give `static_warm` too, which then judges
    each label by the experts that the others use most. Raises `MoevizError` for capacities that a layer cannot have.

    **Source**: Mattson et al. 1970 (all sizes in one pass); Belady 1966; expert caches: Eliseev and Mazur
    (arXiv 2312.17238), MoE-Infinity (arXiv 2401.14361).
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


def shared_cache(
    trace: Counted,
    slots: Sequence[int] | None = None,
    policies: Sequence[str] = USUAL_SHARED,
) -> pd.DataFrame:
    """The hit rate of one cache for the experts of all layers, as in `expert_cache`, by the number of its places.

    Steps run layer by layer within each token, so an expert is an expert of one layer. One row per number of slots
    (by default, as many as 1 … E - 1 experts a layer would take). Columns: slots int64 · per_layer float64 (slots / L)
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
    """Steps in the order token 0 layer 0, token 0 layer 1, …; experts numbered through all layers."""
    parts, first, layers = [], 0, len(trace.model.layers)
    for found in layer_sets(recorded_together(trace)):
        asked = requests(found)
        parts.append((asked.step * layers + found.row, asked.expert + first, asked.steps))
        first += asked.num_experts
    step, expert = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    order = np.argsort(step, kind="stable")
    return Requests(-1, first, parts[0][2] * layers, step[order], expert[order])


def draws_of(asked: Requests) -> int:
    """How many draws of `random` to take, so that their mean is near what is expected: more where requests are few."""
    return min(max(DRAWS, -(-DRAWN // max(len(asked.step), 1))), MOST_DRAWS)


def _rates(
    asked: Requests, sizes: Int64[np.ndarray, " C"], policies: Sequence[str], half: int | None = None
) -> dict[str, object]:
    """Count hits and misses of one cache, by its size."""
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
    """Hits of a cache of each size from 0 on, in all steps and in late ones."""
    every, second = (np.bincount(part, minlength=num_experts + 2).cumsum() for part in (depths, depths[late]))
    return every, second


def _static_hits(asked: Requests, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    every = np.bincount(asked.expert, minlength=asked.num_experts)
    first, second = (np.bincount(asked.expert[which], minlength=asked.num_experts) for which in (~late, late))
    return _of_most(every, every - (every > 0)), _of_most(first, second)


def _of_most(requested: np.ndarray, hits: np.ndarray) -> np.ndarray:
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
            facts["static"] = _of_most(every, every - (every > 0))[sizes] / total
            if pairs := of_others(groups):
                hits = np.sum([_of_most(others, own) for others, own in pairs], axis=0)
                facts["static_warm"] = hits[sizes] / sum(int(own.sum()) for _, own in pairs)
        frames.append(pd.DataFrame(facts))
    return pd.concat(frames, ignore_index=True)


def _capacities(asked: Sequence[int] | None, most: int, where: str) -> Int64[np.ndarray, " C"]:
    if asked is None:
        return np.arange(1, most + 1)
    sizes = np.asarray(asked, np.int64)
    if not len(sizes) or sizes.min() < 1 or sizes.max() > most:
        raise MoevizError(
            f"{where} has {most} experts, so a cache holds from 1 to {most} of them; got {listed(sizes.tolist())}. "
            "Choose other sizes."
        )
    return sizes


def _check_policies(policies: Sequence[str]) -> None:
    for policy in policies:
        if policy not in POLICIES:
            raise MoevizError(f"There is no cache policy {policy!r}. Choose from {', '.join(POLICIES)}.")
