"""A visitor's opened counts by name, the newest first, and those that ship. They take of the same memory as traces."""

import streamlit as st
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary, free_name

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.tokens import visible
from moeviz.published import MODELS, published_counts

_OPEN = "counts"
MOST = 4
TITLE = 60  # characters


def remember(counts: ExpertCounts) -> None:
    """Keep counts among the last ones, and choose them."""
    name = free_name(visible(counts.model.name)[:TITLE], offered())
    _library().put(name, counts, MOST)
    session.set_value(session.COUNTS, name)


def dropped() -> list[str]:
    """Names of counts that were taken away since this was asked last, because memory was needed."""
    return _library().take_dropped()


def offered() -> dict[str, ExpertCounts]:
    """Return counts by name: the visitor's own, the newest first, then published ones."""
    return _library().newest_first() | _published()


@st.cache_resource(show_spinner=False)
def _published() -> dict[str, ExpertCounts]:
    return {published(model): published_counts(model) for model in MODELS}


def published(model: str) -> str:
    """Return the name of a model's published counts."""
    return f"{model} (published)"


def _library() -> SessionLibrary:
    return SessionLibrary.of_session(_OPEN)
