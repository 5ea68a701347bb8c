"""How much of the final routing an earlier checkpoint had already, by hand and at its ends."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import InvalidTrace
from moeviz.metrics.routing_over_training import router_saturation, saturation_over_training
from moeviz.testing import sample_trace


def checkpoint(experts: list[list[int]], num_experts: int = 4) -> RoutingTrace:
    """What one checkpoint chose at its one MoE layer, 1."""
    return trace_of([experts], num_experts, layers=(1,), text=[f"w{i}" for i in range(len(experts))])


def test_saturation_by_hand():
    """0 1 | 0 1 | 2 3, finally 1 0 | 0 2 | 0 1: shares 2/2, 1/2, 0/2, and of first choices only the second stays.

    Chance 2/4 and 1/4. Matched by lot: earlier parts (per choice) 1/3 1/3 1/6 1/6, finally in 1, 2/3, 1/3, 0 of the
    tokens: 1/3 + 2/9 + 1/18. First choices: 2/3 0 1/3 0 and 2/3 1/3 0 0: 4/9.
    """
    earlier, final = checkpoint([[0, 1], [0, 1], [2, 3]]), checkpoint([[1, 0], [0, 2], [0, 1]])
    frame = router_saturation(earlier, final)
    assert frame["layer"].tolist() == [1, 1]
    assert frame["choice"].tolist() == ["all choices", "first choice"]
    assert frame["saturation"].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert frame["chance"].tolist() == pytest.approx([1 / 2, 1 / 4])
    assert frame["load_chance"].tolist() == pytest.approx([11 / 18, 4 / 9])
    assert frame["tokens"].tolist() == [3, 3]
    assert frame.dtypes.astype(str).tolist() == ["int32", "str", "float64", "float64", "float64", "int64"]


def test_the_final_checkpoint_is_saturated(trace):
    assert (router_saturation(trace, trace)["saturation"] == 1).all()


def test_routers_that_share_no_expert_are_not():
    frame = router_saturation(checkpoint([[0, 1]] * 3), checkpoint([[2, 3]] * 3))
    assert (frame[["saturation", "load_chance"]] == 0).all(axis=None)


def test_routers_that_have_nothing_to_do_with_each_other_are_at_chance():
    one, other = (sample_trace(tokens=4000, top_k=8, experts=64, seed=seed) for seed in (0, 1))
    frame = router_saturation(one, other)
    assert frame["chance"].tolist() == pytest.approx([8 / 64, 1 / 64] * 4)
    assert frame["saturation"].to_numpy() == pytest.approx(frame["load_chance"].to_numpy(), abs=0.02)


def test_relabelling_the_experts_of_both_changes_nothing(trace):
    final = replace(sample_trace(seed=1), logits=None)
    names = np.random.default_rng(1).permutation(8).astype(np.int16)
    renamed = [replace(t, experts=names[t.experts], logits=None) for t in (trace, final)]
    pd.testing.assert_frame_equal(router_saturation(trace, final), router_saturation(*renamed))


def test_a_token_that_was_dropped_in_either_is_left_out():
    frame = router_saturation(checkpoint([[0], [-1], [1]]), checkpoint([[0], [1], [-1]]))
    assert frame["choice"].tolist() == ["first choice"]
    assert frame["tokens"].tolist() == [1]
    assert frame["saturation"].tolist() == [1]


def test_an_empty_slot_is_no_choice():
    """One expert earlier, which is among the two of the end: all of its choice was decided."""
    frame = router_saturation(checkpoint([[1, -1]]), checkpoint([[0, 1]])).set_index("choice")
    assert frame.loc["all choices", "saturation"] == 1
    assert frame.loc["all choices", "chance"] == 0.5


@pytest.mark.parametrize(
    ("final", "sentence"),
    [
        (sample_trace(layers=3), "(0"),
        (sample_trace(experts=9), "num_experts is (8, 8, 8, 8)"),
        (sample_trace(top_k=3), "top_k"),
        (sample_trace(tokens=31), "the earlier trace has 32 and the final one 31"),
    ],
)
def test_traces_that_cannot_be_compared_are_told_apart(trace, final, sentence):
    with pytest.raises(InvalidTrace) as refused:
        router_saturation(trace, final)
    assert sentence in str(refused.value) and str(refused.value).endswith(".")


def test_another_text_of_the_same_length_is_noticed(trace):
    text = trace.tokens["text"].copy()
    text.iloc[7] = "else"
    other = replace(trace, tokens=trace.tokens.assign(text=text))
    with pytest.raises(InvalidTrace, match="token 7"):
        router_saturation(trace, other)


def test_no_tokens_raise_no_alarm(trace):
    empty = trace.select(tokens=slice(0, 0))
    assert router_saturation(empty, empty)["saturation"].isna().all()


def test_every_moment_of_training_is_compared_with_the_last():
    """Given out of order; the last moment, 30, has expert 0, which moment 10 had for one token in two."""
    moments = {30: checkpoint([[0], [0]]), 10: checkpoint([[0], [1]]), 20: checkpoint([[0], [0]])}
    frame = saturation_over_training(moments)
    assert frame["training_tokens"].tolist() == [10, 20, 30]
    assert frame["saturation"].tolist() == [0.5, 1, 1]
