"""Mixtures of experts from 1991 to today, by size; and whether printed sizes give printed counts."""

import streamlit as st

from moeviz.history.timeline.chart import EXPERTS_AT_WORK, TIMELINE
from moeviz.history.timeline.published_counts import published_counts, readings
from moeviz_app.jobs import model_catalog
from moeviz_app.session import session
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.facts import figures
from moeviz_app.widgets.messages import explained


def timeline_page() -> None:
    """The timeline, of all families or some; and the counts."""
    st.title("Timeline", anchor=False)
    st.markdown(
        "From 24 weights that told vowels apart to trillions: total and active parameters, and the source of each "
        "number."
    )
    heading(TIMELINE)
    frame = TIMELINE.measure()
    families = list(dict.fromkeys(frame["family"]))
    chosen = st.multiselect("Families", families, key=session.FAMILIES, placeholder="all", persist_state="session")
    picture_and_words(TIMELINE, frame[frame["family"].isin(chosen)] if chosen else frame)
    heading(EXPERTS_AT_WORK)
    frame = EXPERTS_AT_WORK.measure()
    picture_and_words(EXPERTS_AT_WORK, frame[frame["family"].isin(chosen)] if chosen else frame)
    st.subheader("Do the printed sizes give the printed counts?", anchor=False)
    st.markdown(
        "Parameter counts computed from the sizes that a paper prints, next to the number that it prints. "
        "Disagreements are informative: with the 64 experts that its paper prints, Switch-XXL comes to 201 billion; "
        "only 128 experts give the 395 billion that it prints."
    )
    st.dataframe(published_counts(), hide_index=True)
    with explained():
        _calculator()
    _draw_known_models()


def _calculator() -> None:
    """Draw the arithmetic of parameters for any sizes, beginning with those of a paper."""
    st.subheader("What do other sizes give?", anchor=False)
    systems = readings()
    name = st.selectbox("Start from", systems, key=session.READING, persist_state="session")
    count, printed = systems[name]
    with st.container(horizontal=True):
        sizes = {size: _size(name, size, value) for size, value in printed.items()}
    figures({"Parameters": (f"{count(**sizes):,}", f"{count.__doc__.splitlines()[0]} With the sizes above.")})


def _size(name: str, size: str, value: int | bool) -> int | bool:
    key, title = f"{name} {size}", size.capitalize()
    if isinstance(value, bool):
        return st.checkbox(title, value, key=key)
    return int(st.number_input(title, 0 if size == "groups" else 1, 10**7, value, key=key, width=130))


def _draw_known_models() -> None:
    """Count parameters of models whose configurations ship; it takes some seconds, so only on request."""
    st.subheader("What do the configurations of known models give?", anchor=False)
    st.markdown(
        "Each model is laid out without weights and its parameters are counted, in billions, next to what its maker "
        "says."
    )
    if st.button("Count them", key="count known models"):
        st.dataframe(model_catalog.known_models(), hide_index=True)
