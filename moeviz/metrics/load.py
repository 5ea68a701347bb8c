"""The division of work among the experts of each layer. Layers are never pooled: their experts are unrelated."""

from math import exp, log

import numpy as np
import pandas as pd
from jaxtyping import Int64, Num

from moeviz.claims import Claim
from moeviz.metrics import captions
from moeviz.metrics.balance import luck_band
from moeviz.metrics.inputs import LayerCounts, Statistics, filled_slots, layer_counts, needs_tokens
from moeviz.metrics.significance import HANDFUL, RARE, beyond_chance
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted, RoutingTrace


def expert_load(trace: Counted | Statistics) -> pd.DataFrame:
    """Compute the number of tokens that each expert served, layer by layer.

    The load of an expert is its share of the layer's assignments (filled slots), so the loads of a layer sum to 1. As
    shares of tokens they would sum to k. The uniform share is 1 / E.

    One row per layer and expert, including unused experts. Columns: layer int32 (the model's own index) · expert int16
    · tokens int64 (routed to this expert) · load float64 (share of assignments; 0 if the layer has none) · uniform
    float64 (1 / E) · times_uniform float64 (load / uniform: 1 is a uniform share) · rank int16 (1 = busiest of its
    layer; ties go to the lower id).

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5, with the k slots of a token instead of one.
    """
    layers = [_load_of_layer(found.layer, found.counts[0]) for found in layer_counts(trace)]
    return pd.DataFrame({name: np.concatenate([columns[name] for columns in layers]) for name in layers[0]})


def _load_of_layer(layer: int, tokens: Int64[np.ndarray, " E"]) -> dict[str, np.ndarray]:
    num_experts = len(tokens)
    load = tokens / max(tokens.sum(), 1)
    rank = np.empty(num_experts, np.int16)
    rank[np.argsort(-tokens, kind="stable")] = np.arange(1, num_experts + 1)
    return {
        "layer": np.full(num_experts, layer, np.int32),
        "expert": np.arange(num_experts, dtype=np.int16),
        "tokens": tokens,
        "load": load,
        "uniform": np.full(num_experts, 1 / num_experts),
        "times_uniform": load * num_experts,
        "rank": rank,
    }


@needs_tokens
def importance(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the probability that each router gave each expert, and the share of tokens that it sent there.

    The importance P_i of an expert is the mean over tokens of the router's probability for it. Importance and load both
    sum to 1 in a layer. Their product over a layer's experts, times E, is the balancing loss of Switch Transformers: 1
    if both are uniform.

    One row per layer and expert. Columns: those of `expert_load`, and importance float64. Raises `MissingField` if the
    trace has no logits, or does not say how the router turns them into probabilities.

    Source: P_i of Switch Transformers (arXiv 2101.03961), eq. 6.
    """
    probabilities = trace.probabilities("Expert importance")
    sums = probabilities.sum(axis=1, dtype=np.float64) / max(len(trace.tokens), 1)
    means = [layer[:num_experts] for layer, num_experts in zip(sums, trace.model.num_experts, strict=True)]
    return expert_load(trace).assign(importance=np.concatenate(means))


def balance(trace: Counted | Statistics) -> pd.DataFrame:
    """Compute the balance of each layer's work over its experts, by the common measures.

    One row per layer, never pooled: two layers with opposite imbalances would look balanced together. Columns: layer
    int32 · num_experts int16 · assignments int64 (filled slots) · the measures of `balance_of_counts` · chance_cv
    float64, the coefficient of variation that a router choosing k different experts at random would show over as many
    tokens: sqrt(sum of p(1 - p)) / (assignments / E), p = k / E of each token (root mean square, exact). Counts do
    not say how many slots each token filled: p is then the mean over tokens, which is the same if no slot is empty.

    Source: `balance_of_counts` names one for each measure. On pooling hiding imbalance: huggingface/transformers issue
    28255.
    """
    rows, slots = [], filled_slots(trace)
    for found in layer_counts(trace):
        counts, mean = found.counts[0], found.counts[0].mean()
        chance = np.sqrt(_variance(found, None if slots is None else slots[found.row])) / mean if mean else np.nan
        facts = {"layer": found.layer, "num_experts": found.num_experts, "assignments": counts.sum()}
        rows.append(facts | balance_of_counts(counts) | {"chance_cv": chance})
    kinds = {"layer": np.int32, "num_experts": np.int16, "assignments": np.int64, "dead_experts": np.int16}
    return pd.DataFrame(rows).astype(kinds)


def _variance(found: LayerCounts, slots: Int64[np.ndarray, " S"] | None) -> float:
    """Return the variance of an expert's number of tokens if tokens chose at random, with the same slots filled."""
    if slots is not None:
        p = np.arange(len(slots)) / found.num_experts
        return float((slots * p * (1 - p)).sum())
    tokens = int(found.tokens[0])
    mean = found.counts.sum() / max(tokens, 1) / found.num_experts
    return float(tokens * mean * (1 - mean))


def balance_of_counts(counts: Num[np.ndarray, " E"]) -> dict[str, float]:
    """Measures of how uniform the assignments of one layer's experts are; `counts` has a number for every expert.

    | measure | definition | uniform load | one expert takes all |
    |---|---|---|---|
    | max_over_mean | busiest expert / mean | 1 | E |
    | max_violation | max_over_mean - 1, MaxVio of arXiv 2408.15664 | 0 | E - 1 |
    | cv | population standard deviation / mean; its square is the loss of arXiv 1701.06538, eq. 7 | 0 | sqrt(E - 1) |
    | normalised_entropy | entropy of the loads / ln E (Pielou 1966); undefined for one expert | 1 | 0 |
    | gini | mean absolute difference between two experts / twice the mean (Gini 1912) | 0 | 1 - 1/E |
    | jain | (sum)^2 / (E x sum of squares), fairness index of arXiv cs/9809099 | 1 | 1/E |
    | dead_experts | number of experts that served no token | 0 | E - 1 |

    All are NaN, except dead_experts, if nothing was assigned.
    """
    counts = np.asarray(counts, np.float64)
    num_experts, total = len(counts), counts.sum()
    dead = int((counts == 0).sum())
    if total == 0:
        return dict.fromkeys(MEASURES, np.nan) | {"dead_experts": dead}
    load, mean = counts / total, total / num_experts
    used = load[load > 0]
    ranks = 2 * np.arange(1, num_experts + 1) - num_experts - 1
    return {
        "max_over_mean": counts.max() / mean,
        "max_violation": counts.max() / mean - 1,
        "cv": counts.std() / mean,
        "normalised_entropy": abs((used * np.log(used)).sum()) / np.log(num_experts) if num_experts > 1 else np.nan,
        "gini": (ranks * np.sort(counts)).sum() / (num_experts * total),
        "jain": total**2 / (num_experts * (counts**2).sum()),
        "dead_experts": dead,
    }


MEASURES = ("max_over_mean", "max_violation", "cv", "normalised_entropy", "gini", "jain")
ROUNDING = 1e-7
OVER_TIME = ("part", "layer", "assignments", *MEASURES, "dead_experts")


@needs_tokens
def balance_over_time(trace: RoutingTrace, tokens: int = 1024) -> pd.DataFrame:
    """Compute the balance of each layer's work over its experts in each part of a long text, or of a corpus.

    A part is `tokens` tokens, in the order of the trace; the last part has the rest. In few tokens the busiest expert
    is above the mean by chance, so parts of hundreds of tokens are informative, and parts of ten are not.

    One row per part and layer. Columns: part int32 (from 0) · layer int32 (the model's own index) · assignments int64
    (filled slots) · the measures of `balance_of_counts`.

    Source: `balance_of_counts` names one for each measure.
    """
    rows = []
    for part, start in enumerate(range(0, len(trace.tokens), tokens)):
        for found in layer_counts(trace.select(tokens=slice(start, start + tokens))):
            facts = {"part": part, "layer": found.layer, "assignments": found.counts[0].sum()}
            rows.append(facts | balance_of_counts(found.counts[0]))
    kinds = {"part": np.int32, "layer": np.int32, "assignments": np.int64}
    return pd.DataFrame(rows, columns=list(OVER_TIME)).astype(kinds)


def coverage(trace: Counted | Statistics) -> pd.DataFrame:
    """Share of a layer's work that its n busiest experts do.

    One row per layer and n from 0 to E. Columns: layer int32 · experts int16 (n) · share_of_experts float64 (n / E) ·
    covered float64, the share of assignments that the n busiest experts serve. Under a uniform load, covered is n / E.

    Source: a Lorenz curve (Lorenz 1905) read from the busiest expert down.
    """
    frames = []
    for layer, loads in expert_load(trace).groupby("layer", sort=True):
        covered = np.concatenate([[0.0], loads.sort_values("rank")["load"].cumsum()])
        experts = np.arange(len(covered), dtype=np.int16)
        columns = {"experts": experts, "share_of_experts": experts / (len(covered) - 1), "covered": covered}
        frames.append(pd.DataFrame({"layer": layer} | columns))
    return pd.concat(frames, ignore_index=True).astype({"layer": np.int32})


def load_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim what the busiest and the least busy expert of every layer have; None where chance may have brought it.

    Chance sends each assignment to an expert at random: see `load_beside_luck`. Columns: those of `expert_load`.
    """
    assigned = frame.groupby("layer")["tokens"].transform("sum")
    some = frame[assigned > 0]
    bands = {
        layer: luck_band(int(of["tokens"].sum()), 1 / len(of), RARE / len(some)) for layer, of in some.groupby("layer")
    }
    low, high = (some["layer"].map({layer: band[end] for layer, band in bands.items()}) for end in (0, 1))
    beyond = int(((some["tokens"] < low) | (some["tokens"] > high)).sum())
    if not beyond:
        return None
    most, least = (some.groupby("layer")["times_uniform"].agg(end) for end in ("max", "min"))
    row = one_row(some, some["times_uniform"].idxmax())
    return captions.loads_of_layers(
        row.expert, row.layer, len(bands), (most.min(), most.max()), (least.min(), least.max()), beyond, len(some)
    )


def importance_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim for which expert load and mean probability are furthest apart: at least 10 points, and one half more."""
    apart = (frame["load"] - frame["importance"]).abs()
    larger, smaller = frame[["load", "importance"]].max(axis=1), frame[["load", "importance"]].min(axis=1)
    some = frame.groupby("layer")["tokens"].transform("sum") > 0
    clear = apart[some & (apart >= 0.1 - ROUNDING) & (larger >= 1.5 * smaller - ROUNDING)]
    if clear.empty:
        return None
    row = one_row(frame, clear.idxmax())
    return captions.load_and_probability(row.expert, row.layer, row.load, row.importance, len(clear), len(frame))


def balance_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim at which layer the load varies most beyond chance, at least twice; chance by the tail of chi-squared."""
    times = frame["cv"] / frame["chance_cv"]
    freedom = frame["num_experts"] - 1
    luck = [exp(-(n / 2) * (q - 1 - log(q))) if q > 1 else 1.0 for n, q in zip(freedom, times**2, strict=True)]
    clear = frame.assign(times=times)[(times >= 2.0) & (pd.Series(luck, frame.index) * len(frame) <= RARE)]
    if clear.empty:
        return None
    row = one_row(clear, clear["times"].idxmax())
    return captions.widest_load(row.layer, row.times, (times.round(9) >= 2.0).sum(), len(frame))


def busiest_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim at which layer the busiest expert has most compared with a uniform share, beyond chance."""
    uniform = 1 / frame["num_experts"]
    every = frame.loc[frame.index.repeat(frame["num_experts"])]  # as many experts as could have been the busiest
    share = (every["max_over_mean"] * uniform.loc[every.index]).clip(upper=1)
    if not beyond_chance(share, every["assignments"], uniform.loc[every.index]).any():
        return None
    row = one_row(frame, frame["max_over_mean"].idxmax())
    return captions.busiest_layer(row.layer, row.max_over_mean, len(frame))


def counts_summary(loads: pd.DataFrame) -> Claim:
    """Claim which expert of all layers is the busiest, and how many got no token. Columns: those of `expert_load`."""
    counted = loads[loads.groupby("layer")["tokens"].transform("sum") > 0]
    if counted.empty:
        return captions.no_assignment()
    if not counted["expert"].any():
        return captions.one_choice()
    if (number := counted["tokens"].max()) < HANDFUL:  # one token chooses eight experts of some models
        return captions.few_at_busiest(int(number), HANDFUL)
    row, least = (one_row(counted, at) for at in (counted["times_uniform"].idxmax(), counted["times_uniform"].idxmin()))
    unused = counted.loc[counted["tokens"] == 0, "layer"].value_counts().sort_index()
    return captions.load_of_all(
        *(row.layer, row.expert, row.load, row.times_uniform, len(counted)),
        least=None if len(unused) else (least.layer, least.expert, least.load),
        unused=unused.sum(),
        unused_layers=len(unused),
        most_unused=(int(unused.index[int(unused.argmax())]), int(unused.max())) if len(unused) else None,
    )
