"""Similarity of a trace's routing to that of each kind of text in a labelled trace of the same model."""

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import check_one_model, check_recorded
from moeviz.metrics.significance import divergences
from moeviz.metrics.specialization import load_by_label
from moeviz.routing_trace import Counted, RoutingTrace

PARTS = 3  # of a text
ONE_MODEL = (
    "Only traces of one model can be compared, and {fact} is {here} here and {there} in the labelled trace. Use a "
    "labelled trace of the same model."
)


def label_similarity(trace: Counted, reference: Counted) -> pd.DataFrame:
    """The distance from a trace's use of experts to that of each kind of text in a labelled trace, closest first.

    The Jensen-Shannon divergence in bits between the loads of the trace and the loads of a label, averaged over layers:
    0 if both use every expert alike, 1 if they have none in common. A short text uses few experts by chance, so it is
    at some distance from every label; the order says more than the numbers.

    One row per label, closest first; the mean is over the layers that are recorded in both. Columns: label str ·
    divergence float64 (bits). Raises `MissingField` if the reference has no labels, and `InvalidTrace` if the two do
    not have the same layers and numbers of experts.

    Source: Lin (1991), section IV, with the logarithm to base 2; loads as in OLMoE (arXiv 2409.02060), section 5.
    """
    if isinstance(trace, RoutingTrace):
        check_recorded(trace)
    names, mean = _divergences(trace.counts(), reference)
    found = pd.DataFrame({"label": names, "divergence": mean[0]})
    return found.sort_values("divergence", kind="stable", ignore_index=True)


def _divergences(counts: ExpertCounts, reference: Counted) -> tuple[list[str], Float64[np.ndarray, "G D"]]:
    """Return the D labels of the reference, and the distance of each group's loads from theirs; NaN for none."""
    check_one_model(counts, reference, ONE_MODEL)
    names, labelled = _loads_of(reference)
    groups, labels = counts.assignments.shape[0], len(names)
    pairs = np.indices((groups, labels)).reshape(2, -1)
    apart = [
        divergences(np.vstack([labelled[layer], counts.assignments[:, row, :E]]), pairs[1], labels + pairs[0])
        for row, (layer, E) in enumerate(zip(counts.model.layers, counts.model.num_experts, strict=True))
        if layer in labelled
    ]
    known = ~np.isnan(stacked := np.array(apart).reshape(-1, groups, labels))
    layers = known.sum(axis=0)
    sums = np.where(known, stacked, 0).sum(axis=0)
    return names, np.divide(sums, layers, out=np.full(sums.shape, np.nan), where=layers > 0)


def _loads_of(reference: Counted) -> tuple[list[str], dict[Hashable, np.ndarray]]:
    """Return the labels and their loads (labels, E) of each layer: computed once per reference, which serves many."""
    if reference not in _known:
        labelled = load_by_label(reference)
        names = labelled["label"].unique().tolist()
        _known[reference] = (
            names,
            {
                layer: shares.pivot(index="label", columns="expert", values="share").reindex(names).to_numpy()
                for layer, shares in labelled.groupby("layer", sort=False)
            },
        )
    return _known[reference]


_known: WeakKeyDictionary[Counted, tuple[list[str], dict[Hashable, np.ndarray]]] = WeakKeyDictionary()


def clearly_like(trace: RoutingTrace, reference: Counted) -> str | None:
    """The label that a trace's use of experts is closest to, where each third of its tokens is closest to it too.

    None if that is not so, as in a text of two kinds or a short one. Of the embedded model's 60 evaluation texts,
    each judged by the others, 77% get a label, and 93% of those their own; of 56 texts made of halves of two kinds,
    none gets any. Raises what `label_similarity` raises.
    """
    check_recorded(trace)
    ends = np.arange(1, PARTS) * len(trace.tokens) // PARTS
    thirds = np.searchsorted(ends, np.arange(len(trace.tokens)), side="right")
    names, apart = _divergences(trace.counts_of_groups(thirds, PARTS), reference)
    if np.isnan(apart).all(axis=1).any():  # a third of which nothing is recorded
        return None
    whole = _divergences(trace.counts(), reference)[1][0]
    nearest = {int(np.nanargmin(part)) for part in (whole, *apart)}
    return names[nearest.pop()] if len(nearest) == 1 else None
