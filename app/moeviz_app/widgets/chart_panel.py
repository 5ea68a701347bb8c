"""One chart on a page: its question, its picture, its numbers, its method, its download; or why it is missing."""

import re
import tomllib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import streamlit as st

from moeviz.charts.chart import EXPERT, PAIR, Chart, clickable
from moeviz.charts.theme import MEDIUM
from moeviz.errors import InvalidTrace
from moeviz.metrics.expert_names import with_names
from moeviz.metrics.words import in_words_of, layer_word
from moeviz.model_info import ModelInfo
from moeviz.report.pictures import Small, Unchecked, installed, svg
from moeviz.report.plots import with_data_inside
from moeviz.routing_trace import RoutingTrace
from moeviz.spreadsheets import table_as_csv
from moeviz_app.jobs import model_service
from moeviz_app.jobs.recorded import cached_for_example, names_of
from moeviz_app.session import recent, session
from moeviz_app.widgets.expert_links import ASKED, follow_click, one_more_step, steps
from moeviz_app.widgets.messages import escape_markdown, explained, say
from moeviz_app.widgets.near import draw_whole_page, when_near
from moeviz_app.widgets.subject_bar import shown_instead_tag

GLOSSARY = tomllib.loads(Path(__file__).with_name("glossary.toml").read_text("utf-8"))
PATTERNS = {term: re.compile(rf"\b{re.escape(term)}s?\b", re.IGNORECASE) for term in GLOSSARY}


def explained_terms(*texts: str) -> str | None:
    """Return the terms of the glossary that occur in these texts, as Markdown; None if none does."""
    whole = " ".join(texts)
    found = [f"**{term}**: {meaning}" for term, meaning in GLOSSARY.items() if PATTERNS[term].search(whole)]
    return "\n\n".join(found) or None


_heights: dict[Hashable, int] = {}  # of pictures, by chart, layers and experts: what is kept free for the next
MOST_HEIGHTS = 4_096
SENTENCE = 150  # characters of a caption of 25 words: room that it does not need goes once it is out of sight
MOST_ROWS = 10_000  # of a chart's numbers, in a table that every visitor's browser gets with the page


class HasModel(Protocol):
    """A trace, or a part of a dataset."""

    @property
    def model(self) -> ModelInfo:
        """The model whose experts its charts are of."""


def heading(chart: Chart, model: ModelInfo | None = None) -> None:
    """A chart's question, in the words of the model that it is asked of, with those that it needs explained."""
    question = chart.question if model is None else chart.of(model).question
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(question, anchor=False, help=explained_terms(*words_of(chart)), width="content")
        tag()


def tag() -> None:
    """Draw on a picture that it is not of what the visitor has chosen, if the page draws something else."""
    if (words := shown_instead_tag()) is not None:
        st.badge(escape_markdown(words), color="orange", width="content")


def question(title: str, chart: Chart, asked: str | None = None) -> None:
    """Draw the title of a page and the question that its first screen answers, which is the chart's at first."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="question"):
        st.title(title, anchor=False, width="content")
        st.markdown(asked or chart.question, width="content", help=explained_terms(*words_of(chart)))
        tag()


def words_of(chart: Chart) -> tuple[str, ...]:
    """Return a chart's own words: its question, how to read it, and what is measured."""
    return chart.question, chart.reading, *chart.method.split("\n\n")[:2]


Lacking = dict[str, tuple[Any, list[str]]]  # what is lacking: a place on the page, and the questions without an answer


def show(chart: Chart, trace: RoutingTrace) -> None:
    """Draw a chart for the layers and tokens that it asks for, with everything that belongs to it, once it is near."""
    follow_click()
    heading(chart, trace.model)
    drawn = partial(_numbers_and_picture, chart, trace)
    when_near(chart.key, drawn, said=SENTENCE if chart.say else 0, **_place(chart, trace.model))


def _numbers_and_picture(chart: Chart, trace: RoutingTrace) -> None:
    with explained():
        found = answer(chart, trace)
        if found.sentence:
            st.text(found.sentence)
        picture_and_words(chart, found.frame, found.part, names=found.names)


@dataclass(frozen=True, slots=True)
class MeasuredChart:
    """The numbers of a chart, and what belongs to them."""

    chart: Chart
    frame: pd.DataFrame
    sentence: str | None = None  # what stands out in them
    part: HasModel | None = None  # the part of the trace or the dataset on screen that they are of
    model: ModelInfo | None = None
    names: pd.DataFrame | None = None  # of experts


def answer(chart: Chart, trace: RoutingTrace) -> MeasuredChart:
    """Return the numbers of a chart for the layers and tokens that it asks for. Raises what measuring raises."""
    part = part_of(trace, chart)
    frame = cached_for_example(part, (chart.key, "numbers"), lambda: chart.measure(part))
    recorded = int(part.recorded.sum(axis=1).max(initial=0))
    sentence = cached_for_example(part, (chart.key, "said"), lambda: chart.caption(frame, recorded))
    is_layered = layer_word(trace.model) == "layer"  # of which the sentence speaks
    sentence = in_words_of(trace.model, sentence) if sentence and is_layered else None
    names = names_of(trace.model, [trace, *recent.traces().values()])
    return MeasuredChart(chart.of(trace.model), frame, sentence, part, trace.model, names)


def tell_once(chart: Chart, model: ModelInfo, told: Lacking, sentence: str) -> None:
    """Show once why a chart is not drawn. What a trace lacks follows the name of a measure: "… needs router logits"."""
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
    chart: Chart,
    frame: pd.DataFrame,
    part: HasModel | None = None,
    model: ModelInfo | None = None,
    names: pd.DataFrame | None = None,
) -> None:
    """Draw these numbers, and next to them their caption, in the words of `model`. If they are of `part`, of the
    trace or the dataset on screen, a click on an expert or a pair of layers leads on. In the table and its file,
    experts have their `names`.
    """
    model = model if part is None else part.model
    chart = chart if model is None else chart.of(model)
    when_near(chart.key, partial(_draw_both, chart, frame, part, names, model), **_place(chart, model))


def _place(chart: Chart, model: ModelInfo | None) -> dict[str, int]:
    """Return the size of the placeholder for a picture and its words."""
    return {"height": _heights.get(_size(chart, model), MEDIUM), "words": len(chart.reading)}


def _size(chart: Chart, model: ModelInfo | None) -> Hashable:
    """Return what a picture's height depends on, nearly."""
    return chart.key, model and (len(model.layers), max(model.num_experts))


def _draw_both(
    chart: Chart, frame: pd.DataFrame, part: HasModel | None, names: pd.DataFrame | None, model: ModelInfo | None
) -> None:
    place, words = st.columns([3, 1], gap="medium")
    with place:
        picture(chart, frame, part, model)
    with words:
        particulars(chart, frame, names)


def picture(chart: Chart, frame: pd.DataFrame, part: HasModel | None, model: ModelInfo | None) -> None:
    """Draw these numbers; of `part` of what is on screen, a click on an expert or a pair of layers leads on."""
    drawn = _drawn(chart, frame, part)
    if isinstance(drawn.height, int) and len(_heights) < MOST_HEIGHTS:
        _heights[_size(chart, model)] = drawn.height
    key, click = chart.key, {}
    if part is not None and chart.expert:
        key = f"{chart.key} {steps()}"
        drawn = clickable(drawn, ["layer", chart.expert])
        click = {"on_select": partial(_follow_mark, key, chart, part.model), "selection_mode": EXPERT}
    elif part is not None and chart.two_layers:
        drawn = clickable(drawn, ["from_layer", "to_layer"], PAIR)
        click = {"on_select": partial(_choose_pair, key, part.model), "selection_mode": PAIR}
    altair_chart(drawn, key=key, alt=alternative(chart), **click)


def small_picture(found: MeasuredChart) -> None:
    """Draw these numbers as a small picture, without axes and legends."""
    drawn = Small(_drawn(found.chart, found.frame, found.part), on_dark())
    st.altair_chart(drawn, key=f"small {found.chart.key}", alt=f"Small picture: {found.chart.question}")


def _drawn(chart: Chart, frame: pd.DataFrame, part: HasModel | None) -> Any:
    dark = on_dark()
    if part is None:
        return chart.picture(frame, dark=dark)
    return cached_for_example(part, (chart.key, "picture", dark), lambda: chart.picture(frame, dark=dark))


def on_dark() -> bool:
    """Return whether the visitor's page is dark."""
    return st.context.theme.type == "dark"


def particulars(chart: Chart, frame: pd.DataFrame, names: pd.DataFrame | None = None) -> None:
    """Draw how to read a picture, and a menu of what belongs to it."""
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        menu(chart, frame, names)
        st.markdown(chart.reading)


def menu(chart: Chart, frame: pd.DataFrame, names: pd.DataFrame | None = None, reading: bool = False) -> None:
    """Draw a button that opens the numbers behind a picture, how they came about, and files of both.

    With `reading`, how to read the picture too.
    """
    label, help_ = ("Details", "How to read it, numbers, method, files") if reading else ("⋯", "Numbers, method, files")
    with st.popover(label, width="content", help=help_):
        if reading:
            st.markdown(chart.reading)
        st.dataframe(with_names(frame.head(MOST_ROWS), names), hide_index=True, key=f"{chart.key} numbers")
        if len(frame) > MOST_ROWS:
            st.caption(f"The first {MOST_ROWS:,} of {len(frame):,} rows. The CSV has all of them.")
        with st.container(horizontal=True, gap="small"):
            _download(chart, "CSV", "text/csv", lambda: table_as_csv(with_names(frame, names)))
            if installed():
                _download(chart, "SVG", "image/svg+xml", lambda: svg(with_data_inside(chart.draw(frame))))
        st.markdown("**How is this computed?**")
        st.text(chart.method)


def _download(chart: Chart, kind: str, mime: str, make: Callable[[], bytes]) -> None:
    """Offer a file that is only made when somebody asks for it."""
    name = f"moeviz-{chart.key.replace('_', '-')}.{kind.lower()}"
    key = f"{chart.key} {kind.lower()}"
    st.download_button(
        kind, model_service.file_maker(make), name, mime, on_click="ignore", key=key, icon=":material/download:"
    )


def alternative(chart: Chart) -> str:
    """Return what a screen reader reads instead of the picture."""
    return f"{chart.question} {chart.reading} The same numbers are in its menu."


def part_of(trace: RoutingTrace, chart: Chart) -> RoutingTrace:
    """Return the layers and tokens of `trace` that `chart` draws, as the visitor chose them."""
    if chart.layers != "all":
        layers = session.chosen_layers(chart.layers)
        if len(layers) > len(trace.model.layers):
            raise InvalidTrace(
                "This compares two MoE layers, and the trace has only one. Use a trace of a model with several MoE "
                "layers."
            )
        trace = trace.select(layers=layers)
    if chart.tokens == "window":
        rows = session.window()
        return trace.select(tokens=slice(rows.start, rows.stop))
    if chart.tokens == "one":
        if (token := session.selected_token()) is None:
            raise InvalidTrace("This is about one token, and none is selected. Click a token in the text.")
        return trace.select(tokens=slice(token, token + 1))
    return trace


def altair_chart(chart: Any, **options: Any) -> Any:
    """`st.altair_chart` of a chart of ours, which is known to be one: Altair does not check it again."""
    return st.altair_chart(Unchecked(chart, on_dark()), **options)


def _follow_mark(key: str, chart: Chart, model: ModelInfo) -> None:
    """Follow a click, unless the id is not an expert of the model: the band of all others, the space between."""
    for point in session.selected(key, EXPERT) or []:
        only = model.layers[0] if chart.layers != "all" else None  # marks of one layer do not name it
        layer, expert = point.get("layer", only), point.get(chart.expert)
        if layer in model.layers and expert in range(model.num_experts[model.layers.index(layer)]):
            session.set_value(ASKED, (int(layer), int(expert)))
            one_more_step()
            draw_whole_page()


def _choose_pair(key: str, model: ModelInfo) -> None:
    """Let the pair of layers that was clicked be the two that are chosen."""
    for point in session.selected(key, PAIR) or []:
        pair = point.get("from_layer"), point.get("to_layer")
        if set(pair) <= set(model.layers):
            session.set_value(session.FIRST_LAYER, int(pair[0]))
            session.set_value(session.SECOND_LAYER, int(pair[1]))
            draw_whole_page()
