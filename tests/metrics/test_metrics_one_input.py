"""All experts of one input: worked by hand."""

import numpy as np
import pytest

from moeviz import ModelInfo, RoutingTrace
from moeviz.errors import InvalidTrace
from moeviz.metrics.one_input import experts_of_one
from moeviz.routing_trace import token_frame


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Two tokens, two layers: of 4 experts and of 3. The first has experts 2 and 0 (0.7, 0.3), then 1 alone (-0.5).

    The second has none in the first layer, then 0 and 2, with weights that are nearly 0 and 1.
    """
    info = ModelInfo("made up", "sample", (3, 5), (4, 3), 2, layer_kind="level")
    experts = np.array([[[2, 0], [-1, -1]], [[1, -1], [2, 0]]], np.int16)
    weights = np.array([[[0.7, 0.3], [0, 0]], [[-0.5, 0], [1, 1e-6]]], np.float32)
    return RoutingTrace(info, token_frame(np.arange(2), np.zeros(2), ["a", "b"]), experts, weights, None)


def test_an_expert_is_computed_where_the_input_has_it_whatever_its_weight(by_hand):
    frame = experts_of_one(by_hand, 0)
    assert frame["row"].tolist() == ["level 3"] * 4 + ["level 5"] * 3
    assert frame["expert"].tolist() == [0, 1, 2, 3, 0, 1, 2] and frame["experts"].tolist() == [4] * 4 + [3] * 3
    assert frame["computed"].tolist() == [True, False, True, False, False, True, False]
    assert frame["weight"].tolist() == pytest.approx([0.3, 0, 0.7, 0, 0, -0.5, 0])
    other = experts_of_one(by_hand, 1)
    assert other["computed"].tolist() == [False] * 4 + [True, False, True]
    assert not frame["refused"].any() and frame[["load", "capacity"]].isna().all(axis=None)


def test_without_weights_the_experts_of_an_input_count_alike(by_hand):
    bare = RoutingTrace(by_hand.model, by_hand.tokens, by_hand.experts, None, None)
    assert experts_of_one(bare, 0)["weight"].tolist() == [0.5, 0, 0.5, 0, 0, 1, 0]


@pytest.mark.parametrize("token", [-1, 2])
def test_an_input_that_is_not_there_is_refused(by_hand, token):
    with pytest.raises(InvalidTrace, match=f"no token {token} in this trace. Choose one from 0 to 1"):
        experts_of_one(by_hand, token)
