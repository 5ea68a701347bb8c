"""The whole gallery: a picture of all systems, and the way to each."""

from collections.abc import Callable

import streamlit as st
from moeviz_app.show import explained, heading, picture_and_words
from moeviz_app.traces import recorded

from moeviz.charts.side_by_side import SIDE_BY_SIDE
from moeviz.history.systems import EXHIBITS


def overview_page(page_of: Callable[[str], st.Page]) -> None:
    """All systems side by side; then each with its year and a line. `page_of` is the menu's."""
    st.title("Gallery", anchor=False)
    st.markdown(
        "The systems that led to today's mixtures of experts, all of them running, each trained within a minute: on "
        "real digits, recorded speech and English text; and, in 1991 and 1994, on made-up vowels that stand in for "
        "measurements which we may not ship. Each system has a gate, so the same chart can be drawn for all of them."
    )
    with explained():
        heading(SIDE_BY_SIDE)
        picture_and_words(SIDE_BY_SIDE, SIDE_BY_SIDE.measure(recorded.gallery()))
    st.text("“Ours” is a small model with Mixtral's architecture; of Mixtral itself, its page has what was published.")
    for row in EXHIBITS.values():
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(row.year, width=90)
            st.page_link(page_of(row.title), label=row.title, icon=":material/arrow_forward:", width=220)
            st.markdown(f"{row.what[0].upper()}{row.what[1:]}.", width="stretch")
