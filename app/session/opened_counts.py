"""Routing to look at by name: the trace on screen, held-out texts, a visitor's opened counts, and those that ship.

Opened counts take of the same memory as traces.
"""

from collections.abc import Callable
from functools import partial

import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.session import session
from moeviz_app.session.library import free_name
from moeviz_app.session.visit import visit

from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.tokens import visible
from moeviz.published import MODELS, published_counts
from moeviz.routing_trace import Counted

MOST = 4
TITLE = 60  # characters
TRACE, HELD_OUT = "The trace on screen", "embedded, 60 evaluation texts"


def remember(counts: ExpertCounts) -> None:
    """Keep counts among the last ones, and choose them."""
    name = free_name(visible(counts.model.name)[:TITLE], {TRACE, HELD_OUT, *offered()})
    visit().counts.put(name, counts, MOST)
    session.set_value(session.COUNTS, name)


def dropped() -> list[str]:
    """Names of counts that were taken away since this was asked last, because memory was needed."""
    return visit().counts.take_dropped()


def sources() -> dict[str, Callable[[], Counted]]:
    """Return what may be looked at, by name: the trace on screen, then `offered`, then held-out texts."""
    counts = {name: partial(_same, counts) for name, counts in offered().items()}
    return {TRACE: session.shown_trace} | counts | {HELD_OUT: recorded.evaluation_routing}


def _same(counts: ExpertCounts) -> ExpertCounts:
    return counts


def offered() -> dict[str, ExpertCounts]:
    """Return counts by name: the visitor's own, the newest first, then published ones."""
    return visit().counts.newest_first() | _published()


@st.cache_resource(show_spinner=False)
def _published() -> dict[str, ExpertCounts]:
    return {published(model): published_counts(model) for model in MODELS}


def published(model: str) -> str:
    """Return the name of a model's published counts."""
    return f"{model} (published)"


FIXED = frozenset({TRACE, HELD_OUT, *map(published, MODELS)})  # names that are the same for everybody
