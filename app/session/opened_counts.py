"""A visitor's opened counts by name, the newest first, and those that ship. They take of the same memory as traces."""

import streamlit as st
from moeviz_app.session import session
from moeviz_app.session.trace_store import TraceStore

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.tokens import visible
from moeviz.published import MODELS, published_counts

_OPEN = "counts"
MOST = 4
TITLE = 60  # characters


def remember(counts: ExpertCounts) -> None:
    """Keep counts among the last ones, and choose them."""
    title = visible(counts.model.name)[:TITLE]
    name, number = title, 1
    while name in offered():
        number += 1
        name = f"{title} ({number})"
    _shelf().put(name, counts, MOST)
    session.set_value(session.COUNTS, name)


def dropped() -> list[str]:
    """Names of counts that were taken away since this was asked last, because memory was needed."""
    names = [*_shelf().dropped]
    _shelf().dropped.clear()
    return names


def offered() -> dict[str, ExpertCounts]:
    """What there is to look at: the visitor's own, then what others have published."""
    return dict(reversed(_shelf().listed())) | _published()


@st.cache_resource(show_spinner=False)
def _published() -> dict[str, ExpertCounts]:
    return {published(model): published_counts(model) for model in MODELS}


def published(model: str) -> str:
    """What the published counts of a model are called here."""
    return f"{model} (published)"


def _shelf() -> TraceStore:
    shelf = session.value(_OPEN)
    if not isinstance(shelf, TraceStore):
        shelf = TraceStore()
        session.set_value(_OPEN, shelf)
    return shelf
