"""A page of the history gallery: what was new, its controls, Train and Stop, and the result of training.

What is on it is an `Exhibit` of the system's folder in moeviz.history; here is how that is drawn with Streamlit.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import streamlit as st

from moeviz.charts.chart import Chart
from moeviz.history.shared.exhibit import Exhibit, PageControl
from moeviz.history.systems import EXHIBITS, SHIPS_WITH, System, part, shipped_result
from moeviz.metrics.words import item_word, layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs import model_service
from moeviz_app.jobs.fair_queue import InLine, Progress, wait_for
from moeviz_app.session import session
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, on_dark, particulars, picture_and_words
from moeviz_app.widgets.facts import figures
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.run_panel import Pace, waiting_words

SEED = PageControl("seed", "Seed", (0, 9999), kind="number", width=120)


def exhibit_page(folder: str) -> None:
    """Draw the page of the system in that folder of moeviz.history.

    First what was new and its picture; then the controls; then the rest, and what it is made of.
    """
    system = EXHIBITS[folder]
    exhibit: Exhibit = part(system.name, "exhibit").EXHIBIT
    page = GalleryPage(system.name)
    st.title(system.title, anchor=False)
    st.markdown(system.whats_new)
    first = st.container()
    with page.row():
        settings = page.settings(exhibit)
        wanted = st.button("Train", type="primary", key=f"{system.name} train")
    if wanted:
        with explained(refuse):
            model_service.begin_run(dear=True)
            session.keep_result(system.name, _trained(system.name, exhibit, settings))
    with explained():
        found = session.result(system.name)
        _say_whose_result(system.name, found)
        found = shipped_result(system.name) if found is None else found
        with first:
            exhibit.picture(page, found)
        exhibit.details(page, found)
        read_more(system)
        trace_to_other_pages(system.name, exhibit.trace_of(found), exhibit.trace_charts)


class GalleryPage:
    """A page in Streamlit, as `moeviz.history.shared.exhibit.Page` describes it."""

    title = staticmethod(lambda text: st.subheader(text, anchor=False))
    text = staticmethod(st.text)
    markdown = staticmethod(st.markdown)
    table = staticmethod(st.dataframe)
    figures = staticmethod(figures)
    heading = staticmethod(heading)

    def __init__(self, name: str):
        self.name = name  # of the system: keys in the session begin with it

    def settings(self, exhibit: Exhibit) -> dict[str, Any]:
        """Draw the exhibit's choices and the seed, which stay chosen on other pages; return the arguments of train."""
        chosen: dict[str, Any] = {}
        for choice in exhibit.choices:
            if choice.offered(chosen):
                chosen[choice.name] = self.choose(choice, persist_state="session")
        return exhibit.settings(chosen) | {"seed": self.choose(SEED, persist_state="session")}

    def choose(self, choice: PageControl, **options: Any) -> Any:
        """Draw a control and return the option that is chosen."""
        key = choice.name if choice.key is None else choice.key
        options |= {"key": f"{self.name} {key}"} if key else {}
        options |= {name: value for name in ("width", "help") if (value := getattr(choice, name)) is not None}
        shown = {"format_func": choice.written}
        if choice.kind == "toggle":
            return st.toggle(choice.label, choice.first, **options)
        if choice.kind == "number":
            low, high = choice.options
            return int(st.number_input(choice.label, low, high, choice.first, **options))
        if choice.kind == "list":
            index = list(choice.options).index(choice.first)
            return st.selectbox(choice.label, choice.options, index, **shown, **options)
        if choice.kind == "buttons":
            return st.segmented_control(
                choice.label, choice.options, default=choice.first, required=True, **shown, **options
            )
        return st.select_slider(choice.label, choice.options, choice.first, **shown, **options)

    def row(self) -> AbstractContextManager[Any]:
        """Draw side by side within this block."""
        return st.container(horizontal=True, vertical_alignment="bottom")

    def picture(self, chart: Chart, *given: Any, model: ModelInfo | None = None) -> None:
        """Measure a chart on `given`, and draw it with how to read it."""
        picture_and_words(chart, chart.measure(*given), model=model)

    def chart(self, chart: Chart, *given: Any, model: ModelInfo | None = None) -> None:
        """Draw a chart under its question."""
        heading(chart, model)
        self.picture(chart, *given, model=model)

    def compare(self, chart: Chart, results: dict[str, Any], own: Any, words: str) -> None:
        """Draw a chart of several results side by side, each under its title; beside them, the numbers of `own`."""
        heading(chart)
        *places, beside = st.columns([*(3 for _ in results), 2], gap="medium")
        for place, (title, found) in zip(places, results.items(), strict=True):
            with place:
                st.markdown(f"**{title}**")
                drawn = chart.picture(chart.measure(found), dark=on_dark())
                altair_chart(drawn, key=f"{chart.key} {title}", alt=alternative(chart), width="content")
        with beside:
            particulars(chart, chart.measure(own))
            st.markdown(words)


def read_more(system: System) -> None:
    """Draw what can be unfolded: the equation with its source, and what does not come out."""
    with st.expander("The equation, and where it is from"):
        st.latex(system.equation)
        st.markdown(system.source)
    with st.expander("What this does not reproduce"):
        st.markdown(system.not_reproduced)


def _trained(name: str, exhibit: Exhibit, settings: dict[str, Any]) -> Any:
    """Train on the gallery's own thread, with progress. Any click ends it, as does leaving: nobody listens then."""
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, "Training …")
        st.button("Stop", key=f"{name} stop", help="The result shown before stays.")

    pace = Pace()

    def listen(told: InLine | Progress) -> None:
        if isinstance(told, InLine):
            bar.progress(0.0, waiting_words(told.ahead, "Training …"))
            return
        done, says = told.value
        session.keep_result(_half_way(name), says)
        bar.progress(min(done, 1.0), says + pace.left(done))

    def work(tell: Callable[[Any], None]) -> Any:
        return exhibit.train(**settings, watch=lambda done, says: tell((done, says)))

    session.keep_result(_half_way(name), "before it began")
    try:
        found = wait_for(model_service.run_dear(work), listen)
    finally:
        place.empty()
    session.forget_result(_half_way(name))
    return found


def _half_way(name: str) -> str:
    """Return the name under which the session keeps how far a training is, until it has come to its end."""
    return f"{name} half-way"


def _say_whose_result(name: str, found: Any) -> None:
    if (reached := session.result(_half_way(name))) is not None:
        say(f"Your training has not come to its end ({reached}), and nothing of it is kept.")
        session.forget_result(_half_way(name))
    if found is None:
        st.text(f"This is the result that ships with moeviz: {SHIPS_WITH}. Train to get your own.")
        return
    said = ", ".join(f"{setting.replace('_', ' ')} {value}" for setting, value in found.settings.items())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"This is the result that you trained: {said}.")
        st.button("Back to the one that ships", on_click=session.forget_result, args=(name,), key=f"{name} back")


def goes_to_all_experts(trace: RoutingTrace) -> bool:
    """True if every token goes to all experts, as behind a soft gate: then all counts are equal."""
    return trace.model.top_k >= max(trace.model.num_experts)


def pages_for(trace: RoutingTrace) -> list[str]:
    """Return the titles of the pages that have something to draw of this trace, in the order of the menu."""
    counts, layers = not goes_to_all_experts(trace), len(trace.model.layers) > 1
    says = {
        "Explore": True,
        "Tokens": True,
        "Load": counts,
        "Specialization": counts and trace.tokens.get("label") is not None,
        "Locality": counts and bool(trace.tokens["sequence"].duplicated().any()),
        "Co-activation": counts and trace.model.top_k > 1,
        "Confidence": trace.logits is not None and trace.model.score_function != "unknown",
        "Layers": counts and layers,
    }
    return [page for page, something in says.items() if something]


def trace_to_other_pages(name: str, trace: RoutingTrace, common: tuple[Chart, ...]) -> None:
    """Offer the trace to the other pages, and draw some of their charts here, of the last layer."""
    st.subheader("As a trace", anchor=False)
    kind = layer_word(trace.model)
    st.text(
        ("" if kind.endswith("layer") else f"In the charts of this trace, layers are {kind}s. ")
        + "Pages of the menu can draw it as they draw a language model's."
    )
    if goes_to_all_experts(trace):
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
            GalleryPage(name).chart(chart, trace if chart.layers == "all" else last, model=trace.model)
