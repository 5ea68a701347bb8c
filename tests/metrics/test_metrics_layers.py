"""Two layers compared, on a table small enough to count by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import InvalidTrace
from moeviz.metrics.layers import balance_of_two, overlap, ranked_load, transitions

MEASURES = (balance_of_two, overlap, ranked_load, transitions)


def two_layers(first: list[list[int]], second: list[list[int]], sizes: tuple[int, int]) -> RoutingTrace:
    """A trace of ids at layers 2 and 7."""
    return trace_of([first, second], sizes, layers=(2, 7))


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Five tokens, top-1, 2 experts then 3: 0→2, 0→2, 0→0, 1→0, and one dropped at layer 2.

    Table of the first four: expert 0 goes to 0 once and to 2 twice; expert 1 to 0 once. Columns: 2, 0, 2.
    """
    return two_layers([[0], [0], [0], [1], [-1]], [[2], [2], [0], [0], [1]], (2, 3))


def test_transitions_count_pairs_of_first_choices(by_hand):
    frame = transitions(by_hand)
    assert frame["from_expert"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["to_expert"].tolist() == [0, 1, 2] * 2
    assert frame["tokens"].tolist() == [1, 0, 2, 1, 0, 0]
    assert frame["share"].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 1, 0, 0])
    assert frame["chance"].tolist() == pytest.approx([0.5, 0, 0.5] * 2)
    lift = pd.Series([2 / 3, np.nan, 4 / 3, 2, np.nan, 0], name="lift")
    pd.testing.assert_series_equal(frame["lift"], lift)
    assert (frame["from_layer"] == 2).all()
    assert (frame["to_layer"] == 7).all()


def test_an_expert_without_tokens_has_no_shares():
    frame = transitions(two_layers([[0], [0]], [[1], [0]], (2, 2)))
    assert frame.query("from_expert == 1")["share"].isna().all()


def test_mutual_information_is_in_bits_and_at_most_the_smaller_entropy(by_hand):
    """H(a) = 0.8113, H(b) = 1, H(a, b) = 1.5 bits, so 0.3113 bits of at most 0.8113."""
    row = overlap(by_hand).set_index("measure").loc["mutual information"]
    entropy = 2 - 0.75 * np.log2(3)
    assert row["value"] == pytest.approx(entropy + 1 - 1.5)
    assert row["maximum"] == pytest.approx(entropy)
    assert row["share"] == pytest.approx((entropy - 0.5) / entropy)


def test_layers_that_agree_by_another_name_tell_all_of_each_other():
    """Expert i of one layer is 3 - i of the other: no id shared by chance alone, all information kept."""
    ids = np.arange(400) % 4
    frame = overlap(two_layers(ids[:, None].tolist(), (3 - ids)[:, None].tolist(), (4, 4))).set_index("measure")
    assert frame.loc["mutual information", "value"] == pytest.approx(2)
    assert frame.loc["mutual information", "chance"] < 0.05
    assert frame.loc["shared ids", "value"] == 0
    assert frame.loc["shared ids", "chance"] == pytest.approx(0.25, abs=0.03)


def test_independent_layers_are_at_chance_even_in_a_short_text():
    rng = np.random.default_rng(3)
    first, second = (rng.random((60, 8)).argsort(axis=1)[:, :2].tolist() for _ in range(2))
    frame = overlap(two_layers(first, second, (8, 8))).set_index("measure")
    assert frame.loc["mutual information", "chance"] > 0.3
    assert frame["value"].to_numpy() == pytest.approx(frame["chance"].to_numpy(), rel=0.25)
    # 1 - C(6,2) / C(8,2): at least one of two ids in common
    assert frame.loc["shared ids", "chance"] == pytest.approx(13 / 28, abs=0.03)


def test_empty_slots_are_no_shared_id():
    frame = overlap(two_layers([[0, -1]], [[1, -1]], (2, 2))).set_index("measure")
    assert frame.loc["shared ids", "value"] == 0


def test_overlap_is_the_same_every_time(trace):
    two = trace.select(layers=(0, 3))
    pd.testing.assert_frame_equal(overlap(two), overlap(two))


def test_relabelling_the_experts_of_a_layer_leaves_the_information(trace):
    two = replace(trace.select(layers=(0, 3)), logits=None)
    names = np.random.default_rng(1).permutation(8).astype(np.int16)
    renamed = replace(two, experts=np.stack([two.experts[0], names[two.experts[1]]]))
    before, after = (overlap(t).set_index("measure")["value"] for t in (two, renamed))
    assert after["mutual information"] == pytest.approx(before["mutual information"])


def test_loads_are_side_by_side_by_rank_with_each_layers_even_share(by_hand):
    frame = ranked_load(by_hand)
    assert frame["layer"].tolist() == [2, 2, 7, 7, 7]
    assert frame["rank"].tolist() == [1, 2, 1, 2, 3]
    assert frame["expert"].tolist() == [0, 1, 0, 2, 1]
    assert frame["load"].tolist() == pytest.approx([0.75, 0.25, 0.4, 0.4, 0.2])
    assert frame["uniform"].tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)


def test_balance_of_two_has_a_row_a_layer_and_measure(by_hand):
    frame = balance_of_two(by_hand)
    assert len(frame) == 6
    gini = frame.query("measure == 'gini'").set_index("layer")
    assert gini["value"].to_dict() == pytest.approx({2: 0.25, 7: 2 / 15})
    assert (gini["even"] == 0).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_a_comparison_needs_exactly_two_layers(measure, trace):
    for layers, count in (([1], 1), (None, 4)):
        with pytest.raises(InvalidTrace, match=f"two .*{count}"):
            measure(trace.select(layers=layers))
