"""Experts by kind of text. A kind is a label of tokens: a domain, a language, a speaker.

Every label counts the same here, however long its texts are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int16, Int64

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics import captions
from moeviz.metrics.inputs import Statistics, check_cells, fewest_slots, filled_slots, layer_counts, per_layer
from moeviz.metrics.significance import beyond_chance, divergences, entropy
from moeviz.metrics.words import one_row
from moeviz.routing_trace import Counted, RoutingTrace

SHUFFLES = 100
MAX_LABELS = 100  # to compare in pairs
CLEAR_BITS = 0.3  # above what shuffling gives, for a caption


def load_by_label(trace: Counted | Statistics) -> pd.DataFrame:
    """Compute the division of each label's tokens among the experts, layer by layer.

    `share` is a share of the label's assignments (filled slots) in the layer, so a label's shares sum to 1 and the
    uniform share is 1 / E. `share_of_tokens` is a share of the label's tokens, so it sums to k: OLMoE calls it domain
    specialization.

    One row per layer, label and expert, including unused experts; labels in the order in which they first appear, and
    only those that have tokens recorded at the layer.
    Columns: layer int32 (the model's own index) · label str · expert int16 · assignments int64 · share float64 (0 if
    the label has no assignment) · uniform float64 (1 / E) · share_of_tokens float64. Raises `MissingField` if the
    tokens have no labels.

    Source: OLMoE (arXiv 2409.02060), section 5, 'Domain specialization'; Mixtral of Experts (arXiv 2401.04088),
    figure 7, draws the share of assignments.
    """
    if isinstance(trace, RoutingTrace):
        labels, _ = trace.labels("Load by label")
        check_cells("Load by label", trace.experts.size, labels=len(labels), experts=sum(trace.model.num_experts))
    by_label, frames = trace.counts_by_label("Load by label"), []
    for found in layer_counts(trace, by_label):
        some, num_experts = found.tokens > 0, found.num_experts
        counts, tokens = found.counts[some], found.tokens[some, None]
        names = np.array(by_label.groups, object)[some]
        columns = {
            "layer": np.int32(found.layer),
            "label": pd.Series(np.repeat(names, num_experts), dtype="str"),
            "expert": np.tile(np.arange(num_experts, dtype=np.int16), len(names)),
            "assignments": counts.ravel(),
            "share": (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).ravel(),
            "uniform": 1 / num_experts,
            "share_of_tokens": (counts / tokens).ravel(),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


@per_layer
def label_information(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the information that the expert of an assignment gives about the label of its token, layer by layer.

    Draw a label, each as likely as any other, and then one of that label's assignments in the layer. `information` is
    the mutual information of the label and the expert in bits: 0 if all labels use the experts in the same proportions.
    Because labels are drawn first, a label with long texts does not count more than one with short texts.

    A short text uses few experts by chance, and words of one text belong together, so information is above 0 by chance.
    `shuffled` is that chance level: the mean over 100 shuffles (seed 0) of the labels among the texts, where a text
    (all tokens of one sequence that have one label) stays whole; `shuffled_highest` is the largest of them. With one
    text per label, a shuffle only renames the labels, so both are NaN. With few texts per label, shuffles often come
    close to the true order, and the chance level is high.

    `maximum` is what information cannot exceed: log2 of the number of labels, reached if no two labels share an expert;
    or log2(E / k) if that is less, since the k experts of a token differ.

    One row per layer. Columns: layer int32 · information, shuffled, shuffled_highest, maximum float64 (bits; NaN if the
    layer has no assignments). Raises `MissingField` if the tokens have no labels.

    Source: Shannon (1948), section 12; with labels equally likely it is the Jensen-Shannon divergence of all labels'
    loads, Lin (1991), section V. A permutation baseline as in Vinh, Epps & Bailey (2010).
    """
    rows, slots = [], filled_slots(trace)
    assert slots is not None  # as of all that says more than counts
    for row, by_label, shuffled in _assignments_by_label(trace, "Information about labels"):
        chance = [information_of_counts(counts) for counts in shuffled] or [np.nan]
        most = most_information(by_label, fewest_slots(slots[row]))
        rows.append((trace.model.layers[row], information_of_counts(by_label), np.mean(chance), max(chance), most))
    columns = ["layer", "information", "shuffled", "shuffled_highest", "maximum"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": np.int32})


@per_layer
def label_divergence(trace: RoutingTrace | Statistics) -> pd.DataFrame:
    """Compute the difference in routing of two labels: 0 bits if both use the experts alike, 1 bit if they share none.

    The Jensen-Shannon divergence in bits of the two labels' histograms of first choices. `shuffled` is its
    chance level: the mean over 100 shuffles (seed 0) of the labels among the texts of the trace, each text kept whole;
    NaN if each label has only one text.

    One row per layer and pair of labels, each pair once. Columns: layer int32 · label str · other str · divergence,
    shuffled float64 (bits; NaN if a label has no first choice in the layer). Raises `MissingField` if the tokens have
    no labels, or only one, or if the trace does not say which experts are first choices, and `InvalidTrace` if there
    are more than 100 labels.

    Source: Lin (1991), section IV, with the logarithm to base 2.
    """
    why, frames = "A comparison of labels", []
    labels = _labels(trace, why)
    if len(labels) == 1:
        raise MissingField(
            f"{why} needs two or more, and all tokens here have the same label. Trace more than one kind of text."
        )
    if len(labels) > MAX_LABELS:
        raise InvalidTrace(
            f"Labels are compared in pairs, at most {MAX_LABELS} of them, and here are {len(labels):,}. Trace fewer "
            "kinds of text."
        )
    first, second = np.triu_indices(len(labels), k=1)
    names = np.array(labels, object)
    for row, by_label, shuffled in _first_choices_by_label(trace, labels, why):
        chance = [divergences(counts, first, second) for counts in shuffled]
        columns = {
            "layer": np.int32(trace.model.layers[row]),
            "label": pd.Series(names[first], dtype="str"),
            "other": pd.Series(names[second], dtype="str"),
            "divergence": divergences(by_label, first, second),
            "shuffled": np.mean(chance, axis=0) if chance else np.nan,
        }
        frames.append(pd.DataFrame(columns).astype({"divergence": np.float64, "shuffled": np.float64}))
    return pd.concat(frames, ignore_index=True)


OfLayer = tuple[int, Int64[np.ndarray, "D E"], Iterable[Int64[np.ndarray, "D E"]]]
"""A row of the L layers, its counts by label, and those of each shuffle of the labels: none of a dataset's sums."""


def _assignments_by_label(source: RoutingTrace | Statistics, why: str) -> Iterator[OfLayer]:
    if isinstance(source, Statistics):
        for found in layer_counts(source, source.counts_by_label(why)):
            yield found.row, found.counts, ()
        return
    texts = _texts(source, why)
    for row, (experts, num_experts) in enumerate(zip(source.experts, source.model.num_experts, strict=True)):
        yield row, *texts.counted(experts, num_experts)


def _first_choices_by_label(source: RoutingTrace | Statistics, labels: list[str], why: str) -> Iterator[OfLayer]:
    if isinstance(source, Statistics):
        firsts = source.first_choices_by_label(labels, why)
        for row in range(len(source.model.layers)):
            yield row, firsts[:, row], ()
        return
    texts, most = _texts(source, why), max(source.model.num_experts)
    pairs = len(labels) * (len(labels) - 1) // 2
    check_cells(why, source.experts.size, pairs_of_labels=pairs, experts=most)
    choices = source.first_choices(why)
    for row, (first, num_experts) in enumerate(zip(choices, source.model.num_experts, strict=True)):
        yield row, *texts.counted(first[:, None], num_experts)


def _labels(source: RoutingTrace | Statistics, why: str) -> list[str]:
    if isinstance(source, Statistics):
        return [str(name) for name in source.counts_by_label(why).groups]
    return source.labels(why)[0]


@dataclass(frozen=True, slots=True)
class _Texts:
    """The texts of a trace, all of one label after each other. D labels, N texts, T tokens."""

    names: list[str]
    text_of_token: np.ndarray  # (T,)
    label_of_text: np.ndarray  # (N,), sorted
    shuffles: list[np.ndarray]  # orders of the texts; none if a shuffle would only rename the labels

    def counted(
        self, experts: Int16[np.ndarray, "T K"], num_experts: int
    ) -> tuple[Int64[np.ndarray, "D E"], Iterator[Int64[np.ndarray, "D E"]]]:
        """Count how often each label chose each expert, and the same in each shuffle of the labels."""
        counts = _counts(self.text_of_token, len(self.label_of_text), experts, num_experts)
        return self.by_label(counts), (self.by_label(counts[order]) for order in self.shuffles)

    def by_label(self, counts: Int64[np.ndarray, "N E"]) -> Int64[np.ndarray, "D E"]:
        starts = np.searchsorted(self.label_of_text, np.arange(len(self.names)))
        return np.add.reduceat(counts, starts, axis=0)


def _texts(trace: RoutingTrace, why: str) -> _Texts:
    names, codes = trace.labels(why)
    pairs = np.stack([codes, trace.tokens["sequence"].to_numpy(np.int64)], axis=1)
    texts, text_of_token = np.unique(pairs, axis=0, return_inverse=True)
    check_cells(why, trace.experts.size, texts=len(texts), experts=max(trace.model.num_experts))
    rng = np.random.default_rng(0)
    shuffles = [rng.permutation(len(texts)) for _ in range(SHUFFLES if len(texts) > len(names) else 0)]
    return _Texts(names, text_of_token.ravel(), texts[:, 0], shuffles)


def _counts(
    groups: np.ndarray, num_groups: int, experts: Int16[np.ndarray, "T K"], num_experts: int
) -> Int64[np.ndarray, "G E"]:
    token, slot = np.nonzero(experts >= 0)
    cells = groups[token] * num_experts + experts[token, slot]
    return np.bincount(cells, minlength=num_groups * num_experts).reshape(num_groups, num_experts)


def information_of_counts(counts: Int64[np.ndarray, "D E"]) -> float:
    """Mutual information in bits of label and expert, every label with assignments equally likely."""
    counts = counts[counts.sum(axis=1) > 0]
    if len(counts) == 0:
        return np.nan
    shares = counts / counts.sum(axis=1, keepdims=True)
    all_labels = shares.mean(axis=0, keepdims=True)
    return max(float(entropy(all_labels)[0] - entropy(shares).mean()), 0.0)


def most_information(counts: Int64[np.ndarray, "D E"], slots: int) -> float:
    """Bound the information, in bits, where every token that has an expert has `slots` of them or more."""
    labels = (counts.sum(axis=1) > 0).sum()
    return float(np.log2(min(labels, counts.shape[1] / slots))) if labels else np.nan


def label_load_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which expert has most of a label, of those beyond chance, and how many cells these are.

    At least twice a uniform share, and twice the mean of all labels.
    """
    mean = frame.groupby("expert")["share"].transform("mean")
    known = frame["uniform"].clip(lower=mean)
    assignments = frame.groupby("label", sort=False)["assignments"].transform("sum")
    beyond = beyond_chance(frame["share"], assignments, known, 2.0)
    if not beyond.any():
        return None
    row = one_row(frame, frame["share"][beyond].idxmax())
    times = row.share / row.uniform
    return captions.expert_of_kind(row.layer, row.expert, row.share, row.label, times, int(beyond.sum()), len(frame))


def label_information_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim at which layer experts say the most about the label, if clearly more than with shuffled labels."""
    if frame["information"].isna().all():
        return None
    row = one_row(frame, frame["information"].idxmax())
    if not row.information - row.shuffled > 2.0 * (row.shuffled_highest - row.shuffled):
        return None
    return captions.information_about_kinds(row.layer, row.information, row.maximum, row.shuffled)


def label_divergence_caption(frame: pd.DataFrame) -> Claim | None:
    """Claim which two labels are routed most differently, if far more so than with shuffled labels."""
    if frame["divergence"].isna().all():
        return None
    row = one_row(frame, frame["divergence"].idxmax())
    if not (row.divergence >= row.shuffled + CLEAR_BITS and row.divergence >= 2.0 * row.shuffled):
        return None
    return captions.most_different_kinds(row.label, row.other, row.divergence, row.shuffled)
