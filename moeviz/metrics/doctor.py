"""Is this trace plausible? What no router does, and what happens to a trace on its way: each with the row it is at.

A recorder that is bypassed writes zeros, a server that serves from a cache repeats rows, a file that is one row short
pairs each token with its neighbour's experts. None of that looks wrong in a chart. The limits are wide: on real routing
neighbours share experts 6 to 94 standard errors more often than shuffled tokens, against a limit of 3, and loads are 14
to 479 times as uneven as at random, against a limit of 0.5.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.doctor_of_pairs import shift_beside, shift_of_tokens
from moeviz.metrics.doctor_of_rows import Rows, rows_of
from moeviz.routing_trace import Counted, RoutingTrace

FEW = 8  # tokens: of fewer, chance alone may do all that follows
ENOUGH = 200  # tokens, for what is said of neighbours and of loads
REPEATED, LIMIT_Z, EVEN = 0.15, 3.0, 0.5  # real texts repeat up to a tenth of their rows
MANY_SLOTS = 8  # layers x K: with fewer, two tokens may well be routed alike at all layers
COLUMNS = {"check": "str", "layer": "int32", "token": "int64", "rows": "int64", "says": "str"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not plausible, and where: the model's own index of the layer, and the first row of `tokens`; -1: none."""

    check: str
    layer: int
    token: int
    rows: int
    says: str


def examine(counted: Counted, beside: RoutingTrace | None = None, tokens: int | None = None) -> pd.DataFrame:
    """What is not plausible about a trace, or about counts: no row is a good sign.

    `beside` is another trace of the same tokens, and `tokens` how many of them met a router, where that is known. The
    order of slots plays no part. One row per finding. Columns: check str (its name, as in `CHECKS`) · layer int32 (-1:
    all) · token int64 (first row of `tokens` that it is about; -1: all) · rows int64 (how many) · says str.

    Source: the checks and their limits were tried on fourteen ways to spoil each of two traces.
    """
    found: list[Finding] = []
    if isinstance(counted, ExpertCounts):
        found += _of_counts(counted)
    else:
        rows = rows_of(counted)
        for check in CHECKS.values():
            found += check(rows)
        found += _of_number(counted, tokens)
        found += _beside(counted, beside)
    return pd.DataFrame([astuple(one) for one in found], columns=list(COLUMNS)).astype(COLUMNS)


def _zeros(rows: Rows) -> Iterator[Finding]:
    """A router with more than one expert a token never chooses expert 0 alone: nobody wrote to these rows."""
    if rows.top_k == 1:
        return
    for at, layer in enumerate(rows.layers):
        zero = (rows.experts[at] == 0).all(axis=-1)
        if zero.all() and len(zero):
            says = f"Layer {layer} has zeros for all {len(zero):,} tokens: it is dense, or was not recorded."
            yield Finding("zeros", layer, 0, len(zero), says)
        elif zero.any():
            first = int(zero.argmax())
            says = (
                f"Layer {layer} has zeros for {zero.sum():,} tokens, from token {first} on: served from a cache, or "
                "not recorded."
            )
            yield Finding("zeros", layer, first, int(zero.sum()), says)


def _twice(rows: Rows) -> Iterator[Finding]:
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
            yield Finding("twice", layer, first, int(twice.sum()), says)


def _one_choice(rows: Rows) -> Iterator[Finding]:
    for at, layer in enumerate(rows.layers):
        chosen = rows.sets[at][rows.recorded[at]]
        if len(chosen) >= FEW and rows.choice and (chosen == chosen[0]).all() and chosen[0].any():
            says = f"Layer {layer} sends all {len(chosen):,} tokens to the same experts: {chosen[0].tolist()}."
            yield Finding("one choice", layer, 0, len(chosen), says)


def _layers_alike(rows: Rows) -> Iterator[Finding]:
    if rows.tokens < FEW or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for at, layer in enumerate(rows.layers):
        if not rows.recorded[at].any() or (rows.sets[at] == rows.sets[at][:1]).all():
            continue
        other = seen.setdefault(rows.sets[at].tobytes(), layer)
        if other != layer:
            says = f"Layers {other} and {layer} send every token to the same experts: one is a copy of the other."
            yield Finding("layers alike", layer, 0, rows.tokens, says)


def _repeats(rows: Rows) -> Iterator[Finding]:
    if rows.tokens < FEW or rows.layers_by_slots < MANY_SLOTS or not rows.choice:
        return
    again = rows.neighbours & (rows.codes[1:] == rows.codes[:-1]) & rows.whole[1:]
    if again.sum() > REPEATED * max(int(rows.neighbours.sum()), 1) and again.sum() > 1:
        first = int(again.argmax()) + 1
        says = (
            f"{again.sum():,} of {rows.tokens:,} tokens go to the same experts as the token before at all layers, the "
            f"first being token {first}: rows were repeated, or came a step late."
        )
        yield Finding("repeats", -1, first, int(again.sum()), says)


def _one_part(rows: Rows) -> Iterator[Finding]:
    half = rows.num_experts // 2
    if rows.tokens * rows.top_k <= 20 * rows.num_experts or half < rows.top_k:
        return
    chosen = rows.experts[rows.experts >= 0]
    for low, high in ((0, half), (half, rows.num_experts)):
        if chosen.size and chosen.min() >= low and chosen.max() < high:
            says = (
                f"All expert ids are from {low} to {high - 1}, and there are {rows.num_experts}: these are ids within "
                "one device of an expert-parallel group, or one device's part."
            )
            yield Finding("one part", -1, 0, rows.tokens, says)


def _neighbours(rows: Rows) -> Iterator[Finding]:
    shared, at_random = [], []
    for at in range(len(rows.layers)):
        pairs = rows.neighbours & rows.recorded[at][1:] & rows.recorded[at][:-1]
        if pairs.sum() >= ENOUGH and rows.choice:
            mine, before = rows.experts[at][1:][pairs], rows.experts[at][:-1][pairs]
            shared.append(((mine[:, :, None] == before[:, None, :]) & (mine[:, :, None] >= 0)).sum(axis=(1, 2)))
            share = np.bincount(rows.filled(at), minlength=1) / rows.recorded[at].sum()
            at_random.append(np.full(len(mine), (share**2).sum()))
    if not shared:
        return
    more = np.concatenate(shared) - np.concatenate(at_random)
    z = more.mean() / max(more.std(), 1e-9) * np.sqrt(len(more))
    if z < LIMIT_Z:
        says = (
            f"Neighbouring tokens share experts no more often than shuffled ones would ({z:.1f} standard errors; real "
            "routing has 6 and more): the tokens were shuffled, or the routing was simulated."
        )
        yield Finding("neighbours", -1, 0, rows.tokens, says)


def _even(rows: Rows) -> Iterator[Finding]:
    uneven, share = [], rows.top_k / rows.num_experts
    for at in range(len(rows.layers)):
        count = int(rows.recorded[at].sum())
        if count >= ENOUGH and rows.choice:
            loads = np.bincount(rows.filled(at), minlength=rows.num_experts)[: rows.num_experts]
            uneven.append(loads.var() / (count * share * (1 - share)))
    if uneven and np.mean(uneven) < EVEN:
        says = (
            f"Loads are {np.mean(uneven):.2f} times as uneven as at random, so they were made even: routing was forced "
            "or simulated."
        )
        yield Finding("even", -1, 0, rows.tokens, says)


def _again(rows: Rows) -> Iterator[Finding]:
    """A sequence whose beginning comes again, as where a prefix cache or a chunk of the prompt is counted twice."""
    if rows.layers_by_slots < MANY_SLOTS or not rows.choice:
        return
    for start, end in rows.sequences:
        codes = rows.codes[start:end]
        if len(codes) < 2 * FEW or (codes[:FEW] == codes[0]).all() or not rows.whole[start : start + FEW].all():
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes[1:], FEW)
        same = np.flatnonzero((windows == codes[:FEW]).all(axis=1))
        if len(same):
            first = start + 1 + int(same[0])
            says = (
                f"The first tokens of a sequence come again, routed alike at all layers, at token {first}: its prompt "
                "was counted twice, as by a prefix cache or a chunked prefill."
            )
            yield Finding("again", -1, first, FEW, says)


def _duplicates(rows: Rows) -> Iterator[Finding]:
    if rows.layers_by_slots < MANY_SLOTS or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for number, (start, end) in enumerate(rows.sequences):
        if end - start >= FEW and rows.whole[start:end].all():
            other = seen.setdefault(rows.codes[start:end].tobytes(), number)
            if other != number:
                says = f"Sequences {other} and {number} are routed alike from end to end: one text was counted twice."
                yield Finding("duplicates", -1, start, end - start, says)


def _padding(rows: Rows) -> Iterator[Finding]:
    """The same token over and over at one end of several sequences."""
    if rows.token_id is None:
        return
    runs: dict[tuple[str, int], list[int]] = {}
    for start, end in rows.sequences:
        ids = rows.token_id[start:end]
        for side, run in (("start", ids[:FEW]), ("end", ids[-FEW:])):
            if len(ids) > FEW and (run == run[0]).all() and run[0] >= 0:
                runs.setdefault((side, int(run[0])), []).append(start if side == "start" else end - FEW)
    for (side, token), places in runs.items():
        if len(places) > 1:
            says = f"{len(places):,} sequences {side} with token {token} {FEW} times and more: padding was counted."
            yield Finding("padding", -1, places[0], len(places) * FEW, says)


def _weights(rows: Rows) -> Iterator[Finding]:
    """Where nearly all tokens' weights have one sum, so should the others'."""
    if rows.weights is None or not rows.tokens:
        return
    for at, layer in enumerate(rows.layers):
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
            yield Finding("weights", layer, first, int(other.sum()), says)


def _token_shift(rows: Rows) -> Iterator[Finding]:
    if rows.token_id is not None and (shift := shift_of_tokens(rows)):
        says = (
            f"Equal tokens share most experts when rows are moved by {shift:+d}: a row was "
            f"{'lost' if shift > 0 else 'counted twice'}, and each token has its neighbour's experts."
        )
        yield Finding("token shift", -1, 0, rows.tokens, says)


CHECKS: dict[str, Callable[[Rows], Iterator[Finding]]] = {
    "zeros": _zeros,
    "twice": _twice,
    "one choice": _one_choice,
    "layers alike": _layers_alike,
    "repeats": _repeats,
    "one part": _one_part,
    "neighbours": _neighbours,
    "even": _even,
    "again": _again,
    "duplicates": _duplicates,
    "padding": _padding,
    "weights": _weights,
    "token shift": _token_shift,
}


def _of_number(trace: RoutingTrace, tokens: int | None) -> Iterator[Finding]:
    have = len(trace.tokens)
    if tokens is None or tokens == have:
        return
    what = (
        "the last token is missing" if have == tokens - 1 else "some are missing" if have < tokens else "some are extra"
    )
    says = f"The trace has {have:,} tokens, and {tokens:,} met a router: {what}."
    yield Finding("number", -1, min(have, tokens), abs(tokens - have), says)


def _beside(trace: RoutingTrace, beside: RoutingTrace | None) -> Iterator[Finding]:
    if beside is not None and (shift := shift_beside(trace, beside)):
        says = (
            f"The trace agrees with the one beside it when its rows are moved by {shift:+d}: a row was "
            f"{'lost' if shift > 0 else 'counted twice'}."
        )
        yield Finding("shift", -1, 0, len(trace.tokens), says)


def _of_counts(counts: ExpertCounts) -> Iterator[Finding]:
    whole = counts.counts()
    totals, usual = whole.tokens[0], int(np.median(whole.tokens[0]))
    for at, layer in enumerate(counts.model.layers):
        if not whole.assignments[0, at].any():
            yield Finding("zeros", layer, -1, 0, f"Layer {layer} has no counts: it is dense, or was not recorded.")
        elif totals[at] != usual:
            says = f"Layer {layer} counted {totals[at]:,} tokens, and half of the layers {usual:,} or fewer."
            yield Finding("number", layer, -1, abs(int(totals[at]) - usual), says)
    seen: dict[bytes, int] = {}
    for at, layer in enumerate(counts.model.layers):
        other = seen.setdefault(whole.assignments[0, at].tobytes(), layer)
        if other != layer and whole.assignments[0, at].any():
            says = f"Layers {other} and {layer} have the same count for every expert: one is a copy of the other."
            yield Finding("layers alike", layer, -1, usual, says)
