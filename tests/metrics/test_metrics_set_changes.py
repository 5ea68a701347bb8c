"""Two traces of the same tokens, compared by hand."""

from dataclasses import replace

import numpy as np
import pytest

from moeviz.errors import InvalidTrace
from moeviz.metrics.comparison import set_changes


def test_a_case_worked_by_hand(trace):
    """Of the tokens of layer 0, the first swaps its two slots, the second takes another expert in its last slot."""
    experts = trace.experts.copy()
    experts[0, 0] = experts[0, 0][::-1]
    experts[0, 1, -1] = next(e for e in range(trace.model.num_experts[0]) if e not in trace.experts[0, 1])
    tokens, slots = experts.shape[1:]
    tied = np.zeros(experts.shape[:2], bool)
    found = set_changes(trace, replace(trace, experts=experts), tied)
    first, rest = found.iloc[0], found.iloc[1:]
    assert (first["changed"], first["tied"], first["flipped"]) == pytest.approx((1 / tokens, 0, 1 / tokens))
    assert first["first_changed"] == pytest.approx((1 + (slots == 1)) / tokens)
    assert first["overlap"] == pytest.approx(1 - 1 / (tokens * slots))
    assert (rest[["changed", "flipped", "first_changed"]] == 0).all(axis=None) and (rest["overlap"] == 1).all()
    assert found["layer"].tolist() == list(trace.model.layers)
    tied[0, :2] = True  # a choice that did not change is no change, tie or not
    found = set_changes(trace, replace(trace, experts=experts), tied)
    assert found["tied"].iloc[0] == pytest.approx(1 / tokens) and found["flipped"].iloc[0] == 0


def test_a_choice_of_fewer_experts_is_another_choice(trace):
    model = replace(trace.model, top_k=1)
    fewer = replace(trace, model=model, experts=trace.experts[..., :1], weights=trace.weights[..., :1])
    found = set_changes(trace, fewer)
    assert (found["changed"] == 1).all() and (found["first_changed"] == 0).all()
    assert found["overlap"].tolist() == pytest.approx([1 / trace.experts.shape[2]] * len(found))


def test_without_word_of_ties_nothing_is_said_of_them(trace):
    found = set_changes(trace, trace)
    assert found["tied"].isna().all() and found["flipped"].isna().all() and (found["changed"] == 0).all()


def test_traces_that_are_not_of_the_same_tokens_are_refused(trace):
    other = replace(trace, tokens=trace.tokens.assign(token_id=trace.tokens["token_id"] + 1))
    with pytest.raises(InvalidTrace, match="token 0"):
        set_changes(trace, other)
    with pytest.raises(InvalidTrace, match="choice"):
        set_changes(trace, trace.select(layers=trace.model.layers[:1]))
    with pytest.raises(InvalidTrace, match="32 and 3 tokens"):
        set_changes(trace, trace.select(tokens=slice(0, 3)))
