"""Hit rates by the memory that experts get, in gigabytes where the size of an expert is known."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Int64

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.captions import few_counted
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.words import label_word
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.cache import expert_cache, hits_of_most

GIGABYTE = 1e9  # bytes, as on the data sheets of cards
SECOND_HALF, SAME_TOKENS, OTHER_LABELS = "second half", "same tokens", "other labels"
SHOWN = ("lru", "static", "bound")
STANDARD_ERRORS = 4  # for a caption: chance brings as much once in some ten thousand times


class Budget(NamedTuple):
    """Experts of each layer that a number of gigabytes holds."""

    capacity: int  # experts of each layer; layers that have fewer hold all of theirs
    all_of_them: float  # gigabytes that all routed experts take


def hit_rates(trace: Counted, expert_bytes: float | None = None, capacity: int | None = None) -> pd.DataFrame:
    """Return the hit rate of a cache of experts by its size, as the mean over layers, and the bytes fetched for misses.

    `lru`: the expert whose last use is longest ago gives way. `static`: the experts with the most requests in the first
    half of the tokens stay for good. `bound`: no policy that fetches experts when they are needed has more hits.
    `chance`: a fixed set chosen at random. Fixed sets are there from the beginning, so only they have no first misses.
    The first half of the tokens fills the cache, and the second is judged: so `static` is judged on tokens that it was
    not made from. Sizes begin where a layer holds the experts of one token. Each layer has a cache of its own; a step
    is one token.

    One row per size and policy. Columns: capacity int32 (experts of each layer; layers that have fewer hold all) ·
    policy str · judged_on str ("second half", "same tokens", "other labels") · rate float64 (layers weigh as they have
    requests) · requests int64 (of all tokens and layers) · gigabytes float64 (of the cache) · gigabytes_a_token float64
    (fetched for misses) · chosen bool (whether it is `capacity`). An expert has `expert_bytes`; without it,
    gigabytes are NaN. Counts give `chance` and `static`, judged on the same tokens; counts by label also
    `others`, where each label is judged by the experts that the other labels use most. Raises `MoevizError` for a size
    of an expert that is not above 0.

    **Source**: as for `moeviz.serving.cache.expert_cache`.
    """
    if expert_bytes is not None and not expert_bytes > 0:
        raise MoevizError(f"An expert has more than 0 bytes; got {expert_bytes:g}. Say how large it is.")
    ordered = isinstance(trace, RoutingTrace)
    rates = expert_cache(trace, policies=SHOWN) if ordered else _of_fixed_sets(trace)
    names = {name: f"{name}_warm" for name in SHOWN} if ordered else {"static": "static"}
    if isinstance(trace, ExpertCounts) and trace.group_kind == "label" and rates["static_warm"].notna().any():
        names["others"] = "static_warm"
    row = _rows_of_sizes(rates["layer"].to_numpy(), min(trace.model.top_k, int(rates["capacity"].max())))
    asked = (rates["requests"] / rates["steps"].clip(lower=1)).to_numpy()[row]
    one = np.nan if expert_bytes is None else expert_bytes / GIGABYTE
    facts = {"capacity": rates["capacity"].to_numpy()[row].max(axis=1)}
    facts |= {"requests": rates["requests"].to_numpy()[row].sum(axis=1)}
    facts |= {"gigabytes": rates["capacity"].to_numpy()[row].sum(axis=1) * one}
    parts = []
    for place, (policy, column) in enumerate({"chance": "chance", **names}.items()):
        rate = _weighted_mean(rates[column].to_numpy()[row], asked)
        fetched = (1 - rate) * asked.sum(axis=1) * one
        judged_on = OTHER_LABELS if policy == "others" else SECOND_HALF if ordered else SAME_TOKENS
        of_policy = {"policy": policy, "place": place, "judged_on": judged_on}
        parts.append(pd.DataFrame(facts | of_policy | {"rate": rate, "gigabytes_a_token": fetched}))
    frame = pd.concat(parts).sort_values(["capacity", "place"], ignore_index=True)
    order = ["capacity", "policy", "judged_on", "rate", "requests", "gigabytes", "gigabytes_a_token"]
    frame = frame[order].astype({"capacity": np.int32, "policy": "str", "judged_on": "str"})
    return frame.assign(chosen=frame["capacity"] == (-1 if capacity is None else capacity))


def budget_of(trace: Counted, gigabytes: float, expert_bytes: float) -> Budget:
    """Return the experts per layer that these gigabytes hold, and the gigabytes of all experts.

    >>> from moeviz.testing import sample_trace
    >>> budget_of(sample_trace(layers=4, experts=8), 0.020, 1e6)
    Budget(capacity=5, all_of_them=0.032)
    """
    sizes = np.array(trace.model.num_experts) - trace.model.zero_experts
    needed = np.array([np.minimum(size, sizes).sum() for size in range(sizes.max() + 1)]) * expert_bytes / GIGABYTE
    fitting = np.flatnonzero(needed <= gigabytes * (1 + 1e-9))
    return Budget(int(fitting[-1]) if len(fitting) else 0, float(needed[-1]))


def budget_sentence(trace: Counted, rates: pd.DataFrame, gigabytes: float, expert_bytes: float) -> Claim:
    """Claim what a budget of gigabytes buys. `rates` are the trace's `hit_rates`, with bytes."""
    capacity, needed = budget_of(trace, gigabytes, expert_bytes)
    memory = gigabytes * GIGABYTE
    sizes = np.array(trace.model.num_experts) - trace.model.zero_experts
    if capacity >= sizes.max():
        return captions.all_held(memory, needed * GIGABYTE)
    held = memory, capacity, int(sizes.min()), int(sizes.max())
    row = rates[rates["capacity"] == capacity].set_index("policy")
    if row.empty:
        return captions.less_than_a_token(*held, np.minimum(trace.model.top_k, sizes).sum() * expert_bytes)
    rate = row["rate"]
    if "lru" not in row.index:
        others = rate["others"] if "others" in row.index else None
        return captions.most_used_of_counts(*held, rate["static"], label_word(trace.model), others, rate["chance"])
    if np.isnan(rate["lru"]):
        return captions.hits_unknown(*held)
    if isinstance(trace, RoutingTrace) and (number := trace.recorded.sum(axis=1).max()) < HANDFUL:
        return few_counted(number, HANDFUL, "token")
    fetched = row["gigabytes_a_token"]["lru"] * GIGABYTE
    return captions.lru_hits(*held, rate["lru"], rate["chance"], rate["bound"], fetched)


def most_used_sentence(trace: Counted) -> Claim:
    """Claim which share of the assignments the most used half of the experts has: if possible, of other tokens."""
    rates = _of_fixed_sets(trace)
    size = (rates.groupby("layer")["capacity"].transform("max") + 1) // 2
    half = rates[(rates["capacity"] == size) & (rates["requests"] > 0)]
    names = ("chance", "static", "static_warm")
    weight = half[["requests"]].to_numpy(np.float64).T
    chance, same, other = (_weighted_mean(half[[name]].to_numpy().T, weight)[0] for name in names)
    ordered = isinstance(trace, RoutingTrace)
    others = None if np.isnan(other) and not ordered else other
    return captions.most_used_half(same, others, label_word(trace.model), chance, ordered)


def most_used_by_label(counts: ExpertCounts) -> pd.DataFrame:
    """Measure the share of each label's assignments that go to the half of the experts that other labels use most.

    One row per label. Columns: label str · tokens int64 · share float64 (of its assignments, over all layers) · chance
    float64 (experts of those halves / all experts). Labels without assignments have no rows, and neither has a single
    label.
    Raises `MissingField` for counts that are not by label.
    """
    counts = counts.counts_by_label("What other labels use most")
    every, computing = counts.assignments.sum(axis=0), np.array(counts.model.num_experts) - counts.model.zero_experts
    halves, rows = (computing + 1) // 2, []
    for name, own, tokens in zip(counts.groups, counts.assignments, counts.tokens, strict=True):
        others = every - own
        hits = sum(
            int(hits_of_most(others[row, :E], own[row, :E])[half])
            for row, (E, half) in enumerate(zip(computing, halves, strict=True))
        )
        total = sum(int(own[row, :E].sum()) for row, E in enumerate(computing))
        if total and others.any():
            facts = {"label": str(name), "tokens": int(tokens.max()), "share": hits / total}
            rows.append(facts | {"chance": halves.sum() / computing.sum()})
    kinds: dict[str, Any] = {"label": "str", "tokens": np.int64, "share": np.float64, "chance": np.float64}
    return pd.DataFrame(rows, columns=[*kinds]).astype(kinds)


def _of_fixed_sets(trace: Counted) -> pd.DataFrame:
    rates = expert_cache(trace, policies=("static",))
    first = rates[["capacity", "compulsory"]].min(axis=1) / rates["requests"].clip(lower=1)
    return rates.assign(static=rates["static"] + first)


def _rows_of_sizes(layer: Int[np.ndarray, " n"], least: int) -> Int64[np.ndarray, "C L"]:
    """For each size from `least` on, the row of each layer: of one that has fewer experts, the row of all of them.

    `layer` is that of each row; rows of a layer stand together, from size 1 on.
    """
    first = np.flatnonzero(np.diff(layer, prepend=-1))
    sizes = np.diff(first, append=len(layer))
    return first + np.minimum(np.arange(least, sizes.max() + 1)[:, None], sizes) - 1


def _weighted_mean(rates: Float64[np.ndarray, "C L"], weights: Float64[np.ndarray, "C L"]) -> Float64[np.ndarray, " C"]:
    """Return the mean over layers that have a rate; NaN if none has."""
    known = ~np.isnan(rates) & (weights > 0)
    total = np.where(known, weights, 0).sum(axis=1)
    mean = np.where(known, rates * weights, 0).sum(axis=1) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.nan)


def hit_rates_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim whether LRU or the fixed set of the most used has more hits, if they hold half of the experts.

    By a tenth of all requests, and by four standard errors of a difference of two shares.
    """
    rates = frame.pivot(index="capacity", columns="policy", values="rate")
    if not {"lru", "static"} <= set(rates.columns) or rates["chance"].isna().all():
        return None
    size = rates.index[int((rates["chance"] - 0.5).abs().argmin())]
    row, judged = rates.loc[size], max(int(frame["requests"].iloc[0]) // 2, 1)
    if not abs(row["lru"] - row["static"]) >= max(0.1, STANDARD_ERRORS * (0.5 / judged) ** 0.5):
        return None
    return captions.recency_or_popularity(size, row["lru"], row["static"], row["chance"])
