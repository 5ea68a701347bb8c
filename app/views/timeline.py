"""Mixtures of experts from 1991 to today, by size; and whether printed sizes give printed counts."""

import streamlit as st
from moeviz_app import shared, state
from moeviz_app.facts import figures
from moeviz_app.show import explained, heading, picture_and_words

from moeviz.history.timeline.chart import TIMELINE
from moeviz.history.timeline.published_counts import published_counts, readings


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
    with explained():
        _calculator()
    _known_models()


def _calculator() -> None:
    """The same arithmetic with any sizes, from those of a paper on."""
    st.subheader("And with other sizes?", anchor=False)
    systems = readings()
    name = st.selectbox("Begin with", systems, key=state.READING, persist_state="session")
    count, printed = systems[name]
    with st.container(horizontal=True):
        sizes = {size: _size(name, size, value) for size, value in printed.items()}
    figures({"Parameters": (f"{count(**sizes):,}", f"{count.__doc__.splitlines()[0]} By the sizes above.")})


def _size(name: str, size: str, value: int | bool) -> int | bool:
    key, title = f"{name} {size}", size.capitalize()
    if isinstance(value, bool):
        return st.checkbox(title, value, key=key)
    return int(st.number_input(title, 0 if size == "groups" else 1, 10**7, value, key=key, width=130))


def _known_models() -> None:
    """Exact counts of models whose configurations ship; it takes some seconds, so only when asked for."""
    st.subheader("What do the configurations of known models give?", anchor=False)
    st.markdown("Laid out without weights and counted, in billions; beside it stands what the maker says.")
    if st.button("Count them", key="count known models"):
        st.dataframe(shared.known_models(), hide_index=True)
