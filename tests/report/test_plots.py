"""Pictures of a trace in a notebook: every topic there is, for the layers and the token that were asked for."""

import html
import pickle
import subprocess
import sys
from dataclasses import replace

import altair as alt
import pandas as pd
import pytest
from labels import labelled

from moeviz import ParameterCounts, RoutingTrace
from moeviz.charts import REPORTED, theme
from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.report.plots import plot
from moeviz.testing import sample_trace

COUNTS = ParameterCounts(6_000, 6_000, 20_000, 400, 96_000, 0, 0, 90, per_expert=(3_000,) * 4)


@pytest.fixture(scope="module")
def complete() -> RoutingTrace:
    """A trace that lacks nothing: each of its words comes often enough."""
    trace = sample_trace(tokens=160)
    return labelled(replace(trace, model=replace(trace.model, parameters=COUNTS)))


@pytest.fixture(scope="module", params=REPORTED)
def drawn(request, complete) -> tuple[str, alt.VConcatChart]:
    """A topic, and all of it drawn once for the tests that look at it."""
    return request.param, getattr(complete.plot, request.param.lower().replace("-", "_"))(token=3)


def titles(pictures: alt.VConcatChart) -> list[str]:
    return [picture.title.text for picture in pictures.vconcat]


def words(pictures: alt.VConcatChart) -> list[str]:
    return [" ".join(picture.title.subtitle) for picture in pictures.vconcat]


def test_a_topic_shows_each_of_its_charts_under_its_question_with_its_reading(drawn):
    topic, pictures = drawn
    assert titles(pictures) == [chart.question for chart in REPORTED[topic]]
    for chart, said in zip(REPORTED[topic], words(pictures), strict=True):
        assert said.endswith(chart.reading)


def test_pictures_under_each_other_are_a_valid_specification_with_its_data(drawn):
    spec = drawn[1].to_dict()
    said = str(spec)
    assert "usermeta" not in said
    assert "'url'" not in said
    assert {picture["width"] for picture in spec["vconcat"]} == {640}


def test_the_topics_are_listed_and_another_is_an_attribute_error(trace):
    assert dir(trace.plot) == sorted(topic.lower().replace("-", "_") for topic in REPORTED)
    assert not hasattr(trace.plot, "weather")
    with pytest.raises(AttributeError, match="'weather'"):
        _ = trace.plot.weather
    with pytest.raises(MoevizError, match="'weather'"):
        plot(trace, "weather")


def test_a_topic_added_today_is_a_method_today(trace, monkeypatch):
    monkeypatch.setitem(REPORTED, "Weather", REPORTED["Load"][:1])
    assert titles(trace.plot.weather()) == [REPORTED["Load"][0].question]


def test_the_middle_layer_and_the_outer_two_are_the_defaults(trace):
    assert sum("Layer 2." in said for said in words(trace.plot.load())) == 1
    assert all(said.startswith("Layers 0 and 3.") for said in words(trace.plot.layers()))


def test_layers_are_chosen_by_the_model_s_own_index(trace):
    bars = trace.plot.load(layer=1).vconcat[1].layer[0]
    assert {row["layer"] for row in bars.data["values"]} == {1}
    assert all(said.startswith("Layers 1 and 2.") for said in words(trace.plot.layers(layers=(2, 1))))


def test_without_a_token_the_charts_of_one_token_ask_for_it(trace):
    asked = words(trace.plot.tokens())[-1]
    assert asked == "This is about one token. Give token=…, a row from 0 to 31."
    assert words(trace.plot.tokens(token=31))[-1].startswith("Token 31.")


def test_what_a_trace_lacks_is_said_in_the_place_of_the_picture(ids_only_trace):
    pictures = ids_only_trace.plot.load()
    at = [chart.question for chart in REPORTED["Load"]].index(
        "Do routers use the experts that they give high probabilities?"
    )
    assert "needs router logits, and this trace (sample) has none." in words(pictures)[at]
    assert pictures.vconcat[at].data.values == []


def test_where_no_chart_of_a_topic_can_be_drawn_the_sentence_is_raised(trace):
    with pytest.raises(MissingField, match="parameter"):
        trace.plot.parameters()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layer": 9}, "MoE layer 9.*0.*1.*2.*3"),
        ({"layers": (0, 9)}, "no MoE layer 9"),
        ({"layers": (1, 1)}, r"\(0.*1.*2.*3\).*layers=\(1.*1\)"),
        ({"layers": ()}, r"got layers=\(\)"),
        ({"token": 32}, r"Got token=32\. .* from 0 to 31"),
        ({"token": -1}, "Got token=-1"),
    ],
)
def test_a_wrong_choice_gets_one_sentence(arguments, sentence, trace):
    with pytest.raises(InvalidTrace, match=sentence):
        trace.plot.load(**arguments)


def test_a_long_text_is_drawn_from_its_beginning_and_says_so():
    trace = sample_trace(layers=2, tokens=theme.MAX_TOKENS + 44)
    assert words(trace.plot.tokens())[0].startswith("The first 256 of 300 tokens.")


def test_more_rows_than_altair_takes_are_drawn_all_the_same():
    trace = sample_trace(layers=24, tokens=theme.MAX_TOKENS)
    spec = trace.plot.confidence().to_dict()
    assert max(len(rows) for rows in spec["datasets"].values()) == 24 * theme.MAX_TOKENS


def test_a_picture_among_others_says_nothing_of_the_whole(complete):
    """Vega-Lite takes padding, autosize and config from a whole specification alone."""
    pictures = complete.plot.tokens(token=3).to_dict()["vconcat"]
    assert not {"padding", "autosize", "config", "usermeta"} & {key for picture in pictures for key in picture}


def test_a_stranger_s_name_in_a_sentence_cannot_reorder_it(ids_only_trace):
    hostile = replace(ids_only_trace, model=replace(ids_only_trace.model, backend="\u202efile"))
    assert any("⟨U+202E⟩file" in said for said in words(hostile.plot.load()))


def test_a_trace_is_one_line_in_a_prompt_and_cannot_move_the_cursor(trace, ids_only_trace):
    expected = "<RoutingTrace of 'sample': 32 tokens, 4 MoE layers, top-2 of 8 experts, with weights and logits>"
    assert repr(trace) == expected
    assert "ids alone" in repr(ids_only_trace)
    assert "\x1b" not in repr(replace(trace, model=replace(trace.model, name="\x1b[2J")))
    assert repr(trace) in repr(trace.plot)


def test_a_notebook_shows_facts_and_the_first_lines(trace):
    shown = trace._repr_html_()
    for fact in ("sample", "32, 8 of them generated", "4 (0 to 3) of 4", "top-2 of 8", "expert ids, weights, logits"):
        assert f">{fact}" in shown
    assert "The router sends each token to two experts." in shown


def test_a_notebook_gets_strangers_texts_as_text(trace):
    hostile = "<img src=x onerror=alert(1)>\u202e"
    tokens = trace.tokens.assign(text=pd.Series([hostile] * 32, dtype="str"))
    model = replace(trace.model, name=hostile, backend=hostile, dtype=hostile, site=hostile, caution=hostile)
    shown = replace(trace, tokens=tokens, model=replace(model, layer_kind=hostile))._repr_html_()
    assert "<img" not in shown and "\u202e" not in shown
    assert shown.count(html.escape("<img src=x onerror=alert(1)>")) > 6


def test_a_trace_without_tokens_is_shown_too(trace):
    assert "<pre" not in trace.select(tokens=slice(0, 0))._repr_html_()


def test_a_trace_that_can_draw_can_still_be_pickled(trace):
    assert pickle.loads(pickle.dumps(trace)).equals(trace)


def test_importing_moeviz_loads_nothing_that_draws():
    heavy = "{'altair', 'torch', 'streamlit', 'vl_convert', 'moeviz.charts'}"
    program = f"import moeviz, moeviz.formats.exports, sys; assert not {heavy} & {{*sys.modules}}"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
