"""Tokens that are not recorded, and slots in no known order: left out of numbers, and told apart in pictures."""

import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from labels import labelled
from routed_trace import trace_of

from moeviz import MissingField, MoevizError, ParameterCounts, RoutingTrace
from moeviz.capture.interventions.intervention import RouterLimits
from moeviz.capture.interventions.replay import Replay
from moeviz.charts import NAMED, theme
from moeviz.charts.overview import WHOLE_TRACE, png
from moeviz.errors import CaptureError
from moeviz.metrics.comparison import load_difference, load_divergence, set_changes
from moeviz.metrics.flow import consecutive_transitions
from moeviz.metrics.label_similarity import label_similarity
from moeviz.metrics.layers import overlap
from moeviz.metrics.load import expert_load
from moeviz.metrics.locality import locality
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.routing_over_training import router_saturation
from moeviz.metrics.system_table import work_side_by_side
from moeviz.metrics.tokens import token_choices, token_expert, token_layer, token_routes
from moeviz.report.plots import choices, drawn, part_of
from moeviz.routing_trace import NOT_RECORDED
from moeviz.testing import sample_trace

every_chart = pytest.mark.parametrize("chart", NAMED.values(), ids=list(NAMED))
GONE = np.arange(240) % 5 == 2  # tokens that are not recorded
# Neighbours, tokens as they stand in the text, and pictures with a place for each token.
OF_PLACES = {"repeated_first_choice", "repeated_any_choice", "token_layer_map", "token_expert_grid", "token_route"}
OF_FIRST_CHOICES = {
    "label_divergence_grid",
    "layer_transitions",
    "flow_between_layers",
    "flow_of_two_layers",
    "flow_ribbons",
    "flow_information",
    "repeated_first_choice",
}
OF_LOGITS = {
    "load_against_importance",
    "entropy_by_layer",
    "margin_by_layer",
    "entropy_grid",
    "aux_loss_by_layer",
    "z_loss_by_layer",
}


def complete() -> RoutingTrace:
    """A trace that every chart can draw but those that need logits: labels, texts, parameter counts, common tokens."""
    trace = labelled(sample_trace(layers=4, tokens=240))
    parameters = ParameterCounts(6_000, 6_000, 20_000, 400, 96_000, 0, 0, 90, per_expert=(3_000,) * 4)
    tokens = trace.tokens.assign(sequence=(np.arange(240) // 40).astype(np.int32))
    return replace(trace, model=replace(trace.model, parameters=parameters), tokens=tokens, logits=None)


def without(trace: RoutingTrace, gone: np.ndarray, layers: slice = slice(None)) -> RoutingTrace:
    """The trace with some tokens not recorded, at some layers."""
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[layers, gone], weights[layers, gone] = NOT_RECORDED, 0
    return replace(trace, experts=experts, weights=weights, logits=None)


def unordered(trace: RoutingTrace) -> RoutingTrace:
    """The trace with each token's experts in an order that nobody knows."""
    turned = trace.experts[..., ::-1].copy()
    return replace(trace, model=replace(trace.model, slot_order="unknown"), experts=turned, weights=None)


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Four tokens at layers 0 and 1, top-2 of 3: to 1 and 0, dropped, not recorded, to 2 alone; at layer 1 all to 0."""
    return trace_of([[[1, 0], [-1, -1], [-2, -2], [2, -1]], [[0, -1]] * 4], 3, text=list("abcd"))


@every_chart
def test_every_chart_of_a_trace_with_tokens_not_recorded_has_the_numbers_of_the_trace_without_them(chart):
    trace, chosen = complete(), choices(complete(), None, None, 4)
    try:
        frame = chart.measure(part_of(without(trace, GONE), chart, chosen))
    except MissingField as refusal:
        assert chart.key in OF_LOGITS and "needs router logits" in str(refusal)
        return
    chart.draw(frame).to_dict()
    if chart.key not in OF_PLACES:
        pd.testing.assert_frame_equal(frame, chart.measure(part_of(trace.select(tokens=~GONE), chart, chosen)))


@every_chart
def test_every_chart_of_a_layer_that_is_not_recorded_is_drawn_or_says_so(chart):
    trace = without(complete(), np.ones(240, bool), slice(2, 3))  # layer 2, the middle one: that of charts of one layer
    try:
        drawn(chart, trace, choices(trace, None, None, 4)).to_dict()
    except MissingField as refusal:
        sentence = str(refusal)
        if chart.layers == "one":
            assert sentence.startswith("No routing is recorded for any of these 240 tokens in layer 2") or (
                chart.tokens == "window" and "in layer 2. Choose" in sentence
            )
        else:
            assert "recorded at every one of the layers" in sentence or chart.key in OF_LOGITS


@every_chart
def test_every_chart_of_a_trace_without_any_routing_says_so(chart):
    trace = without(complete(), np.ones(240, bool))
    if chart.key in ("active_by_convention", "parameters_by_part"):
        drawn(chart, trace, choices(trace, None, None, 4)).to_dict()  # facts of the model
        return
    with pytest.raises(MissingField, match="recorded"):
        drawn(chart, trace, choices(trace, None, None, 4))


@every_chart
def test_every_chart_of_slots_in_no_known_order_is_as_before_or_says_what_is_missing(chart):
    trace, ordered = unordered(complete()), replace(complete(), weights=None)
    chosen = choices(trace, None, None, 4)
    if chart.key in OF_FIRST_CHOICES:
        with pytest.raises(MissingField, match="choice"):
            drawn(chart, trace, chosen)
        return
    try:
        frame = chart.measure(part_of(trace, chart, chosen))
    except MissingField as refusal:
        assert chart.key in OF_LOGITS and "needs router logits" in str(refusal)
        return
    chart.draw(frame).to_dict()
    same = chart.measure(part_of(ordered, chart, chosen))
    if chart.key == "layer_overlap":
        same = same[same["measure"] == "shared ids"].reset_index(drop=True)
    if chart.key == "repeated_any_choice":
        own_first = (same["choice"] == "first choice") & (same["routing"] == "this trace")
        same = same[~own_first].reset_index(drop=True)
    if chart.tokens == "all":
        pd.testing.assert_frame_equal(frame, same)


def test_with_one_slot_every_order_is_known(by_hand):
    first = replace(
        by_hand, model=replace(by_hand.model, top_k=1, slot_order="unknown"), experts=by_hand.experts[..., :1]
    )
    assert first.ordered
    assert first.first_choices("This")[0].tolist() == [1, -1, -2, 2]


def test_first_choices_say_why_there_are_none(by_hand):
    unknown = replace(by_hand, model=replace(by_hand.model, slot_order="unknown"))
    with pytest.raises(MissingField, match=r"choice.* 2 "):
        unknown.first_choices("Flow")


def test_what_is_filled_and_what_is_recorded(by_hand):
    assert by_hand.filled[0].tolist() == [[True, True], [False] * 2, [False] * 2, [True, False]]
    assert by_hand.recorded.tolist() == [[True, True, False, True], [True] * 4]


def test_tokens_are_told_apart_where_they_are_listed(by_hand):
    assert token_layer(by_hand)["expert"].tolist() == [1, 0, -1, 0, -2, 0, 2, 0]
    assert token_choices(by_hand)["expert"].tolist() == [1, 0, 0, -1, 0, -2, 0, 2, 0]
    slots = token_expert(by_hand.select(layers=[0])).groupby("token")["slot"].apply(list).tolist()
    assert slots == [[1, 0, -1], [-1, -1, -1], [-2, -2, -2], [-1, -1, 0]]
    routes = [token_routes(by_hand.select(tokens=slice(t, t + 1)))["expert"].tolist() for t in range(4)]
    assert routes == [[1, 0, 0], [-1, 0], [-2, 0], [2, 0]]


def test_a_load_is_of_the_recorded_tokens_alone_and_a_dropped_token_is_one(by_hand):
    load = expert_load(by_hand.select(layers=[0]))
    assert load["tokens"].tolist() == [1, 1, 1]
    assert by_hand.counts().tokens.tolist() == [[3, 4]]


def test_a_token_that_is_not_recorded_is_in_no_pair_of_neighbours(by_hand):
    """Layer 0: a and b, b and c, c and d are neighbours, and one of each two is dropped or not recorded."""
    frame = locality(by_hand)
    assert frame.groupby("layer")["pairs"].max().tolist() == [0, 3]


def test_a_stretch_of_tokens_takes_its_share_of_the_recorded_ones():
    """Stretches of three: 0 and 0, one not recorded · none recorded · one dropped, two not recorded."""
    trace = trace_of(np.reshape([0, 0, -2, -2, -2, -2, -1, -2, -2], (1, 9, 1)), 1)
    frame = modal_first_choice(trace, columns=3)
    assert frame["expert"].tolist() == [0, -2, -1]
    assert frame["share"].tolist() == [1, 0, 0]
    assert frame["rank"].tolist() == [1, 0, 0]


def test_two_traces_are_compared_by_the_tokens_that_both_record():
    trace, other = complete(), replace(complete(), experts=np.roll(complete().experts, 1, axis=1), weights=None)
    mine, theirs = without(trace, GONE), replace(other, model=replace(other.model, slot_order="unknown"))
    kept = ~GONE
    changed, same = set_changes(mine, theirs), set_changes(trace.select(tokens=kept), other.select(tokens=kept))
    assert changed["tokens"].tolist() == [kept.sum()] * 4
    assert changed["first_changed"].isna().all()
    unknown = ["first_changed"]
    pd.testing.assert_frame_equal(changed.drop(columns=unknown), same.drop(columns=unknown))
    saturation = router_saturation(mine, theirs)
    assert set(saturation["choice"]) == {"all choices"}
    assert saturation["tokens"].tolist() == [kept.sum()] * 4
    assert load_difference((mine, trace)).equals(load_difference((trace.select(tokens=kept), trace)))
    assert load_divergence((mine, trace)).equals(load_divergence((trace.select(tokens=kept), trace)))


def test_layers_that_one_of_two_traces_does_not_record_are_not_compared():
    trace = complete()
    part = without(trace, np.ones(240, bool), slice(0, 2))
    assert load_difference((part, trace))["layer"].unique().tolist() == [2, 3]
    assert set_changes(part, trace)["layer"].tolist() == [2, 3]
    assert label_similarity(part, trace)["divergence"].notna().all()
    with pytest.raises(MissingField, match="layer"):
        load_difference((part, without(trace, np.ones(240, bool), slice(2, 4))))
    with pytest.raises(MissingField, match=r"[Tt]oken"):
        set_changes(part, without(trace, np.ones(240, bool), slice(2, 4)))


def test_flow_leaves_out_steps_between_layers_that_are_not_recorded_together():
    trace = without(complete(), np.ones(240, bool), slice(0, 1))
    assert consecutive_transitions(trace)["from_layer"].unique().tolist() == [1, 2]
    alternate = without(without(complete(), GONE, slice(0, None, 2)), ~GONE, slice(1, None, 2))
    with pytest.raises(MissingField, match="MoE"):
        consecutive_transitions(alternate)
    with pytest.raises(MissingField, match=r"\(0.*1\)"):
        overlap(alternate.select(layers=[0, 1]))


def test_traces_side_by_side_leave_them_out():
    trace = complete()
    frames = [work_side_by_side({"it": t}) for t in (without(trace, GONE), trace.select(tokens=~GONE))]
    pd.testing.assert_frame_equal(*frames)


def test_pictures_name_what_is_not_recorded_only_if_there_is_some():
    trace, whole = without(complete(), GONE).select(tokens=slice(0, 60)), complete().select(tokens=slice(0, 60))
    for chart in (NAMED["token_layer_map"], WHOLE_TRACE):
        assert theme.NOT_RECORDED in _legend(chart.draw(chart.measure(trace)).to_dict())
        assert theme.NOT_RECORDED not in _legend(chart.draw(chart.measure(whole)).to_dict())
    part = trace.select(layers=[1])
    assert f"pale: {theme.NOT_RECORDED}" in str(NAMED["token_expert_grid"].draw(token_expert(part)).to_dict())
    one = without(complete(), GONE, slice(1, 3)).select(tokens=slice(2, 3))
    route = NAMED["token_route"].draw(token_routes(one)).to_dict()
    assert theme.NOT_RECORDED in str(route)


def _legend(spec: dict) -> list[str]:
    """What a picture's legend names."""
    encodings = [part["encoding"] for part in spec["layer"]]
    scales = [encoding.get(channel, {}).get("scale") for encoding in encodings for channel in ("color", "fill")]
    (named,) = [scale["domain"] for scale in scales if scale]
    return named


def test_a_pixel_may_be_partly_transparent():
    data = b64decode(png(np.array([[0, 1, 2]], np.uint8), ["#ff0000", "#80808040"]).partition(",")[2])
    alpha = data.index(b"tRNS") + 4
    assert data[alpha : alpha + 3] == bytes([0, 255, 0x40])
    assert zlib.decompress(data[data.index(b"IDAT") + 4 :][:-16]) == bytes([0, 0, 1, 2])
    opaque = b64decode(png(np.array([[0, 1]], np.uint8), ["#ff0000"]).partition(",")[2])
    assert opaque[opaque.index(b"tRNS") - 4 :][:9] == b"\0\0\0\1tRNS\0"


def test_a_trace_that_does_not_say_where_tokens_went_is_not_replayed():
    trace = without(complete(), GONE)
    layers = {layer: RouterLimits(E, 2) for layer, E in zip(trace.model.layers, trace.model.num_experts, strict=True)}
    with pytest.raises(CaptureError, match="48"):
        Replay(trace).check(layers, trace.tokens["token_id"].to_numpy())


def test_the_report_marks_them_and_says_what_the_mark_means(by_hand):
    pytest.importorskip("vl_convert")
    page = _report(by_hand)
    assert '<span class="missing">c<sub>?</sub></span>' in page
    assert '<span class="">b<sub>–</sub></span>' in page
    assert "? is one whose experts are not recorded." in page and "– is a token without an expert." in page
    assert "the experts of 1 token, at some layers or at all" in page
    unknown = _report(replace(by_hand, model=replace(by_hand.model, slot_order="unknown")))
    assert '<span class="">a<sub>1, 0</sub></span>' in unknown
    assert "Tokens have no colours, since this trace does not say" in unknown


def _report(trace: RoutingTrace) -> str:
    from moeviz.report.page import html_report

    return html_report(trace, layer=0).decode()


def test_a_view_marks_them_and_needs_first_choices(by_hand):
    pytest.importorskip("vl_convert")
    from moeviz.report.view import View

    assert "hatched tokens with a ?, are not recorded" in View(by_hand).html
    assert "hatched tokens" not in View(sample_trace()).html
    with pytest.raises(MissingField, match="choice"):
        View(replace(by_hand, model=replace(by_hand.model, slot_order="unknown")))
    with pytest.raises(MoevizError, match="recorded"):
        View(without(sample_trace(), np.ones(32, bool)))
