"""Two layers compared: their loads by rank, and their choices by how well one predicts the other.

Expert ids mean nothing across layers: expert 3 of one layer has nothing to do with expert 3 of the next, unless the
model was built so.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Int16

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.inputs import check_cells, needs_tokens, recorded_together
from moeviz.metrics.load import balance, expert_load
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted, RoutingTrace

SHUFFLES = 100
EVENNESS = {"normalised_entropy": 1.0, "jain": 1.0, "gini": 0.0}
CLEAR_BITS = 0.1  # above what shuffling gives, for a caption


def ranked_load(trace: Counted) -> pd.DataFrame:
    """Compute the loads of two layers side by side, each sorted from its busiest expert to its least used one.

    Two rows with the same rank are not the same expert: ids of different layers are unrelated.

    One row per layer and expert, by layer and rank. Columns: those of `expert_load`. Raises `InvalidTrace` if the trace
    does not have exactly two layers.

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5, in order of rank (Zipf 1949).
    """
    _two_layers(trace)
    return expert_load(trace).sort_values(["layer", "rank"], ignore_index=True)


def balance_of_two(trace: Counted) -> pd.DataFrame:
    """Compute the balance of two layers, by the three measures that lie between 0 and 1.

    One row per layer and measure. Columns: layer int32 · measure str (normalised_entropy, jain, gini) · value float64 ·
    even float64 (the measure if all experts do the same amount of work) · from `balance`, for the layer: max_over_mean,
    cv, chance_cv, dead_experts, num_experts. Raises `InvalidTrace` if the trace does not have exactly two layers.

    Source: entropy over its maximum, Pielou (1966); fairness index, Jain, Chiu & Hawe (1984, arXiv cs/9809099);
    Gini (1912).
    """
    _two_layers(trace)
    facts = ["layer", "num_experts", "max_over_mean", "cv", "chance_cv", "dead_experts"]
    frame = balance(trace).melt(facts, list(EVENNESS), "measure", "value")
    return frame.assign(even=frame["measure"].map(EVENNESS).astype(np.float64))


@needs_tokens
def transitions(trace: RoutingTrace) -> pd.DataFrame:
    """Compute the experts that each expert's tokens go to: from the first choice in one layer to that in the other.

    One row per pair of experts, including pairs that no token took. Columns: from_layer int32 · to_layer int32 ·
    from_expert int16 · to_expert int16 · tokens int64 · share float64 (of from_expert's tokens, sums to 1; NaN if it
    has none) · chance float64 (share of all tokens that go to to_expert: what `share` is if the layers choose
    independently) · lift float64 (share / chance; NaN if either has no tokens). A token without an expert in one of the
    two layers is left out, and so is one that is not recorded in both. Raises `InvalidTrace` if the trace does not have
    exactly two layers, and `MissingField` if it does not say which experts are first choices.

    Source: contingency table; lift as in Brin et al. (1997), 'interest'. OLMoE (arXiv 2409.02060) and Mixtral of
    Experts (arXiv 2401.04088) study routing across layers.
    """
    before, after = first_choices_of_two(trace)
    sizes = trace.model.num_experts
    check_cells("Transitions", trace.experts.size, experts=sizes[0], experts_of_the_other_layer=sizes[1])
    table = _table(before, after, sizes)
    row, column = table.sum(axis=1, keepdims=True), table.sum(axis=0, keepdims=True)
    share = _ratio(table, row)
    chance = np.broadcast_to(_ratio(column, column.sum(keepdims=True)), table.shape)
    from_expert, to_expert = np.indices(table.shape, np.int16)
    return pd.DataFrame(
        {
            "from_layer": np.int32(trace.model.layers[0]),
            "to_layer": np.int32(trace.model.layers[1]),
            "from_expert": from_expert.ravel(),
            "to_expert": to_expert.ravel(),
            "tokens": table.ravel(),
            "share": share.ravel(),
            "chance": chance.ravel(),
            "lift": _ratio(share, chance).ravel(),
        }
    )


@needs_tokens
def overlap(trace: RoutingTrace) -> pd.DataFrame:
    """The information that one layer's choices give about the other's, and the rate at which both choose the same id.

    `mutual information`: bits that the first choice in one layer gives about the first choice in the other; its maximum
    is the smaller of the two entropies. `shared ids`: share of tokens for which the two layers chose at least one
    common expert id. Ids of different layers are unrelated, so shared ids mean something only in a model whose experts
    keep their identity across layers; elsewhere they stay near chance.

    Chance is the same number with the second layer's tokens shuffled (mean of 100 shuffles, seed 0): it keeps both
    layers' loads, and is well above 0 for mutual information in short texts.

    One row per measure. Columns: measure str · unit str · value float64 · chance float64 · maximum float64 · share
    float64 (value / maximum) · chance_share float64. A token without an expert in one of the two layers is left out,
    and so is one that is not recorded in both. If the trace does not say which experts are first choices, there are
    only shared ids. Raises `InvalidTrace` if the trace does not have exactly two layers.

    Source: Shannon (1948), section 12; a permutation baseline as in Vinh, Epps & Bailey (2010).
    """
    _two_layers(trace)
    trace = recorded_together(trace)
    kept, slots = _routed_tokens(trace), trace.model.top_k
    check_cells("Shared ids", trace.experts.size, 2**24, 1024, tokens=len(kept), slots=slots, slots_of_the_other=slots)
    first, second = trace.experts[:, kept]
    orders = orders_at_random(len(first))
    rows = [_information(first[:, 0], second[:, 0], trace.model.num_experts, orders)] if trace.ordered else []
    luck = float(np.mean([_share_with_common_id(first, second[order]) for order in orders]))
    rows.append(("shared ids", "share of tokens", _share_with_common_id(first, second), luck, 1.0))
    frame = pd.DataFrame(rows, columns=["measure", "unit", "value", "chance", "maximum"])
    return frame.assign(
        share=_ratio(frame["value"].to_numpy(), frame["maximum"].to_numpy()),
        chance_share=_ratio(frame["chance"].to_numpy(), frame["maximum"].to_numpy()),
    )


@lru_cache(maxsize=1)
def orders_at_random(tokens: int, shuffles: int = SHUFFLES) -> list[np.ndarray]:
    """Orders of this many tokens, by seed 0: the same for all that is held against shuffled tokens."""
    rng = np.random.default_rng(0)
    return [rng.permutation(tokens) for _ in range(shuffles)]


def _two_layers(trace: Counted) -> None:
    if len(trace.model.layers) != 2:
        raise InvalidTrace(
            f"A comparison of two layers needs exactly two layers, and this trace has {len(trace.model.layers)}. "
            "Choose two different MoE layers."
        )


def _information(
    a: Int16[np.ndarray, " T"], b: Int16[np.ndarray, " T"], sizes: tuple[int, ...], orders: list[np.ndarray]
) -> tuple[str, str, float, float, float]:
    luck = np.mean([_mutual_information(a, b[order], sizes) for order in orders])
    maximum = min(entropy_of_counts(np.bincount(a)), entropy_of_counts(np.bincount(b)))
    return "mutual information", "bits", _mutual_information(a, b, sizes), float(luck), maximum


def _routed_tokens(trace: RoutingTrace) -> np.ndarray:
    return np.flatnonzero((trace.experts[..., 0] >= 0).all(axis=0))


def first_choices_of_two(trace: RoutingTrace) -> np.ndarray:
    """List the first choices in both layers of the tokens that have an expert in both."""
    _two_layers(trace)
    trace = recorded_together(trace)
    choices: np.ndarray = trace.first_choices("A table of transitions")[:, _routed_tokens(trace)]
    return choices


def _table(a: np.ndarray, b: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    pairs = a.astype(np.int64) * sizes[1] + b
    return np.bincount(pairs, minlength=sizes[0] * sizes[1]).reshape(sizes[0], sizes[1])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    unknown = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    ratio: np.ndarray = np.divide(top, bottom, out=unknown, where=bottom > 0)
    return ratio


def entropy_of_counts(counts: np.ndarray) -> float:
    """Shannon entropy in bits of what was counted so often."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(abs((p * np.log2(p)).sum()))


def _mutual_information(a: np.ndarray, b: np.ndarray, sizes: tuple[int, ...]) -> float:
    joint = np.unique(a.astype(np.int64) * sizes[1] + b, return_counts=True)[1]
    return max(entropy_of_counts(np.bincount(a)) + entropy_of_counts(np.bincount(b)) - entropy_of_counts(joint), 0.0)


def _share_with_common_id(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of tokens that have at least one id in both; empty slots match nothing."""
    same = (first[:, :, None] == second[:, None, :]) & (first[:, :, None] >= 0)
    return float(same.any(axis=(1, 2)).mean()) if len(first) else float("nan")


def ranked_load_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which of two layers has the busier first expert: half as busy again, and beyond chance."""
    first = frame[frame["rank"] == 1]
    if len(first) != 2 or not first["times_uniform"].max() >= 1.5 * first["times_uniform"].min() > 0:
        return None
    assignments = frame.groupby("layer")["tokens"].transform("sum")
    if not beyond_chance(frame["load"], assignments, frame["uniform"]).any():
        return None
    high, low = one_row(first, first["times_uniform"].idxmax()), one_row(first, first["times_uniform"].idxmin())
    return captions.busier_of_two(high.times_uniform, high.layer, low.times_uniform, low.layer)


def two_balances_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim at which of two layers the load varies more: half more, and twice as much as at random."""
    layers = frame.drop_duplicates("layer")
    if len(layers) != 2 or layers["cv"].isna().any():
        return None
    high, low = one_row(layers, layers["cv"].idxmax()), one_row(layers, layers["cv"].idxmin())
    if not high.cv > 0 or high.cv < 1.5 * low.cv or high.cv < 2.0 * high.chance_cv:
        return None
    return captions.wider_of_two(high.layer, low.layer, high.cv, low.cv)


def overlap_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim how well one layer's first choice predicts the other's, if by half more than shuffled tokens do."""
    told = frame[frame["measure"] == "mutual information"]
    clear = told[(told["value"] >= 1.5 * told["chance"]) & (told["value"] >= told["chance"] + CLEAR_BITS)]
    if clear.empty:
        return None
    row = one_row(clear, clear.index[0])
    return captions.information_of_two(row.value, row.chance)
