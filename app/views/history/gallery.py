"""A page of the history gallery: what was new, its controls, Train and Stop, and the result of training.

Each system is a row, `Exhibit`, in a file of its own beside this one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_service
from moeviz_app.jobs.fair_queue import InLine, Progress, wait_for
from moeviz_app.session import session
from moeviz_app.views.history.offered import everyone, pages_for
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.messages import explained
from moeviz_app.widgets.run_panel import waiting_words

from moeviz.charts import NAMED
from moeviz.charts.chart import Chart
from moeviz.history.systems import SHIPS_WITH
from moeviz.metrics.words import item_word, layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

BY_LABEL = NAMED["label_load_heatmap"]


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One system of the gallery."""

    name: str  # of the system, as `moeviz history` has it
    title: str  # of the page, as the menu has it
    new: str  # what was new, in about sixty words, in Markdown
    more: str  # what else there is to know, and the source of all, in Markdown
    not_here: str  # what does not come out here, in plain words
    equation: str  # in LaTeX
    controls: Callable[[], dict[str, Any]]  # draws the widgets; returns the arguments of `train`
    train: Callable[..., Any]  # of those, and `watch`
    shipped: Callable[[], Any]  # the result that ships, so that the page opens at once
    picture: Callable[[Any], None]  # draws the first picture of a result, which is what the page is about
    show: Callable[[Any], None]  # draws the rest: its figures, and further pictures
    trace_of: Callable[[Any], RoutingTrace]
    common: tuple[Chart, ...]  # charts of any trace that say something here too


def exhibit_page(exhibit: Exhibit) -> None:
    """The whole page: what was new and its picture; what one can try; then the rest, and what it is made of."""
    st.title(exhibit.title, anchor=False)
    st.markdown(exhibit.new)
    first = st.container()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        settings = exhibit.controls()
        wanted = st.button("Train", type="primary", key=f"{exhibit.name} train")
    with explained():
        if wanted:
            model_service.begin_run()
            session.keep_result(exhibit.name, _trained(exhibit, settings))
        found = session.result(exhibit.name)
        _whose(exhibit, found)
        found = exhibit.shipped() if found is None else found
        with first:
            exhibit.picture(found)
        exhibit.show(found)
        read_more(exhibit.equation, exhibit.more, exhibit.not_here)
        as_any_trace(exhibit.name, exhibit.trace_of(found), exhibit.common)


def read_more(equation: str, more: str, not_here: str) -> None:
    """What can be unfolded: the equation with its source, and what does not come out."""
    with st.expander("The equation, and where it is from"):
        st.latex(equation)
        st.markdown(more)
    with st.expander("What this does not reproduce"):
        st.markdown(not_here)


def shown(chart: Chart, frame: pd.DataFrame, model: ModelInfo | None = None) -> None:
    """A chart of these numbers under its question, in the words of `model`."""
    heading(chart, model)
    picture_and_words(chart, frame, model=model)


def seed_control(name: str) -> int:
    """Every system starts at random; the same seed gives the same start."""
    return int(st.number_input("Seed", 0, 9999, key=f"{name} seed", persist_state="session", width=120))


def _trained(exhibit: Exhibit, settings: dict[str, Any]) -> Any:
    """Train on the gallery's own thread, with progress. Any click ends it, as does leaving: nobody listens then."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, "Training …")
        st.button("Stop", key=f"{exhibit.name} stop", help="The result shown before stays.")

    def listen(told: InLine | Progress) -> None:
        done, says = (0.0, waiting_words(told.ahead, "Training …")) if isinstance(told, InLine) else told.value
        bar.progress(min(done, 1.0), says)

    def work(tell: Callable[[Any], None]) -> Any:
        return exhibit.train(**settings, watch=lambda done, says: tell((done, says)))

    try:
        return wait_for(model_service.run_training(work), listen)
    finally:
        place.empty()


def _whose(exhibit: Exhibit, found: Any) -> None:
    if found is None:
        st.text(f"This is the result that ships with moeviz: {SHIPS_WITH}. Train to get your own.")
        return
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.settings.items())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"This is the result that you trained: {said}.")
        st.button(
            "Back to the one that ships",
            on_click=session.forget_result,
            args=(exhibit.name,),
            key=f"{exhibit.name} back",
        )


def as_any_trace(name: str, trace: RoutingTrace, common: tuple[Chart, ...]) -> None:
    """The trace, to be taken to the other pages, and some of their charts here: of one layer, the last."""
    st.subheader("As a trace", anchor=False)
    kind = layer_word(trace.model)
    st.text(
        ("" if kind.endswith("layer") else f"In the charts of this trace, layers are {kind}s. ")
        + "Pages of the menu can draw it as they draw a language model's."
    )
    if everyone(trace):
        st.text(f"Every {item_word(trace.model)} goes to all experts here, so pages that count would show nothing.")
    if st.button("Take it to other pages", key=f"{name} look"):
        session.set_trace(trace)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text("Something is to be seen on:", width="content")
            for page in pages_for(trace):
                session.link_to(page, page)
    last = trace.select(layers=trace.model.layers[-1:])
    for chart in common:
        with explained():
            shown(chart, chart.measure(trace if chart.layers == "all" else last), trace.model)
