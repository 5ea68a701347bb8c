"""The models on offer, each in a sentence, with the way to run a text through it; and how others are brought."""

import streamlit as st

from moeviz.capture.engine_table import engine_of
from moeviz.embedded.own_models import OWN_MODELS
from moeviz.text import cut
from moeviz_app import settings
from moeviz_app.jobs import model_catalog
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.widgets.run_options import choose_model


def models_page() -> None:
    """Draw the models on offer, and choose one for the next run."""
    st.title("Models", anchor=False)
    st.text("A text that you run goes through one of these models, and its routers are recorded.")
    for name in settings.SETTINGS.models:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"model {name}"):
            with st.container():
                st.text(cut(name))
                st.text(_about(name))
            st.button("Use it", key=f"use {name}", on_click=_use, args=(name,), width="content")
    if identity.may_name_any_model():
        st.text("Or another one; nothing of it is loaded before you run a text.")
        choose_model()
    else:
        st.text("Whoever runs this server says which models are on offer (MOEVIZ_MODELS).")
    session.link_to("Explore", "Run a text through the chosen model")


def _use(name: str) -> None:
    session.set_value(session.MODEL, name)


def _about(name: str) -> str:
    if name in OWN_MODELS:
        return OWN_MODELS[name].trained_for
    if model_catalog.answers_at_once(name):
        return "A server elsewhere runs it; the expert ids in its answers are recorded."
    if (engine := engine_of(name)) is not None:
        return f"It runs here in {engine.name}; its routing is read and not changed."
    return "It runs here in transformers; it is loaded at the first run."
