"""Pairs of experts, on tables small enough to count by hand, and against lotteries that are written out in full."""

from itertools import combinations
from math import prod

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.charts import co_activation as charts
from moeviz.errors import InvalidTrace
from moeviz.metrics.co_activation import co_activation
from moeviz.testing import sample_trace


def routed(tokens: list[tuple[int, ...]], num_experts: int) -> RoutingTrace:
    """A trace of one layer, 3: the experts of each token, empty slots last."""
    top_k = max(map(len, tokens))
    return trace_of([[[*chosen, *[-1] * (top_k - len(chosen))] for chosen in tokens]], num_experts, layers=(3,))


def lottery(weights: tuple[int, ...], sizes: tuple[int, ...]) -> RoutingTrace:
    """Every set of so many experts, as often as the product of its experts' weights: what drawing by lot gives."""
    sets = [chosen for size in sizes for chosen in combinations(range(len(weights)), size)]
    return routed([chosen for chosen in sets for _ in range(prod(weights[e] for e in chosen))], len(weights))


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Four tokens, top-2 of 5: 0 1, 1 0, 2 3, 2 3. Experts 0 to 3 have two tokens each, expert 4 none.

    With even loads of 4 experts each is with each of the other 3 by lot in 1/3 of its tokens, so 2/3 tokens.
    """
    return routed([(0, 1), (1, 0), (2, 3), (2, 3)], 5)


def test_co_activation_by_hand(by_hand):
    frame = co_activation(by_hand)
    assert len(frame) == 4 * 3 and (frame["layer"] == 3).all()
    pairs = frame.set_index(["expert", "partner"])
    for pair in ((0, 1), (1, 0), (2, 3), (3, 2)):
        assert pairs.loc[pair, ["expert_tokens", "tokens", "co_activation"]].tolist() == [2, 2, 1]
        assert pairs.loc[pair, ["chance", "lift", "chance_tokens"]].tolist() == pytest.approx([1 / 3, 3, 2 / 3])
    assert pairs.loc[(0, 2), ["tokens", "co_activation", "lift"]].tolist() == [0, 0, 0]
    assert 4 not in frame["expert"].tolist() and 4 not in frame["partner"].tolist()
    kinds = ["int32", "int16", "int16", "int64", "int64", *["float64"] * 4]
    assert frame.dtypes.astype(str).tolist() == kinds


def test_co_activation_has_a_direction():
    """Expert 1 always comes with 0; expert 0 comes with 1 in one token of three."""
    pairs = co_activation(routed([(0, 1), (0, 2), (0, 3), (2, 3)], 4)).set_index(["expert", "partner"])
    assert pairs.loc[(1, 0), "co_activation"] == 1
    assert pairs.loc[(0, 1), "co_activation"] == pytest.approx(1 / 3)
    assert pairs.loc[(1, 0), "lift"] == pytest.approx(pairs.loc[(0, 1), "lift"])


@pytest.mark.parametrize("sizes", [(2,), (3,), (1, 2, 4)])
def test_a_router_that_draws_by_lot_has_no_lift(sizes):
    frame = co_activation(lottery((1, 2, 3, 1, 5), sizes))
    assert frame["expert_tokens"].nunique() > 2
    assert frame["lift"].to_numpy() == pytest.approx(1, abs=1e-6)


def test_an_expert_that_every_token_has_goes_with_each_by_chance():
    """Expert 0 is in all tokens, so each partner meets it in all of its own; the others never meet each other."""
    pairs = co_activation(routed([(0, 1), (0, 2), (0, 2)], 3)).set_index(["expert", "partner"])
    assert pairs["chance"].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 0, 1, 0])
    assert pairs.loc[(0, 2), "lift"] == 1
    assert np.isnan(pairs.loc[(1, 2), "lift"])


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (64, 8), (128, 8)])
def test_partners_sum_to_the_other_choices_and_by_lot_too(num_experts, top_k):
    frame = co_activation(sample_trace(layers=2, tokens=200, top_k=top_k, experts=num_experts))
    sums = frame[frame["expert_tokens"] > 0].groupby(["layer", "expert"])[["co_activation", "chance"]].sum()
    assert sums.to_numpy() == pytest.approx(top_k - 1, abs=1e-5)
    assert frame["chance"].max() <= 1


def test_loads_that_leave_one_way_only_end_without_alarm():
    """Every slot that 0 and 1 can have, they have: a token of two or three always has both, so three tokens do."""
    pairs = co_activation(routed([(0,), (1,), (0, 1), (0, 1, 2), (0, 1, 3)], 4)).set_index(["expert", "partner"])
    assert pairs.loc[(0, 1), "chance_tokens"] == pytest.approx(3, abs=0.05)


def test_a_token_without_an_expert_is_no_token(by_hand):
    dropped = routed([(0, 1), (1, 0), (2, 3), (2, 3), ()], 5)
    pd.testing.assert_frame_equal(co_activation(by_hand), co_activation(dropped))


def test_unused_ids_change_nothing(by_hand):
    """Neither how many there are, nor where they stand among those in use."""
    frame = co_activation(by_hand)
    pd.testing.assert_frame_equal(co_activation(routed([(0, 1), (1, 0), (2, 3), (2, 3)], 32_767)), frame)
    high = co_activation(routed([(7, 90), (90, 7), (500, 32_766), (500, 32_766)], 32_767))
    names = np.array([7, 90, 500, 32_766], np.int16)
    pd.testing.assert_frame_equal(high, frame.assign(expert=names[frame["expert"]], partner=names[frame["partner"]]))


def test_blocks_of_any_size_give_the_same_numbers(monkeypatch):
    trace = sample_trace(layers=2, tokens=200, top_k=8, experts=64)
    whole = co_activation(trace)
    monkeypatch.setattr("moeviz.metrics.co_activation.BLOCK", 1000)
    pd.testing.assert_frame_equal(co_activation(trace), whole, check_exact=True)


def test_more_pairs_than_we_make_are_refused_with_both_numbers():
    tokens = [(expert, expert + 1) for expert in range(0, 2000, 2)]
    with pytest.raises(InvalidTrace, match=r"layer 3.*2,000 experts.*2,000 partners.*4,000,000 cells"):
        co_activation(routed(tokens, 2000))


def test_one_expert_a_token_makes_no_pairs():
    with pytest.raises(InvalidTrace, match=r"\(top_k.*1\)"):
        co_activation(sample_trace(top_k=1))


# The pictures


@pytest.mark.parametrize("num_experts", [8, 64])
def test_the_heat_map_has_every_pair_where_there_is_room(num_experts):
    frame = co_activation(sample_trace(layers=1, tokens=2000, top_k=2, experts=num_experts))
    chart = charts.co_activation_heatmap(frame)
    assert len(chart.data) == (frame["expert_tokens"] > 0).sum()
    assert chart.to_dict()["encoding"]["x"]["title"] == ["partner"]


def test_the_heat_map_of_many_experts_says_what_it_leaves_out():
    """Experts 0 to 63 in pairs of neighbours, three tokens each; one token of 64 and 65: 1 of 97 pairs is left out."""
    tokens = [(expert, expert + 1) for expert in range(0, 64, 2) for _ in range(3)]
    frame = co_activation(routed([*tokens, (64, 65)], 256))
    chart = charts.co_activation_heatmap(frame)
    assert set(chart.data["expert"]) == set(range(64))
    assert chart.to_dict()["encoding"]["x"]["title"][1:] == [
        "64 of 66 experts with tokens: those in the most frequent pairs",
        "not shown: 1.0% of all co-activations",
    ]


def test_the_strongest_pairs_come_once_and_are_above_chance(by_hand):
    data = charts.strongest_pairs(co_activation(by_hand)).data
    assert data["pair"].tolist() == ["0 + 1", "2 + 3"]
    assert data["of_partner"].tolist() == [1, 1]
