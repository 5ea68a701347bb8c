"""A page of the history gallery: what was new, its controls, Train and Stop, and the result of training.

Each system is a row, `Exhibit`, in a file of its own beside this one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
from moeviz_app import shared, state
from moeviz_app.facts import layer_word
from moeviz_app.live import waiting_words
from moeviz_app.show import explained, heading, picture_and_words
from moeviz_app.work.worker import InLine, News, result

from moeviz.charts import NAMED
from moeviz.charts.chart import Chart
from moeviz.history.systems import SHIPS_WITH
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One system of the gallery."""

    name: str  # of the system, as `moeviz history` has it
    title: str  # of the page, as the menu has it
    new: str  # what was new: three sentences and their source, in Markdown
    not_here: str  # what does not come out here, in plain words
    equation: str  # in LaTeX
    controls: Callable[[], dict[str, Any]]  # draws the widgets; returns the arguments of `train`
    train: Callable[..., Any]  # of those, and `watch`
    shipped: Callable[[], Any]  # the result that ships, so that the page opens at once
    show: Callable[[Any], None]  # draws a result: its figures, and the picture that the paper printed
    trace_of: Callable[[Any], RoutingTrace]
    common: tuple[Chart, ...]  # charts of any trace that say something here too


def exhibit_page(exhibit: Exhibit) -> None:
    """The whole page."""
    st.title(exhibit.title, anchor=False)
    st.markdown(exhibit.new)
    st.latex(exhibit.equation)
    with st.expander("What this does not reproduce"):
        st.markdown(exhibit.not_here)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        settings = exhibit.controls()
        wanted = st.button("Train", type="primary", key=f"{exhibit.name} train")
    with explained():
        if wanted:
            shared.begin_run()
            state.keep_result(exhibit.name, _trained(exhibit, settings))
        found = state.result(exhibit.name)
        _whose(exhibit, found)
        found = exhibit.shipped() if found is None else found
        exhibit.show(found)
        as_any_trace(exhibit.name, exhibit.trace_of(found), exhibit.common)


def experts_of_each(kind: str) -> Chart:
    """Which experts each label uses, asked in the words of a system whose labels are no kinds of text."""
    return replace(NAMED["label_load_heatmap"], question=f"Which experts does each {kind} use?")


def seed_control(name: str) -> int:
    """Every system starts at random; the same seed gives the same start."""
    return int(st.number_input("Seed", 0, 9999, key=f"{name} seed", persist_state="session", width=120))


def _trained(exhibit: Exhibit, settings: dict[str, Any]) -> Any:
    """Train on the gallery's own thread, with progress. Any click ends it, as does leaving: nobody listens then."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, "Training …")
        st.button("Stop", key=f"{exhibit.name} stop", help="The result shown before stays.")

    def listen(told: InLine | News) -> None:
        done, says = (0.0, waiting_words(told.ahead, "Training …")) if isinstance(told, InLine) else told.value
        bar.progress(min(done, 1.0), says)

    def work(tell: Callable[[Any], None]) -> Any:
        return exhibit.train(**settings, watch=lambda done, says: tell((done, says)))

    try:
        return result(shared.training(work), listen)
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
            "Back to the one that ships", on_click=state.forget_result, args=(exhibit.name,), key=f"{exhibit.name} back"
        )


def as_any_trace(name: str, trace: RoutingTrace, common: tuple[Chart, ...]) -> None:
    """The trace, to be taken to the other pages, and some of their charts here: of one layer, the last."""
    st.subheader("As a trace", anchor=False)
    st.text(f"{_steps(trace)}Every page of the menu can draw this trace.")
    if trace.model.top_k >= max(trace.model.num_experts):
        st.text(
            "Every sample goes to all experts here, so their counts are equal; the weights and the gate tell them "
            "apart."
        )
    if st.button("Show it on every page", key=f"{name} look"):
        state.set_trace(trace)
        st.success("Every page now shows this trace.")
    last = trace.select(layers=trace.model.layers[-1:])
    for chart in common:
        heading(chart)
        with explained():
            picture_and_words(chart, chart.measure(trace if chart.layers == "all" else last))


def _steps(trace: RoutingTrace) -> str:
    """What the charts call layers, where it is something else."""
    kind = layer_word(trace.model)
    return "" if kind.endswith("layer") else f"In the charts of this trace, layers are {kind}s. "
