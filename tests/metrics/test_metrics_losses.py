"""The losses of routers, on probabilities small enough to work out by hand, and against transformers' own function."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from routed_trace import trace_of
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import moeviz
from moeviz import RoutingTrace
from moeviz.errors import MissingField
from moeviz.metrics.load import importance
from moeviz.metrics.losses import aux_loss, z_loss
from moeviz.testing import sample_trace


def routed(probabilities: list, experts: list) -> RoutingTrace:
    """A softmax trace of layers 0, 1 … with these probabilities and choices; a probability of 0 is no expert."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probabilities, np.float32))
    sizes = tuple(int(np.isfinite(layer).any(axis=0).sum()) for layer in logits)
    return trace_of(experts, sizes, logits=logits, score_function="softmax")


@pytest.fixture
def by_hand() -> RoutingTrace:
    """One layer of 4 experts, top-2, two tokens: 1/2 1/4 1/8 1/8 to experts 0, 1 and 1/2 1/8 1/4 1/8 to 0, 2.

    P = 1/2 3/16 3/16 1/8. In any slot: 2 1 1 0 tokens, f = 1 1/2 1/2 0: 4 (1/2 + 3/32 + 3/32) = 2.75, and even is 2.
    As a share of the four assignments, half of that: 1.375. First choices: f = 1 0 0 0, so 4 x 1/2 = 2.
    """
    return routed([[[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 2, 1 / 8, 1 / 4, 1 / 8]]], [[[0, 1], [0, 2]]])


def test_the_auxiliary_loss_by_hand(by_hand):
    frame = aux_loss(by_hand)
    row = frame.iloc[0]
    assert row["transformers"] == row["pooled"] == pytest.approx(2.75)
    assert (row["switch"], row["first_choice"], row["even"]) == pytest.approx((1.375, 2, 2))
    assert frame.dtypes.astype(str).tolist() == ["int32", "int16"] + ["float64"] * 5


def test_pooling_hides_layers_that_lean_to_opposite_sides():
    """All to expert 0 of 2 with 3/4 at one layer, to expert 1 at the other: 2 x 3/4 each, and 1, even, together."""
    frame = aux_loss(routed([[[3 / 4, 1 / 4]] * 3, [[1 / 4, 3 / 4]] * 3], [[[0]] * 3, [[1]] * 3]))
    assert frame["transformers"].tolist() == pytest.approx([1.5, 1.5])
    assert frame["pooled"].tolist() == pytest.approx([1, 1])
    assert frame["even"].tolist() == [1, 1]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_even_load_gives_one_by_switch_and_k_by_transformers(k):
    """Each of 4 experts in turn, with probabilities that do the same."""
    chosen = [[(token + slot) % 4 for slot in range(k)] for token in range(4)]
    probabilities = [np.roll([0.4, 0.3, 0.2, 0.1], token).tolist() for token in range(4)]
    row = aux_loss(routed([probabilities], [chosen])).iloc[0]
    assert (row["switch"], row["first_choice"], row["transformers"]) == pytest.approx((1, 1, k))


def by_transformers(logits: np.ndarray, top_k: int) -> float:
    tensors = tuple(torch.from_numpy(layer.copy()) for layer in logits)
    return float(load_balancing_loss_func(tensors, num_experts=logits.shape[-1], top_k=top_k))


@pytest.fixture(scope="module")
def embedded() -> RoutingTrace:
    return moeviz.trace(moeviz.load_model(), "SELECT name FROM people; Il fait froid. 12 + 30 = 42")


def test_each_layer_is_what_transformers_computes_for_it_alone(embedded):
    alone = [by_transformers(layer[None], embedded.model.top_k) for layer in embedded.logits]
    assert aux_loss(embedded)["transformers"].tolist() == pytest.approx(alone, rel=1e-5)


def test_pooled_is_what_transformers_computes_for_the_model(embedded):
    whole = by_transformers(embedded.logits, embedded.model.top_k)
    assert aux_loss(embedded)["pooled"].tolist() == pytest.approx([whole] * 6, rel=1e-5)


def test_switchs_form_is_the_sum_over_loads_and_importances(trace):
    frame = importance(trace)
    sums = (frame["load"] * frame["importance"]).groupby(frame["layer"]).sum() * 8
    assert aux_loss(trace)["switch"].tolist() == pytest.approx(sums.tolist())


def test_an_empty_slot_is_nobodys_choice(by_hand):
    """Token 1 was dropped: f = 1/2 1/2 0 0 of two tokens, 4 (1/4 + 3/32) = 1.375; of two assignments the same."""
    dropped = replace(by_hand, experts=np.array([[[0, 1], [-1, -1]]], np.int16))
    row = aux_loss(dropped).iloc[0]
    assert row["transformers"] == row["switch"] == pytest.approx(1.375)
    assert row["first_choice"] == pytest.approx(1)


def test_layers_of_different_sizes_are_not_pooled():
    """Even over 4 and over 2 experts: 1 each by their own number of experts."""
    four, two = [1 / 4] * 4, [1 / 2, 1 / 2, 0, 0]
    frame = aux_loss(routed([[four] * 4, [two] * 4], [[[0], [1], [2], [3]], [[0], [1], [0], [1]]]))
    assert frame["num_experts"].tolist() == [4, 2]
    assert frame["switch"].tolist() == pytest.approx([1, 1])
    assert frame["pooled"].isna().all()


def test_z_loss_by_hand():
    """Log-sum-exp of ln 1, ln 2, ln 1 is ln 4, and of three times ln 2 it is ln 6."""
    trace = routed([[[1, 2, 1], [2, 2, 2]]], [[[1], [0]]])
    frame = z_loss(trace)
    assert frame["z_loss"].item() == pytest.approx((np.log(4) ** 2 + np.log(6) ** 2) / 2)
    assert frame["logsumexp"].item() == pytest.approx((np.log(4) + np.log(6)) / 2)
    assert frame["zero_logits"].item() == pytest.approx(np.log(3) ** 2)
    assert frame.dtypes.astype(str).tolist() == ["int32", "int16"] + ["float64"] * 3


def test_logits_of_0_have_the_z_loss_that_stands_beside_it():
    frame = z_loss(routed([[[1, 1, 1, 1]] * 2, [[1, 1, 0, 0]] * 2], [[[0]] * 2, [[0]] * 2]))
    assert frame["z_loss"].tolist() == pytest.approx(frame["zero_logits"].tolist())
    assert frame["num_experts"].tolist() == [4, 2]


def test_a_number_added_to_all_logits_changes_the_z_loss_and_not_the_auxiliary_loss(trace):
    shifted = replace(trace, logits=trace.logits + np.float32(20))
    assert (z_loss(shifted)["z_loss"] > 10 * z_loss(trace)["z_loss"]).all()
    forms = ["switch", "first_choice", "transformers", "pooled"]
    assert np.allclose(aux_loss(shifted)[forms], aux_loss(trace)[forms], rtol=1e-4)


def test_large_logits_do_not_overflow():
    trace = sample_trace(layers=1)
    assert np.isfinite(z_loss(replace(trace, logits=trace.logits * np.float32(1e4)))["z_loss"]).all()


def test_z_loss_does_not_ask_for_the_score_function_and_the_auxiliary_loss_does(trace):
    unknown = replace(trace, model=replace(trace.model, score_function="unknown"))
    assert z_loss(unknown).equals(z_loss(trace))
    with pytest.raises(MissingField, match="score"):
        aux_loss(unknown)


@pytest.mark.parametrize("measure", [aux_loss, z_loss])
def test_ids_alone_have_no_loss(measure, ids_only_trace):
    with pytest.raises(MissingField, match=r"logits.*\(sample\)"):
        measure(ids_only_trace)
