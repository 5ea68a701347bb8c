"""The number of experts that carry a layer's work, and that a text has used so far."""

from math import sqrt

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.inputs import Statistics, distinct_so_far, filled_slots, layer_counts, per_layer
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted, RoutingTrace

LEVELS = (50, 75, 90, 95, 99)  # per cent of assignments
MAX_ROWS, FEWEST_STEPS, MOST_STEPS = 2_000, 16, 200
STANDARD_ERRORS = 4  # for a caption: chance brings as much once in some ten thousand times


def experts_needed(trace: Counted | Statistics) -> pd.DataFrame:
    """Compute the number of experts that do half of a layer's work, and the number that do nearly all of it.

    The smallest n such that the n busiest experts of the layer carry at least that share of its assignments. A uniform
    load needs that share of the experts, rounded up. A short text cannot be uniform, so `by_lot` gives what a choice at
    random would need: the same count if each number of tokens is served by as many experts as expected, which is E
    times the binomial probability of it (n tokens, each with chance k / E; k is the mean if some slots are empty). A
    token without an expert is not one of the n, except in a trace of counts, which does not show it.

    One row per layer and level (50, 75, 90, 95, 99%). Columns: layer int32 · num_experts int16 (E) · level float64
    (share of assignments) · needed int16 (0 if nothing was assigned) · even, by_lot int16 (the same, under a uniform
    load and at random) · of_even float64 (needed / even: 1 is a uniform load).

    Source: a Lorenz curve (Lorenz 1905) read at a level, from the busiest expert down.
    """
    rows, slots = [], filled_slots(trace)
    for found in layer_counts(trace):
        layer, num_experts, counts = found.layer, found.num_experts, found.counts[0]
        served = np.sort(counts)[::-1].cumsum()
        tokens = int(found.tokens[0] if slots is None else slots[found.row, 1:].sum())
        by_lot = _needed_by_lot(tokens, int(counts.sum()), num_experts)
        for percent, lot in zip(LEVELS, by_lot, strict=True):
            needed = int(np.searchsorted(100 * served, percent * served[-1])) + 1 if served[-1] else 0
            even = -(-percent * num_experts // 100)
            facts = {"layer": layer, "num_experts": num_experts, "level": percent / 100, "needed": needed}
            rows.append(facts | {"even": even, "by_lot": lot, "of_even": needed / even})
    whole = dict.fromkeys(("num_experts", "needed", "even", "by_lot"), "int16")
    return pd.DataFrame(rows).astype({"layer": "int32"} | whole)


def _needed_by_lot(tokens: int, assignments: int, num_experts: int) -> list[int]:
    """Compute the number of experts that serve each level at random, if each number of tokens is served as expected."""
    if not tokens or assignments == tokens * num_experts or assignments > 1e9 * num_experts:  # no chance level
        return [-(-percent * num_experts // 100) if tokens else 0 for percent in LEVELS]
    chance = assignments / (tokens * num_experts)
    mean, reach = tokens * chance, 12 * np.sqrt(tokens * chance) + 12  # beyond it, probabilities are under 1e-20
    served = np.arange(max(0, int(mean - reach)), min(tokens, int(mean + reach)) + 1)
    ratios = (tokens - served[:-1]) / (served[:-1] + 1) * chance / (1 - chance)
    logs = np.concatenate([[0.0], np.log(ratios).cumsum()])
    experts = np.exp(logs - logs.max())
    experts *= num_experts / experts.sum()
    work, busiest = (np.concatenate([[0.0], values[::-1].cumsum()]) for values in (experts * served, experts))
    needed = np.interp(np.array(LEVELS) / 100 * assignments, work, busiest)
    return [int(count) for count in np.ceil(needed - 1e-6)]


@per_layer
def experts_touched(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the number of different experts of each layer that a text has used after its first t tokens.

    Tokens are taken in the order of the trace, one sequence after the other; those that are not recorded at a layer do
    not count there. Chance is what choosing k different
    experts at random would have touched: of E experts, E(1 - prod(1 - k / E)), with k the filled slots of each token.

    One row per layer and t: every t if they are few, otherwise t spaced at equal ratios from 1 to T. There are at most
    200 values of t, and fewer if there are more than 10 layers, so that the table has about 2,000 rows. Columns: layer
    int32 · num_experts int16 (E) · tokens int32 (t) · experts int32 (different ones chosen so far) · chance float64
    (experts, expected).

    Source: simple counting; the expectation is that of the coupon collector's problem.
    """
    steps, frames = _steps(len(trace.tokens), len(trace.model.layers)), []
    for layer, num_experts, experts in zip(trace.model.layers, trace.model.num_experts, trace.experts, strict=True):
        missed = np.cumprod(1 - (experts >= 0).sum(axis=1) / num_experts)
        columns = {
            "layer": np.int32(layer),
            "num_experts": np.int16(num_experts),
            "tokens": steps.astype(np.int32),
            "experts": distinct_so_far(experts)[steps - 1].astype(np.int32),
            "chance": num_experts * (1 - missed[steps - 1]),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _steps(tokens: int, layers: int) -> np.ndarray:
    most = int(np.clip(MAX_ROWS // layers, FEWEST_STEPS, MOST_STEPS))
    if tokens <= most:
        return np.arange(1, tokens + 1)
    return np.unique(np.geomspace(1, tokens, most).round().astype(np.int64))


def experts_needed_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim where the fewest experts do half of the work, compared with a uniform load, and at how many layers few do.

    At random it would need half more, and two.
    """
    half = frame[(frame["level"] == 0.5) & (frame["needed"] > 0)]
    clear = half[(half["by_lot"] >= 1.5 * half["needed"]) & (half["by_lot"] >= half["needed"] + 2)]
    if clear.empty:
        return None
    row = one_row(clear, clear["of_even"].idxmin())
    return captions.half_of_work(row.layer, row.needed, row.by_lot, len(clear), len(half))


def experts_touched_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which layer uses the fewest experts in all, if four standard errors fewer than random choices would."""
    if frame.empty:
        return None
    last = frame[frame["tokens"] == frame.groupby("layer")["tokens"].transform("max")]
    spread = (last["chance"] * (1 - last["chance"] / last["num_experts"])).clip(lower=0).map(sqrt)
    missing = last["chance"] - last["experts"] - STANDARD_ERRORS * spread
    clear = last[missing >= 1 - 1e-3]  # one expert, where chance would leave out none
    if clear.empty:
        return None
    row = one_row(clear, (clear["experts"] / clear["num_experts"]).idxmin())
    return captions.used_experts(row.layer, row.experts, row.num_experts, row.chance, len(clear), len(last))
