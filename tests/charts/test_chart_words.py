"""Charts of a trace that routes no tokens: titles, axes, legends and tooltips are in its own words."""

import re
from dataclasses import replace
from functools import cache

import altair as alt
import pytest
from chart_cases import CHARTS, OF_ONE_EXPERT, fitted, repeated, sized
from labels import labelled

from moeviz.charts import vocabulary
from moeviz.charts.chart import with_titles
from moeviz.charts.comparison import COMPARISONS
from moeviz.charts.expert import ATLAS, COMPANY, ROWS
from moeviz.charts.overview import WHOLE_TRACE
from moeviz.charts.serving import CHARTS as OF_SERVING
from moeviz.charts.serving import FITS
from moeviz.metrics.words import in_words_of
from moeviz.testing import sample_trace

OURS = re.compile(r"\b(tokens?|layers?|kinds? of text)\b", re.IGNORECASE)
OF_A_TRACE = [*CHARTS, *(chart for chart in OF_SERVING if chart is not FITS), WHOLE_TRACE, *COMPARISONS]
OF_A_TRACE += [chart for chart in OF_ONE_EXPERT if chart is not ROWS]  # which is of a model's weights
OF_A_TRACE = OF_A_TRACE[::5]  # all charts take their words from one place


@cache
def digits():
    """Digits that levels of gates route, labelled by where they are."""
    trace = labelled(sized(sample_trace()))
    words = {"item_kind": "digit", "label_kind": "place", "layer_kind": "level"}
    return replace(trace, model=replace(trace.model, **words))


@cache
def frame_of(chart):
    trace = digits()
    if chart in COMPARISONS:
        return chart.measure((trace, trace))
    if chart in OF_ONE_EXPERT:
        return chart.measure(repeated(trace), 1, 3)
    part = fitted(trace, chart)
    return chart.measure(repeated(part) if chart in vocabulary.CHARTS else part)


def words_in(spec, key=""):
    """What a reader sees of a specification: titles, texts, and the names of fields where there is no title."""
    if isinstance(spec, list):
        return [word for part in spec for word in words_in(part, key)]
    if isinstance(spec, str):
        return [spec] if key in ("title", "text", "subtitle") else re.findall("'[^']+'", spec) * (key == "calculate")
    if not isinstance(spec, dict):
        return []
    found = [word for name, part in spec.items() if name not in ("data", "datasets") for word in words_in(part, name)]
    return found + _unnamed(spec, key)


def _unnamed(spec, key):
    """The name of a field that Vega writes where a channel with an axis, a legend or a tooltip has no title."""
    seen = key in ("x", "y", "color", "fill", "stroke", "size", "shape", "opacity", "strokeDash", "tooltip")
    own = [spec.get("axis", {}), spec.get("legend", {})]
    hidden = key != "tooltip" and (None in own or any("title" in (part or {}) for part in own))
    return [spec["field"]] if seen and "field" in spec and "title" not in spec and not hidden else []


@pytest.mark.parametrize("chart", OF_A_TRACE, ids=lambda chart: chart.key)
def test_a_chart_of_digits_speaks_of_digits_and_levels(chart):
    own = chart.of(digits().model)
    assert own.key == chart.key and own.method == chart.method
    said = [own.question, own.reading, *words_in(own.draw(frame_of(chart)).to_dict())]
    assert not [words for words in said if OURS.search(words)]


def test_without_its_words_nearly_every_chart_speaks_of_tokens_or_layers():
    """The control of the test above."""
    plain = [words_in(chart.draw(frame_of(chart)).to_dict()) for chart in OF_A_TRACE]
    assert sum(any(OURS.search(words) for words in said) for said in plain) > 0.8 * len(plain)


@pytest.mark.parametrize("chart", [COMPANY, ATLAS, *CHARTS[:3]], ids=lambda chart: chart.key)
def test_a_chart_of_a_language_model_is_as_it_was(chart):
    assert chart.of(sample_trace().model) is chart


def test_data_and_what_is_quoted_stay_as_they_are():
    model = digits().model
    data = alt.InlineData(values=[{"title": "token", "layer": "token"}])
    picture = alt.Chart(data).mark_text(text="a token")
    spec = with_titles(picture.encode(x="layer:N"), lambda title: in_words_of(model, title)).to_dict()
    assert [*spec["datasets"].values()] == [[{"title": "token", "layer": "token"}]]
    assert spec["mark"]["text"] == "a digit" and spec["encoding"]["x"] == {
        "field": "layer",
        "title": "level",
        "type": "nominal",
    }
    assert in_words_of(model, "“token” is a token") == "“token” is a digit"
