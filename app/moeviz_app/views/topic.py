"""The page of a topic, or of two that belong together: one large chart with its answer, the others small next to it.

For a dataset or counts, the page draws the charts that these can answer, and names the others in one sentence.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.charts import TOPICS, specialization
from moeviz.charts.chart import Chart
from moeviz.charts.load import OVER_TIME
from moeviz.corpus.analyses import FROM_ROWS, answer_of
from moeviz.errors import DamagedShard, MissingField, MoevizError
from moeviz.formats.dataset.layout import ROWS
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.memory import known_model
from moeviz.text import quoted
from moeviz_app.jobs import recorded
from moeviz_app.session import session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.subject import subject
from moeviz_app.widgets.answers import READING, Answers, Make, OnProgress, damage, whole
from moeviz_app.widgets.chart_panel import (
    Lacking,
    MeasuredChart,
    answer,
    heading,
    menu,
    picture,
    picture_and_words,
    small_picture,
    tell_once,
)
from moeviz_app.widgets.expert_links import choose_expert, follow_click
from moeviz_app.widgets.facts import cautions, dataset_facts
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.pickers import (
    choose_layer,
    choose_text,
    choose_token,
    choose_two_layers,
    choose_window,
    layer_of,
)

NEEDS_TRACE = (
    "A dataset keeps no router logits and is never read whole, so these questions take a trace: {} “moeviz convert "
    "FOLDER trace.npz” makes one of a small dataset."
)
WITHOUT_LUCK = {"information_by_layer", "flow_information", "repeated_any_choice"}  # charts with a mark for chance
NO_LUCK = "Luck is not known here: that takes every token at once, so the orange marks are missing."


def topic_page(title: str, *topics: str) -> None:
    """Draw the charts of the topics: one large with its answer, the others as small pictures that swap in.

    They are of the current trace, counts or dataset. Without `topics` the page is of the one that it is called after.
    """
    follow_click()
    topics = topics or (title,)
    charts = tuple(chart for topic in topics for chart in TOPICS[topic])
    choose_text()
    with explained(partial(_refuse, title)):
        if (shown := session.dataset()) is not None:
            _of_dataset(title, topics, shown)
            return
        found = subject().read()
        if not isinstance(found, RoutingTrace):
            _of_counts(title, charts, _configuration(subject().model) if "Parameters" in topics else found)
            return
    if (trace := session.shown_trace()).tokens.empty:
        _refuse(
            title, "This trace contains no tokens, so there is nothing to draw. Run a prompt, or open another file."
        )
        return
    labelled = "label" in trace.tokens or not set(specialization.CHARTS) <= set(charts)
    if not labelled:
        charts = tuple(chart for chart in charts if chart not in specialization.CHARTS)
    gallery(title, charts, trace.model, partial(answer, trace=trace), partial(_choices, charts, trace))
    cautions(trace)
    if not labelled:
        _offer_labels()


def _refuse(title: str, sentence: str) -> None:
    st.title(title, anchor=False)
    say(sentence)


def gallery(
    title: str,
    charts: Iterable[Chart],
    model: ModelInfo,
    measure: Callable[[Chart], MeasuredChart],
    choose: Callable[[], None],
) -> None:
    """Draw one of these charts large, with its answer, and the others as small pictures; and why some are not drawn.

    `measure` raises a `MoevizError` for a chart that is not drawn. `choose` draws the choices that charts depend on.
    """
    head = st.container(key="topic")
    row = head.container(horizontal=True, vertical_alignment="center", gap="small")
    row.title(title, anchor=False, width="content")
    large, others = st.columns([5, 3], gap="medium")
    with large:
        place = st.container()
        choose()
    found: list[MeasuredChart] = []
    refused: list[tuple[Chart, str]] = []
    for chart in charts:
        with explained(lambda sentence, chart=chart: refused.append((chart, sentence)), but=(DamagedShard,)):
            found.append(measure(chart))
    key = f"picture of {title}"
    shown = next((one for one in found if one.chart.key == session.value(key)), found[0] if found else None)
    if shown is not None:
        with row:
            heading(shown.chart)
            menu(shown.chart, shown.frame, shown.names, reading=True)
        head.text(shown.sentence or shown.chart.reading)
        with place, explained():
            picture(shown.chart, shown.frame, shown.part, model)
    rest = [one for one in found if one is not shown]
    for at in range(0, len(rest), 2):
        for column, one in zip(others.columns(2, gap="small"), rest[at : at + 2], strict=False):
            with column, st.container(key=f"swap {one.chart.key}"), explained():
                about = {"key": f"show {one.chart.key}", "on_click": session.set_value}
                st.button(one.chart.question, type="tertiary", args=(key, one.chart.key), **about)
                small_picture(one)
    lacking: Lacking = {}
    for chart, sentence in refused:
        tell_once(chart, model, lacking, sentence)


def _configuration(name: str) -> RoutingTrace:
    """Return a trace of no tokens of a well-known model, for what depends only on its configuration."""
    known = known_model(name)
    if known is None:
        raise MissingField(f"The configuration of {quoted(name)} is not known here.")
    layers = len(known.parameters.per_expert)
    facts = {"top_k": known.top_k, "num_experts": (known.num_experts,) * layers, "parameters": known.parameters}
    model = ModelInfo(name, "configuration", tuple(range(layers)), **facts)
    no_tokens = recorded.example().tokens.iloc[:0]
    return RoutingTrace(model, no_tokens, np.zeros((layers, 0, known.top_k), np.int16), None, None)


def _of_counts(title: str, charts: Iterable[Chart], counts: Counted) -> None:
    """Draw the charts that counts can answer, and name the questions that need the order of tokens."""
    model, lacking, answers = counts.model, [], []
    layer, is_asked = model.layers[len(model.layers) // 2], any(chart.layers == "one" for chart in charts)
    if session.value(session.COUNTED_LAYER) in model.layers:
        layer = session.value(session.COUNTED_LAYER)
    for chart in charts:
        try:
            frame = chart.measure(counts.select(layers=[layer]) if chart.layers == "one" else counts)
        except MissingField:
            frame = None
        if frame is None or frame.empty:  # of a configuration, there are no tokens to draw
            lacking.append(chart.question)
        else:
            answers.append(MeasuredChart(chart.of(model), frame, chart.caption(frame), model=model))
    known = {one.chart.key: one for one in answers}
    choose = partial(layer_of, model.layers, session.COUNTED_LAYER, layer) if is_asked else lambda: None
    gallery(title, [one.chart for one in answers], model, lambda chart: known[chart.key], choose)
    if lacking:
        say(f"Counts do not record which token went where. That is needed for: {' · '.join(lacking)}")


def _offer_labels() -> None:
    """Draw one sentence instead of every chart that compares kinds of text, and lead to the texts that have kinds."""
    say("Which kinds of text an expert takes is seen in texts with labels, and this trace has none.")
    session.link_to("Experts", "See held-out texts of fifteen kinds")


def _choices(charts: Iterable[Chart], trace: RoutingTrace) -> None:
    if any(chart.expert for chart in charts):
        choose_expert(trace.model)
    layers, tokens = ({getattr(chart, what) for chart in charts} for what in ("layers", "tokens"))
    if "two" in layers:
        choose_two_layers(trace)
    if "one" in tokens:
        choose_token(trace)
        return
    if "one" in layers:
        choose_layer(trace)
    if "window" in tokens:
        choose_window(trace)


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a dataset that a chart is of: the model with the chart's layers."""

    model: ModelInfo


def _of_dataset(title: str, topics: Iterable[str], shown: ShownDataset) -> None:
    """Draw the charts of the topics that this dataset can answer, and name the questions that need a trace."""
    place = st.container()
    if not whole(shown):
        place.title(title, anchor=False)
        return
    offered = [chart for topic in topics for chart in charts_of(topic, shown)]
    charts = [chart for chart in offered if answer_of(chart.measure)]
    others = [chart.question for chart in offered if not answer_of(chart.measure)]
    model = shown.dataset.model
    asked, answers = _ask(charts, shown)

    def measure(chart: Chart) -> MeasuredChart:
        key, layers = asked[chart]
        if (frame := answers.get(key)) is None:
            raise MoevizError(READING)
        no_luck = NO_LUCK if chart.key in WITHOUT_LUCK else ""
        sentence = " ".join(filter(None, (chart.caption(frame), no_luck)))
        part = Part(model if layers is None else model.with_layers(layers)[0])
        return MeasuredChart(chart.of(model), frame, sentence, part, model)

    try:
        gallery(title, charts, model, measure, partial(_choose_of_dataset, charts, model))
    except DamagedShard as error:
        damage(shown, error)
    answers.watch()
    dataset_facts(shown)
    if others:
        say(NEEDS_TRACE.format(" · ".join(others)))


def _choose_of_dataset(charts: Iterable[Chart], model: ModelInfo) -> None:
    if any(chart.expert for chart in charts):
        choose_expert(model)
    layers = {chart.layers for chart in charts}
    if layers & {"one", "two"}:
        _choose_layer(model, "two" in layers)


def charts_of(topic: str, shown: ShownDataset) -> Iterable[Chart]:
    """Return the charts of a topic; with the load, also how it changes over a corpus of several parts."""
    several = topic == "Load" and (len(shown.dataset.shards) > 1 or shown.dataset.tokens > 2 * ROWS)
    return (*TOPICS[topic], *((OVER_TIME,) if several else ()))


def _ask(
    charts: Iterable[Chart], shown: ShownDataset
) -> tuple[dict[Chart, tuple[Hashable, list[int] | None]], Answers]:
    """Ask a dataset these charts' questions; return the key of each answer with its layers, and the answers."""
    model = shown.dataset.model
    if session.value(session.CORPUS_LAYER) not in model.layers:
        session.set_value(session.CORPUS_LAYER, model.layers[len(model.layers) // 2])
    layers = {chart: _layers(chart, shown) for chart in charts}
    questions = {chart: question(chart, shown, layers[chart]) for chart in charts}
    asked = {chart: (key, layers[chart]) for chart, (key, _) in questions.items()}
    return asked, Answers(dict(questions.values()))


def draw(charts: Iterable[Chart], shown: ShownDataset) -> Answers:
    """Draw these charts, one after the other, with the choices that they need; what is not there yet follows."""
    follow_click()
    charts, model = list(charts), shown.dataset.model
    if any(chart.expert for chart in charts):
        choose_expert(model)
    asked, answers = _ask(charts, shown)
    first = next((chart for chart in charts if chart.layers != "all"), None)
    try:
        for chart, (key, layers) in asked.items():
            if chart is first:
                _choose_layer(model, any(chart.layers == "two" for chart in charts))
            if (frame := answers.drawn(key, model, chart)) is not None:
                _show(chart, frame, model, layers)
    except DamagedShard as error:
        damage(shown, error)
    answers.watch()
    return answers


def _choose_layer(model: ModelInfo, and_next: bool) -> None:
    """Draw the choice of a layer: for charts of one, and of two, the chosen one and the next."""
    label = "Layer, and the next one" if and_next else "Layer"
    if len(model.layers) > 1:
        session.keep(session.CORPUS_LAYER)
        st.select_slider(label, model.layers, key=session.CORPUS_LAYER, persist_state="session", width=620)


def _layers(chart: Chart, shown: ShownDataset) -> list[int] | None:
    """Return the layers that a chart is asked about: None for all; of two, the chosen one and the next."""
    layers = shown.dataset.model.layers
    if chart.layers == "all":
        return None
    at = layers.index(session.value(session.CORPUS_LAYER))
    if chart.layers == "one":
        return [layers[at]]
    at = max(min(at, len(layers) - 2), 0)
    return list(layers[at : at + 2])


def question(chart: Chart, shown: ShownDataset, layers: list[int] | None) -> tuple[Hashable, Make]:
    """Return the key that a chart's answer is cached under, and a function that computes it; charts may share one."""
    analysis = answer_of(chart.measure)
    if analysis is None:
        raise ValueError(f"{chart.key} is not a question to a dataset.")
    key = (shown.key, chart.measure.__name__, None if layers is None else tuple(layers))

    def make(progress: OnProgress) -> pd.DataFrame:
        more = {"progress": progress} if chart.measure.__name__ in FROM_ROWS else {}
        return analysis(shown.dataset, layers, **more)

    return key, make


def _show(chart: Chart, frame: pd.DataFrame, model: ModelInfo, layers: list[int] | None) -> None:
    """Draw a chart of these numbers of a dataset; a click on an expert leads to its page."""
    heading(chart, model)
    with explained():
        if sentence := chart.caption(frame):
            st.text(sentence)
        picture_and_words(chart, frame, Part(model if layers is None else model.with_layers(layers)[0]))
