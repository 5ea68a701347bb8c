"""Which label a trace is routed like, on loads worked by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.label_similarity import clearly_like, label_similarity
from moeviz.testing import sample_trace


def routed(experts, labels=None):
    """A trace of one layer, one slot and four experts, with these choices."""
    trace = sample_trace(layers=1, tokens=len(experts), top_k=1, experts=4)
    tokens = trace.tokens if labels is None else trace.tokens.assign(label=pd.Series(labels, dtype="str"))
    return replace(trace, tokens=tokens, experts=np.array(experts, np.int16).reshape(1, -1, 1), logits=None)


@pytest.fixture
def reference():
    """Sums use expert 0 and 1 alike, French uses expert 3 alone."""
    return routed([0, 1, 3, 3], ["sums", "sums", "French", "French"])


def test_divergence_is_none_of_the_same_load_and_one_bit_without_a_shared_expert(reference):
    frame = label_similarity(routed([3, 3, 3]), reference)
    assert frame["label"].tolist() == ["French", "sums"]
    assert frame["divergence"].tolist() == pytest.approx([0, 1])


def test_a_load_between_two_labels_worked_by_hand(reference):
    """All on expert 0, against half on 0 and half on 1: the middle is 3/4 and 1/4."""
    frame = label_similarity(routed([0, 0]), reference).set_index("label")
    expected = (np.log2(1 / 0.75) + 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)) / 2
    assert frame.loc["sums", "divergence"] == pytest.approx(expected)
    assert frame.loc["French", "divergence"] == pytest.approx(1)


def test_layers_are_compared_one_by_one_and_then_averaged():
    trace = sample_trace(layers=3, tokens=40)
    labels = pd.Series(["a", "b"] * 20, dtype="str")
    reference = replace(sample_trace(layers=3, tokens=40, seed=1), tokens=trace.tokens.assign(label=labels))
    alone = [
        label_similarity(trace.select(layers=[n]), reference.select(layers=[n])).set_index("label")["divergence"]
        for n in range(3)
    ]
    together = label_similarity(trace, reference).set_index("label")["divergence"]
    assert together.to_dict() == pytest.approx((sum(alone) / 3).to_dict())


def test_a_reference_needs_labels(reference):
    with pytest.raises(MissingField, match="label"):
        label_similarity(reference, routed([0, 1]))


def test_another_model_is_no_reference(reference):
    with pytest.raises(InvalidTrace, match="num_experts"):
        label_similarity(sample_trace(layers=1, tokens=4, experts=8), reference)


def test_a_label_is_clear_where_every_third_of_the_text_is_closest_to_it(reference):
    assert clearly_like(routed([3, 3, 3]), reference) == "French"
    assert label_similarity(routed([3, 3, 3, 3, 0, 1]), reference)["label"].iloc[0] == "French"
    assert clearly_like(routed([3, 3, 3, 3, 0, 1]), reference) is None, "its last third is closest to sums"
    assert clearly_like(routed([3, 3]), reference) is None, "two tokens have no thirds"


def test_an_evaluation_text_is_mostly_like_its_kind_and_a_text_of_two_kinds_like_none():
    whole = reference_routing()
    texts = whole.tokens["sequence"].to_numpy()
    labels = whole.tokens.groupby("sequence")["label"].first()
    judged = [clearly_like(whole.select(tokens=texts == n), whole.select(tokens=texts != n)) for n in labels.index]
    said = [label == own for label, own in zip(judged, labels, strict=True) if label is not None]
    assert len(said) >= 0.7 * len(labels) and np.mean(said) > 0.9
    for one, other in zip(labels.index[::8], labels.index[4::8], strict=False):  # of two kinds, half of each
        rows = [np.flatnonzero(texts == n) for n in (one, other)]
        mixed = np.isin(np.arange(len(texts)), np.concatenate([row[: len(row) // 2] for row in rows]))
        assert clearly_like(whole.select(tokens=mixed), whole.select(tokens=~np.isin(texts, [one, other]))) is None
