"""Questions about serving a routing, each answered in a sentence: `moeviz decide`, and the cards of Serve.

One is about memory for experts: split over layers for the most hits, compared with an equal split.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64, Num

from moeviz.claims import Claim
from moeviz.errors import MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.placement import placement_sizes
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.batches import batch_coverage, draft_sentence
from moeviz.serving.budget import most_used_by_label, most_used_sentence
from moeviz.serving.cache import expert_cache, hits_of_most
from moeviz.serving.decision import (
    ENOUGH,
    TRIAL,
    persistence,
    persistence_sentence,
    placement_judgements,
    placement_verdict,
    windows,
)
from moeviz.serving.placement import device_pairs, device_pairs_sentence
from moeviz.serving.requests import different_texts
from moeviz.serving.staleness import kept_sets, placements, plan_staleness, staleness_claims

WORTH = 0.01  # of all requests, for which memory is split unevenly
FEWEST = 250  # tokens, of which a split is made or judged


class Curves(NamedTuple):
    """Hits of each layer by the number of experts that it keeps, from none on, and requests of all layers."""

    hits: list[Num[np.ndarray, " _"]]
    requests: int

    def rate(self, places: Int64[np.ndarray, " L"]) -> float:
        """Return the share of requests that are hits, if layers keep this many experts."""
        return float(sum(hits[at] for hits, at in zip(self.hits, places, strict=True)) / self.requests)


def split_memory(trace: Counted, capacity: int | None = None) -> pd.DataFrame:
    """Judge whether one memory for experts should be split over layers, on tokens that the split was not made from.

    The split has as many places as `capacity` experts of each layer (by default half of them), the most hits on the
    tokens that it is made from, and in each layer room for the experts of one token. Of a trace, hits are those of LRU,
    of the first half of the tokens for the second and the other way round. Of counts by label, hits are those of the
    experts that the other labels use most, for each label.

    One row per judgement. Columns: judged_on str · capacity, num_experts int32 (of the largest layer) · tokens int64
    (on the smaller side of the two) · equal, split float64 (hit rates) · chance float64 (an equal set at random: places
    / experts) · places str (of each layer). No rows for other counts, which are in no order. Raises `MoevizError` for a
    size that a layer cannot have.

    **Source**: the multiple-choice knapsack problem, solved exactly by dynamic programming (Kellerer, Pferschy and
    Pisinger, Knapsack Problems, 2004, chapter 11).
    """
    sizes = np.array(trace.model.num_experts) - trace.model.zero_experts
    least = np.minimum(trace.model.top_k, sizes)
    kept = max(int(sizes.max() + 1) // 2, int(least.max())) if capacity is None else capacity
    if not least.max() <= kept <= sizes.max():
        raise MoevizError(
            f"A layer keeps {least.max()} experts, which a token needs, or more, and at most all {sizes.max()}; got "
            f"{kept}. Choose another capacity."
        )
    equal, rows = np.minimum(sizes, kept), []
    for judged_on, tokens, fit, own in _judgements(trace):
        places = best_split(fit.hits, int(equal.sum()), least)
        facts = {"judged_on": judged_on, "capacity": kept, "num_experts": sizes.max(), "tokens": tokens}
        rates = {"equal": own.rate(equal), "split": own.rate(places), "chance": equal.sum() / sizes.sum()}
        rows.append(facts | rates | {"places": " ".join(map(str, places))})
    kinds: dict[str, Any] = {"judged_on": "str", "capacity": np.int32, "num_experts": np.int32, "tokens": np.int64}
    kinds |= dict.fromkeys(("equal", "split", "chance"), np.float64) | {"places": "str"}
    return pd.DataFrame(rows, columns=[*kinds]).astype(kinds)


def _judgements(trace: Counted) -> Iterator[tuple[str, int, Curves, Curves]]:
    """Yield the tokens by which a split is judged: their name, their number, and hits to make and to judge it by."""
    if isinstance(trace, RoutingTrace):
        half = len(trace.tokens) // 2
        parts = [trace.select(tokens=part) for part in (slice(0, half), slice(half, None))]
        if all(part.filled.any(axis=(1, 2)).all() for part in parts):
            first, second = map(_of_trace, parts)
            yield "second half", half, first, second
            yield "first half", half, second, first
    elif trace.group_kind == "label":
        every = trace.assignments.sum(axis=0)
        for name, own, tokens in zip(trace.groups, trace.assignments, trace.tokens, strict=True):
            if own.any(axis=1).all() and (every - own).any(axis=1).all():
                yield str(name), int(tokens.min()), _most_used(trace, every - own), _most_used(trace, every - own, own)


def _of_trace(trace: RoutingTrace) -> Curves:
    table = expert_cache(trace, policies=("lru",))
    layers = [rows for _, rows in table.groupby("layer")]
    hits = [np.concatenate([[0.0], (rows["lru"] * rows["requests"]).to_numpy()]) for rows in layers]
    return Curves(hits, int(sum(rows["requests"].iloc[0] for rows in layers)))


def _most_used(counts: Counted, chosen_by: np.ndarray, own: np.ndarray | None = None) -> Curves:
    own = chosen_by if own is None else own
    computing = [number - counts.model.zero_experts for number in counts.model.num_experts]
    hits = [hits_of_most(chosen_by[row, :E], own[row, :E]) for row, E in enumerate(computing)]
    return Curves(hits, int(sum(each[-1] for each in hits)))


def best_split(
    hits: list[Num[np.ndarray, " _"]], budget: int, least: Int64[np.ndarray, " L"]
) -> Int64[np.ndarray, " L"]:
    """Places of each layer, `budget` of them in all, that have the most hits; each layer has `least` or more.

    Hits of each layer, in `hits`, are by the number of experts that it keeps, from none on.

    >>> best_split([np.array([0, 5, 6, 6]), np.array([0, 1, 4, 9])], 4, np.array([1, 1]))
    array([1, 3])
    """
    found, came = np.full(budget + 1, -np.inf), []
    found[0] = 0.0
    for each, low in zip(hits, least.tolist(), strict=True):
        best, came_by = np.full(budget + 1, -np.inf), np.zeros(budget + 1, np.int64)
        for size in range(low, min(len(each), budget + 1)):
            more = found[: budget + 1 - size] + each[size]
            better = more > best[size:]
            best[size:][better], came_by[size:][better] = more[better], size
        came.append(came_by)
        found = best
    places, left = [], budget
    for sizes in reversed(came):
        places.append(int(sizes[left]))
        left -= places[-1]
    return np.array(places[::-1])


def split_sentence(frame: pd.DataFrame) -> Claim | None:
    """Claim whether an uneven split of the memory is worth it. Columns: those of `split_memory`; None without rows.

    It is if it gains a hundredth of all requests or more in every judgement, and it is not if it does in none.
    """
    if frame.empty:
        return None
    if (tokens := frame["tokens"].min()) < FEWEST:
        return captions.few_tokens(tokens, FEWEST)
    gain = frame["split"] - frame["equal"]
    verdict = "Worth it" if gain.min() >= WORTH else "Not worth it" if gain.max() < WORTH else captions.LITTLE
    sizes = frame["capacity"].iloc[0], frame["num_experts"].iloc[0]
    rates = frame["equal"].mean(), frame["chance"].mean()
    return captions.split_memory(verdict, *sizes, gain.min(), gain.max(), *rates)


BALANCE = "Is balancing over devices worth a trial?"
DRIFT = "Do the same experts stay busy?"
PAIRS = "Which devices do tokens need together?"
MEMORY = "Is memory for experts worth splitting unevenly over layers?"
LABELS = "Do the experts that some kinds of text use serve the others?"
DRAFT = "How many more experts does a draft need?"
STALE = "Are plans of this recording still good on the other?"
DRAFTS = (1, 2, 4, 8)


class Answer(NamedTuple):
    """One question, the sentence that answers it, and the figures behind it."""

    question: str
    verdict: str  # the sentence's first words; "" where it gives none
    sentence: str
    figures: pd.DataFrame  # without rows where there is too little to judge


def decide(
    trace: Counted,
    devices: int | None = None,
    capacity: int | None = None,
    draft: int = 4,
    by_label: ExpertCounts | None = None,
    judged_on: Counted | None = None,
) -> list[Answer]:
    """Answer what a serving engineer asks of a routing, judged on tokens that no plan was made from.

    `devices` share each layer's experts (by default 8, 4 or 2), `capacity` experts of each layer are in fast memory (by
    default half), and a `draft` has this many tokens. A text that comes again counts once: a plan would be judged on
    the tokens that it was made from. `by_label` are the same tokens counted by label, if `trace` has them by step.
    `judged_on` is another recording, on which plans of this one are judged first. Of counts, what needs the order of
    tokens is reported to need it. A question that cannot be answered says why in its sentence.

    >>> from moeviz.testing import sample_trace
    >>> decide(sample_trace())[0].verdict
    'Too little evidence'
    """
    again = 0
    if isinstance(trace, RoutingTrace):
        trace, again = different_texts(trace)
    ask: list[tuple[str, Callable[[], tuple[str | None, pd.DataFrame]]]] = [
        (BALANCE, lambda: balance(trace, devices)),
        (DRIFT, lambda: _drift(trace)),
        (PAIRS, lambda: _pairs(trace, devices)),
        (MEMORY, lambda: split(trace, capacity)),
        (LABELS, lambda: _labels(trace if by_label is None else by_label)),
        (DRAFT, lambda: drafted(trace, draft)),
    ]
    if judged_on is not None:
        ask.insert(0, (STALE, lambda: stale(trace, judged_on, devices, capacity)))
    found = {question: answer(question, find) for question, find in ask}
    found |= {name: _with_limits(found, name, trace, again) for name in (BALANCE, DRIFT) if found[name].verdict}
    return [*found.values()]


def _with_limits(found: dict[str, Answer], question: str, trace: Counted, again: int) -> Answer:
    """Add to a verdict what was observed for it, and the other verdict on the same loads."""
    one, seen = found[question], next(windows(trace), None)
    says = [one.sentence]
    if again:
        says += [f"{again:,} text{'s' * (again > 1)} came again and did not count twice."]
    if seen is not None and one.verdict != captions.LITTLE:
        says += [f"{len(seen.counts):,} windows of time were seen: a period that is longer than all of them is not."]
    if found[BALANCE].verdict == TRIAL and found[DRIFT].verdict == DRIFTS:
        says += ["A plan is worth a trial and loads drift: it gets older, so judge it again on newer traffic."]
    return one._replace(sentence=" ".join(says))


DRIFTS = "Loads drift"


def answer(question: str, find: Callable[[], tuple[str | None, pd.DataFrame]]) -> Answer:
    """Return the answer that `find` gives, or a sentence that explains why it gives none."""
    try:
        said, figures = find()
    except MoevizError as error:
        return Answer(question, "", str(error), pd.DataFrame())
    said = said or UNJUDGED[question]
    verdict, colon, _ = said.partition(": ")
    return Answer(question, verdict if colon and len(verdict) < LONGEST else "", said, figures)


LONGEST = 30  # characters of a verdict
ORDER = "Not known: these counts are in no order. Give a trace, counts by step or a dataset of several shards."
UNJUDGED = {
    BALANCE: "Not known: counts of everything together judge no plan but on the tokens that it is made from. Give a "
    "trace, counts by step or label, or a dataset of several shards.",
    DRIFT: ORDER,
    PAIRS: "Not known: there are too few tokens, or there is one device.",
    MEMORY: "Not known: it needs a trace whose halves have tokens at every layer, or counts by label.",
    LABELS: "Not known: it needs two labels or more. Trace labelled texts.",
    DRAFT: "Not known.",
}


def usual_devices(trace: Counted, devices: int | None) -> int:
    """The number of devices, given or usual (8, 4 or 2). Raises `MoevizError` if they cannot hold equal numbers."""
    return max(placement_sizes(trace, row, devices, 0)[0] for row in range(len(trace.model.layers)))


def balance(trace: Counted, devices: int | None = None) -> tuple[str | None, pd.DataFrame]:
    """Say whether balancing experts over devices is worth a trial: `placement_verdict`, with its judgements."""
    frame = placement_judgements(trace, usual_devices(trace, devices))
    return placement_verdict(frame) or _of_nothing(trace), frame


def stale(
    trace: Counted, other: Counted, devices: int | None = None, capacity: int | None = None
) -> tuple[str, pd.DataFrame]:
    """Say whether plans of one recording are still good on another: `plan_staleness` on devices and in memory."""
    sets = kept_sets(None if capacity is None else [capacity])
    frame = plan_staleness(trace, other, lambda *layer: chain(placements(devices)(*layer), sets(*layer)))
    return " ".join(staleness_claims(trace, other, frame)), frame


def split(trace: Counted, capacity: int | None = None) -> tuple[str | None, pd.DataFrame]:
    """Say whether memory is worth splitting unevenly over layers: `split_sentence`, with its judgements."""
    frame = split_memory(trace, capacity)
    return split_sentence(frame), frame


def drafted(trace: Counted, draft: int = 4) -> tuple[str | None, pd.DataFrame]:
    """Say how many more experts a draft needs: `draft_sentence`, with the means over layers by length."""
    means = batch_coverage(trace, sorted({*DRAFTS, draft})).groupby("batch", as_index=False)
    return draft_sentence(trace, draft), means[["consecutive", "random", "even"]].mean()


def _drift(trace: Counted) -> tuple[str | None, pd.DataFrame]:
    frame = persistence(trace)
    return persistence_sentence(frame) or _of_nothing(trace), frame


def _of_nothing(trace: Counted) -> str | None:
    """Explain why tokens in order are not judged, such as one token; None for counts in no order."""
    return None if next(windows(trace), None) is None else captions.few_choices(0, ENOUGH)


def _pairs(trace: Counted, devices: int | None) -> tuple[str | None, pd.DataFrame]:
    frame = device_pairs(trace, usual_devices(trace, devices))
    return device_pairs_sentence(frame), frame


def _labels(trace: Counted) -> tuple[str | None, pd.DataFrame]:
    counts = trace.counts_by_label() if isinstance(trace, RoutingTrace) and "label" in trace.tokens else trace
    if not isinstance(counts, ExpertCounts) or counts.group_kind != "label":
        return None, pd.DataFrame()
    frame = most_used_by_label(counts)
    return (None if frame.empty else most_used_sentence(counts)), frame
