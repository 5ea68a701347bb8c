"""How often consecutive tokens share an expert, counted by hand and against every pair that there is."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from routed_trace import routed

from moeviz import RoutingTrace
from moeviz.errors import MissingField
from moeviz.metrics import locality as module
from moeviz.metrics.locality import MIXTRAL, locality, locality_beside_mixtral, locality_by_label
from moeviz.testing import sample_trace


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Top-2 of 4, two sequences: 0 1 | 0 2 | 2 0 | 3 1, and 3 1 | 2 3.

    Pairs within sequences: four. First choices 0 0 2 3 and 3 2: one repeats (0 0). Any choice: {0,1}{0,2} yes,
    {0,2}{2,0} yes, {2,0}{3,1} no, {3,1}{2,3} yes: three of four.
    First choices 0 0 2 3 3 2 have shares 1/3 0 1/3 1/3, so 3/9. Sets 01 02 02 13 13 23: of 36 pairs of tokens these
    do not overlap: 02 with 13 (2 x 2), 01 with 23 (1 x 1), each both ways: 10; so 26/36.
    """
    return routed([[[0, 1], [0, 2], [2, 0], [3, 1]], [[3, 1], [2, 3]]], 4)


def test_repetition_by_hand(by_hand):
    frame = locality(by_hand)
    assert frame["layer"].tolist() == [2, 2]
    assert frame["choice"].tolist() == ["first choice", "first or second choice"]
    assert frame["share"].tolist() == pytest.approx([1 / 4, 3 / 4])
    assert frame["uniform_chance"].tolist() == pytest.approx([1 / 4, 1 - 1 / 6])
    assert frame["load_chance"].tolist() == pytest.approx([1 / 3, 26 / 36])
    assert frame["pairs"].tolist() == [4, 4]
    assert frame.dtypes.astype(str).tolist() == ["int32", "str", "float64", "float64", "float64", "int64"]


@pytest.mark.parametrize(("num_experts", "k"), [(4, 1), (6, 2), (5, 3)])
def test_where_every_pair_of_choices_comes_once_all_three_shares_are_the_same(num_experts, k):
    """Each ordered choice of k experts is followed once by each: what happens is then exactly what chance says."""
    choices = [list(choice) for choice in permutations(range(num_experts), k)]
    frame = locality(routed([list(pair) for pair in product(choices, choices)], num_experts))
    assert len(frame) == (1 if k == 1 else 2)
    assert frame["load_chance"].tolist() == pytest.approx(frame["share"].tolist())
    assert frame["uniform_chance"].tolist() == pytest.approx(frame["share"].tolist())


def test_chance_with_two_of_eight_is_that_of_the_mixtral_paper():
    """12.5% and 1 - C(6, 2) / C(8, 2) = 13/28 = 46.4%."""
    assert locality(sample_trace(layers=1))["uniform_chance"].tolist() == pytest.approx([1 / 8, 13 / 28])


def test_sequences_are_never_joined_and_neither_are_the_sides_of_a_gap():
    trace = routed([[[0]], [[0]], [[1], [1], [1]]], 2)
    assert locality(trace)["pairs"].tolist() == [2]
    assert locality(trace.select(tokens=np.array([True, True, True, False, True])))["pairs"].tolist() == [0]


def test_the_order_of_rows_does_not_matter(by_hand):
    order = [5, 2, 0, 4, 3, 1]
    rows = by_hand.tokens.iloc[order].reset_index(drop=True)
    shuffled = replace(by_hand, tokens=rows, experts=by_hand.experts[:, order])
    pd.testing.assert_frame_equal(locality(by_hand), locality(shuffled))


def test_a_token_without_an_expert_is_in_no_pair():
    """0, dropped, 0, 0: one pair of three."""
    frame = locality(routed([[[0], [-1], [0], [0]]], 2))
    assert frame["pairs"].tolist() == [1]
    assert frame["share"].tolist() == [1]


def test_chance_counts_the_slots_that_are_filled():
    """Of 4 experts, two then one: 1 - C(2,1)/C(4,1) = 1/2. An empty slot is nobody's choice."""
    frame = locality(routed([[[0, 1], [2, -1]], [[0, 1], [3, -1]]], 4)).set_index("choice")
    assert frame.loc["first or second choice", "uniform_chance"] == pytest.approx(1 / 2)
    assert frame.loc["first or second choice", "share"] == 0


def test_an_expert_that_is_busy_everywhere_is_no_repetition():
    rng = np.random.default_rng(0)
    choices = rng.choice(4, p=[0.85, 0.05, 0.05, 0.05], size=2000)
    row = locality(routed([[[int(expert)] for expert in choices]], 4)).iloc[0]
    assert row["share"] > 2 * row["uniform_chance"]
    assert row["share"] == pytest.approx(row["load_chance"], abs=0.02)


def test_more_than_two_choices_are_named_by_their_number():
    frame = locality(sample_trace(top_k=3))
    assert set(frame["choice"]) == {"first choice", "any of 3 choices"}


def test_many_different_sets_are_compared_by_evenly_spaced_tokens(monkeypatch):
    """All 56 ordered pairs of 8 experts, each 9 times: every 9th token is each set once again, so nothing changes."""
    choices = [list(choice) for choice in permutations(range(8), 2) for _ in range(9)]
    exact = locality(routed([choices], 8))["load_chance"].tolist()
    assert exact == pytest.approx([1 / 8, 13 / 28])
    monkeypatch.setattr(module, "MAX_SETS", 20)
    assert locality(routed([choices], 8))["load_chance"].tolist() == pytest.approx(exact, abs=0.08)


def test_each_label_has_its_own_pairs_and_its_own_load():
    """a: 0 0 0 in one sequence, b: 0 1 0 1 in another: a always repeats, by its load alone; b never, against 1/2."""
    trace = routed([[[0], [0], [0]], [[0], [1], [0], [1]]], 2)
    tokens = trace.tokens.assign(label=pd.Series(["a"] * 3 + ["b"] * 4, dtype="str"))
    frame = locality_by_label(replace(trace, tokens=tokens))
    assert frame["label"].tolist() == ["a", "b"]
    assert frame["share"].tolist() == [1, 0]
    assert frame["load_chance"].tolist() == pytest.approx([1, 1 / 2])
    assert frame["pairs"].tolist() == [2, 3]


def test_a_pair_across_two_labels_is_of_neither():
    trace = routed([[[0], [0], [0], [0]]], 2)
    tokens = trace.tokens.assign(label=pd.Series(["a", "a", "b", "b"], dtype="str"))
    assert locality_by_label(replace(trace, tokens=tokens))["pairs"].tolist() == [1, 1]


def test_labels_are_needed_for_labels_alone(trace):
    with pytest.raises(MissingField, match="label"):
        locality_by_label(trace)


def test_published_figures_stand_beside_the_unchanged_rows_of_a_model_of_8_experts_and_top_2(trace):
    """Layer 15, first choice: 27.9 28.4 28.1 26.1 25.3 24.6 27.2 23.6, of which the mean is 26.4%."""
    frame = locality_beside_mixtral(trace)
    published = frame[frame["routing"] == MIXTRAL].set_index(["layer", "choice"])
    assert set(published.index.get_level_values("layer")) == {0, 15, 31}
    row = published.loc[(15, "first choice")]
    assert (row["share"], row["lowest"], row["highest"]) == pytest.approx((0.264, 0.236, 0.284))
    assert published.loc[(31, "first or second choice"), "highest"] == pytest.approx(0.536)
    assert published["load_chance"].isna().all() and published["pairs"].isna().all()
    own = frame[frame["routing"] != MIXTRAL].astype({"pairs": "int64"})
    pd.testing.assert_frame_equal(own[locality(trace).columns], locality(trace))
    assert own[["lowest", "highest"]].isna().all(axis=None)
    chances = frame.groupby("choice")["uniform_chance"].agg(lambda chance: chance.max() - chance.min())
    assert chances.tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("other", [{"experts": 16}, {"top_k": 1}, {"top_k": 3}])
def test_a_model_whose_chance_is_another_has_no_published_figures_beside_it(other):
    assert MIXTRAL not in set(locality_beside_mixtral(sample_trace(**other))["routing"])
