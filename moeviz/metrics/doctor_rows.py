"""The rows of a trace as its doctor reads them: checks from token to token, and by how many rows a trace is off."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, RoutingTrace

FEW = 8  # tokens: with fewer, chance explains what is looked for


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An implausible place of a trace: the model's own index of the layer, and the first row of `tokens`; -1: none."""

    check: str
    layer: int
    token: int
    rows: int
    says: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The numbers of a trace, and what follows from them."""

    layers: tuple[int, ...]
    num_experts: int
    experts: np.ndarray  # L, T, K
    sets: np.ndarray  # the same, sorted
    recorded: np.ndarray  # L, T
    whole: np.ndarray  # T: recorded at all layers
    codes: np.ndarray  # T: one number for the sets of all layers
    neighbours: np.ndarray  # T - 1: whether a row and the next are of one sequence
    sequences: list[tuple[int, int]]  # first row, and the row after the last
    weights: np.ndarray | None
    token_id: np.ndarray | None
    words: np.ndarray | None  # a number for each different token: by its id, or by its text where no id is known

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.experts.shape[1])

    @property
    def top_k(self) -> int:
        """K."""
        return int(self.experts.shape[2])

    @property
    def layers_by_slots(self) -> int:
        """L x K."""
        return len(self.layers) * self.top_k

    @property
    def choice(self) -> bool:
        """True if a router has anything to choose: fewer slots than experts."""
        return self.top_k < self.num_experts

    def filled(self, at: int) -> np.ndarray:
        """Compute the ids in the filled slots of a layer."""
        ids: np.ndarray = self.experts[at][self.experts[at] >= 0]
        return ids


def rows_of(trace: RoutingTrace) -> Rows:
    """Return a trace, ready to be looked at."""
    sets = np.sort(trace.experts, axis=-1)
    tokens = trace.experts.shape[1]
    flat = np.ascontiguousarray(sets.transpose(1, 0, 2)).reshape(tokens, -1)
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    codes = np.unique(keys, return_inverse=True)[1].reshape(-1)
    sequence = trace.tokens["sequence"].to_numpy()
    neighbours = np.diff(sequence) == 0
    starts = [0, *(np.flatnonzero(~neighbours) + 1).tolist(), tokens] if tokens else [0]
    ids, texts = trace.tokens["token_id"].to_numpy(), trace.tokens["text"]
    token_id = None if (ids == NO_TOKEN_ID).all() else ids
    words = token_id if token_id is not None or (texts == "").all() else pd.factorize(texts)[0]
    recorded = trace.experts[..., 0] != NOT_RECORDED
    return Rows(
        trace.model.layers,
        max(trace.model.num_experts),
        trace.experts,
        sets,
        recorded,
        recorded.all(axis=0),
        codes,
        neighbours,
        list(pairwise(starts)),
        trace.weights,
        token_id,
        words,
    )


ENOUGH_IDS = 200  # tokens, for findings from token ids only
CLEARLY = 1.1  # times as many shared experts as where nothing is moved


def overlap(mine: int, theirs: int, shift: int) -> tuple[slice, slice]:
    """Return the rows of both that are there where row t of one is row t + shift of the other.

    >>> overlap(4, 5, 1)
    (slice(0, 4, None), slice(1, 5, None))
    """
    start, stop = max(0, -shift), min(mine, theirs - shift)
    return slice(start, stop), slice(start + shift, stop + shift)


def shift_of_tokens(rows: Rows) -> int:
    """The shift of -1 to 1 rows at which equal tokens share most experts at the first layer; 0 unless clearly more."""
    shared = _shared_by_shift(rows)
    best = max(shared, key=lambda shift: shared[shift])
    return best if shared[best] > CLEARLY * shared[0] else 0


def _shared_by_shift(rows: Rows) -> dict[int, float]:
    """Return, for each shift of -1 to 1 rows, the experts that two rows of a token share at the first layer; else 0."""
    if rows.words is None or rows.tokens < ENOUGH_IDS:
        return dict.fromkeys((0, -1, 1), 0.0)
    return {shift: _mean_shared(rows, rows.words, shift) for shift in (0, -1, 1)}


def _mean_shared(rows: Rows, words: np.ndarray, shift: int) -> float:
    """Return the mean number of experts that rows of the same token share, where row t is of token t + shift."""
    mine, theirs = overlap(rows.tokens, rows.tokens, shift)
    experts, ids = rows.experts[0][mine].astype(np.int64), words[theirs]
    _, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    pairs = int((sizes * (sizes - 1)).sum())
    if pairs < ENOUGH_IDS:
        return 0.0
    used = experts >= 0
    key = (group.reshape(-1)[:, None] * rows.num_experts + experts)[used]
    _, counts = np.unique(key, return_counts=True)
    return float((counts * (counts - 1)).sum()) / pairs


ENOUGH = 200  # tokens, for findings about neighbours and loads
REPEATED, LIMIT_Z, EVEN = 0.15, 3.0, 0.5  # real texts repeat up to a tenth of their rows
MANY_SLOTS = 8  # layers x K: with fewer, two tokens may well be routed alike at all layers


def repeats(rows: Rows) -> Iterator[Anomaly]:
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
        yield Anomaly("repeats", -1, first, int(again.sum()), says)


def neighbours(rows: Rows) -> Iterator[Anomaly]:
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
        yield Anomaly("neighbours", -1, 0, rows.tokens, says)


def even(rows: Rows) -> Iterator[Anomaly]:
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
        yield Anomaly("even", -1, 0, rows.tokens, says)


def again(rows: Rows) -> Iterator[Anomaly]:
    """A sequence whose beginning comes again, as when a prefix cache or a chunk of the prompt is counted twice."""
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
            yield Anomaly("again", -1, first, FEW, says)


def duplicates(rows: Rows) -> Iterator[Anomaly]:
    """Find sequences that are routed like an earlier one from end to end."""
    if rows.layers_by_slots < MANY_SLOTS or not rows.choice:
        return
    seen: dict[bytes, int] = {}
    for number, (start, end) in enumerate(rows.sequences):
        if end - start >= FEW and rows.whole[start:end].all():
            other = seen.setdefault(rows.codes[start:end].tobytes(), number)
            if other != number:
                says = f"Sequences {other} and {number} are routed alike from end to end: one text was counted twice."
                yield Anomaly("duplicates", -1, start, end - start, says)


def padding(rows: Rows) -> Iterator[Anomaly]:
    """Find one token repeated at an end of several sequences."""
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
            yield Anomaly("padding", -1, places[0], len(places) * FEW, says)


def token_shift(rows: Rows) -> Iterator[Anomaly]:
    """Rows are off by one against their own tokens."""
    if (shift := shift_of_tokens(rows)) and not _ahead(rows):
        says = (
            f"Equal tokens share most experts when rows are moved by {shift:+d}: a row was "
            f"{'lost' if shift > 0 else 'counted twice'}, and each token has its neighbour's experts."
        )
        yield Anomaly("token shift", -1, 0, rows.tokens, says)


DRAFT = "another model wrote this layer, as a draft model does in vLLM before pull request 48622."
NEXT = 5  # layers that the first one is compared with
CLEAR_SHARE, CLEAR_Z = 0.05, 3.0  # on real routing no other shift goes with more than 0.95 times what 0 goes with
PAIRS = 640_000  # of experts of two layers that are looked at: those of 10,000 tokens at top-8
ENOUGH_ALONE = 500  # tokens, where nothing is known of them
FEWEST = 5  # layers: with fewer, too few others tell that the first one is ahead


def draft(rows: Rows) -> Iterator[Anomaly]:
    """Find a first layer that is a row ahead of the others: a draft model reads the next token too."""
    if _ahead(rows):
        says = (
            f"The experts of layer {rows.layers[0]} go with those of the next layers when its rows alone are moved by "
            f"+1: {DRAFT}"
        )
        yield Anomaly("draft", rows.layers[0], 0, rows.tokens, says)


def _ahead(rows: Rows) -> bool:
    """Return whether the first layer is a row ahead of the next ones: clearly, or by its tokens too."""
    enough = ENOUGH_ALONE if rows.words is None else ENOUGH
    if _looked_at(rows) < enough or len(rows.layers) < FEWEST or not rows.choice:
        return False
    best, clear = _step(rows, 0)
    shared = _shared_by_shift(rows)
    if best != 1 or shared[0] > CLEARLY * shared[1]:
        return False
    return shared[1] > CLEARLY * shared[0] or (clear and not _step(rows, 1)[1])


def _step(rows: Rows, at: int) -> tuple[int, bool]:
    """Return the shift of -1 to 1 rows that best aligns a layer with the next ones, and whether that is clear."""
    others = range(at + 1, min(at + 1 + NEXT, len(rows.layers)))
    goes = {shift: np.array([_contingency(rows, at, other, shift) for other in others]) for shift in (0, -1, 1)}
    best = max(goes, key=lambda shift: goes[shift].sum())
    noise = (rows.num_experts - 1) * (2 * len(others)) ** 0.5 / (rows.top_k * _looked_at(rows))
    lead = goes[best] - goes[0]
    few = max(CLEAR_SHARE * goes[0].sum(), CLEAR_Z * noise)
    against = int((lead <= 0).sum())
    return best, against < 2 and bool(lead.sum() > few * (1 + against))


def _looked_at(rows: Rows) -> int:
    return min(rows.tokens, PAIRS // rows.top_k**2)


def _contingency(rows: Rows, at: int, other: int, shift: int) -> float:
    """Compute the mean square contingency of two layers' experts, row t paired with row t + shift of the other."""
    mine, theirs = overlap(_looked_at(rows), _looked_at(rows), shift)
    ours, others = rows.experts[at][mine].astype(np.int64), rows.experts[other][theirs]
    filled = (ours >= 0)[:, :, None] & (others >= 0)[:, None, :]
    pairs = (ours[:, :, None] * rows.num_experts + others[:, None, :])[filled]
    cells, counts = np.unique(pairs, return_counts=True)
    first, second = np.divmod(cells, rows.num_experts)
    expected = np.bincount(first, counts)[first] * np.bincount(second, counts)[second]
    return float((counts**2 / expected).sum()) - 1
