"""Two traces compared: two prompts, two checkpoints, or a prompt and what was generated after it.

An expert id names the same expert only within one model, or in a model trained further from it. If the two traces have
different shapes, only their balance can be compared.
"""

from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Int16, Int64

from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import check_cells, check_recorded, needs_tokens
from moeviz.metrics.load import balance, expert_load
from moeviz.metrics.significance import divergences
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, Counted, RoutingTrace
from moeviz.text import cut, spans

Pair = tuple[RoutingTrace, RoutingTrace]
CountedPair = tuple[Counted, Counted]
C = TypeVar("C", RoutingTrace, ExpertCounts, Counted)
SHUFFLES = 50
MOST_OF_A_NAME = 80  # characters
BLOCK = 16  # tokens: neighbours are routed alike, so a shuffle that parts them would promise too little


@needs_tokens
def load_divergence(pair: Pair) -> pd.DataFrame:
    """Compute the difference between two traces' use of the experts of each layer.

    The Jensen-Shannon divergence in bits between the loads of the two: 0 if both use every expert alike, 1 if they have
    none in common. Short texts differ by chance: `chance` is what two texts of the same lengths show when the
    tokens of both, in blocks of 16, are divided between two texts at random (mean of 50 divisions).

    One row per layer that both traces have. Columns: layer int32 · divergence float64 (bits) · chance float64 (bits) ·
    tokens int64, other_tokens int64 (recorded at the layer). Raises `InvalidTrace` if the two have no layer with the
    same number of experts.

    Source: Lin (1991), section IV, with the logarithm to base 2; loads as in OLMoE (arXiv 2409.02060), section 5.
    """
    rows = []
    one, other = matched(pair)
    for at, (layer, num_experts) in enumerate(zip(one.model.layers, one.model.num_experts, strict=True)):
        recorded = [experts[experts[:, 0] != NOT_RECORDED] for experts in (one.experts[at], other.experts[at])]
        mine, theirs = (_blocks(experts, num_experts) for experts in recorded)
        both = np.concatenate([mine, theirs])
        chance = [_bits(both[deal], both[~deal]) for deal in _deals(len(mine), len(theirs))]
        rows.append((layer, _bits(mine, theirs), float(np.mean(chance)), *map(len, recorded)))
    frame = pd.DataFrame(rows, columns=["layer", "divergence", "chance", "tokens", "other_tokens"])
    return frame.astype({"layer": np.int32, "tokens": np.int64, "other_tokens": np.int64})


def load_difference(pair: CountedPair) -> pd.DataFrame:
    """Compare the load of each expert in two traces: which the second uses more, or less.

    One row per expert of each layer that both traces have. Columns: layer int32 · expert int16 · load, other_load
    float64 (share of the layer's assignments) · difference float64 (other_load - load, as a multiple of the uniform
    load: 1 is 1/E more of the layer's assignments). Raises `InvalidTrace` if the two have no layer with the same number
    of experts.

    Source: f_i of Switch Transformers (arXiv 2101.03961), eq. 5.
    """
    one, other = (expert_load(trace)[["layer", "expert", "load", "uniform"]] for trace in matched(pair))
    both = one.assign(other_load=other["load"].to_numpy())
    return both.assign(difference=(both["other_load"] - both["load"]) / both["uniform"]).drop(columns="uniform")


def balance_of_both(pair: CountedPair) -> pd.DataFrame:
    """Compute the balance of each of two traces over its experts, layer by layer; any two models will do.

    One row per trace and layer, by the trace's own layers. Columns: those of `balance`, and trace str ("A" or "B").

    Source: `moeviz.metrics.load.balance`.
    """
    return pd.concat(
        [balance(trace).assign(trace=name) for name, trace in zip("AB", pair, strict=True)], ignore_index=True
    )


@needs_tokens
def choices_changed(pair: Pair) -> pd.DataFrame:
    """Find the tokens that go to different experts in two traces: in two checkpoints, or with and without a change.

    One row per layer. Columns: those of `set_changes`. Raises `InvalidTrace` if the two are of different tokens.

    Source: `moeviz.metrics.comparison.set_changes`.
    """
    return set_changes(*pair)


def matched(pair: tuple[C, C]) -> tuple[C, C]:
    """Both traces, or counts, cut to the layers that both have with as many experts, and with something recorded.

    Raises `InvalidTrace` if there are no such layers.
    """
    experts = [dict(zip(trace.model.layers, trace.model.num_experts, strict=True)) for trace in pair]
    common = [layer for layer in experts[0] if experts[0][layer] == experts[1].get(layer)]
    if not common:
        shapes = (_layout(trace.model) for trace in pair)
        raise InvalidTrace(
            "Traces can be compared expert by expert only if they are from one model or from its checkpoints; these "
            f"are {'; and '.join(shapes)}. Choose two traces of the same model."
        )
    counted = [set(_recorded_layers(trace)) for trace in pair]
    if not all(counted):
        raise InvalidTrace("One of the two traces has no tokens, so there is nothing to compare. Choose another.")
    common = [layer for layer in common if layer in counted[0] & counted[1]]
    if not common:
        raise MissingField("The two traces have no layer that is recorded in both. Choose another trace.")
    return pair[0].select(layers=common), pair[1].select(layers=common)


def _layout(model: ModelInfo) -> str:
    """Name a model's layers and their numbers of experts in a few words, whatever their number."""
    experts = spans(sorted({*model.num_experts}))
    return f"{cut(model.name, MOST_OF_A_NAME)}: layers {spans(model.layers)} with {experts} experts"


def _recorded_layers(trace: Counted) -> list[int]:
    if isinstance(trace, RoutingTrace):
        check_recorded(trace)
        some = trace.recorded.sum(axis=1)
    else:
        some = trace.tokens.sum(axis=0)
    return [layer for layer, count in zip(trace.model.layers, some.tolist(), strict=True) if count]


def _blocks(experts: Int16[np.ndarray, "T K"], num_experts: int) -> Int64[np.ndarray, "N E"]:
    """Count how often each expert was chosen in each block of neighbouring tokens."""
    block = np.arange(len(experts)) // BLOCK
    token, slot = np.nonzero(experts >= 0)
    table = np.zeros((block[-1] + 1, num_experts), np.int64)
    np.add.at(table, (block[token], experts[token, slot]), 1)
    return table


def _deals(first: int, second: int) -> list[np.ndarray]:
    """Draw masks over the blocks of both: which go to the first."""
    rng = np.random.default_rng(0)
    return [rng.permutation(first + second) < first for _ in range(SHUFFLES)]


def _bits(counts: Int64[np.ndarray, "N E"], others: Int64[np.ndarray, "M E"]) -> float:
    loads = np.stack([counts.sum(axis=0), others.sum(axis=0)])
    return float(divergences(loads, np.array([0]), np.array([1]))[0])


@needs_tokens
def set_changes(reference: RoutingTrace, other: RoutingTrace, tied: np.ndarray | None = None) -> pd.DataFrame:
    """Compute the share of tokens that another trace sends to a different set of experts, layer by layer.

    One row per layer at which tokens are recorded in both. Columns: layer int32 · tokens int64 (those) · changed
    float64 (share of tokens whose set of experts differs) · tied float64 (share of tokens with a different set where
    `tied` (L, T) says that the reference's choice was a tie at the boundary of the top-k; NaN without `tied`) · flipped
    float64 (changed - tied) · first_changed float64 (share of tokens with a different first choice; NaN if a trace does
    not say which that is) · overlap float64 (mean share of the reference's experts that the other trace also has).

    Raises `InvalidTrace` if the traces are of different tokens or different layers, and `MissingField` if no token is
    recorded in both.

    Source: simple counting; overlap is recall of the top-k, as in OLMoE's router saturation (arXiv 2409.02060, section
    5.1).
    """
    _check_alike(reference, other)
    check_cells("Overlap", reference.experts.size, 2**24, 1024, choices=reference.experts.size, slots=other.model.top_k)
    rows = []
    for row, layer in enumerate(reference.model.layers):
        both = (reference.experts[row, :, 0] != NOT_RECORDED) & (other.experts[row, :, 0] != NOT_RECORDED)
        if both.any() or not len(both):
            mine, theirs = reference.experts[row, both], other.experts[row, both]
            facts = {"layer": layer, "tokens": len(mine)}
            rows.append(facts | _changes(mine, theirs, None if tied is None else tied[row, both]))
    if not rows:
        raise MissingField("No token is recorded in both traces, so there is nothing to compare. Choose another trace.")
    known = reference.ordered and other.ordered
    frame = pd.DataFrame(rows).astype({"layer": np.int32, "tokens": np.int64})
    return frame.assign(first_changed=frame["first_changed"] if known else np.nan)


def _changes(
    mine: Int16[np.ndarray, "T K"], theirs: Int16[np.ndarray, "T J"], tied: np.ndarray | None
) -> dict[str, float]:
    """Count what differs in one layer's choices: `first_changed` takes slot 0 for the first choice."""
    changed = (_sets(mine, theirs) != _sets(theirs, mine)).any(axis=1)
    ties = np.nan if tied is None else (changed & tied).mean()
    filled = mine >= 0
    shared = filled & (mine[..., None] == theirs[:, None, :]).any(axis=2)
    return {
        "changed": changed.mean(),
        "tied": ties,
        "flipped": changed.mean() - ties,
        "first_changed": (mine[:, 0] != theirs[:, 0]).mean(),
        "overlap": shared.sum() / max(filled.sum(), 1),
    }


def _sets(experts: Int16[np.ndarray, "T K"], beside: Int16[np.ndarray, "T J"]) -> np.ndarray:
    """Sort the experts of each token, with empty slots if the other trace has more."""
    missing = max(beside.shape[1] - experts.shape[1], 0)
    return np.sort(np.pad(experts, ((0, 0), (0, missing)), constant_values=NO_EXPERT))


def _check_alike(reference: RoutingTrace, other: RoutingTrace) -> None:
    counts = len(reference.tokens), len(other.tokens)
    if counts[0] != counts[1]:
        raise InvalidTrace(
            f"Two traces are compared token by token only if they are of the same text; these have {counts[0]:,} and "
            f"{counts[1]:,} tokens. Give two traces of the same prompt."
        )
    if reference.model.layers != other.model.layers:
        raise InvalidTrace(
            f"Traces of layers {spans(reference.model.layers)} and {spans(other.model.layers)} cannot be compared "
            "choice by choice. Give two traces of models with the same layers."
        )
    same = reference.tokens["token_id"].to_numpy() == other.tokens["token_id"].to_numpy()
    if not same.all():
        first = int(np.flatnonzero(~same)[0])
        raise InvalidTrace(
            f"The traces have different tokens from token {first} on: {reference.tokens['text'].iloc[first]!r} and "
            f"{other.tokens['text'].iloc[first]!r}. Give two traces of the same prompt."
        )
