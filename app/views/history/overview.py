"""The whole gallery: a picture of all systems, and the way to each."""

from collections.abc import Callable, Iterable

import streamlit as st
from moeviz_app import shared
from moeviz_app.show import explained, heading, picture_and_words

from moeviz.charts.side_by_side import SIDE_BY_SIDE
from moeviz.history.systems import SYSTEMS

MIXTRAL = ("2023", "all feed-forward blocks of a language model with open weights are mixtures of eight experts")


def overview_page(titles: Iterable[str], page_of: Callable[[str], st.Page]) -> None:
    """All systems side by side; then each with its year and a line. Titles and `page_of` are the menu's."""
    st.title("Gallery", anchor=False)
    st.markdown(
        "The systems that led to today's mixtures of experts, all of them running: real experts on real data, each "
        "trained within half a minute. They range from vowels to language models, but each has a gate, so the same "
        "chart can be drawn for all of them."
    )
    with explained():
        heading(SIDE_BY_SIDE)
        picture_and_words(SIDE_BY_SIDE, SIDE_BY_SIDE.measure(shared.gallery()))
    lines = {row.title: row for row in SYSTEMS.values()}
    for title in titles:
        year, what = (lines[title].year, lines[title].what) if title in lines else MIXTRAL
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(year, width=90)
            st.page_link(page_of(title), label=title, icon=":material/arrow_forward:", width=220)
            st.markdown(f"{what[0].upper()}{what[1:]}.", width="stretch")
