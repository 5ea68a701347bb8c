"""A visitor's opened counts by name, the newest first, and those that ship. They take of the same memory as traces."""

import streamlit as st
from moeviz_app.session import session
from moeviz_app.session.library import free_name
from moeviz_app.session.visit import visit

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.tokens import visible
from moeviz.published import MODELS, published_counts

MOST = 4
TITLE = 60  # characters


def remember(counts: ExpertCounts) -> None:
    """Keep counts among the last ones, and choose them."""
    name = free_name(visible(counts.model.name)[:TITLE], offered())
    visit().counts.put(name, counts, MOST)
    session.set_value(session.COUNTS, name)


def dropped() -> list[str]:
    """Names of counts that were taken away since this was asked last, because memory was needed."""
    return visit().counts.take_dropped()


def offered() -> dict[str, ExpertCounts]:
    """Return counts by name: the visitor's own, the newest first, then published ones."""
    return visit().counts.newest_first() | _published()


@st.cache_resource(show_spinner=False)
def _published() -> dict[str, ExpertCounts]:
    return {published(model): published_counts(model) for model in MODELS}


def published(model: str) -> str:
    """Return the name of a model's published counts."""
    return f"{model} (published)"
