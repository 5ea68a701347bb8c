"""Several traces of one text next to each other, each with its own experts: three models, or one model three times.

An expert id of one model says nothing of another's, and their numbers of experts differ. So everything here is a share
of what is possible, next to what chance gives each; and a layer is placed by how deep it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import comb
from typing import TypeVar

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import check_recorded, per_layer
from moeviz.metrics.load import balance
from moeviz.metrics.locality import MIXTRAL, MIXTRAL_DEPTHS, locality, published_first_choices
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.specialization import label_information
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

Several = Mapping[str, RoutingTrace]  # by the name that each has in a picture: A, B, C
DRAWS = 50
Number = TypeVar("Number", float, pd.Series)


def over_chance(share: Number, chance: Number) -> Number:
    """Correct a share for chance, as a part of what it could be: 0 is chance, 1 is always.

    >>> over_chance(0.5625, 0.125), over_chance(0.125, 0.125)
    (0.5, 0.0)

    Source: Bennett, Alpert & Goldstein (1954), their S; with other chances it is the kappa of Cohen (1960), eq. 1.
    """
    return (share - chance) / (1 - chance)


def depths(model: ModelInfo) -> list[float]:
    """Return the depth of each MoE layer: 0 is the first layer of the model, 1 the last, dense layers included."""
    last = (model.num_layers or max(model.layers) + 1) - 1
    return [layer / last if last else 0.0 for layer in model.layers]


def layer_at(model: ModelInfo, depth: float) -> int:
    """Find the MoE layer that is closest to a depth; of two as close, the one before."""
    away = [abs(own - depth) for own in depths(model)]
    return model.layers[away.index(min(away))]


def of_one_text(traces: Several) -> bool:
    """Return True if all traces are of the same tokens, one after the other."""
    first, *others = (trace.tokens[["sequence", "text"]].reset_index(drop=True) for trace in traces.values())
    return all(first.equals(other) for other in others)


def repetition_of_several(traces: Several) -> pd.DataFrame:
    """The share of tokens with the first choice of the token before them, beyond what chance gives in that model.

    `over_chance` is (share - chance) / (1 - chance), where chance is that of a uniform load, 1 / E: 12.5% of 8
    experts, 3.2% of 31. So it is 0 where the router chooses at random, and 1 where all tokens of a text have one first
    choice, whatever the number of experts is. A load that is not uniform repeats without any locality: `by_load` is the
    same of two tokens drawn at random from the layer, with the choices that they made.

    Below the traces stand the published figures of Mixtral 8x7B, by the same formula: the mean of eight data sets at
    layers 0, 15 and 31, the lowest and the highest. They are of another model and other texts. Their loads were not
    published.

    One row per trace and layer; none of a trace that does not say which choice is the first. Columns: trace str · layer
    int32 · depth float64 (0 to 1) · share, chance, over_chance, by_load float64 · pairs Int64 (of consecutive tokens) ·
    lowest, highest float64 (of the data sets, over chance; NaN in rows of traces). Raises `MissingField` if no trace
    says which choice is the first.

    Source: Mixtral of Experts (arXiv 2401.04088), table 5; the correction is S of Bennett, Alpert & Goldstein (1954).
    """
    found = _of_each({name: _first_choices(trace) for name, trace in traces.items() if trace.ordered}, locality)
    if found.empty:
        raise MissingField(
            "Repetition needs each token's first choice, the expert with the highest weight, and none of these traces "
            "says which of a token's experts that is. Record router weights too."
        )
    own = found.rename(columns={"uniform_chance": "chance"})
    published = published_first_choices().assign(trace=MIXTRAL, depth=MIXTRAL_DEPTHS)
    frame = pd.concat([own.astype({"pairs": "Int64"}), published], ignore_index=True)
    frame["by_load"] = over_chance(frame["load_chance"], frame["chance"])
    for name, share in (("over_chance", "share"), ("lowest", "lowest"), ("highest", "highest")):
        frame[name] = over_chance(frame[share], frame["chance"])
    columns = ["trace", "layer", "depth", "share", "chance", "over_chance", "by_load", "pairs", "lowest", "highest"]
    return frame[columns].astype({"trace": "str", "layer": np.int32})


def information_of_several(traces: Several) -> pd.DataFrame:
    """The information that the expert of an assignment gives about the kind of text, in each trace that has labels.

    `information` is in bits, and `shuffled` is what remains of it if labels are dealt anew among the texts. The more
    experts there are, the more both can be, so what counts is how far the one is above the other.

    One row per trace and layer. Columns: trace str · depth float64 (0 to 1) · those of `label_information`. Raises
    `MissingField` if no trace has labels of two kinds or more; one kind carries no information.

    Source: `moeviz.metrics.specialization.label_information`.
    """
    labelled = {name: trace for name, trace in traces.items() if "label" in trace.tokens}
    labelled = {name: trace for name, trace in labelled.items() if trace.tokens["label"].nunique() > 1}
    if not labelled:
        next(iter(traces.values())).labels("Information about the kind of text")
        raise MissingField("Information about the kind of text needs two kinds or more. Trace texts of another kind.")
    return _of_each(labelled, label_information)


def balance_of_several(traces: Several) -> pd.DataFrame:
    """Compute the load of the busiest expert of each layer, compared with that of a uniform router by chance.

    With many experts and few tokens the busiest is far above the mean by chance. `by_lot` is the mean over 50 draws
    (seed 0) of the busiest expert's load, if each of E experts gets a binomial number of tokens: as many tries as the
    layer has tokens, each with the chance k / E (k: experts of a token, on average).

    One row per trace and layer. Columns: trace str · layer int32 · depth float64 (0 to 1) · num_experts int16 ·
    assignments int64 · busiest, by_lot float64 (× the mean load; NaN if nothing was assigned).

    Source: max/mean, as MaxVio + 1 of arXiv 2408.15664.
    """
    frame = _of_each(traces, balance).rename(columns={"max_over_mean": "busiest"})
    tokens = _of_each(traces, _tokens_of_layers)["tokens"]
    sizes = zip(tokens, frame["assignments"], frame["num_experts"], strict=True)
    frame["by_lot"] = [_busiest_by_lot(int(n), int(assigned), int(experts)) for n, assigned, experts in sizes]
    return frame[["trace", "layer", "depth", "num_experts", "assignments", "busiest", "by_lot"]]


def sets_of_several(traces: Several) -> pd.DataFrame:
    """Count the different sets of experts that the tokens of a layer go to, and the number of possible ones.

    Of 8 experts, 2 at a time, there are 28 sets; of 31, 7 at a time, 2,629,575. A text can use no more sets than it has
    tokens, so `by_lot` is what as many tokens would use if every set were as likely as any other. Tokens with an empty
    slot do not count.

    One row per trace and layer. Columns: trace str · layer int32 · depth float64 (0 to 1) · sets int64 · possible
    float64 (C(E, k)) · by_lot float64 · tokens int64.

    Source: simple counting; the number of combinations is DeepSeekMoE's argument (arXiv 2401.06066), section 3.1.
    """
    return _of_each(traces, _sets)


def figures_of_several(traces: Several) -> pd.DataFrame:
    """Sum up each trace in one row: the means over layers of what the other functions here give by layer.

    Columns: trace, model str · tokens, layers, num_experts (of the layer with the most), top_k int64 · repetition,
    repetition_by_load (over chance) · information, shuffled (bits) · busiest, busiest_by_lot (× the mean load) · sets,
    sets_by_lot, possible_sets float64. NaN where the trace does not tell.

    Source: the functions named after each; a mean over layers is for a glance, and hides what they show.
    """
    rows = [
        {
            "trace": name,
            "model": trace.model.name,
            "tokens": len(trace.tokens),
            "layers": len(trace.model.layers),
            "num_experts": max(trace.model.num_experts),
            "top_k": trace.model.top_k,
        }
        for name, trace in traces.items()
    ]
    frame = pd.DataFrame(rows).astype({"trace": "str", "model": "str"})
    for measure, columns in MEANS.items():
        means = _means(traces, measure)
        for name, column in columns.items():
            frame[name] = frame["trace"].map(means[column]) if column in means else np.nan
    return frame


def _means(traces: Several, measure: Callable[[Several], pd.DataFrame]) -> pd.DataFrame:
    """Return the mean over layers of each column by trace; an empty frame if no trace has the measure."""
    try:
        frame = measure(traces)
    except MissingField:
        return pd.DataFrame()
    return frame.groupby("trace").mean(numeric_only=True)


MEANS: dict[Callable[[Several], pd.DataFrame], dict[str, str]] = {
    repetition_of_several: {"repetition": "over_chance", "repetition_by_load": "by_load"},
    information_of_several: {"information": "information", "shuffled": "shuffled"},
    balance_of_several: {"busiest": "busiest", "busiest_by_lot": "by_lot"},
    sets_of_several: {"sets": "sets", "sets_by_lot": "by_lot", "possible_sets": "possible"},
}


def _of_each(traces: Several, measure: Callable[[RoutingTrace], pd.DataFrame]) -> pd.DataFrame:
    frames = []
    for name, trace in traces.items():
        check_recorded(trace)
        frame = measure(trace)
        deep = dict(zip(trace.model.layers, depths(trace.model), strict=True))
        frame.insert(0, "trace", pd.Series([name] * len(frame), dtype="str"))
        frame.insert(2, "depth", frame["layer"].map(deep).astype(np.float64))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _first_choices(trace: RoutingTrace) -> RoutingTrace:
    """Measure the first slot only: with several slots, the chance level takes seconds to compute, and is not used."""
    return replace(trace, model=replace(trace.model, top_k=1), experts=trace.experts[..., :1], weights=None)


def _tokens_of_layers(trace: RoutingTrace) -> pd.DataFrame:
    """Return the number of tokens recorded at each layer; rows as those of `balance`."""
    frame = balance(trace)[["layer"]]
    counts = dict(zip(trace.model.layers, trace.recorded.sum(axis=1).tolist(), strict=True))
    return frame.assign(tokens=frame["layer"].map(counts))


def _busiest_by_lot(tokens: int, assignments: int, num_experts: int) -> float:
    """Return the mean over draws of the busiest expert's load, in multiples of the mean."""
    if not assignments:
        return np.nan
    chance = assignments / tokens / num_experts
    draws = np.random.default_rng(0).binomial(tokens, chance, (DRAWS, num_experts))
    return float(draws.max(axis=1).mean() / (tokens * chance))


@per_layer
def _sets(trace: RoutingTrace) -> pd.DataFrame:
    rows = []
    for layer, num_experts, experts in zip(trace.model.layers, trace.model.num_experts, trace.experts, strict=True):
        filled = (experts >= 0).sum(axis=1)
        slots = int(filled.max(initial=0))
        full = np.sort(experts[filled == slots], axis=1)
        possible = comb(num_experts, slots)
        by_lot = -possible * np.expm1(len(full) * np.log1p(-1 / possible)) if possible > 1 else min(len(full), 1)
        rows.append((layer, len(np.unique(full, axis=0)), float(possible), float(by_lot), len(full)))
    frame = pd.DataFrame(rows, columns=["layer", "sets", "possible", "by_lot", "tokens"])
    return frame.astype({"layer": np.int32, "sets": np.int64, "tokens": np.int64})


CLEAR = 3.3  # standard errors of a difference: chance brings as much once in a thousand times


def multi_trace_summary(figures: pd.DataFrame, repetition: pd.DataFrame | None, one_text: bool) -> list[Claim]:
    """Make one claim for each of the figures that the traces have; a first one if their texts differ.

    Columns: those of `figures_of_several`, and of `repetition_of_several` (None if no trace has it).
    """
    claims = [] if one_text else [captions.other_texts()]
    if repetition is not None and (claim := _repetition(figures, repetition)):
        claims.append(claim)
    for word, value, chance in (
        (captions.bits_of_labels, "information", "shuffled"),
        (captions.busiest_of_several, "busiest", "busiest_by_lot"),
    ):
        if known := _figures(figures, value, chance):
            claims.append(word(known))
    return [*claims, captions.sets_of_several(_figures(figures, "sets", "sets_by_lot", "possible_sets"))]


def _repetition(figures: pd.DataFrame, repetition: pd.DataFrame) -> Claim | None:
    """Claim which traces repeat most and least; if chance explains the difference, claim that."""
    known = figures[figures["repetition"].notna()]
    if len(known) < 2:
        return None
    ranked = known.sort_values("repetition", kind="stable")
    least, most = ranked.iloc[0], ranked.iloc[-1]
    one, other = (_error(repetition[repetition["trace"] == each["trace"]]) for each in (least, most))
    of_each = _figures(figures, "repetition", "repetition_by_load")
    if most["repetition"] - least["repetition"] <= CLEAR * float(np.hypot(one, other)):
        return captions.repetition_alike(of_each)
    return captions.repetition(most["trace"], least["trace"], of_each)


def _error(rows: pd.DataFrame) -> float:
    """Return the standard error of the mean over layers, as if all layers were one: they are of the same tokens."""
    pairs = rows["pairs"].astype(float)
    some = rows[pairs > 0]
    if some.empty:
        return np.inf
    share, pairs = some["share"].clip(0.01, 0.99), pairs[pairs > 0]
    return float((np.sqrt(share * (1 - share) / pairs) / (1 - some["chance"])).mean())


def _figures(figures: pd.DataFrame, value: str, *beside: str) -> tuple[captions.Figure, ...]:
    known = figures.loc[figures[value].notna(), ["trace", value, *beside]]
    return tuple(captions.Figure(*row) for row in known.itertuples(index=False))


def first_choices_summary(trace: RoutingTrace) -> Claim:
    """Claim how many tokens of one layer keep the first choice of the token before, as a strip of tokens shows it.

    Chance is what the same tokens give in random order: the chance that two of them have the same first choice, times
    the pairs of consecutive tokens of one text. Raises `MissingField` if first choices are not known.
    """
    first = trace.first_choices("What stays with an expert")[0]
    sequence, chosen = trace.tokens["sequence"].to_numpy(), first >= 0
    position = trace.tokens["position"].to_numpy()
    pairs = chosen[1:] & chosen[:-1] & (sequence[1:] == sequence[:-1]) & (position[1:] == position[:-1] + 1)
    counts = np.bincount(first[chosen])
    stay, tokens = (pairs & (first[1:] == first[:-1])).sum(), int(counts.sum())
    chance = (counts * (counts - 1)).sum() / max(tokens * (tokens - 1), 1) * pairs.sum()
    used = (counts > 0).sum(), trace.model.num_experts[0]
    if used[1] == 1:
        return captions.one_choice()
    if tokens < HANDFUL:
        return captions.few_counted(tokens, HANDFUL, "first choice")
    if stay == round(chance):  # which says nothing
        return captions.used_first(*used)
    return captions.staying(stay, pairs.sum(), chance, *used)
