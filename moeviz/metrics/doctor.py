"""Is this trace plausible? What no router does, and what happens to a trace on its way: each with the row it is at.

A recorder that is bypassed writes zeros, a server that serves from a cache repeats rows, a file that is one row short
pairs each token with its neighbour's experts. None of that looks wrong in a chart. The limits are wide: on real routing
neighbours share experts 6 to 94 standard errors more often than shuffled tokens, against a limit of 3, and loads are 14
to 479 times as uneven as at random, against a limit of 0.5.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple

import numpy as np
import pandas as pd

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics import doctor_of_layers, doctor_of_texts
from moeviz.metrics.doctor_of_pairs import shift_beside
from moeviz.metrics.doctor_of_rows import Finding, Rows, rows_of
from moeviz.routing_trace import Counted, RoutingTrace

COLUMNS = {"check": "str", "layer": "int32", "token": "int64", "rows": "int64", "says": "str"}


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


CHECKS: dict[str, Callable[[Rows], Iterator[Finding]]] = {
    "zeros": doctor_of_layers.zeros,
    "twice": doctor_of_layers.twice,
    "one choice": doctor_of_layers.one_choice,
    "layers alike": doctor_of_layers.layers_alike,
    "repeats": doctor_of_texts.repeats,
    "one part": doctor_of_layers.one_part,
    "neighbours": doctor_of_texts.neighbours,
    "even": doctor_of_texts.even,
    "again": doctor_of_texts.again,
    "duplicates": doctor_of_texts.duplicates,
    "padding": doctor_of_texts.padding,
    "weights": doctor_of_layers.weights,
    "token shift": doctor_of_texts.token_shift,
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
