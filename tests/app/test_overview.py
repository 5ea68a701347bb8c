"""A long trace as one picture: what its columns mean, that its pixels are right, and what a brush in it chooses."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from app_pages import drawn, first_page, pictures, sentences, topic_page, visit_of
from PIL import Image
from routed_trace import trace_of
from streamlit.testing.v1 import AppTest

from moeviz import RoutingTrace
from moeviz.charts import theme
from moeviz.charts.overview import BRUSH, HOVERED, LETTERS, brushed_window, first_choice_overview, png, with_window
from moeviz.errors import InvalidTrace
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import token_layer, visible
from moeviz.routing_trace import NO_EXPERT
from moeviz.testing import sample_trace
from moeviz_app.session import session
from moeviz_app.views.explore import EXPLORER, MOST_ASSIGNMENTS

pytestmark = pytest.mark.usefixtures("box_of_widgets")
MEGABYTE = 1_000_000


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Seven tokens a to g; layers 1 (4 experts) and 5 (3 experts), top-1.

    Cut into stretches of three: abc, def, g.
    Layer 1: 3 1 1 | 2 0 3 | -  so 1 with two votes of three, 2 as the first of three with one each, and no expert.
    It has 3 and 1 twice each and 2 and 0 once each, so their ranks are 1: first, 3: second, 0: third, 2: fourth.
    Layer 5: - 2 - | 0 2 0 | 2  so 2 with one vote of three, 0 with two, 2 with one of one. 2 is first, 0 second.
    """
    first = [[3, 1, 1, 2, 0, 3, -1], [-1, 2, -1, 0, 2, 0, 2]]
    return trace_of(np.array(first)[..., None], (4, 3), layers=(1, 5), text=list("abcdefg"))


def random_trace(layers: int, tokens: int, experts: int) -> RoutingTrace:
    """Experts by lot: no routing is harder to compress."""
    small = sample_trace(layers=layers, tokens=tokens, top_k=1, experts=1)
    lots = np.random.default_rng(1).integers(0, experts, small.experts.shape, np.int16)
    return replace(small, model=replace(small.model, num_experts=(experts,) * layers), experts=lots, logits=None)


def pixels_of(url: str) -> np.ndarray:
    """Red, green, blue and opacity of each pixel, read by another program."""
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def picture_of(trace: RoutingTrace) -> np.ndarray:
    return pixels_of(first_choice_overview(modal_first_choice(trace)).layer[1].data["url"].iloc[0])


def long_page(trace: RoutingTrace) -> AppTest:
    """The first page with that trace, in the test harness."""
    return first_page(trace)


def tokens_page(trace: RoutingTrace) -> AppTest:
    """The page on which a token of any trace is chosen."""
    return topic_page("Tokens", trace)


def rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour.removeprefix("#")))


def test_a_stretch_has_the_most_frequent_first_choice_of_its_tokens(by_hand):
    frame = modal_first_choice(by_hand, columns=3)
    assert frame["token"].tolist() == [0, 0, 3, 3, 6, 6]
    assert frame["tokens"].tolist() == [3, 3, 3, 3, 1, 1]
    assert frame["text"].tolist() == ["abc"] * 2 + ["def"] * 2 + ["g"] * 2
    assert frame["layer"].tolist() == [1, 5] * 3
    assert frame["num_experts"].tolist() == [4, 3] * 3
    assert frame["expert"].tolist() == [1, 2, 2, 0, -1, 2]
    assert frame["share"].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3, 0, 1])
    assert frame["rank"].tolist() == [1, 1, 4, 2, 0, 1]


def test_where_every_stretch_is_a_token_nothing_is_summed_up(by_hand):
    frame, each = modal_first_choice(by_hand, columns=7), token_layer(by_hand)
    for column in ("token", "text", "layer", "num_experts", "expert"):
        assert frame[column].tolist() == each[column].tolist()
    assert (frame["tokens"] == 1).all()
    assert ((frame["share"] == 1) == (frame["expert"] != NO_EXPERT)).all()


def test_a_tie_goes_to_the_first_in_the_text_whatever_its_id(by_hand):
    relabelled = replace(by_hand, experts=np.where(by_hand.experts < 0, NO_EXPERT, 2 - by_hand.experts % 3))
    before, after = (modal_first_choice(trace.select(layers=[5]), columns=3) for trace in (by_hand, relabelled))
    assert after["expert"].tolist() == [2 - expert for expert in before["expert"]]


def test_stretches_are_as_few_as_asked_for_and_hold_every_token():
    trace = random_trace(2, 1025, 8)
    frame = modal_first_choice(trace, columns=1024).drop_duplicates("token")
    assert len(frame) == 513
    assert frame["tokens"].sum() == 1025
    assert "".join(frame["text"]) == "".join(trace.tokens["text"])


def test_ranks_are_in_the_order_of_the_colours_of_the_other_charts():
    trace = random_trace(3, 500, 64)
    for layer, rows in modal_first_choice(trace).groupby("layer"):
        ranks = rows.drop_duplicates("expert").set_index("expert")["rank"]
        focus = theme.focus(trace.experts[layer, :, 0])
        assert ranks[list(focus)].tolist() == list(range(1, theme.FOCUS + 1))


def test_a_trace_without_tokens_has_no_overview(by_hand):
    with pytest.raises(InvalidTrace, match="trace"):
        modal_first_choice(by_hand.select(tokens=slice(0, 0)))


def test_a_picture_has_the_colours_it_was_given_and_none_at_0():
    pixels = pixels_of(png(np.array([[0, 1, 2], [2, 2, 1]], np.uint8), ["#010203", "#fffe00"]))
    first, second = [1, 2, 3, 255], [255, 254, 0, 255]
    assert pixels[0, 0, 3] == 0
    assert pixels[0, 1:].tolist() == [first, second]
    assert pixels[1].tolist() == [second, second, first]


def test_each_pixel_has_the_colour_of_its_expert():
    trace = random_trace(4, 300, 8)
    expected = np.array([rgb(colour) for colour in theme.expert_colours(8)])[trace.experts[..., 0]]
    assert np.array_equal(picture_of(trace)[..., :3], expected)


def test_a_token_without_an_expert_is_transparent():
    trace = random_trace(4, 300, 8)
    experts = trace.experts.copy()
    experts[2, 7] = NO_EXPERT
    opacity = picture_of(replace(trace, experts=experts, weights=None))[..., 3]
    assert opacity[2, 7] == 0
    assert (opacity == 255).sum() == 4 * 300 - 1


def test_of_many_experts_the_busiest_of_each_layer_have_a_colour_and_the_rest_are_grey():
    trace = random_trace(3, 500, 64)
    pixels = picture_of(trace)[..., :3]
    for at, first in enumerate(trace.experts[..., 0]):
        colours = theme.expert_colours(64, theme.focus(first))
        assert np.array_equal(pixels[at], [rgb(colours[expert]) for expert in first])


def test_the_picture_of_a_long_trace_is_no_wider_than_a_page():
    trace = random_trace(3, 5000, 8)
    frame = modal_first_choice(trace)
    chart = first_choice_overview(frame)
    whole, columns = chart.layer[1].data.iloc[0], chart.layer[2].data
    assert pixels_of(whole["url"]).shape[:2] == (3, 1000)
    assert (whole["start"], whole["end"]) == (-0.5, 4999.5)
    assert len(columns) <= HOVERED
    assert (columns["start"].iloc[0], columns["end"].iloc[-1]) == (-0.5, 4999.5)
    assert (columns["end"].iloc[:-1].to_numpy() == columns["start"].iloc[1:].to_numpy()).all()


def test_a_last_stretch_that_is_shorter_lies_under_the_end_of_the_axis():
    chart = first_choice_overview(modal_first_choice(random_trace(2, 1027, 8)))
    assert chart.layer[1].data["end"].iloc[0] == 1027.5  # the image's last column is of two tokens, one of them there
    assert chart.to_dict()["layer"][1]["encoding"]["x"]["scale"]["domain"] == [-0.5, 1026.5]
    assert chart.layer[2].data["last"].iloc[-1] == 1026


def test_what_can_be_pointed_at_is_short_and_shows_what_would_vanish():
    trace = random_trace(2, 600, 8)
    text = trace.tokens["text"].copy()
    text[0], text[5] = "x" * 500, "\u202e"
    shown = first_choice_overview(modal_first_choice(replace(trace, tokens=trace.tokens.assign(text=text)))).layer[2]
    assert shown.data["shown"].iloc[0] == "x" * LETTERS + "…"
    assert "⟨U+202E⟩" in shown.data["shown"].iloc[2]
    assert [tip.shorthand for tip in shown.encoding.tooltip] == ["shown:N", "first:Q", "last:Q"]


def test_the_frame_is_around_the_tokens_that_are_drawn():
    chart = with_window(first_choice_overview(modal_first_choice(random_trace(2, 600, 8))), range(100, 356))
    assert chart.layer[3].data.iloc[0].to_dict() == {"start": 99.5, "end": 355.5}
    spec = chart.to_dict()
    assert spec["width"] == "container"
    assert spec["usermeta"] == {"embedOptions": {"renderer": "canvas"}}
    (brush,) = spec["params"]
    assert (brush["name"], brush["select"]["type"], brush["select"]["encodings"]) == (BRUSH, "interval", ["x"])


@pytest.mark.parametrize(
    ("brush", "rows"),
    [
        ([299.7, 350.2], range(300, 351)),
        ([299.5, 300.5], range(300, 301)),
        ([-12.4, 40.0], range(0, 41)),
        ([100.0, 3000.0], range(100, 356)),
        ([3999.6, 5000.0], range(4000, 4096)),
        ([float("nan"), float("inf")], range(0, 256)),
    ],
)
def test_a_brush_is_cut_to_whole_tokens_of_the_trace_and_to_what_can_be_drawn(brush, rows):
    assert brushed_window(brush, 4096) == rows


@pytest.mark.parametrize(("layers", "tokens", "experts"), [(32, 4096, 128), (60, 16384, 128)])
def test_no_message_is_too_large_for_a_browser(layers, tokens, experts):
    trace = random_trace(layers, tokens, experts)
    app = long_page(trace)
    assert not app.exception
    sent = drawn(app, EXPLORER)
    assert len(json.dumps(sent)) < 4 * MEGABYTE
    assert (len(sent["texts"]) == tokens) == (trace.experts.size <= MOST_ASSIGNMENTS)
    assert max(chart.proto.ByteSize() for chart in app.get("vega_lite_chart")) < MEGABYTE


def test_a_trace_that_is_too_large_is_explored_a_stretch_at_a_time(monkeypatch):
    monkeypatch.setattr("moeviz_app.views.explore.MOST_ASSIGNMENTS", 1000)
    trace = random_trace(4, 1638, 8)
    app = long_page(trace)
    assert "tokens 0 to 255 of 1,638" in sentences(app)
    visit_of(app).brushed = range(100, 130)
    visit_of(app).token = 107
    app.run()
    assert not app.exception
    sent = drawn(app, EXPLORER)
    assert sent["texts"] == [visible(text) for text in trace.tokens["text"][100:130]]
    assert sent["at"][1] == 7, "by its place in the stretch"


def test_only_a_trace_of_several_windows_has_an_overview():
    short, long = (tokens_page(sample_trace(layers=2, tokens=theme.MAX_TOKENS + more)) for more in (0, 1))
    assert pictures(long) == pictures(short) + 1
    assert "Each column is one token and each row" in "\n".join(text.value for text in long.markdown)


def test_what_was_brushed_is_on_screen_until_a_page_is_turned():
    app = tokens_page(sample_trace(layers=2, tokens=600))
    visit_of(app).brushed = range(100, 130)
    app.run()
    assert [token["position"] for token in drawn(app, session.STRIP)["tokens"]] == list(range(100, 130))
    assert "tokens 100 to 129 of 600" in sentences(app)
    visit_of(app).brushed = None
    app.session_state[session.WINDOW] = 3
    app.run()
    assert "tokens 512 to 599 of 600" in sentences(app)
