"""What the doctor looks for from token to token: rows that repeat, come again, or do not follow each other."""

from collections.abc import Iterator

import numpy as np

from moeviz.metrics.doctor_of_pairs import shift_of_tokens
from moeviz.metrics.doctor_of_rows import FEW, Finding, Rows

ENOUGH = 200  # tokens, for what is said of neighbours and of loads
REPEATED, LIMIT_Z, EVEN = 0.15, 3.0, 0.5  # real texts repeat up to a tenth of their rows
MANY_SLOTS = 8  # layers x K: with fewer, two tokens may well be routed alike at all layers


def repeats(rows: Rows) -> Iterator[Finding]:
    """Many rows are the same as the row before."""
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


def neighbours(rows: Rows) -> Iterator[Finding]:
    """Neighbouring tokens share no more experts than shuffled tokens would."""
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


def even(rows: Rows) -> Iterator[Finding]:
    """Loads are more even than choices at random would be."""
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


def again(rows: Rows) -> Iterator[Finding]:
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


def duplicates(rows: Rows) -> Iterator[Finding]:
    """Two sequences are routed alike from end to end."""
    if rows.layers_by_slots < MANY_SLOTS or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for number, (start, end) in enumerate(rows.sequences):
        if end - start >= FEW and rows.whole[start:end].all():
            other = seen.setdefault(rows.codes[start:end].tobytes(), number)
            if other != number:
                says = f"Sequences {other} and {number} are routed alike from end to end: one text was counted twice."
                yield Finding("duplicates", -1, start, end - start, says)


def padding(rows: Rows) -> Iterator[Finding]:
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


def token_shift(rows: Rows) -> Iterator[Finding]:
    """Rows are off by one against their own tokens."""
    if rows.token_id is not None and (shift := shift_of_tokens(rows)):
        says = (
            f"Equal tokens share most experts when rows are moved by {shift:+d}: a row was "
            f"{'lost' if shift > 0 else 'counted twice'}, and each token has its neighbour's experts."
        )
        yield Finding("token shift", -1, 0, rows.tokens, says)
