"""How sure routers are, on probabilities small enough to work out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import MissingField
from moeviz.metrics.confidence import router_entropy, token_entropy, top_margin


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Two tokens, two layers of 4 and 2 experts, top-1 by softmax.

    Layer 0: token 0 has probabilities 1/4 each (entropy ln 4, margin 0); token 1 1/2 1/4 1/8 1/8 (entropy
    1.75 ln 2, margin 1/4).
    Layer 2: token 0 has 1/2 1/2 (entropy ln 2, margin 0); token 1 has 3/4 1/4 (margin 1/2).
    """
    with np.errstate(divide="ignore"):
        logits = np.log(
            [[[1 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 8, 1 / 8]], [[1 / 2, 1 / 2, 0, 0], [3 / 4, 1 / 4, 0, 0]]]
        ).astype(np.float32)
    same = {"text": ["a", "a"], "score_function": "softmax"}
    return trace_of(np.zeros((2, 2, 1)), (4, 2), layers=(0, 2), logits=logits, **same)


def test_entropy_is_the_mean_over_tokens_and_counts_each_layers_own_experts(by_hand):
    frame = router_entropy(by_hand).set_index("layer")
    second = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert frame["entropy"].tolist() == pytest.approx([(2 + 1.75) / 2 * np.log(2), (np.log(2) + second) / 2])
    assert frame["maximum"].tolist() == pytest.approx([np.log(4), np.log(2)])
    assert frame["share"].tolist() == pytest.approx([(1 + 0.875) / 2, (1 + second / np.log(2)) / 2])
    assert frame["q50"].tolist() == pytest.approx(frame["share"].tolist())


def test_margin_is_between_the_two_most_probable_experts(by_hand):
    frame = top_margin(by_hand)
    assert frame["margin"].tolist() == pytest.approx([0.125, 0.25])
    assert frame["top"].tolist() == pytest.approx([0.375, 0.625])
    assert frame["q90"].tolist() == pytest.approx([0.9 * 0.25, 0.9 * 0.5])


def test_each_token_has_its_own_entropy_even_where_texts_are_the_same(by_hand):
    frame = token_entropy(by_hand)
    assert frame["token"].tolist() == [0, 0, 1, 1]
    assert frame["layer"].tolist() == [0, 2, 0, 2]
    assert frame["share"].tolist()[:3] == pytest.approx([1, 1, 0.875])


def test_sigmoid_routers_are_judged_by_their_normalised_scores(by_hand):
    """Two experts with scores 0.5 and 0.5: undecided, though they do not come from a softmax."""
    scores = replace(by_hand, logits=np.where(np.isinf(by_hand.logits), by_hand.logits, np.float32(0)))
    sigmoid = replace(scores, model=replace(by_hand.model, score_function="sigmoid"))
    assert router_entropy(sigmoid)["share"].tolist() == pytest.approx([1, 1])


def test_a_layer_with_one_expert_has_nothing_to_decide(by_hand):
    model = replace(by_hand.model, layers=(0,), num_experts=(1,))
    lone = replace(by_hand, model=model, experts=by_hand.experts[:1], logits=by_hand.logits[:1, :, :1])
    assert router_entropy(lone)["entropy"].item() == 0
    assert np.isnan(router_entropy(lone)["share"].item())
    assert top_margin(lone)["margin"].item() == pytest.approx(1)


def test_shares_and_margins_lie_between_0_and_1(trace):
    for frame in (router_entropy(trace), top_margin(trace)):
        quantiles = frame[["q10", "q25", "q50", "q75", "q90"]].to_numpy()
        assert ((quantiles >= 0) & (quantiles <= 1)).all()
        assert (np.diff(quantiles, axis=1) >= 0).all()


@pytest.mark.parametrize("measure", [router_entropy, token_entropy, top_margin])
def test_ids_alone_do_not_tell_how_sure_a_router_is(measure, ids_only_trace):
    with pytest.raises(MissingField, match=r"logits.*\(sample\)"):
        measure(ids_only_trace)


def test_an_unknown_score_function_is_not_guessed(trace):
    unknown = replace(trace, model=replace(trace.model, score_function="unknown"))
    with pytest.raises(MissingField, match="score"):
        router_entropy(unknown)
