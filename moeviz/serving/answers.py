"""Questions about serving a routing, each with a sentence that answers it: `moeviz decide`, and the cards of Serve."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from moeviz.errors import MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.placement import placement_sizes
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.batches import batch_coverage, draft_sentence
from moeviz.serving.budget import most_used_by_label, most_used_sentence
from moeviz.serving.decision import persistence, persistence_sentence, placement_judgements, placement_verdict
from moeviz.serving.placement import device_pairs, device_pairs_sentence
from moeviz.serving.split import split_memory, split_sentence

BALANCE = "Is balancing over devices worth a trial?"
DRIFT = "Do the same experts stay busy?"
PAIRS = "Which devices do tokens need together?"
MEMORY = "Is memory for experts worth splitting unevenly over layers?"
LABELS = "Do the experts that some kinds of text use serve the others?"
DRAFT = "How many more experts does a draft need?"
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
) -> list[Answer]:
    """Answer what a serving engineer asks of a routing, judged on tokens that no plan was made from.

    `devices` share each layer's experts (by default 8, 4 or 2), `capacity` experts of each layer are in fast memory (by
    default half), and a `draft` has so many tokens. `by_label` are the same tokens counted by label, where `trace` has
    them by step. Of counts, what needs the order of tokens is said to need it. A question that cannot be answered says
    why in its sentence.

    >>> from moeviz.testing import sample_trace
    >>> decide(sample_trace())[0].verdict
    'Too little evidence'
    """
    ask: list[tuple[str, Callable[[], tuple[str | None, pd.DataFrame]]]] = [
        (BALANCE, lambda: balance(trace, devices)),
        (DRIFT, lambda: _drift(trace)),
        (PAIRS, lambda: _pairs(trace, devices)),
        (MEMORY, lambda: split(trace, capacity)),
        (LABELS, lambda: _labels(trace if by_label is None else by_label)),
        (DRAFT, lambda: drafted(trace, draft)),
    ]
    return [answer(question, find) for question, find in ask]


def answer(question: str, find: Callable[[], tuple[str | None, pd.DataFrame]]) -> Answer:
    """Return the answer that `find` gives, or the sentence that says why there is none."""
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
    MEMORY: "Not known: it takes a trace whose halves have tokens at every layer, or counts by label.",
    LABELS: "Not known: it takes two labels or more. Trace labelled texts.",
    DRAFT: "Not known.",
}


def usual_devices(trace: Counted, devices: int | None) -> int:
    """The number of devices, given or usual (8, 4 or 2). Raises `MoevizError` where they cannot hold equal numbers."""
    return max(placement_sizes(trace, row, devices, 0)[0] for row in range(len(trace.model.layers)))


def balance(trace: Counted, devices: int | None = None) -> tuple[str | None, pd.DataFrame]:
    """Say whether balancing experts over devices is worth a trial: `placement_verdict`, with its judgements."""
    frame = placement_judgements(trace, usual_devices(trace, devices))
    return placement_verdict(frame), frame


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
    return persistence_sentence(frame), frame


def _pairs(trace: Counted, devices: int | None) -> tuple[str | None, pd.DataFrame]:
    frame = device_pairs(trace, usual_devices(trace, devices))
    return device_pairs_sentence(frame), frame


def _labels(trace: Counted) -> tuple[str | None, pd.DataFrame]:
    counts = trace.counts_by_label() if isinstance(trace, RoutingTrace) and "label" in trace.tokens else trace
    if not isinstance(counts, ExpertCounts) or counts.group_kind != "label":
        return None, pd.DataFrame()
    frame = most_used_by_label(counts)
    return (None if frame.empty else most_used_sentence(counts)), frame
