"""Findings of a trace: at most three sentences on what is most worth seeing, none if chance explains it.

For each kind of sentence, every layer and expert that it could name is compared. The one that chance explains least is
named if chance would bring such a one, anywhere in the trace, at most once in sixty times: with three kinds, once in
twenty (Bonferroni).
"""

from dataclasses import dataclass
from math import log
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int16, Int64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace
from moeviz.image_tokens import IMAGE
from moeviz.metrics import captions
from moeviz.metrics.expert import LUCK
from moeviz.metrics.significance import HANDFUL, STANDS_OUT, divergence
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.metrics.words import item_word, layer_word
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class LayerRuns:
    """The runs of all experts of one layer, among the tokens that are recorded there.

    An expert has a token whose first choice it is, as strip and map colour it; in any slot, where no order is known.
    """

    layer: int
    recorded: Int64[np.ndarray, " N"]  # rows of the trace
    stretches: int  # of text without a gap: a run ends where another text begins, or tokens are not recorded
    filled: float  # slots that a token fills, on average
    tokens: Int64[np.ndarray, " E"]  # that each expert has
    expert: Int64[np.ndarray, " R"]
    start: Int64[np.ndarray, " R"]  # row of the trace
    length: Int64[np.ndarray, " R"]

    @property
    def runs(self) -> Int64[np.ndarray, " E"]:
        """Count the runs of each expert."""
        return np.bincount(self.expert, minlength=len(self.tokens))


def runs_of_layers(trace: RoutingTrace, first: bool | None = None) -> list[LayerRuns]:
    """Layer by layer, by first choices or by all; a layer at which nothing is recorded is left out."""
    follows = _follows(trace)
    first = trace.ordered if first is None else first
    return [_runs_of_layer(trace, row, follows, first) for row in np.flatnonzero(trace.recorded.any(axis=1)).tolist()]


def _counted(trace: RoutingTrace, row: int, first: bool) -> Int16[np.ndarray, "T S"]:
    counted: np.ndarray = trace.experts[row, :, : 1 if first else None]
    return counted


def _follows(trace: RoutingTrace) -> Bool[np.ndarray, " T"]:
    sequence, position = (trace.tokens[name].to_numpy() for name in ("sequence", "position"))
    follows = np.zeros(len(sequence), bool)
    follows[1:] = (np.diff(sequence) == 0) & (np.diff(position) == 1)
    return follows


def _runs_of_layer(trace: RoutingTrace, row: int, follows: Bool[np.ndarray, " T"], first: bool) -> LayerRuns:
    chosen, recorded = _counted(trace, row, first), trace.recorded[row]
    begins = recorded & ~(follows & np.concatenate([[False], recorded[:-1]]))
    at = np.arange(len(chosen)) + np.cumsum(begins)  # a gap before each stretch
    width, slots = int(at[-1]) + 2, chosen >= 0
    keys = np.sort((chosen.astype(np.int64) * width + at[:, None])[slots])
    keys = keys[np.diff(keys, prepend=-1) != 0]  # an expert has a token once
    starts = np.flatnonzero(np.diff(keys, prepend=-2) != 1)
    place = np.searchsorted(at, keys[starts] % width)
    return LayerRuns(
        layer=trace.model.layers[row],
        recorded=np.flatnonzero(recorded),
        stretches=int(begins.sum()),
        filled=float(slots.sum() / recorded.sum()),
        tokens=np.bincount(keys // width, minlength=trace.model.num_experts[row]),
        expert=keys[starts] // width,
        start=place,
        length=np.diff(np.append(starts, len(keys))),
    )


def all_in_one(places: int, has: Int64[np.ndarray, " N"], of: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Return the log-probability that an expert with `has` of `places` random places has all `of` given ones.

    C(T - n, m - n) / C(T, m) = m! (T - n)! / ((m - n)! T!); `of` is at most `has`.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, places + 1)))])
    likely: np.ndarray = logs[has] + logs[places - of] - logs[has - of] - logs[places]
    return likely


KINDS = 3
A_PASSAGE, A_HABIT = 5, 4  # tokens in a row, occurrences of a token: fewer are not worth a word
A_PART = 2 / 3  # of the tokens, at most: an expert that has more is reported as the busiest, not by a passage
CHANCE = log(LUCK / KINDS)


@dataclass(frozen=True)
class Finding:
    """A claim, and the place where it is seen. It quotes tokens as they are: for a text node, never for HTML."""

    sentence: Claim
    layer: int  # the model's own index
    token: int  # row of `trace.tokens`
    expert: int | None


def findings(trace: RoutingTrace, usual: RoutingTrace | None = None) -> list[Finding]:
    """The busiest expert, the passage that one expert has, and the token that keeps to one: as far as they stand out.

    An expert has a token whose first choice it is; in any slot, if the trace does not say which choice is the first.
    A layer with fewer than 8 recorded tokens is left out.

    busiest   the expert that has at least 1.5 times a uniform share of the tokens, and 1.5 times its usual one. Chance:
              tokens choose it as often as the larger of the two, in runs as long as here. At most exp(-n KL(share, that
              share)), with n = T (1 - r) / (1 + r) independent tokens; r is the correlation of neighbours.
    passage   the run of at least 5 tokens that one expert has, of at most two thirds of all. Chance: the layer's tokens
              in any order. (T - m + S) C(T - l, m - l) / C(T, m) runs of l or more are then to be expected, exactly, if
              the text is in one piece.
    habit     the token of which one expert has every occurrence, at least 4. Chance: the layer's tokens in any order.
              C(T - n, m - n) / C(T, m) for n occurrences.

    m of the T tokens recorded at a layer go to the expert, in S stretches of text. Each chance is multiplied by the
    number of experts of all layers, and for habits also by that of the tokens that occur often enough.

    usual   a trace of other texts by the same model, for what each expert has of them. Raises `InvalidTrace` if its
            layers or experts are others. It is left out if it does not say which choices are first ones, and the trace
            does.

    Source: Chernoff (1952) for the binomial tail; Feller (1968), chapter II.5, for runs in random order.

    >>> from moeviz.testing import sample_trace
    >>> findings(sample_trace(layers=1, tokens=8))
    []
    """
    layers = [one for one in runs_of_layers(trace) if len(one.recorded) >= HANDFUL]
    compared = log(max(sum(len(found.tokens) for found in layers), 1))
    before = _usual_shares(trace, usual) if usual and (usual.ordered or not trace.ordered) else None
    found = (
        _busiest(trace, layers, CHANCE - compared, before),
        _passage(trace, layers, CHANCE - compared),
        _habit(trace, layers, CHANCE - compared),
    )
    return [finding for finding in found if finding]


Shares: TypeAlias = dict[int, tuple[Float64[np.ndarray, " E"], int]]


def _usual_shares(trace: RoutingTrace, usual: RoutingTrace) -> Shares:
    """Compute the share of other texts that each expert has, and of how many tokens, layer by layer."""
    if (usual.model.layers, usual.model.num_experts) != (trace.model.layers, trace.model.num_experts):
        raise InvalidTrace(
            f"What is usual for {trace.model.name} cannot be read from a trace with other MoE layers or experts. Use "
            "one of the same model."
        )
    known = _known.setdefault(usual, {})
    if trace.ordered not in known:
        found = runs_of_layers(usual, trace.ordered)
        known[trace.ordered] = {one.layer: (one.tokens / len(one.recorded), len(one.recorded)) for one in found}
    return known[trace.ordered]


_known: WeakKeyDictionary[RoutingTrace, dict[bool, Shares]] = WeakKeyDictionary()  # of texts that many are held to


def _busiest(trace: RoutingTrace, layers: list[LayerRuns], chance: float, before: Shares | None) -> Finding | None:
    best, place = chance, None
    for one in layers:
        share, uniform = one.tokens / len(one.recorded), one.filled / len(one.tokens)
        usual, others = (before or {}).get(one.layer, (np.zeros(len(share)), 0))
        known = np.maximum(uniform, usual)
        tokens = _independent(one, share)
        if others:  # what is usual was estimated too, from this many tokens
            tokens = tokens * others / (len(one.recorded) + others)
        luck = np.where(share >= STANDS_OUT * known, -tokens * divergence(share, known), 0.0)
        if luck.min() <= best:
            best, place = luck.min(), (one, int(luck.argmin()), uniform, usual if others else None)
    return None if place is None else _busiest_at(trace, *place)


def _independent(one: LayerRuns, share: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
    """Return the number of independent tokens that are worth as much as these, whose neighbours are alike."""
    tokens = len(one.recorded)
    both = (one.tokens - one.runs) / max(tokens - one.stretches, 1)  # neighbours that the expert has together
    alike = (both - share**2) / np.maximum(share * (1 - share), 1 / max(tokens, 1))
    alike = np.clip(alike, 0, 1 - 1 / max(tokens, 1))
    independent: np.ndarray = tokens * (1 - alike) / (1 + alike)
    return independent


def _busiest_at(
    trace: RoutingTrace, one: LayerRuns, expert: int, uniform: float, usual: Float64[np.ndarray, " E"] | None
) -> Finding:
    share = one.tokens[expert] / len(one.recorded)
    claim = captions.busiest_of_text(
        _place(trace, one, expert),
        share,
        share / uniform,
        usual=None if usual is None else usual[expert],
        all_recorded=len(one.recorded) == len(trace.tokens),
        one_text=trace.tokens["sequence"].nunique() == 1,
    )
    return Finding(claim, one.layer, int(one.start[one.expert == expert][0]), expert)


def _place(trace: RoutingTrace, one: LayerRuns, expert: int) -> captions.Place:
    words = layer_word(trace.model), item_word(trace.model)
    return captions.Place(one.layer, expert, trace.ordered, trace.model.top_k, *words)


def _of_all(trace: RoutingTrace, one: LayerRuns, expert: int) -> tuple[float, bool]:
    return float(one.tokens[expert] / len(one.recorded)), len(one.recorded) == len(trace.tokens)


def _passage(trace: RoutingTrace, layers: list[LayerRuns], chance: float) -> Finding | None:
    best, place = chance, None
    for one in layers:
        part = one.tokens <= A_PART * len(one.recorded)
        long = np.flatnonzero((one.length >= A_PASSAGE) & part[one.expert])
        if not len(long):
            continue
        has, tokens = one.tokens[one.expert[long]], len(one.recorded)
        luck = np.log(tokens - has + one.stretches) + all_in_one(tokens, has, one.length[long])
        if luck.min() <= best:
            best, place = luck.min(), (one, int(long[luck.argmin()]))
    if place is None:
        return None
    one, run = place
    start, length, expert = (int(of_runs[run]) for of_runs in (one.start, one.length, one.expert))
    begin, end = (_token(trace, row) for row in (start, start + length - 1))
    claim = captions.passage(_place(trace, one, expert), length, begin, end, *_of_all(trace, one, expert))
    return Finding(claim, one.layer, start, expert)


def _token(trace: RoutingTrace, row: int) -> str:
    """Return a token's text; for an image token a description, since all image tokens have the same text."""
    return "image token" if _of_images(trace)[row] else str(trace.tokens["text"].iat[row])


def _of_images(trace: RoutingTrace) -> Bool[np.ndarray, " T"]:
    if not trace.images:
        return np.zeros(len(trace.tokens), bool)
    return (trace.tokens["kind"] == IMAGE).to_numpy()


def _habit(trace: RoutingTrace, layers: list[LayerRuns], chance: float) -> Finding | None:
    codes = pd.factorize(trace.tokens["text"])[0].astype(np.int64)  # as it is read: two ids may have one text
    special = pd.Series(trace.tokens["text"].to_numpy(object)).map(kind_of).to_numpy() == SPECIAL
    special |= _of_images(trace)
    best, place = chance, None
    for one in layers:
        times = np.bincount(codes[one.recorded], minlength=int(codes.max()) + 1)
        times[codes[special]] = 0  # put there by the tokenizer, not by who wrote
        often = np.flatnonzero(times >= A_HABIT)
        row = trace.model.layers.index(one.layer)
        code, expert = _keeping_tokens(_counted(trace, row, trace.ordered), codes, times, len(one.tokens))
        if not len(code):
            continue
        luck = log(len(often)) + all_in_one(len(one.recorded), one.tokens[expert], times[code])
        if luck.min() <= best:
            best, at = luck.min(), int(luck.argmin())
            place = (one, int(expert[at]), np.intersect1d(np.flatnonzero(codes == code[at]), one.recorded))
    return None if place is None else _habit_at(trace, *place)


def _keeping_tokens(
    chosen: Int16[np.ndarray, "T S"], codes: Int64[np.ndarray, " T"], times: Int64[np.ndarray, " C"], experts: int
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Return the tokens that occur often enough and always have the same expert, and these experts."""
    token, slot = np.nonzero((chosen >= 0) & (times[codes] >= A_HABIT)[:, None])
    pairs, counts = np.unique(codes[token] * experts + chosen[token, slot], return_counts=True)
    code, expert = np.divmod(pairs, experts)
    kept = counts == times[code]
    return code[kept], expert[kept]


def _habit_at(trace: RoutingTrace, one: LayerRuns, expert: int, rows: Int64[np.ndarray, " N"]) -> Finding:
    text = str(trace.tokens["text"].iat[int(rows[0])])
    every = int((trace.tokens["text"] == text).sum()) == len(rows)
    place = _place(trace, one, expert)
    claim = captions.habit(place, text, len(rows), every, *_of_all(trace, one, expert))
    return Finding(claim, one.layer, int(rows[0]), expert)
