"""The deep mixture of 2013: its gates and constraint, its moved digits, its measures, its trace, and its claims."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moeviz.errors import InvalidTrace
from moeviz.history.deep_mixture_2013.exhibit import (
    FACTOR_INFORMATION,
    GATES_BY_PLACE_AND_DIGIT,
    SHARE_BY_EPOCH,
    factor_information,
    gate_by_factor,
    information,
    share_by_epoch,
    shares,
    with_and_without,
)
from moeviz.history.deep_mixture_2013.model import (
    EPOCHS,
    FREE,
    PLACES,
    DeepMixture,
    balanced,
    trace_of,
    train,
)
from moeviz.history.shared.results import shipped


@pytest.fixture(scope="module")
def mixture():
    return train(epochs=2)


@pytest.fixture(scope="module")
def unbound():
    return train(epochs=1, constraint=False, seed=1)


@pytest.fixture(scope="module")
def ships():
    return shipped(DeepMixture)


def made_up(gate_of_place, gate_of_digit):
    """A result whose first layer has these gates by place, and whose second these by digit; two experts."""
    first = np.broadcast_to(np.array(gate_of_place)[None, :, None], (10, PLACES, 1))
    second = np.broadcast_to(np.array(gate_of_digit)[:, None, None], (10, PLACES, 1))
    gates = np.stack([np.concatenate([gate, 1 - gate], axis=2) for gate in (first, second)]).astype(np.float32)
    return DeepMixture(
        settings={"experts": 2, "constraint": True, "epochs": 2, "seed": 0},
        shares=np.array([[[0.5, 0.5], [0.75, 0.25]], [[0.25, 0.75], [1.0, 0.0]]], np.float32),
        samples=100,
        bound=1,
        mean_gate=gates,
        digits_of_kind=np.full(10, 3),
        error=0.5,
        logits=np.zeros((2, 1, 2), np.float32),
        digit=np.array([7], np.uint8),
        place=np.array([0], np.uint8),
    )


def test_the_gate_stays_a_number_and_learns_where_next_to_nothing_is_left():
    """The first expert has all of the gate and is left out; e^-500 is 0 in float32, so 0 / 0 without care."""
    logits = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    gate = balanced(logits, torch.tensor([90.0, 0.0, 0.0]), 10.0)
    assert gate.tolist() == [[0, 0.5, 0.5]]
    gate[0, 1].backward()
    assert logits.grad.tolist() == [[0, 0.25, -0.25]]


def test_information_is_all_where_a_value_decides_the_expert_and_nothing_where_it_does_not():
    assert information(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1])) == pytest.approx(1)
    assert information(np.array([[0.3, 0.7], [0.3, 0.7]]), np.array([1, 5])) == pytest.approx(0, abs=1e-12)


def test_what_a_layer_goes_by_is_told_apart():
    """By place, layer 1 is sure of one expert in 27 places and of the other in 54: H(1/3) = 0.918 bits of 1.

    By digit, layer 2 is sure of one expert for 5 of 10: H(1/2), all that two experts can tell.
    """
    known = factor_information(made_up([1.0] * 27 + [0.0] * 54, [1.0] * 5 + [0.0] * 5)).set_index(["layer", "factor"])
    third = -(np.log2(1 / 3) + 2 * np.log2(2 / 3)) / 3
    assert known["information"].to_dict() == pytest.approx(
        {(1, "where"): third, (1, "what"): 0, (2, "where"): 0, (2, "what"): 1}, abs=1e-6
    )


def test_the_picture_has_each_mean_gate_once_and_gates_sum_to_1(ships):
    frame = gate_by_factor(ships)
    assert len(frame) == 2 * 4 * (81 + 10)
    sums = frame.groupby(["layer", "factor", "right", "down", "digit"])["gate"].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    of_place = frame[frame["factor"] == "where"].groupby(["layer", "expert"])["gate"].mean()
    assert of_place.to_numpy() == pytest.approx(shares(ships).ravel())


def test_a_lead_is_the_running_total_less_the_mean_of_its_layer():
    """100 samples an epoch. Layer 1: shares of 1/2 and 1/2, then 1/4 and 3/4: totals 75 and 125, so 25 ahead."""
    frame = share_by_epoch(made_up([0.5] * 81, [0.5] * 10)).set_index(["epoch", "layer", "expert"])
    assert frame["lead"].to_dict() == pytest.approx(
        {(1, 1, 0): 0, (1, 1, 1): 0, (1, 2, 0): 25, (1, 2, 1): -25}
        | {(2, 1, 0): -25, (2, 1, 1): 25, (2, 2, 0): 75, (2, 2, 1): -75}
    )
    assert frame["bound"].groupby("epoch").all().tolist() == [True, False]


def test_what_cannot_be_traced_is_refused_with_a_sentence(ships):
    with pytest.raises(InvalidTrace, match="digit"):
        trace_of(ships, "colour")
    with pytest.raises(InvalidTrace, match="1 to 4"):
        trace_of(ships, slots=5)


def test_the_trace_has_each_digit_at_each_place_once_and_the_gates_of_both_layers(ships):
    trace = trace_of(ships)
    assert trace.experts.shape == (2, 810, 4) and trace.model.layers == (1, 2)
    assert trace.weights.sum(axis=-1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(trace.logits, ships.logits)
    assert trace.tokens["text"].is_unique and trace.tokens["label"].value_counts().unique().tolist() == [81]
    assert trace.tokens["text"].iloc[[0, 407, 809]].tolist() == [
        "0 moved 4 left, 4 up",
        "7 in the middle",
        "9 moved 4 right, 4 down",
    ]
    winners = trace_of(ships, slots=1)
    assert np.array_equal(winners.experts[..., 0], ships.logits.argmax(axis=-1))
    regions = trace_of(ships, "place").tokens["label"]
    assert regions.value_counts().tolist() == [90] * 9
    assert (regions.iloc[0], regions.iloc[407], regions.iloc[809]) == ("upper left", "middle", "lower right")


def test_the_samples_that_ship_are_routed_as_all_test_digits_are(ships):
    """810 samples are a part of the 81,000, so their mean gates are near those that are measured on all."""
    weights = trace_of(ships).probabilities("This test")
    assert weights.mean(axis=1).ravel() == pytest.approx(shares(ships).ravel(), abs=0.03)


@pytest.mark.parametrize("experts", [2, 4, 8])
def test_the_pictures_draw_any_number_of_experts(experts):
    result = made_up([0.5] * 81, [0.5] * 10)
    of_experts = ("mean_gate", "shares", "logits")
    spread = {name: np.repeat(getattr(result, name), experts // 2, axis=-1) for name in of_experts}
    result = replace(result, **spread)
    for chart in (GATES_BY_PLACE_AND_DIGIT, FACTOR_INFORMATION, SHARE_BY_EPOCH):
        assert chart.draw(chart.measure(result)).to_dict()
    spec = GATES_BY_PLACE_AND_DIGIT.draw(gate_by_factor(result)).to_dict()
    x, y = (spec["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    assert spec["width"] / (x[1] - x[0]) == pytest.approx(spec["height"] / (y[0] - y[1]), rel=0.01), "places are square"
    assert spec["width"] <= 340, "a phone is as wide"


def test_what_ships_is_what_its_settings_say(ships, mixture, unbound):
    assert ships.settings == {"experts": 4, "constraint": True, "epochs": EPOCHS, "seed": 0}
    assert (len(ships.shares), ships.bound, ships.samples) == (EPOCHS, EPOCHS - round(FREE * EPOCHS), 4000)
    assert mixture.shares[0] == pytest.approx(ships.shares[0], abs=2e-3), "both are under the constraint at first"
    assert unbound.shares[0] != pytest.approx(ships.shares[0], abs=2e-3), "nor is that so of any seed"


def test_a_run_is_shown_beside_one_that_differs_in_the_constraint_alone(ships, unbound):
    both = with_and_without(ships)
    assert both[True] is ships and both[False].settings == ships.settings | {"constraint": False}
    assert both[False].bound == 0 and len(both[False].shares) == EPOCHS
    assert unbound.shares[0] != pytest.approx(both[False].shares[0], abs=2e-3), "of another seed"
    assert train(epochs=1, constraint=False).shares[0] == pytest.approx(both[False].shares[0], abs=2e-3)
    other = with_and_without(unbound)
    assert other[False] is unbound and other[True].settings == ships.settings
    most = {held: shares(run).max() for held, run in both.items()}
    assert most[True] < 0.5 and most[False] > 0.8, "one expert takes a layer without it"
