"""Traces of any kind beside each other: worked by hand, and in the ways that gates differ."""

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.metrics.system_table import work_side_by_side


def made(experts, kind="layer", num_experts=3, **arrays) -> RoutingTrace:
    alone = {"sequence": np.arange(len(experts[0])), "position": np.zeros(len(experts[0]))}
    return trace_of(experts, num_experts, layer_kind=kind, score_function="softmax", **alone, **arrays)


def shares(trace) -> list[float]:
    return work_side_by_side({"one": trace})["share"].tolist()


def test_a_token_is_divided_by_its_weights():
    """Two tokens: 3/4 and 1/4 of experts 0 and 1; all of expert 2. Of 2 in all: 0.375, 0.125, 0.5."""
    trace = made([[[0, 1], [2, -1]]], weights=[[[0.6, 0.2], [5.0, 0.0]]])
    assert shares(trace) == pytest.approx([0.375, 0.125, 0.5])


def test_without_weights_the_experts_of_a_token_count_alike():
    assert shares(made([[[0, 1], [2, -1]]])) == pytest.approx([0.25, 0.25, 0.5])


def test_weights_below_zero_count_nothing_and_a_token_of_those_alone_counts_for_its_first_choice():
    trace = made([[[0, 1], [2, 1]]], weights=[[[0.5, -0.5], [-1.0, -2.0]]])
    assert shares(trace) == pytest.approx([0.5, 0, 0.5])


def test_layers_are_not_mixed_but_time_steps_end_where_each_token_ends():
    steps = [[[0], [1]], [[2], [-1]]]
    assert shares(made(steps)) == pytest.approx([0, 0, 1])
    assert shares(made(steps, kind="time step")) == pytest.approx([0, 0.5, 0.5])


def test_a_dropped_token_counts_nothing_and_nothing_at_all_is_no_work():
    assert shares(made([[[0], [-1]]])) == [1, 0, 0]
    assert shares(made([[[-1], [-1]]])) == [0, 0, 0]


def test_traces_stand_in_their_order_with_what_is_known_of_each():
    even = made([[[0], [1]]], logits=np.zeros((1, 2, 3), np.float32))
    frame = work_side_by_side({"b": even, "a": made([[[0, 1]]], num_experts=2)})
    assert frame["trace"].tolist() == ["b"] * 3 + ["a"] * 2
    assert frame["entropy"].iloc[0] == pytest.approx(1) and np.isnan(frame["entropy"].iloc[-1])
    assert frame["used"].tolist() == [1, 1, 1, 2, 2]
    assert frame.dtypes.astype(str).to_dict() == {
        "trace": "str",
        "layer": "int32",
        "layer_kind": "str",
        "expert": "int16",
        "num_experts": "int16",
        "share": "float64",
        "used": "float64",
        "entropy": "float64",
    }
