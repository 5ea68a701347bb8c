"""Mixtures of experts from 1991 to today, by size; and whether printed sizes give printed counts."""

import streamlit as st

from app import state
from app.show import heading, picture_and_words
from moeviz.charts.timeline import TIMELINE
from moeviz.history.published_counts import published_counts


def timeline_page() -> None:
    """The timeline, of all families or some; and the counts."""
    st.title("Timeline", anchor=False)
    st.markdown("From 24 weights that told vowels apart to trillions: total and active parameters, and who says so.")
    heading(TIMELINE)
    frame = TIMELINE.measure()
    families = list(dict.fromkeys(frame["family"]))
    chosen = st.multiselect("Families", families, key=state.FAMILIES, placeholder="all", persist_state="session")
    picture_and_words(TIMELINE, frame[frame["family"].isin(chosen)] if chosen else frame)
    st.subheader("Do the printed sizes give the printed counts?", anchor=False)
    st.markdown(
        "Parameters worked out from the sizes that a paper prints, beside the number that it prints. What does not "
        "agree says something: Switch-XXL has 201 billion with its printed 64 experts, 395 as printed with 128."
    )
    st.dataframe(published_counts(), hide_index=True)
