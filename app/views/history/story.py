"""From 1991 to Mixtral: the history in about ten steps, with one drawing that grows; and the article behind it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.views.history.phone_book import phone_book_panel
from moeviz_app.widgets.chart_panel import altair_chart, heading, picture_and_words
from moeviz_app.widgets.facts import figures
from moeviz_app.widgets.messages import explained, note
from moeviz_app.widgets.near import when_near

from moeviz.charts.one_input import ONE_INPUT, described
from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.history.story import PARTS, PAYOFF, POINTS, STEPS, Meters, Step, StepData, corrections
from moeviz.history.systems import part

INTRO = (
    "Each step starts from what the one before left over. Up to 2023, each picture shows what a small system of ours "
    "did with **one input**: a vowel (made up after published averages), speech, a digit, a word. Three numbers stay: "
    "the experts of a layer, the share of them that an input needs, and how many times as many parameters that gives "
    "for the same compute."
)


def story_page(page_of: Callable[[str], st.Page]) -> None:
    """The steps one below the other, then all systems in one chart. `page_of` is the menu's."""
    st.title("From 1991 to Mixtral", anchor=False)
    phone_book_panel()
    st.markdown(INTRO)
    for step in (*STEPS, PAYOFF):
        with explained():
            _step(step, page_of)
    with explained():
        heading(SIDE_BY_SIDE)
        picture_and_words(SIDE_BY_SIDE, SIDE_BY_SIDE.measure(recorded.gallery()))
    st.text("“Ours” is a small model with Mixtral's architecture; of Mixtral itself, its page has what was published.")


def _step(step: Step, page_of: Callable[[str], st.Page]) -> None:
    """Draw the step's picture and, beside it, its words; on a phone, the picture above the words."""
    st.subheader(f"{step.year}: {step.title}", anchor=False)
    picture, words = st.columns([3, 2], gap="medium")
    seen, drawn, alternative = _drawn(step.title)
    with picture:
        if "Input" in seen.quoted:
            note(f"Input: {seen.quoted['input']}")
        key = f"story {step.title}"
        when_near(key, partial(altair_chart, drawn, key=key, alt=alternative), drawn.height)
        if step.key:
            note(step.key)
        _meters(seen.meters)
    with words:
        for name, told in zip(PARTS, step.texts(seen), strict=True):
            st.markdown(f":small[**{name}**]  \n{told}")
        st.page_link(page_of(step.page), label=f"More on the page {step.page}", icon=":material/arrow_forward:")


@st.cache_resource(show_spinner=False)
def _drawn(title: str) -> tuple[StepData, Any, str]:
    """Return a step's data, its picture, and the picture in words; these are shared by all visitors."""
    (step,) = (step for step in (*STEPS, PAYOFF) if step.title == title)
    seen = step.show()
    if step is PAYOFF:
        chart = part("dense", "exhibit").PAYOFF
        return seen, chart.draw(seen.frame), f"{chart.question} {chart.reading}"
    return seen, ONE_INPUT.draw(seen.frame), described(seen.frame)


def _meters(meters: Meters) -> None:
    """Three numbers that stay from step to step."""
    figures(
        {
            "Experts": (f"{meters.experts}", "In a layer."),
            "Computed": (f"{100 * meters.computed:.3g}%", "Share of them that an input needs, on average."),
            "Parameters": (
                f"× {meters.parameters:.2g}",
                "For the same compute: how many times as many parameters all experts have as those that an input is "
                "computed with. What experts share is not counted.",
            ),
        }
    )


def article_page(page_of: Callable[[str], st.Page]) -> None:
    """Each sentence with a link to the page where it can be seen; then the corrections. `page_of` is the menu's."""
    st.title("Article", anchor=False)
    st.markdown(
        "moeviz grew from an article, *The History of Mixture of Experts* (26 April 2024), which runs from 1991 to "
        "Mixtral. This page shows where you can see each of its sentences at work, and what it got wrong."
    )
    for point in POINTS:
        with st.container(border=True):
            st.markdown(f"“{point.quotation}”")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.page_link(page_of(point.page), label=point.page, icon=":material/arrow_forward:", width="content")
                st.markdown(point.look, width="stretch")
    st.subheader("Corrections", anchor=False)
    st.table(corrections().set_index("the article says"))
