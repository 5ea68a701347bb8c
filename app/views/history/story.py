"""From 1991 to Mixtral: why experts, how they stay alive, the systems in their order, and what an expert means."""

from collections.abc import Callable
from typing import Any

import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.views.history.collapse import collapse_panel
from moeviz_app.views.history.phone_book import phone_book_panel
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.components.story import in_words, packed_story, packed_twins, story, twins
from moeviz_app.widgets.messages import explained

from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.embedded.balance_study import said_of_study
from moeviz.history.story import MEANING, POINTS, corrections, kinds_of_text, repeats_of_mixtral
from moeviz.history.story import twins as found_twins

INTRO = (
    "Press a year, or ← →. A box is an expert: **tinted**, it is computed for this input; **filled**, by how much its "
    "answer counts; **framed**, it is new in this step."
)


def story_page(page_of: Callable[[str], st.Page]) -> None:
    """Four panels, each with its question; then all systems in one chart. `page_of` is the menu's."""
    st.title("From 1991 to Mixtral", anchor=False)
    with explained():
        phone_book_panel()
    with explained():
        collapse_panel()
    with explained():
        _systems(page_of)
    with explained():
        _meaning()
    with explained():
        heading(SIDE_BY_SIDE)
        picture_and_words(SIDE_BY_SIDE, SIDE_BY_SIDE.measure(recorded.gallery()))
    st.text(
        "All pictures are of small systems of ours; “Ours” has Mixtral's architecture. What was published of Mixtral "
        "itself is on its page."
    )


def _systems(page_of: Callable[[str], st.Page]) -> None:
    st.subheader("From one network to Mixtral and its heirs", anchor=False)
    st.markdown(INTRO)
    asked = story(_packed_story(), key="story")
    if asked is not None:
        st.switch_page(page_of(asked))


def _meaning() -> None:
    st.subheader(MEANING["title"], anchor=False)
    st.markdown(MEANING["lead"])
    data, said = _packed_twins()
    twins(data, key="twins")
    st.markdown(said)


@st.cache_resource(show_spinner=False)
def _packed_story() -> dict[str, Any]:
    return packed_story()


@st.cache_resource(show_spinner=False)
def _packed_twins() -> tuple[dict[str, Any], str]:
    """The data of the twins, and what they show in words: these are shared by all visitors."""
    found = found_twins()
    said = MEANING["say"].format(study=said_of_study(), mixtral=in_words(repeats_of_mixtral()))
    return packed_twins(found, kinds_of_text()), said


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
