"""A tour of one minute, for the first visit."""

import streamlit as st
from moeviz_app import state

STEPS = (
    (
        "A language model made of experts",
        "In a Mixture-of-Experts model, each layer has several experts side by side. A small router looks at every "
        "token and sends it to a few of them: only those do any work. This page shows which token went where.",
    ),
    (
        "Run a prompt",
        "Type something, or choose an example, and press **Run** (Ctrl+Enter). The small model that ships with moeviz "
        "runs on this machine. With *Also generate tokens* it continues the text, token by token.",
    ),
    (
        "Read the text",
        "Each token has the colour and the number of the expert that it went to first, in the layer chosen with the "
        "slider. Move the slider to see other layers. The same number in two layers is not the same expert.",
    ),
    (
        "Ask",
        "Click a token to see its route through all layers. The menu has a page for each question: which experts "
        "carry the load, how confident the routers are, which experts work together, what a text costs.",
    ),
    (
        "Compare, change, save",
        "*Compare* puts two traces side by side, *What if* mutes experts and shows the effect, and *Corpus* reads "
        "many labelled texts. *Traces* saves what you see; the page's address brings it back.",
    ),
)


@st.dialog("moeviz in one minute", width="medium")
def tour() -> None:
    """One step after another, forwards and back."""
    at = state.value(state.TOUR) or 0
    title, text = STEPS[at]
    st.progress((at + 1) / len(STEPS), f"{at + 1} of {len(STEPS)}")
    st.subheader(title, anchor=False)
    st.markdown(text)
    with st.container(horizontal=True):
        if at:
            st.button("Back", on_click=state.set_value, args=(state.TOUR, at - 1))
        if at + 1 < len(STEPS):
            st.button("Next", type="primary", on_click=state.set_value, args=(state.TOUR, at + 1))
        elif st.button("Start", type="primary"):
            state.set_value(state.TOUR, 0)
            st.rerun()
