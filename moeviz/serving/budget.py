"""What memory for experts buys: hit rates by the size of a cache, in gigabytes where the size of an expert is known."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from moeviz.errors import MoevizError
from moeviz.metrics.words import percent
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.cache import expert_cache

GIGABYTE = 1e9  # bytes, as on the data sheets of cards
SECOND_HALF, SAME_TOKENS = "second half", "same tokens"
SHOWN = ("lru", "static", "bound")


class Budget(NamedTuple):
    """What a number of gigabytes holds."""

    capacity: int  # experts of each layer; layers that have fewer hold all of theirs
    all_of_them: float  # gigabytes that all routed experts take


def hit_rates(trace: Counted, expert_bytes: float | None = None, capacity: int | None = None) -> pd.DataFrame:
    """The hit rate of a cache of experts by its size, the mean over the model's layers, and what is fetched for misses.

    `lru`: the expert whose last use is longest ago gives way. `static`: the experts with the most requests in the first
    half of the tokens stay for good. `bound`: no policy that fetches experts when they are needed has more hits.
    `chance`: a fixed set chosen at random. Fixed sets are there from the beginning, so only they have no first misses.
    The first half of the tokens fills the cache, and the second is judged: so `static` is judged on tokens that it was
    not made from. Sizes begin where a layer holds the experts of one token. Each layer has a cache of its own; a step
    is one token.

    One row per size and policy. Columns: capacity int32 (experts of each layer; layers that have fewer hold all) ·
    policy str · judged_on str · rate float64 (layers weigh as they have requests) · requests int64 (of all tokens and
    layers) · gigabytes float64 (of the cache) · gigabytes_a_token float64 (fetched for misses) · chosen bool (whether
    it is `capacity`). An expert has `expert_bytes`; without it, gigabytes are NaN. Counts alone give `chance` and
    `static`, judged on the same tokens. Raises `MoevizError` for a size of an expert that is not above 0.

    **Source**: as for `moeviz.serving.cache.expert_cache`.
    """
    if expert_bytes is not None and not expert_bytes > 0:
        raise MoevizError(f"An expert has more than 0 bytes; got {expert_bytes:g}. Say how large it is.")
    ordered = isinstance(trace, RoutingTrace)
    rates = expert_cache(trace, policies=SHOWN if ordered else ("static",))
    names = {name: f"{name}_warm" for name in SHOWN} if ordered else {"static": "static"}
    last = int(rates["capacity"].max())
    first = min(trace.model.top_k, last)
    one = np.nan if expert_bytes is None else expert_bytes / GIGABYTE
    rows = []
    for size in range(first, last + 1):
        held = _at_size(rates, size)
        asked = held["requests"] / held["steps"].clip(lower=1)
        facts = {"capacity": size, "gigabytes": held["capacity"].sum() * one, "requests": int(held["requests"].sum())}
        for policy, column in {"chance": "chance", **names}.items():
            rate = _weighted(held[column], asked)
            rows.append(facts | {"policy": policy, "rate": rate, "gigabytes_a_token": (1 - rate) * asked.sum() * one})
    frame = pd.DataFrame(rows).assign(judged_on=SECOND_HALF if ordered else SAME_TOKENS)
    order = ["capacity", "policy", "judged_on", "rate", "requests", "gigabytes", "gigabytes_a_token"]
    frame = frame[order].astype({"capacity": np.int32, "policy": "str", "judged_on": "str"})
    return frame.assign(chosen=frame["capacity"] == (-1 if capacity is None else capacity))


def budget_of(trace: Counted, gigabytes: float, expert_bytes: float) -> Budget:
    """How many experts of each layer so many gigabytes hold, and what all experts take.

    >>> from moeviz.samples import sample_trace
    >>> budget_of(sample_trace(layers=4, experts=8), 0.020, 1e6)
    Budget(capacity=5, all_of_them=0.032)
    """
    sizes = np.array(trace.model.num_experts) - trace.model.zero_experts
    needed = np.array([np.minimum(size, sizes).sum() for size in range(sizes.max() + 1)]) * expert_bytes / GIGABYTE
    fitting = np.flatnonzero(needed <= gigabytes * (1 + 1e-9))
    return Budget(int(fitting[-1]) if len(fitting) else 0, float(needed[-1]))


def budget_sentence(trace: Counted, rates: pd.DataFrame, gigabytes: float, expert_bytes: float) -> str:
    """What so many gigabytes for experts buy, in a sentence or two. `rates` are the trace's `hit_rates`, with bytes."""
    capacity, needed = budget_of(trace, gigabytes, expert_bytes)
    sizes = np.array(trace.model.num_experts) - trace.model.zero_experts
    if capacity >= sizes.max():
        return f"{gigabytes:.3g} GB hold all experts, which take {needed:.3g} GB: nothing is fetched."
    row = rates[rates["capacity"] == capacity].set_index("policy")
    of = f"{sizes.max()}" if len(set(sizes)) == 1 else f"{sizes.min()} to {sizes.max()}"
    held = f"{gigabytes:.3g} GB hold {capacity} of the {of} experts of each layer"
    if row.empty:
        least = rates["gigabytes"].min()
        return f"{held}. That is less than one token needs: it takes {least:.3g} GB or more."
    if "lru" not in row.index:
        return f"{held}: the most used {capacity} have {percent(row['rate']['static'])} of the assignments."
    found = f"LRU finds {percent(row['rate']['lru'])} of what a token needs there"
    chance, bound = percent(row["rate"]["chance"]), percent(row["rate"]["bound"])
    beside = f"a random set would have {chance}, and no rule that fetches on demand over {bound}"
    return f"{held}: {found} ({beside}), and fetches {row['gigabytes_a_token']['lru']:.3g} GB a token."


def _at_size(rates: pd.DataFrame, size: int) -> pd.DataFrame:
    """A row for each layer, at the size or, of a layer that has fewer experts, at all of them."""
    return rates[rates["capacity"] <= size].groupby("layer", sort=False).tail(1)


def _weighted(rates: pd.Series, weights: pd.Series) -> float:
    known = rates.notna() & (weights > 0)
    return float(np.average(rates[known], weights=weights[known])) if known.any() else np.nan
