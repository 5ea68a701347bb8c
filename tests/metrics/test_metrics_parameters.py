"""How much of a model works, on a model small enough to count by hand."""

from dataclasses import replace

import pytest
from routed_trace import trace_of

from moeviz import ParameterCounts, RoutingTrace
from moeviz.errors import MissingField
from moeviz.metrics.parameters import parameter_split, touched_growth, varying_routes_in_words
from moeviz.parameters import CONVENTIONS, active_parameters


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Two layers of 4 and 2 experts, of 10 and 100 parameters each: 240 routed. The rest: 20 + 30 + 5 + 1 = 56.

    Top-1, three tokens. Layer 0: experts 3, 3, 1. Layer 1: expert 0, none, 1.
    Different experts after each token: 1 + 1, 1 + 1, 2 + 2, so touched: 56 + 110, the same, 56 + 220.
    """
    counts = ParameterCounts(20, 30, 5, 1, 240, 0, 0, 0, per_expert=(10, 100))
    return trace_of([[[3], [3], [1]], [[0], [-1], [1]]], (4, 2), parameters=counts)


def test_each_part_tells_what_one_token_runs_through(by_hand):
    frame = parameter_split(by_hand).query("convention == 'all' and parameters > 0").set_index("part")
    assert frame["parameters"].to_dict() == {
        "input_embedding": 20,
        "output_embedding": 30,
        "attention": 5,
        "routers": 1,
        "routed_experts": 240,
    }
    assert frame["active"].to_dict() == frame["parameters"].to_dict() | {"routed_experts": 110}


def test_active_parts_sum_to_the_active_parameters_of_each_convention(by_hand):
    sums = parameter_split(by_hand).groupby("convention")["active"].sum()
    assert sums.to_dict() == {name: active_parameters(by_hand.model.parameters, 1, name) for name in CONVENTIONS}
    assert sums.to_dict() == dict(zip(CONVENTIONS, (166, 146, 116), strict=True))


def test_touched_parameters_grow_with_each_new_expert(by_hand):
    frame = touched_growth(by_hand)
    assert frame["tokens"].tolist() == [1, 2, 3]
    assert frame["experts"].tolist() == [2, 2, 4]
    assert frame["touched"].tolist() == [166, 166, 276]
    assert frame["active"].tolist() == [166] * 3
    assert frame["total"].tolist() == [296] * 3


def test_chance_is_the_coupon_collectors_expectation(by_hand):
    """Layer 0: 4(1 - 0.75^t) experts of 10; layer 1, where token 1 chose none: 1, 1, 1.5 experts of 100."""
    expected = [56 + 10 * 4 * (1 - 0.75**t) + 100 * seen for t, seen in ((1, 1), (2, 1), (3, 1.5))]
    assert touched_growth(by_hand)["chance"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("measure", [parameter_split, touched_growth])
def test_without_parameter_counts_says_what_is_missing(measure, trace, by_hand):
    with pytest.raises(MissingField, match=r"parameter.*\(sample\)"):
        measure(trace)
    with pytest.raises(MissingField, match="layers"):
        measure(by_hand.select(layers=[0]))


def test_experts_that_compute_nothing_and_empty_slots_are_told_from_those_that_compute(by_hand):
    """In layer 0 the last expert, 3, computes nothing; in layer 1 it is expert 1, and one token has none."""
    idle = replace(by_hand, model=replace(by_hand.model, zero_experts=1))
    words = varying_routes_in_words(idle)
    assert "0.33" in words and "from 0 to 1" in words and "60%" in words  # 3 of 5 assignments
    assert varying_routes_in_words(by_hand.select(layers=[0])) is None
