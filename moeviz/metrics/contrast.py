"""Contrast: the experts that take more of one set of texts than of another, compared with shuffled texts."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.metrics import captions
from moeviz.metrics.inputs import check_one_model, needs_tokens
from moeviz.metrics.words import one_row
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

SHUFFLES, SEED = 500, 0
FALSE = 0.05  # of the experts that are named: the share that may be there by chance, on average
FIRST_TOKENS = 160
FEWEST = 4  # texts in each set: of fewer, shuffles are too much alike
SHUFFLED_AT_ONCE = 2**24  # numbers
Pair = tuple[RoutingTrace, RoutingTrace]
ONE_MODEL = (
    "A contrast is of two sets of texts in one model, and {fact} is {here} in the first and {there} in the second. "
    "Trace both with the same model."
)


@needs_tokens
def contrast(pair: Pair) -> pd.DataFrame:
    """The difference between the shares that each expert takes of two sets of texts, and whether it is beyond chance.

    A text counts once, however long it is: `share` is an expert's share of a text's recorded tokens, in any slot, and
    then the mean over texts. The difference of the means is divided by its standard error (Welch's t), and the same is
    done with the texts dealt anew to the two sets, 500 times. `q` is the false discovery rate at that t: of the experts
    whose t is as large, the share that would have such a t by chance, pooled over experts and shuffles.

    pair   two traces of one model; each text is a sequence. See `texts_of_label` for the kinds of a labelled trace.

    One row per layer and expert. Columns: layer int32 (the model's own index) · expert int16 · share, other_share
    float64 (means over the texts of either set) · difference float64 (of the first from the second) · t, q float64 ·
    holds bool (q is at most 0.05). Raises `InvalidTrace` for other layers or experts, and for fewer than 4 texts in a
    set; `MissingField` where nothing is recorded.

    Source: the difference of rates of SteerMoE (arXiv 2509.09660), per text; Tusher, Tibshirani and Chu (2001), PNAS
    98(9), for the false discovery rate under shuffles.
    """
    check_one_model(*pair, ONE_MODEL)
    return told_apart(pair[0].model, *(shares_of_texts(trace) for trace in pair))


def told_apart(
    model: ModelInfo, one: Float64[np.ndarray, "texts experts"], other: Float64[np.ndarray, "others experts"]
) -> pd.DataFrame:
    """Compute the table of `contrast` from a number of each text for each expert of each layer, in two sets of texts.

    Raises `InvalidTrace` for fewer than 4 texts in a set.
    """
    fewest = min(len(one), len(other))
    if fewest < FEWEST:
        raise InvalidTrace(
            f"A contrast takes at least {FEWEST} texts in each set, and one has {fewest}: of fewer, nothing can be "
            "told from luck. Add texts, or cut long ones into several."
        )
    texts = np.concatenate([one, other])
    is_first = np.arange(len(texts)) < len(one)
    difference, t = _welch(texts, is_first[None])
    q = _false_discovery_rate(np.abs(t[0]), texts, is_first)
    return pd.DataFrame(
        {
            "layer": np.repeat(model.layers, model.num_experts).astype(np.int32),
            "expert": np.concatenate([np.arange(count) for count in model.num_experts]).astype(np.int16),
            "share": one.mean(axis=0),
            "other_share": other.mean(axis=0),
            "difference": difference[0],
            "t": t[0],
            "q": q,
            "holds": q <= FALSE,
        }
    )


def texts_of_label(trace: RoutingTrace, label: str) -> RoutingTrace:
    """Return the texts of one kind in a labelled trace. Raises `InvalidTrace` for a kind that it does not have."""
    labels = trace.tokens["label"].astype(str) if "label" in trace.tokens else pd.Series(dtype=str)
    if label not in set(labels):
        has = ", ".join(sorted(set(labels)))
        rest = f"it has {has}. Name one of these." if has else "its texts have no labels. Trace labelled texts."
        raise InvalidTrace(f"The trace has no texts of the kind {label!r}; {rest}")
    return trace.select(tokens=(labels == label).to_numpy())


def first_half(trace: RoutingTrace) -> RoutingTrace:
    """Return the first half of each text: what is chosen on it can be judged on the other."""
    length = trace.tokens.groupby("sequence")["position"].transform("size")
    return trace.select(tokens=(2 * trace.tokens["position"] < length).to_numpy())


def first_tokens(trace: RoutingTrace, most: int = FIRST_TOKENS) -> RoutingTrace:
    """Return the first tokens of each text, as many as a model reads while somebody waits."""
    return trace.select(tokens=(trace.tokens["position"] < most).to_numpy())


def turned(found: pd.DataFrame, amount: float) -> dict[int, dict[int, float]]:
    """Amounts for `moeviz.Bias`: of the experts that hold, those of the first set up, and those of the second down.

    Columns: those of `contrast`.
    """
    amounts: dict[int, dict[int, float]] = {}
    held = found.loc[found["holds"], ["layer", "expert", "difference"]]
    for layer, expert, difference in held.to_numpy().tolist():
        amounts.setdefault(int(layer), {})[int(expert)] = amount if difference > 0 else -amount
    return amounts


def shares_of_texts(
    trace: RoutingTrace, weights: Float32[np.ndarray, "L T K"] | None = None
) -> Float64[np.ndarray, "texts experts"]:
    """Return each expert's share of the recorded tokens of each text, at each layer. 0 where none is recorded.

    weights   count a slot with its weight instead of 1.
    """
    codes, _ = pd.factorize(trace.tokens["sequence"])
    count, parts = int(codes.max(initial=-1)) + 1, []
    layers = zip(trace.experts, trace.recorded, trace.model.num_experts, strict=True)
    for layer, (experts, recorded, of_layer) in enumerate(layers):
        tokens, slots = np.nonzero(experts >= 0)
        cells = codes[tokens].astype(np.int64) * of_layer + experts[tokens, slots]
        of_slots = None if weights is None else weights[layer][tokens, slots]
        had = np.bincount(cells, of_slots, minlength=count * of_layer).reshape(count, of_layer)
        parts.append(had / np.maximum(np.bincount(codes, recorded, count), 1)[:, None])
    return np.concatenate(parts, axis=1)


def _welch(
    texts: Float64[np.ndarray, "texts experts"], is_first: Bool[np.ndarray, "deals texts"]
) -> tuple[Float64[np.ndarray, "deals experts"], Float64[np.ndarray, "deals experts"]]:
    """Return the difference of the two means and its Welch's t; 0 for experts that all texts use alike."""
    means, errors = [], []
    for members in (is_first.astype(float), (~is_first).astype(float)):
        size = members.sum(axis=1, keepdims=True)
        mean = members @ texts / size
        means.append(mean)
        variance = (members @ texts**2 / size - mean**2).clip(min=0) * size / (size - 1)
        errors.append(variance / size)
    difference = means[0] - means[1]
    # Beside an expert that few texts have, a variance of nearly nothing would make any difference a large t.
    error = np.sqrt(errors[0] + errors[1]) + 0.5 / len(texts)
    return difference, difference / error


def _false_discovery_rate(
    t: Float64[np.ndarray, " experts"],
    texts: Float64[np.ndarray, "texts experts"],
    is_first: Bool[np.ndarray, " texts"],
) -> Float64[np.ndarray, " experts"]:
    """Return the share of the experts with a t this large that chance would give such a t; at most 1."""
    rng, by_luck, done = np.random.default_rng(SEED), np.zeros(len(t)), 0
    order = np.argsort(t)
    while done < SHUFFLES:
        deals = min(SHUFFLES - done, max(SHUFFLED_AT_ONCE // texts.size, 1))
        dealt = rng.permuted(np.tile(is_first, (deals, 1)), axis=1)
        lucky = np.sort(np.abs(_welch(texts, dealt)[1]).ravel())
        by_luck += len(lucky) - np.searchsorted(lucky, t, side="left")
        done += deals
    as_large = len(t) - np.searchsorted(t[order], t, side="left")
    rate = np.minimum(by_luck / SHUFFLES / as_large, 1)
    # One with a larger t is never less sure.
    rate[order] = np.minimum.accumulate(rate[order])
    return rate


class SteeringTrial(NamedTuple):
    """The best of several ways to turn a kind of text up, and what it does on texts that did not choose it.

    ways        number of pairs and amounts that were tried.
    first       the kind that is turned up, against `second`, by `amount`.
    chosen      change of the first kind's loss on the texts that chose, in nats per token.
    judged      the same on the other texts.
    at_random   the same on the other texts, of other experts drawn at random.
    """

    ways: int
    first: str
    second: str
    amount: float
    chosen: float
    judged: float
    at_random: tuple[float, ...]


def steering_sentence(trial: SteeringTrial) -> Claim:
    """Claim whether turning a kind of text up helps: on other texts, and more than 19 of 20 directions at random."""
    lower = float(np.mean(np.array(trial.at_random) > trial.judged))
    helps = trial.judged < 0 and lower > 1 - FALSE
    limits = min(trial.at_random), max(trial.at_random)
    verdict = "Turning a kind of text up helps" if helps else "Turning a kind of text up does not help"
    return captions.steering(verdict, *trial[:6], len(trial.at_random), *limits)


def contrast_sentence(found: pd.DataFrame, names: tuple[str, str]) -> Claim:
    """Claim how many experts distinguish two sets of texts, and which the most. Columns: those of `contrast`.

    The names are as they were typed.
    """
    held = found[found["holds"]]
    if held.empty:
        return captions.no_contrast(*names)
    best = one_row(held, held["difference"].abs().idxmax())
    counts = len(held), len(found)
    return captions.contrast(*names, *counts, best.layer, best.expert, best.share, best.other_share)
