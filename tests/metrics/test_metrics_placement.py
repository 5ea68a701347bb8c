"""Experts laid out over devices, on loads small enough to place by hand and on the worked example of EPLB."""

from dataclasses import replace

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import MoevizError
from moeviz.metrics.placement import (
    balanced_packing,
    placement,
    placement_imbalance,
    rebalance_experts,
    replicate_experts,
)
from moeviz.testing import sample_trace


def top_1(experts: list[int], num_experts: int) -> RoutingTrace:
    """A trace of one layer, 4, in which each token has one expert."""
    return trace_of(np.array(experts)[None, :, None], num_experts, layers=(4,))


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Ten tokens, top-1, four experts: loads 4 3 2 1, and of each half of the tokens 4 1 0 0 and 0 2 2 1.

    Two devices, contiguous: experts 0 1 and 2 3, loads 7 3. Balanced: 0 (4) to device 0, 1 (3) to device 1, 2 (2) to
    device 1, which is lighter, 3 (1) to the room left: loads 5 5. With two copies: of 0 (4 a replica), then of 1 (3
    a replica): replicas 2 1.5 2 1 2 1.5 of experts 0 1 2 3 0 1, heaviest first 0 2 0' 1 1' 3 to devices 0 1 0 1 1 0:
    loads 2 + 2 + 1 and 2 + 1.5 + 1.5.

    Planned on 4 1 0 0: 0 to device 0, then 1 and 2 to device 1, which stays lighter, and 3 to the room left. On the
    second half that is 0 + 1 and 2 + 2. Contiguous is 0 + 2 and 2 + 1.
    """
    return top_1([0, 0, 0, 0, 1, 1, 1, 2, 2, 3], 4)


def loads(trace: RoutingTrace, judged_on: str, name: str, **sizes: int) -> list[float]:
    frame = placement(trace, **sizes)
    return frame[(frame["judged_on"] == judged_on) & (frame["placement"] == name)]["load"].tolist()


def test_the_worked_example_of_eplb_comes_out_as_its_readme_says():
    weights = np.array(
        [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
    )
    assert rebalance_experts(weights, replicas=16, groups=4, nodes=2, devices=8).tolist() == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]


def test_the_heaviest_goes_to_the_lightest_pack_with_room():
    """5 to pack 0, 4 to 1, 3 to 1 (7), 1 to 0, the only one with room."""
    pack, place = balanced_packing(np.array([1, 3, 5, 4]), 2)
    assert pack.tolist() == [0, 1, 0, 1]
    assert place.tolist() == [1, 1, 0, 0]


def test_with_one_place_a_pack_objects_stay_in_their_order():
    pack, place = balanced_packing(np.array([1, 3, 2]), 3)
    assert pack.tolist() == [0, 1, 2]
    assert place.tolist() == [0, 0, 0]


def test_ties_go_to_the_lower_id_and_the_lower_pack():
    assert balanced_packing(np.zeros(4), 2)[0].tolist() == [0, 0, 1, 1]
    assert replicate_experts(np.array([2, 2]), 3).tolist() == [0, 1, 0]


def test_a_copy_is_of_the_expert_with_most_load_per_replica():
    """9 4 1: a copy of expert 0 (4.5 each), another of it (3 each), then one of expert 1."""
    assert replicate_experts(np.array([9, 4, 1]), 6).tolist() == [0, 1, 2, 0, 0, 1]


def test_groups_that_the_nodes_do_not_divide_are_ignored():
    weights = np.array([[4, 3, 2, 1, 9, 5]])
    ignored = rebalance_experts(weights, 8, groups=3, nodes=2, devices=2)
    assert ignored.tolist() == rebalance_experts(weights, 8, groups=1, nodes=1, devices=2).tolist()


def test_loads_of_the_three_placements_by_hand(by_hand):
    assert loads(by_hand, "same tokens", "contiguous") == pytest.approx([0.7, 0.3])
    assert loads(by_hand, "same tokens", "balanced") == pytest.approx([0.5, 0.5])
    assert loads(by_hand, "same tokens", "with copies") == pytest.approx([0.5, 0.5])


def test_a_held_out_plan_is_made_from_the_first_half_and_judged_on_the_second(by_hand):
    assert loads(by_hand, "held-out tokens", "contiguous") == pytest.approx([2 / 5, 3 / 5])
    assert loads(by_hand, "held-out tokens", "balanced") == pytest.approx([1 / 5, 4 / 5])


def test_columns_say_what_they_are(by_hand):
    frame = placement(by_hand, devices=2, copies=4)
    assert frame.dtypes.astype(str).to_dict() == {
        "layer": "int32",
        "judged_on": "str",
        "placement": "str",
        "device": "int16",
        "experts": "int16",
        "load": "float64",
        "even": "float64",
        "times_uniform": "float64",
    }
    assert (frame["layer"] == 4).all() and (frame["even"] == 0.5).all()
    assert frame["experts"].tolist() == [2, 2, 2, 2, 4, 4] * 2
    assert frame["times_uniform"].tolist() == pytest.approx((2 * frame["load"]).tolist())


def test_imbalance_is_the_busiest_device_over_the_mean(by_hand):
    frame = placement_imbalance(by_hand)
    assert frame["placement"].tolist() == ["contiguous", "balanced", "with copies"] * 2
    assert frame["judged_on"].tolist() == ["same tokens"] * 3 + ["held-out tokens"] * 3
    assert frame["imbalance"].tolist()[:5] == pytest.approx([1.4, 1, 1, 1.2, 1.6])
    assert frame["devices"].tolist() == [2] * 6
    assert frame["copies"].tolist() == [0, 0, 2] * 2


def test_loads_of_a_placement_sum_to_one():
    frame = placement(sample_trace(tokens=100, experts=16, top_k=4))
    assert frame.groupby(["layer", "judged_on", "placement"])["load"].sum().to_numpy() == pytest.approx(1)


def test_every_plan_holds_each_expert_and_a_group_stays_on_one_node():
    weights = np.random.default_rng(0).integers(0, 1_000, (5, 24))
    plans = rebalance_experts(weights, 32, 4, 2, 8)
    assert plans.shape == (5, 32)
    for plan in plans:
        assert set(plan) == set(range(24))
        first, second = (set(node // 6) for node in plan.reshape(2, 16))
        assert len(first) == len(second) == 2 and not first & second


def test_copies_of_a_hot_expert_do_what_no_placement_can():
    """One expert of eight has half of the load: alone on a device of four it makes 2 even shares, copied 1."""
    trace = top_1([0] * 70 + [1, 2, 3, 4, 5, 6, 7] * 10, 8)
    frame = placement_imbalance(trace, devices=4, copies=4).set_index(["judged_on", "placement"])["imbalance"]
    assert frame["same tokens", "balanced"] >= 2
    assert frame["same tokens", "with copies"] < 1.2


def test_without_copies_the_third_placement_is_the_second(by_hand):
    assert loads(by_hand, "held-out tokens", "with copies", copies=0) == loads(by_hand, "held-out tokens", "balanced")


@pytest.mark.parametrize(("experts", "devices"), [(4, 2), (6, 2), (8, 4), (12, 4), (16, 8), (60, 4), (128, 8)])
def test_devices_are_the_most_of_two_four_and_eight_that_hold_two_experts_or_more_each(experts, devices):
    assert placement(top_1([0], experts))["device"].max() + 1 == devices


def test_layers_of_different_sizes_have_devices_of_their_own():
    trace = sample_trace(layers=2)
    experts = np.minimum(trace.experts, 3)
    model = replace(trace.model, num_experts=(8, 4))
    mixed = replace(trace, model=model, experts=experts, logits=None)
    assert placement(mixed).groupby("layer")["device"].nunique().tolist() == [4, 2]


def test_experts_that_compute_nothing_are_on_no_device(by_hand):
    """Without expert 3 and its token there are three experts, of loads 4 3 2."""
    nothing = replace(by_hand, model=replace(by_hand.model, zero_experts=1))
    assert loads(nothing, "same tokens", "contiguous", devices=3) == pytest.approx([4 / 9, 3 / 9, 2 / 9])


def test_tokens_without_an_expert_do_not_count(by_hand):
    dropped = top_1([0, 0, 0, 0, -1, -1, 1, 1, 1, 2, 2, 3], 4)
    assert loads(dropped, "same tokens", "contiguous") == loads(by_hand, "same tokens", "contiguous")


def test_where_nothing_was_assigned_there_is_no_imbalance():
    for trace in (top_1([], 4), top_1([-1, -1], 4)):
        assert (placement(trace)["load"] == 0).all()
        assert placement_imbalance(trace)["imbalance"].isna().all()


def test_numbers_that_do_not_divide_are_refused_with_what_would(by_hand):
    with pytest.raises(MoevizError, match=r"4.*4 experts.*3 devices.*divides 4"):
        placement(by_hand, devices=3)
    with pytest.raises(MoevizError, match=r"\b0\b"):
        placement(by_hand, devices=0)
    for copies in (3, -2):
        with pytest.raises(MoevizError, match=f"{copies} .* 2 .*2"):
            placement_imbalance(by_hand, copies=copies)
    for experts in (2, 7):
        with pytest.raises(MoevizError, match=f"{experts} .*devices"):
            placement(top_1([0], experts))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((8, 1, 2, 3), "3 devices.*among 2"),
        ((8, 1, 0, 2), "2 devices.*among 0"),
        ((9, 1, 1, 2), "9 replicas.*among 2"),
        ((8, 4, 1, 2), "6 experts.*among 4"),
        ((4, 1, 1, 2), "4 replicas cannot hold 6 experts"),
    ],
)
def test_a_plan_says_which_numbers_do_not_fit(sizes, words):
    with pytest.raises(MoevizError, match=words):
        rebalance_experts(np.ones((1, 6)), *sizes)
