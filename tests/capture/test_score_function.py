"""The score function of a router, told from its logits and weights alone."""

import numpy as np
import pytest

from moeviz.capture.routers.score_function import FUNCTIONS, score_function
from moeviz.routing_trace import normalised_scores


def sample(name, seed=0, tokens=12, top_k=3, factor=1.0, spread=2.0):
    """Logits of 8 experts, the weights of the best, and who they are."""
    logits = spread * np.random.default_rng(seed).normal(size=(tokens, 8)).astype(np.float32)
    experts = np.argsort(-logits, axis=-1)[:, :top_k].astype(np.int16)
    weights = factor * np.take_along_axis(normalised_scores(logits, name), experts.astype(np.int64), -1)
    return logits, weights, experts


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_found_by_what_it_did_whatever_scales_its_weights(name):
    assert score_function([sample(name), sample(name, seed=1, factor=2.5)]) == name


def test_the_worst_of_the_samples_decides():
    logits, weights, experts = sample("softmax", seed=1)
    assert score_function([sample("softmax"), sample("sigmoid", seed=1)]) == "unknown"
    assert score_function([sample("softmax"), (logits, weights[::-1].copy(), experts)]) == "unknown"


def test_samples_that_several_functions_explain_name_none():
    logits, weights, experts = sample("softmax", spread=0.0)
    assert score_function([(logits, weights, experts)]) == "unknown"
    assert score_function([]) == "unknown"


def test_one_slot_has_no_ratios_and_is_softmax_if_it_has_its_probability():
    assert score_function([sample("softmax", top_k=1)]) == "softmax"
    assert score_function([sample("softmax", top_k=1, factor=0.5)]) == "unknown"


def test_empty_slots_are_left_out():
    logits, weights, experts = sample("sigmoid")
    experts[0, 2], weights[0, 2] = -1, 0
    assert score_function([(logits, weights, experts)]) == "sigmoid"
