"""Which experts which kind of text uses, on texts small enough to count by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import routed

from moeviz import RoutingTrace
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.specialization import label_divergence, label_information, load_by_label
from moeviz.testing import sample_trace


def labelled(texts: list[tuple[str, list[list[int]]]], num_experts: int) -> RoutingTrace:
    """A trace of one layer, 4, with a sequence for each (label, the experts of each token)."""
    labels = [label for label, experts in texts for _ in experts]
    return routed([experts for _, experts in texts], num_experts, layers=(4,), label=labels)


def information(trace: RoutingTrace) -> pd.Series:
    return label_information(trace).iloc[0]


def entropy(*shares: float) -> float:
    return -sum(p * np.log2(p) for p in shares if p)


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Three texts, four experts, top-2; the last token has one expert only.

    prose: 0 1, 0 2: counts 2 1 1 0 of 4. code: 3 2 and, in a second text, 3: counts 0 0 1 2 of 3.
    """
    return labelled([("prose", [[0, 1], [0, 2]]), ("code", [[3, 2]]), ("code", [[3, -1]])], 4)


def test_loads_are_shares_of_each_labels_own_assignments(by_hand):
    frame = load_by_label(by_hand)
    assert frame["label"].tolist() == ["prose"] * 4 + ["code"] * 4
    assert frame["expert"].tolist() == [0, 1, 2, 3] * 2
    assert frame["assignments"].tolist() == [2, 1, 1, 0, 0, 0, 1, 2]
    assert frame["share"].tolist() == pytest.approx([0.5, 0.25, 0.25, 0, 0, 0, 1 / 3, 2 / 3])
    assert frame["share_of_tokens"].tolist() == pytest.approx([1, 0.5, 0.5, 0, 0, 0, 0.5, 1])
    assert (frame["uniform"] == 0.25).all() and (frame["layer"] == 4).all()
    assert frame.dtypes.astype(str).to_dict() == {
        "layer": "int32",
        "label": "str",
        "expert": "int16",
        "assignments": "int64",
        "share": "float64",
        "uniform": "float64",
        "share_of_tokens": "float64",
    }


def test_information_is_the_entropy_of_the_mean_less_the_mean_entropy(by_hand):
    mean = entropy(1 / 4, 1 / 8, 7 / 24, 1 / 3)
    assert information(by_hand)["information"] == pytest.approx(mean - (1.5 + entropy(1 / 3, 2 / 3)) / 2)


def test_first_choices_that_share_no_expert_are_one_bit_apart(by_hand):
    frame = label_divergence(by_hand)
    assert frame[["layer", "label", "other"]].values.tolist() == [[4, "prose", "code"]]
    assert frame["divergence"].tolist() == pytest.approx([1])


def test_divergence_of_first_choices_by_hand():
    """First choices 0 0 0 1 and 0 1 1 1: shares 3/4 1/4 and 1/4 3/4, mean 1/2 1/2."""
    trace = labelled([("a", [[0], [0], [0], [1]]), ("b", [[0], [1], [1], [1]])], 2)
    assert label_divergence(trace)["divergence"].tolist() == pytest.approx([1 - entropy(1 / 4, 3 / 4)])


def test_each_pair_of_labels_has_one_row():
    trace = labelled([(label, [[0]]) for label in "abc"], 2)
    assert label_divergence(trace)[["label", "other"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_labels_that_use_the_experts_alike_tell_nothing():
    texts = [("a", [[0, 1], [2, 3]]), ("b", [[0, 1], [2, 3]]), ("a", [[1, 0], [3, 2]])]
    trace = labelled(texts, 4)
    assert information(trace)["information"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("labels", [2, 4, 8])
def test_labels_with_experts_of_their_own_reach_the_maximum(labels):
    trace = labelled([(str(n), [[2 * n, 2 * n + 1]] * (n + 1)) for n in range(labels)], 16)
    row = information(trace)
    assert row["information"] == pytest.approx(np.log2(labels))
    assert row["maximum"] == pytest.approx(np.log2(labels))
    assert label_divergence(trace)["divergence"].to_numpy() == pytest.approx(1)


def test_more_labels_than_pairs_of_experts_reach_the_maximum_of_the_experts():
    """Four experts in twos: whoever the label, an assignment goes to one of two, so 1 bit and not 2."""
    trace = labelled([("a", [[0, 1]]), ("b", [[2, 3]]), ("c", [[1, 0]]), ("d", [[3, 2]])], 4)
    row = information(trace)
    assert row["information"] == pytest.approx(1)
    assert row["maximum"] == pytest.approx(1)


def test_a_long_text_counts_no_more_than_a_short_one():
    short = labelled([("a", [[0], [1]]), ("b", [[1], [2]])], 3)
    long = labelled([("a", [[0], [1]] * 50), ("b", [[1], [2]])], 3)
    assert information(long)["information"] == pytest.approx(information(short)["information"])


def test_shuffles_move_whole_texts_between_labels(by_hand):
    """One of three texts is prose in every shuffle, so there are three outcomes, and 100 shuffles meet them all."""
    texts = [[[0, 1], [0, 2]], [[3, 2]], [[3, -1]]]
    outcomes = []
    for prose in range(3):
        labels = ["prose" if text == prose else "code" for text in range(3)]
        outcomes.append(information(labelled(list(zip(labels, texts, strict=True)), 4))["information"])
    row = information(by_hand)
    assert row["shuffled_highest"] == pytest.approx(max(outcomes))
    assert min(outcomes) < row["shuffled"] < max(outcomes)


def test_texts_that_differ_whatever_their_label_are_at_chance():
    """Each of 40 texts keeps to an expert of its own choice, and labels are given by lot: tokens alone would say 1 bit
    where there is nothing to know."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(["a", "b"] * 20)
    row = information(labelled([(label, [[int(rng.integers(8))]] * 50) for label in labels], 8))
    assert row["information"] > 0.05
    assert row["information"] < row["shuffled_highest"]
    assert row["information"] == pytest.approx(row["shuffled"], abs=0.1)


def test_labels_that_mean_something_are_far_above_chance():
    rng = np.random.default_rng(2)
    texts = [(label, (rng.integers(4, size=(50, 1)) + 4 * (label == "b")).tolist()) for label in ["a", "b"] * 20]
    row = information(labelled(texts, 8))
    assert row["information"] == pytest.approx(1)
    assert row["shuffled_highest"] < 0.5
    assert label_divergence(labelled(texts, 8)).iloc[0]["shuffled"] < 0.2


def test_with_one_text_a_label_there_is_no_chance_to_compare_with():
    trace = labelled([("a", [[0], [1]]), ("b", [[1], [1]])], 2)
    row = information(trace)
    assert row["information"] > 0
    assert np.isnan(row["shuffled"]) and np.isnan(row["shuffled_highest"])
    assert np.isnan(label_divergence(trace).iloc[0]["shuffled"])


def test_two_labels_in_one_sequence_are_two_texts():
    apart = labelled([("a", [[0]]), ("b", [[1]]), ("a", [[1]])], 2)
    joined = replace(apart, tokens=apart.tokens.assign(sequence=np.int32(0), position=np.arange(3, dtype=np.int32)))
    assert np.isnan(information(joined)["shuffled"])
    assert information(joined)["information"] == information(apart)["information"]


def test_a_label_without_assignments_has_no_share_and_no_say():
    trace = labelled([("a", [[0]]), ("b", [[1]]), ("dropped", [[-1]])], 2)
    assert load_by_label(trace).query("label == 'dropped'")["share"].tolist() == [0, 0]
    assert information(trace)["information"] == pytest.approx(1)
    assert information(trace)["maximum"] == pytest.approx(1)
    assert label_divergence(trace)["divergence"].isna().tolist() == [False, True, True]


def labels_of_sample(trace: RoutingTrace) -> RoutingTrace:
    sequence = np.arange(len(trace.tokens), dtype=np.int32) // 4
    label = pd.Series(np.array(["one", "two", "three"], object)[sequence % 3], dtype="str")
    return replace(trace, tokens=trace.tokens.assign(sequence=sequence, label=label))


def test_shares_of_a_label_sum_to_one_and_its_shares_of_tokens_to_k():
    sums = load_by_label(labels_of_sample(sample_trace(tokens=48))).groupby(["layer", "label"])
    assert sums["share"].sum().to_numpy() == pytest.approx(1)
    assert sums["share_of_tokens"].sum().to_numpy() == pytest.approx(2)


def test_renaming_the_labels_changes_nothing_else():
    trace = labels_of_sample(sample_trace(tokens=48))
    other = replace(trace, tokens=trace.tokens.assign(label="z" + trace.tokens["label"]))
    pd.testing.assert_frame_equal(label_information(trace), label_information(other))


def test_one_label_alone_has_nothing_to_be_compared_with():
    trace = labelled([("a", [[0]]), ("a", [[1]])], 2)
    with pytest.raises(MissingField, match="two"):
        label_divergence(trace)
    assert information(trace)[["information", "shuffled", "maximum"]].tolist() == [0, 0, 0]


def test_too_many_labels_for_pairs_are_refused_before_any_work():
    with pytest.raises(InvalidTrace, match=r"100.*101"):
        label_divergence(labelled([(str(n), [[0]]) for n in range(101)], 2))
