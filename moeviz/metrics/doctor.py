"""Is this trace plausible? What no router does, and what happens to a trace on its way: each with the row it is at.

A recorder that is bypassed writes zeros, a server that serves from a cache repeats rows, a file that is one row short
pairs each token with its neighbour's experts. None of that looks wrong in a chart. The limits are wide: on real routing
neighbours share experts 6 to 94 standard errors more often than shuffled tokens, against a limit of 3, and loads are 14
to 479 times as uneven as at random, against a limit of 0.5.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple

import numpy as np
import pandas as pd

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.conventions import FEW_LAYERS, explain
from moeviz.metrics.doctor_rows import (
    FEW,
    Anomaly,
    Rows,
    again,
    draft,
    duplicates,
    even,
    neighbours,
    padding,
    repeats,
    rows_of,
    token_shift,
)
from moeviz.metrics.engine_difference import agreement_sentence, convention_sentence
from moeviz.routing_trace import Counted, RoutingTrace

LARGEST_WEIGHT = 100  # those of known families are below 10, scaled as they are
COLUMNS = {"check": "str", "layer": "int32", "token": "int64", "rows": "int64", "says": "str"}
RARE = 0.05  # of the other tokens: no more may go to expert 0 at all layers
MOST_APART = 0.1  # of what differs at chance: number formats differ by less


def examine(
    counted: Counted, beside: RoutingTrace | None = None, tokens: int | None = None, left_out: Sequence[str] = ()
) -> pd.DataFrame:
    """Examine a trace, or counts, for what is not plausible: no row is a good sign.

    `beside` is another trace of the same tokens: each difference between the two is a finding, named as in
    `moeviz.metrics.conventions.explain`. `tokens` is how many of them met a router, if that is known, and `left_out`
    has a sentence for each part that its file lost. The order of slots plays no part. One row per finding. Columns:
    check str (its name, as in `CHECKS`, or the kind of a convention) · layer int32 (-1: all) · token int64 (first row
    of `tokens` that it is about; -1: all) · rows int64 (how many) · says str.

    Source: the checks and their limits were tried on fourteen ways to spoil each of two traces, on captures that are
    publicly known to be bad, and on sixty texts by each of three models.
    """
    found = [Anomaly("lost", -1, -1, 0, sentence) for sentence in left_out]
    if isinstance(counted, ExpertCounts):
        found += _of_counts(counted)
    else:
        rows = rows_of(counted)
        for check in CHECKS.values():
            found += check(rows)
        found += _of_number(counted, tokens)
        found += _compare_traces(counted, beside)
    return pd.DataFrame([astuple(one) for one in found], columns=list(COLUMNS)).astype(COLUMNS)


def _of_number(trace: RoutingTrace, tokens: int | None) -> Iterator[Anomaly]:
    have = len(trace.tokens)
    if tokens is None or tokens == have:
        return
    what = (
        "the last token is missing" if have == tokens - 1 else "some are missing" if have < tokens else "some are extra"
    )
    says = f"The trace has {have:,} tokens, and {tokens:,} met a router: {what}."
    yield Anomaly("number", -1, min(have, tokens), abs(tokens - have), says)


def _compare_traces(trace: RoutingTrace, beside: RoutingTrace | None) -> Iterator[Anomaly]:
    """Name the conventions in which two traces differ, and how far they agree if none of them explains it."""
    if beside is None:
        return
    found = explain((trace, beside))
    for one in found.conventions:
        layer = one.layers[0] if len(one.layers) == 1 else -1
        yield Anomaly(one.kind, layer, 0, len(trace.tokens), convention_sentence(one))
    if found.left.ids > MOST_APART * found.left.chance and (says := agreement_sentence(found)):
        yield Anomaly("disagreement", -1, 0, len(trace.tokens), says)


def _of_counts(counts: ExpertCounts) -> Iterator[Anomaly]:
    whole = counts.counts()
    totals, usual = whole.tokens[0], int(np.median(whole.tokens[0]))
    for at, layer in enumerate(counts.model.layers):
        if not whole.assignments[0, at].any():
            yield Anomaly("zeros", layer, -1, 0, f"Layer {layer} has no counts: it is dense, or was not recorded.")
        elif totals[at] != usual:
            says = f"Layer {layer} counted {totals[at]:,} tokens, and half of the layers {usual:,} or fewer."
            yield Anomaly("number", layer, -1, abs(int(totals[at]) - usual), says)
    by_expert = whole.assignments[0].sum(axis=0)
    if usual * counts.model.top_k > 20 * len(by_expert) >= 40 * counts.model.top_k and (part := _part(by_expert)):
        yield Anomaly("one part", -1, -1, usual, f"All counts are of experts {part}")
    seen: dict[bytes, int] = {}
    for at, layer in enumerate(counts.model.layers):
        other = seen.setdefault(whole.assignments[0, at].tobytes(), layer)
        if other != layer and whole.assignments[0, at].any():
            says = f"Layers {other} and {layer} have the same count for every expert: one is a copy of the other."
            yield Anomaly("layers alike", layer, -1, usual, says)


def zeros(rows: Rows) -> Iterator[Anomaly]:
    """Find rows of only expert 0: a router with several experts per token never chooses that, so nobody wrote them."""
    if rows.top_k == 1:
        yield from _zeros_of_one(rows)
        return
    for at, layer in enumerate(rows.layers):
        zero = (rows.experts[at] == 0).all(axis=-1)
        if zero.all() and len(zero):
            says = f"Layer {layer} has zeros for all {len(zero):,} tokens: it is dense, or was not recorded."
            yield Anomaly("zeros", layer, 0, len(zero), says)
        elif zero.any():
            first = int(zero.argmax())
            says = (
                f"Layer {layer} has zeros for {zero.sum():,} tokens, from token {first} on: served from a cache, or "
                "not recorded."
            )
            yield Anomaly("zeros", layer, first, int(zero.sum()), says)


def _zeros_of_one(rows: Rows) -> Iterator[Anomaly]:
    """Find runs of tokens that go to expert 0 at all layers, in a top-1 model where hardly any other does."""
    zero = (rows.experts[..., 0] == 0) & rows.recorded
    zero = zero[~(zero.all(axis=1))]  # a layer of zeros only is dense, or has one choice
    if len(zero) < FEW_LAYERS or not rows.choice:
        return
    everywhere = zero.all(axis=0)
    runs = [run for start, end in rows.sequences for run in _runs(everywhere, start, end) if not _one_token(rows, *run)]
    inside = sum(end - start for start, end in runs)
    if inside and everywhere.sum() - inside <= RARE * (rows.tokens - inside):
        says = (
            f"{inside:,} tokens, the first being token {runs[0][0]}, go to expert 0 at all layers, and hardly any "
            "other token does: served from a cache, or not recorded."
        )
        yield Anomaly("zeros", -1, runs[0][0], inside, says)


def _runs(marked: np.ndarray, start: int, end: int) -> list[tuple[int, int]]:
    """Return the first row, and the row after the last, of every run of at least `FEW` marked rows in a sequence."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked[start:end], [False]]))) + start
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= FEW]


def _one_token(rows: Rows, start: int, end: int) -> bool:
    """Return whether a run is one token again and again, which is rightly routed alike."""
    return rows.words is not None and bool((rows.words[start:end] == rows.words[start]).all())


def not_recorded(rows: Rows) -> Iterator[Anomaly]:
    """Rows for which the source names no experts. Those that only the last layer lacks do not count:
    llama.cpp routes a prompt's last token there, and no more.
    """
    lost = ~rows.recorded
    if len(lost) > 1:
        lost[-1] &= lost[:-1].any(axis=0)
    if lost.any():
        tokens = lost.any(axis=0)
        says = (
            f"{lost.sum():,} of {lost.size:,} rows, each a token at a layer, are not recorded, the first of them at "
            f"token {tokens.argmax()}: they were served from a cache, or lost. No figure counts them."
        )
        yield Anomaly("not recorded", -1, int(tokens.argmax()), int(tokens.sum()), says)


def twice(rows: Rows) -> Iterator[Anomaly]:
    """Find tokens that have an expert twice."""
    for at, layer in enumerate(rows.layers):
        chosen = rows.sets[at]
        twice = ((chosen[:, 1:] == chosen[:, :-1]) & (chosen[:, 1:] >= 0)).any(axis=1)
        twice &= ~(chosen == 0).all(axis=1)
        if twice.any():
            first = int(twice.argmax())
            says = (
                f"Layer {layer} has an expert twice in {twice.sum():,} tokens, the first being token {first}: "
                f"{rows.experts[at, first].tolist()}. A router chooses different ones."
            )
            yield Anomaly("twice", layer, first, int(twice.sum()), says)


def one_choice(rows: Rows) -> Iterator[Anomaly]:
    """All tokens of a layer go to the same experts."""
    for at, layer in enumerate(rows.layers):
        chosen = rows.sets[at][rows.recorded[at]]
        if len(chosen) >= FEW and rows.choice and (chosen == chosen[0]).all() and chosen[0].any():
            says = f"Layer {layer} sends all {len(chosen):,} tokens to the same experts: {chosen[0].tolist()}."
            yield Anomaly("one choice", layer, 0, len(chosen), says)


def layers_alike(rows: Rows) -> Iterator[Anomaly]:
    """Find pairs of layers that choose the same for every token."""
    if rows.tokens < FEW or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for at, layer in enumerate(rows.layers):
        if not rows.recorded[at].any() or (rows.sets[at] == rows.sets[at][:1]).all():
            continue
        other = seen.setdefault(rows.sets[at].tobytes(), layer)
        if other != layer:
            says = f"Layers {other} and {layer} send every token to the same experts: one is a copy of the other."
            yield Anomaly("layers alike", layer, 0, rows.tokens, says)


def one_part(rows: Rows) -> Iterator[Anomaly]:
    """All ids are in one half of the experts."""
    if rows.tokens * rows.top_k <= 20 * rows.num_experts or rows.num_experts < 2 * rows.top_k:
        return
    chosen = rows.experts[rows.experts >= 0]
    if chosen.size and (part := _part(np.bincount(chosen, minlength=rows.num_experts))):
        yield Anomaly("one part", -1, 0, rows.tokens, f"All expert ids are {part}")


def _part(counts: np.ndarray) -> str:
    """Name the experts that have all tokens, if they are less than half of them; "" otherwise."""
    used, experts = np.flatnonzero(counts), len(counts)
    half = experts // 2
    if not len(used) or used[0] < half <= used[-1]:
        return ""
    return (
        f"from {used[0]} to {used[-1]}, and there are {experts}: these are ids within one device of an expert-parallel "
        "group, or one device's part."
    )


def weights(rows: Rows) -> Iterator[Anomaly]:
    """Yield weights that no router gives; and if nearly all tokens' weights have one sum, those of the others."""
    if rows.weights is None or not rows.tokens:
        return
    for at, layer in enumerate(rows.layers):
        of_layer = rows.weights[at]
        if (bad := (of_layer < 0) | (of_layer > LARGEST_WEIGHT)).any():
            token, slot = np.argwhere(bad)[0]
            says = (
                f"At layer {layer}, {bad.sum():,} weights are below 0 or above {LARGEST_WEIGHT}, which no router of a "
                f"language model gives, the first being {of_layer[token, slot]:.3g} of token {token}."
            )
            yield Anomaly("weights", layer, int(token), int(bad.any(axis=1).sum()), says)
            continue
        full = (rows.experts[at] >= 0).all(axis=1)
        sums = rows.weights[at].sum(axis=1)
        usual = float(np.median(sums[full])) if full.any() else 0.0
        other = full & (np.abs(sums - usual) > 0.02 * abs(usual))
        if other.any() and other.sum() < 0.1 * full.sum():
            first = int(other.argmax())
            says = (
                f"At layer {layer}, the weights of {other.sum():,} tokens do not sum to {usual:.3g} as the others' do, "
                f"the first being token {first} with {sums[first]:.3g}."
            )
            yield Anomaly("weights", layer, first, int(other.sum()), says)


CHECKS: dict[str, Callable[[Rows], Iterator[Anomaly]]] = {
    "zeros": zeros,
    "not recorded": not_recorded,
    "twice": twice,
    "one choice": one_choice,
    "layers alike": layers_alike,
    "repeats": repeats,
    "one part": one_part,
    "neighbours": neighbours,
    "even": even,
    "again": again,
    "duplicates": duplicates,
    "padding": padding,
    "weights": weights,
    "token shift": token_shift,
    "draft": draft,
}
