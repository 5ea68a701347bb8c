"""One chart on a page: its question, its picture, its numbers, its method, its download; or why there is none."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from zlib import crc32

import pandas as pd
import streamlit as st
from moeviz_app import shared, state
from moeviz_app.facts import layer_word
from moeviz_app.glossary import explained_terms
from moeviz_app.pictures import altair_chart
from moeviz_app.plain import plain
from moeviz_app.to_expert import HasModel, follow_click, picture_of_experts, picture_of_pairs
from moeviz_app.traces.once import once

from moeviz.charts.chart import Chart
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.metrics.words import in_words_of
from moeviz.model_info import ModelInfo
from moeviz.report.pictures import installed, svg
from moeviz.report.plots import with_data_inside
from moeviz.routing_trace import RoutingTrace
from moeviz.spreadsheets import table_as_csv

MOST_ROWS = 10_000  # of a chart's numbers, in a table that every visitor's browser gets with the page
EXAMPLE = "**Example, recorded beforehand.**"


def say(sentence: str) -> None:
    """Show a sentence that may quote a stranger: as plain text, since Markdown can load pictures from anywhere."""
    with st.container(border=True, horizontal=True, wrap=False):
        st.markdown(":material/info:", width="content")
        st.text(sentence, width="stretch")


def refuse(sentence: str) -> None:
    """The same in the colours of an error: what the visitor has asked for was not done."""
    with st.container(border=True, horizontal=True, wrap=False, key=f"refused {crc32(sentence.encode())}"):
        st.markdown(":material/error:", width="content")  # main.py colours what is so called
        st.text(sentence, width="stretch")


@contextmanager
def explained(tell: Callable[[str], None] = say, but: tuple[type[MoevizError], ...] = ()) -> Iterator[None]:
    """Where the block cannot do what it should, show why in its place. The one place that catches MoevizError.

    `refuse` is the way to tell what went wrong with something that the visitor has asked for. What is of the kinds in
    `but` is raised: the page has more to offer than a sentence.
    """
    try:
        yield
    except but:
        raise
    except MoevizError as why:
        tell(str(why))


def heading(chart: Chart, model: ModelInfo | None = None) -> None:
    """A chart's question, in the words of the model that it is asked of, with those that it needs explained."""
    question = chart.question if model is None else chart.of(model).question
    st.subheader(question, anchor=False, help=explained_terms(*words_of(chart)))


def words_of(chart: Chart) -> tuple[str, ...]:
    """What a chart says of itself: its question, how to read it, and what is measured."""
    return chart.question, chart.reading, *chart.method.split("\n\n")[:2]


Told = dict[str, tuple[Any, list[str]]]  # what is lacking: a place on the page, and the questions without an answer


def show_all(charts: Iterable[Chart], trace: RoutingTrace) -> None:
    """Draw these charts; what several of them lack is said once, at the first of them."""
    told: Told = {}
    for chart in charts:
        show(chart, trace, told)


def show(chart: Chart, trace: RoutingTrace, told: Told | None = None) -> None:
    """Draw `chart` for the layers and tokens that it asks for, with everything that belongs to it."""
    follow_click(trace)
    frame = None
    with explained(partial(tell_once, chart, trace.model, {} if told is None else told)):
        part = part_of(trace, chart)
        frame = once(part, (chart.key, "numbers"), lambda: chart.measure(part))
    if frame is None:
        return
    heading(chart, trace.model)
    with explained():
        sentence = once(part, (chart.key, "said"), lambda: chart.caption(frame))
        if layer_word(trace.model) == "layer" and sentence:  # it speaks of layers
            st.text(in_words_of(trace.model, sentence))
        picture_and_words(chart, frame, part)


def tell_once(chart: Chart, model: ModelInfo, told: Told, sentence: str) -> None:
    """Why a chart is not drawn. What a trace lacks is said after the name of a measure: "… needs router logits"."""
    lacking = sentence.partition(" needs ")[2] or sentence
    if lacking not in told:
        heading(chart, model)
        say(sentence)
        told[lacking] = (st.empty(), [])
        return
    place, questions = told[lacking]
    questions.append(chart.of(model).question)
    place.text(f"The same goes for: {' · '.join(questions)}")


def picture_and_words(
    chart: Chart, frame: pd.DataFrame, part: HasModel | None = None, model: ModelInfo | None = None
) -> None:
    """The picture of these numbers, and beside it what is to be said about them, in the words of `model`.

    Where it is of `part`, of the trace or the dataset on screen, a click on an expert or a pair of layers leads on.
    """
    model = model if part is None else part.model
    chart = chart if model is None else chart.of(model)
    picture, words = st.columns([3, 1], gap="medium")
    with picture:
        drawn = _drawn(chart, frame, part)
        if part is not None and chart.expert:
            picture_of_experts(chart, drawn, part, alternative(chart))
        elif part is not None and chart.two_layers:
            picture_of_pairs(chart, drawn, part, alternative(chart))
        else:
            altair_chart(drawn, key=chart.key, alt=alternative(chart))
    with words:
        particulars(chart, frame)


def _drawn(chart: Chart, frame: pd.DataFrame, part: HasModel | None) -> Any:
    dark = on_dark()
    if part is None:
        return chart.picture(frame, dark=dark)
    return once(part, (chart.key, "picture", dark), lambda: chart.picture(frame, dark=dark))


def on_dark() -> bool:
    """Whether the visitor's page is dark."""
    return st.context.theme.type == "dark"


def particulars(chart: Chart, frame: pd.DataFrame) -> None:
    """How to read a picture, and a menu of what belongs to it."""
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        menu(chart, frame)
        st.markdown(chart.reading)


def menu_and_reading(chart: Chart, frame: pd.DataFrame) -> None:
    """What belongs to a picture, in one line under it: its menu, and how to read it."""
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        menu(chart, frame)
        note(chart.reading)


def note(text: str) -> None:
    """Small, in the page's own ink: a caption's is too pale on a light page."""
    st.markdown(f":small[{plain(text)}]")


def menu(chart: Chart, frame: pd.DataFrame) -> None:
    """The numbers behind a picture, how they came about, and files of both."""
    with st.popover("⋯", width="content", help="Numbers, method, files"):
        st.dataframe(frame.head(MOST_ROWS), hide_index=True, key=f"{chart.key} numbers")
        if len(frame) > MOST_ROWS:
            st.caption(f"The first {MOST_ROWS:,} of {len(frame):,} rows. The CSV has all of them.")
        with st.container(horizontal=True, gap="small"):
            _download(chart, "CSV", "text/csv", lambda: table_as_csv(frame))
            if installed():
                _download(chart, "SVG", "image/svg+xml", lambda: svg(with_data_inside(chart.draw(frame))))
        st.markdown("**How is this computed?**")
        st.text(chart.method)


def _download(chart: Chart, kind: str, mime: str, make: Callable[[], bytes]) -> None:
    """A file that is only made when somebody asks for it."""
    name = f"moeviz-{chart.key.replace('_', '-')}.{kind.lower()}"
    key = f"{chart.key} {kind.lower()}"
    st.download_button(kind, shared.making(make), name, mime, on_click="ignore", key=key, icon=":material/download:")


def alternative(chart: Chart) -> str:
    """What a screen reader says in place of the picture."""
    return f"{chart.question} {chart.reading} The same numbers are in its menu."


def part_of(trace: RoutingTrace, chart: Chart) -> RoutingTrace:
    """The layers and tokens of `trace` that `chart` draws, as the visitor chose them."""
    if chart.layers != "all":
        layers = state.chosen_layers(chart.layers)
        if len(layers) > len(trace.model.layers):
            raise InvalidTrace(
                "This compares two MoE layers, and the trace has only one. Use a trace of a model with several MoE "
                "layers."
            )
        trace = trace.select(layers=layers)
    if chart.tokens == "window":
        rows = state.window()
        return trace.select(tokens=slice(rows.start, rows.stop))
    if chart.tokens == "one":
        if (token := state.selected_token()) is None:
            raise InvalidTrace("This is about one token, and none is selected. Click a token in the text above.")
        return trace.select(tokens=slice(token, token + 1))
    return trace


def example_note(what_to_do: str) -> None:
    """Say that what is drawn is nothing that this visitor has run."""
    st.markdown(f"{EXAMPLE} {what_to_do}")


def trace_to_draw() -> RoutingTrace | None:
    """The trace on screen; or None, after the page has said why there is nothing to draw."""
    trace = state.shown_trace()
    if state.is_example():
        example_note("Run a prompt on the Explore page, or open a trace file on the Traces page.")
    if trace.tokens.empty:
        say("This trace contains no tokens, so there is nothing to draw. Run a prompt, or open another file.")
        return None
    return trace
