"""Two traces compared: by hand, against the same trace, and against chance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.errors import InvalidTrace
from moeviz.metrics.comparison import balance_of_both, choices_changed, load_difference, load_divergence, matched
from moeviz.metrics.effect import effect_by_token, effect_summary
from moeviz.metrics.load import balance, expert_load
from moeviz.testing import sample_trace


def always(trace, *experts):
    """The trace with every token sent to these experts, in every layer."""
    return replace(trace, experts=np.broadcast_to(np.int16(experts), trace.experts.shape).copy())


def test_traces_that_share_no_expert_are_one_bit_apart_and_a_trace_is_none_from_itself(trace):
    apart = load_divergence((always(trace, 0, 1), always(trace, 2, 3)))
    assert apart["divergence"].tolist() == pytest.approx([1.0] * 4)
    assert load_divergence((trace, trace))["divergence"].tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_a_divergence_worked_by_hand(trace):
    """A: half to 0, half to 1. B: all to 0 and 2, half each. Mean: 1/2, 1/4, 1/4, of 1.5 bits; each has 1 bit."""
    found = load_divergence((always(trace, 0, 1), always(trace, 0, 2)))
    assert found["divergence"].tolist() == pytest.approx([0.5] * 4)
    assert found["layer"].tolist() == [0, 1, 2, 3] and (found["tokens"] == len(trace.tokens)).all()


def test_two_halves_of_one_kind_of_text_are_about_chance_apart():
    """Made-up routing by lot: the divergence of two halves is near what dealing by lot gives, not far above."""
    trace = sample_trace(layers=2, tokens=512, experts=8)
    half = np.arange(512) < 256
    found = load_divergence((trace.select(tokens=half), trace.select(tokens=~half)))
    assert (found["chance"] > 0).all()
    assert (found["divergence"] < 3 * found["chance"]).all()


def test_differences_of_load_are_in_even_shares_and_sum_to_nothing(trace):
    one, other = always(trace, 0, 1), always(trace, 0, 2)
    found = load_difference((one, other))
    first = found[found["layer"] == 0].set_index("expert")["difference"]
    experts = trace.model.num_experts[0]
    assert first.loc[[0, 1, 2]].tolist() == pytest.approx([0, -experts / 2, experts / 2])
    assert found.groupby("layer")["difference"].sum().tolist() == pytest.approx([0] * 4)
    assert found["load"].tolist() == expert_load(one)["load"].tolist()


def test_layers_that_both_have_are_compared_and_models_without_any_are_refused(trace):
    other = trace.select(layers=[1, 3])
    assert [part.model.layers for part in matched((trace, other))] == [(1, 3), (1, 3)]
    assert load_divergence((trace, other))["layer"].tolist() == [1, 3]
    with pytest.raises(InvalidTrace, match="model"):
        load_divergence((trace, sample_trace(experts=64)))
    with pytest.raises(InvalidTrace, match="tokens"):
        load_difference((trace, trace.select(tokens=slice(0, 0))))


def test_balance_stands_side_by_side_for_any_two_models(trace):
    other = sample_trace(layers=2, experts=64)
    found = balance_of_both((trace, other))
    for name, part in (("A", trace), ("B", other)):
        rows = found[found["trace"] == name].drop(columns="trace").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, balance(part))


def test_choices_are_compared_token_by_token(trace):
    assert (choices_changed((trace, trace))["changed"] == 0).all()


def test_an_effect_worked_by_hand():
    effect = pd.DataFrame(
        {
            "loss": [np.nan, 2.0, 4.0],
            "loss_changed": [np.nan, 2.5, 3.0],
            "kl": [0.1, 0.2, 0.6],
            "next_token": [1, 2, 3],
            "next_token_changed": [1, 5, 3],
        }
    )
    found = effect_by_token(effect)
    assert found["loss_change"].tolist()[1:] == [0.5, -1.0] and np.isnan(found["loss_change"][0])
    assert found["another"].tolist() == [False, True, False] and found["token"].tolist() == [0, 1, 2]
    assert effect_summary(effect) == pytest.approx({"loss": 3, "loss_changed": 2.75, "kl": 0.3, "another": 1 / 3})
