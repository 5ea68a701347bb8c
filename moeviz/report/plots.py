"""Charts of a trace in a notebook, one method per topic: `trace.plot.load()`, `trace.plot.tokens(token=3)`.

Counts have them too: `counts.plot.load()`; a chart that needs more says so.

The topics and their charts are those of `moeviz.charts.REPORTED`, each by its lower-case word.

    >>> from moeviz.testing import sample_trace
    >>> pictures = sample_trace().plot.load(layer=2)
    >>> pictures.vconcat[1].title.text
    'How is the work of this layer divided among its experts?'
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap
from typing import Literal, cast

import altair as alt
import pandas as pd

from moeviz.charts import REPORTED, theme
from moeviz.charts.chart import Chart
from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.inputs import COUNTS_ALONE
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of
from moeviz.routing_trace import Counted
from moeviz.text import no_layer

NO_TOKENS = "This trace contains no tokens, so there is nothing to draw."
WIDTH = 640  # pixels: pictures under each other cannot be as wide as their page
LINE = 105  # characters of a line as wide as that
OWN_SCALES: dict[str, Literal["independent"]] = dict.fromkeys(
    ("color", "fill", "stroke", "opacity", "strokeOpacity", "size", "shape", "strokeDash"), "independent"
)


@dataclass(frozen=True, slots=True)
class Choices:
    """Layers and token that charts of one layer, of two layers and of one token are about."""

    layer: int
    layers: tuple[int, ...]  # one only where the trace has no second
    token: int | None


class Plots:
    """The pictures of one trace, or of counts: `dir` lists the topics, and calling one draws it, as `plot` says."""

    def __init__(self, trace: Counted) -> None:
        self._trace = trace

    def __getattr__(self, topic: str) -> Callable[..., alt.VConcatChart]:
        charts = _by_word().get(topic)
        if charts is None:
            raise AttributeError(f"There is no topic {topic!r}. Choose one of {', '.join(_by_word())}.")
        drawn = partial(plot, self._trace, topic)
        drawn.__doc__ = "\n".join(chart.question for chart in charts) + f"\n\n{plot.__doc__}"
        return drawn

    def __dir__(self) -> list[str]:
        return list(_by_word())

    def __repr__(self) -> str:
        return f"Plots({self._trace!r}): {', '.join(_by_word())}"


def plot(
    trace: Counted, topic: str, layer: int | None = None, layers: Sequence[int] | None = None, token: int | None = None
) -> alt.VConcatChart:
    """Draw all charts of one topic, one under the other, each under its question.

    Charts of one layer are about `layer` (default: the middle one), those that compare two about `layers` (default: the
    first and the last), by the model's own index; those of one token about `token`, a row of `trace.tokens`. What a
    chart is about stands above it. If a chart cannot be drawn, a sentence says why; if none can be drawn,
    that sentence is raised as an error. Token-by-token charts show the first 256 tokens: choose others with
    `trace.select`.
    """
    charts = _by_word().get(_word(topic))
    if charts is None:
        raise MoevizError(f"There is no topic {topic!r}. Choose one of {', '.join(_by_word())}.")
    chosen = choices(trace, layer, layers, token)
    pictures: list[alt.Chart | alt.LayerChart] = []
    reasons: list[MoevizError] = []
    for chart in (chart.of(trace.model) for chart in charts):
        try:
            pictures.append(
                _add_title(drawn(chart, trace, chosen), chart, f"{about(trace, chart, chosen)}{chart.reading}")
            )
        except MoevizError as error:
            reasons.append(error)
            pictures.append(_add_title(_nothing(), chart, visible(str(error))))
    if len(reasons) == len(charts):
        raise reasons[0]
    whole: alt.VConcatChart = alt.vconcat(*pictures).resolve_scale(**OWN_SCALES)
    return whole


def choices(trace: Counted, layer: int | None, layers: Sequence[int] | None, token: int | None) -> Choices:
    """Return the layers and token asked for, checked, with defaults for the rest. Raises `InvalidTrace`."""
    has = trace.model.layers
    pair = tuple(sorted({has[0], has[-1]} if layers is None else layers))
    if layers is not None and len(set(pair)) != 2:
        raise InvalidTrace(f"Charts of two layers need two different layers of {has}; got layers={pair}.")
    one = has[len(has) // 2] if layer is None else layer
    if missing := {one, *pair} - set(has):
        raise InvalidTrace(no_layer(trace.model.name, min(missing), has))
    if isinstance(trace, ExpertCounts):
        token = None
    elif token is not None and not 0 <= token < len(trace.tokens):
        raise InvalidTrace(f"Got token={token}. A token is a row of trace.tokens, from 0 to {len(trace.tokens) - 1}.")
    return Choices(one, pair, token)


def part_of(trace: Counted, chart: Chart, chosen: Choices) -> Counted:
    """Return the layers and tokens that a chart is about. Raises `MissingField` if there are too few, or none."""
    if chart.layers == "two" and len(chosen.layers) != 2:
        raise MissingField(
            "This compares two MoE layers, and the trace has only one. Use a trace of a model with several MoE layers."
        )
    if chart.layers != "all":
        trace = trace.select(layers=[chosen.layer] if chart.layers == "one" else chosen.layers)
    if isinstance(trace, ExpertCounts):
        if chart.tokens != "all":
            raise MissingField(COUNTS_ALONE)
        return trace
    if chart.tokens == "one":
        if chosen.token is None:
            raise MissingField(f"This is about one token. Give token=…, a row from 0 to {len(trace.tokens) - 1}.")
        return trace.select(tokens=slice(chosen.token, chosen.token + 1))
    return trace.select(tokens=slice(0, theme.MAX_TOKENS)) if chart.tokens == "window" else trace


def about(trace: Counted, chart: Chart, chosen: Choices) -> str:
    """Name the part of the trace that a chart shows, in short sentences; empty if it shows all of it."""
    pair = " and ".join(map(str, chosen.layers))
    words = {"all": "", "one": f"Layer {chosen.layer}. ", "two": f"Layers {pair}. "}[chart.layers]
    if chart.tokens == "one":
        words += f"Token {chosen.token}. "
    if chart.tokens == "window" and len(trace.tokens) > theme.MAX_TOKENS:
        words += f"The first {theme.MAX_TOKENS} of {len(trace.tokens):,} tokens. "
    return in_words_of(trace.model, words)


def drawn(chart: Chart, trace: Counted, chosen: Choices) -> alt.Chart | alt.LayerChart:
    """Return a chart's picture of its part of the trace, with its data inside."""
    return with_data_inside(chart.draw(chart.measure(part_of(trace, chart, chosen))))


def with_data_inside(chart: alt.Chart | alt.LayerChart) -> alt.Chart | alt.LayerChart:
    """A copy whose tables are written into it: no row is too many, and no setting that all threads share matters."""
    chart = chart.copy(deep=False)
    if isinstance(chart.data, pd.DataFrame):
        rows, chart.data = alt.to_values(chart.data)["values"], alt.InlineData(values=[])
        chart.data["values"] = rows  # as an argument each row would be checked, here and once more in the whole
    if isinstance(chart, alt.LayerChart):
        chart.layer = [with_data_inside(cast("alt.Chart | alt.LayerChart", layer)) for layer in chart.layer]
    return chart


def _add_title(picture: alt.Chart | alt.LayerChart, chart: Chart, words: str) -> alt.Chart | alt.LayerChart:
    title = alt.TitleParams(chart.question, subtitle=wrap(words, LINE), anchor="start", frame="group", offset=12)
    picture.usermeta = alt.Undefined  # belongs to a whole picture, and this becomes a part of one
    return picture.properties(width=WIDTH, title=title)


def _nothing() -> alt.Chart:
    empty: alt.Chart = alt.Chart(alt.InlineData(values=[])).mark_point().properties(height=1)
    return empty


def _by_word() -> dict[str, tuple[Chart, ...]]:
    return {_word(topic): charts for topic, charts in REPORTED.items()}


def _word(topic: str) -> str:
    return topic.lower().replace("-", "_")  # a name in Python
