"""Flow through all layers, on a table small enough to count by hand; and what its picture merges and leaves out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.charts.flow import REST, flow_ribbons
from moeviz.errors import InvalidTrace
from moeviz.metrics.flow import consecutive_information, consecutive_transitions, information_between_layers
from moeviz.metrics.layers import overlap, transitions
from moeviz.testing import sample_trace

MEASURES = (consecutive_transitions, consecutive_information)


def first_choices(layers: dict[int, list[int]], num_experts: int) -> RoutingTrace:
    """A trace of the first choices at each layer."""
    return trace_of(np.array([*layers.values()])[..., None], num_experts, layers=tuple(layers))


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Four tokens at layers 1, 4 and 5: 0 0 1 1, then 2 2 0 0, then 1 0 1 0.

    From 1 to 4 the experts only change names: 1 bit, and each share 1 where chance is 1/2. From 4 to 5 all four
    combinations come once: 0 bits, and every share 1/2 as by chance.
    """
    return first_choices({1: [0, 0, 1, 1], 4: [2, 2, 0, 0], 5: [1, 0, 1, 0]}, 3)


def test_transitions_go_from_each_layer_to_the_next(by_hand):
    frame = consecutive_transitions(by_hand)
    keys = ["from_layer", "to_layer", "from_expert", "to_expert", "tokens"]
    assert frame[keys].to_numpy().tolist() == [
        [1, 4, 0, 2, 2],
        [1, 4, 1, 0, 2],
        [4, 5, 0, 0, 1],
        [4, 5, 0, 1, 1],
        [4, 5, 2, 0, 1],
        [4, 5, 2, 1, 1],
    ]
    assert frame["share"].tolist() == [1, 1, *[0.5] * 4]
    assert frame["chance"].tolist() == [0.5] * 6
    assert frame["lift"].tolist() == [2, 2, *[1] * 4]


def test_information_is_in_bits(by_hand):
    frame = consecutive_information(by_hand)
    assert frame[["from_layer", "to_layer", "tokens"]].to_numpy().tolist() == [[1, 4, 4], [4, 5, 4]]
    assert frame["information"].tolist() == pytest.approx([1, 0])
    assert frame["maximum"].tolist() == pytest.approx([1, 1])
    # Of the 6 ways to put two of each beside two of each, 2 tell all and 4 nothing.
    assert frame["shuffled"].tolist() == pytest.approx([1 / 3] * 2, abs=0.15)
    assert frame.dtypes.astype(str).tolist() == ["int32", "int32", "int64", *["float64"] * 3]


def test_each_pair_of_layers_is_what_the_comparison_of_two_layers_says(trace):
    frame, bits = (measure(trace) for measure in MEASURES)
    for first in range(3):
        two = trace.select(layers=(first, first + 1))
        expected = transitions(two).query("tokens > 0").reset_index(drop=True)
        pd.testing.assert_frame_equal(frame[frame["from_layer"] == first].reset_index(drop=True), expected)
        row = overlap(two).set_index("measure").loc["mutual information"]
        assert bits.iloc[first]["information"] == pytest.approx(row["value"])
        assert bits.iloc[first]["shuffled"] == pytest.approx(row["chance"])


def test_a_dropped_token_is_missed_on_both_sides_of_its_layer(by_hand):
    experts = by_hand.experts.copy()
    experts[1, 3] = -1
    dropped = replace(by_hand, experts=experts)
    assert consecutive_transitions(dropped).groupby("from_layer")["tokens"].sum().to_dict() == {1: 3, 4: 3}
    assert consecutive_information(dropped)["tokens"].tolist() == [3, 3]


def test_information_is_at_chance_where_layers_are_independent():
    rng = np.random.default_rng(2)
    frame = consecutive_information(first_choices({n: rng.integers(0, 8, 500).tolist() for n in range(3)}, 8))
    assert frame["information"].to_numpy() == pytest.approx(frame["shuffled"].to_numpy(), rel=0.3)
    assert (frame["information"] < 0.1 * frame["maximum"]).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_flow_needs_two_layers(measure, trace):
    with pytest.raises(InvalidTrace, match="layer 2"):
        measure(trace.select(layers=[2]))


# The picture


def drawn(trace: RoutingTrace) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Ribbons and bands as drawn, and what the picture says under its layers."""
    chart = flow_ribbons(consecutive_transitions(trace))
    ribbons, bands, _ = (layer.data for layer in chart.layer)
    return ribbons, bands, chart.to_dict()["layer"][0]["encoding"]["x"]["title"]


def test_ribbons_fill_the_bands_that_they_join(trace):
    ribbons, bands, notes = drawn(trace)
    assert notes == ["layer"]
    sides = {"from": bands[bands["layer"] < 3], "to": bands[bands["layer"] > 0]}
    for side, expected in sides.items():
        ends = ribbons.assign(end=ribbons[f"{side}_y"] + ribbons["height"]).groupby([f"{side}_layer", f"{side}_name"])
        filled = ends.agg(top=(f"{side}_y", "min"), bottom=("end", "max"), height=("height", "sum"))
        expected = expected.set_index(["layer", "name"]).loc[filled.index.to_list()]
        assert filled["top"].to_numpy() == pytest.approx(expected["top"].to_numpy())
        assert filled["bottom"].to_numpy() == pytest.approx(expected["bottom"].to_numpy())
        assert filled["height"].to_numpy() == pytest.approx((expected["bottom"] - expected["top"]).to_numpy())
    assert bands["top"].min() == 0 and bands["bottom"].max() == pytest.approx(1)


def test_a_ribbon_has_the_colour_of_where_it_starts(trace):
    ribbons, bands, _ = drawn(trace)
    colours = bands.set_index(["layer", "name"])["colour"]
    starts = zip(ribbons["from_layer"], ribbons["from_name"], strict=True)
    assert ribbons["colour"].tolist() == [colours[start] for start in starts]


def test_beyond_sixteen_experts_the_idlest_share_a_band():
    """17 experts: 0 to 14 with 4 tokens each, 15 and 16 with two each. All go to the expert that is 1 further."""
    ids = [expert for expert in range(15) for _ in range(4)] + [15, 15, 16, 16]
    ribbons, bands, notes = drawn(first_choices({0: ids, 1: [(expert + 1) % 17 for expert in ids]}, 17))
    assert notes[1:3] == ["rest: all but the layer's 15 busiest experts", "grey: all but the layer's 8 busiest experts"]
    rest = bands[(bands["layer"] == 0) & (bands["name"] == "rest")].iloc[0]
    assert (rest["tokens"], rest["share"]) == (4, 4 / 64)
    assert str(REST) not in set(bands["name"])
    assert ribbons["tokens"].sum() == 64
    step = ribbons[(ribbons["from_name"] == "rest") & (ribbons["to_name"] == "rest")].iloc[0]
    # At layer 1 the idlest are 16 and 0: both of the two tokens of 15 and both of 16 go there.
    assert (step["tokens"], step["share"], step["chance"], step["lift"]) == (4, 1, 4 / 64, 16)


def test_beyond_twelve_layers_the_first_are_drawn():
    _, bands, notes = drawn(sample_trace(layers=15, tokens=16))
    assert sorted(bands["layer"].unique()) == list(range(12))
    assert notes == ["layer", "the first 12 of 15 MoE layers"]


def test_thin_ribbons_are_left_out_and_their_share_is_said():
    """999 of 1,000 tokens go from 0 to 0, and one from 1 to 1: a thousandth of the height is under a pixel."""
    ribbons, bands, notes = drawn(first_choices({0: [0] * 999 + [1], 1: [0] * 999 + [1]}, 2))
    assert notes == ["layer", "not drawn: 0.1% of the steps, whose ribbons would be too thin"]
    assert (len(ribbons), len(bands)) == (1, 4)


def test_a_big_trace_stays_a_small_picture():
    ribbons, bands, _ = drawn(sample_trace(layers=48, tokens=256, top_k=8, experts=128))
    assert len(ribbons) <= 1_000 and bands.groupby("layer").size().max() == 16


def test_all_pairs_of_layers_are_compared_in_bits(by_hand):
    """From 1 to 4 one bit, all that there is; from 1 to 5, and from 4 to 5, nothing."""
    frame = information_between_layers(by_hand).set_index(["from_layer", "to_layer"])
    assert list(frame.index) == [(1, 4), (1, 5), (4, 5)]
    assert frame["information"].tolist() == pytest.approx([1, 0, 0])
    assert frame["maximum"].tolist() == pytest.approx([1, 1, 1])
    assert frame["above"].tolist() == pytest.approx([1 - frame.loc[(1, 4), "shuffled"], 0, 0])
    assert set(frame["shuffles"]) == {100}


def test_neighbours_are_as_in_the_chart_of_neighbours_and_luck_is_about_the_same():
    trace = sample_trace(layers=4, tokens=300)
    of_all = information_between_layers(trace)
    pairs = of_all[of_all["to_layer"] == of_all["from_layer"] + 1].reset_index(drop=True)
    neighbours = consecutive_information(trace)
    for column in ("tokens", "information", "maximum"):
        assert pairs[column].tolist() == pytest.approx(neighbours[column].tolist())
    assert pairs["shuffled"].tolist() == pytest.approx(neighbours["shuffled"].tolist(), rel=0.1)


def test_many_layers_of_many_experts_are_counted_by_what_occurs_and_too_many_tokens_are_a_sentence(monkeypatch):
    trace = sample_trace(layers=96, tokens=64, experts=512, top_k=8)
    frame = information_between_layers(trace)
    assert len(frame) == 96 * 95 / 2 and set(frame["shuffles"]) == {57}
    monkeypatch.setattr("moeviz.metrics.flow.MOST_PAIRED", 4560 * 64 - 1)
    with pytest.raises(InvalidTrace, match=r"4,560 pairs.*64 tokens"):
        information_between_layers(trace)
    monkeypatch.setattr("moeviz.metrics.flow.MOST_PAIRS", 4559)
    with pytest.raises(InvalidTrace, match=r"4,560 pairs.*4,559"):
        information_between_layers(trace)


def test_a_pair_in_which_no_token_has_two_experts_has_no_row():
    trace = first_choices({1: [0, 1, -1, -1], 2: [-1, -1, 1, 0], 3: [0, 1, 0, 1]}, 3)
    pairs = information_between_layers(trace)[["from_layer", "to_layer"]].to_numpy().tolist()
    assert pairs == [[1, 3], [2, 3]]
