"""A visitor's last traces: by name, by the run that made them, and by the address that repeats them."""

from collections.abc import Hashable
from typing import Any

import streamlit as st

from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace

_RECENT, _RUNS, _ADDRESS, _BEFORE, _WIDGETS = "recent", "runs", "address", "address before", "widgets"
RECENT_TRACES = 8
TITLE = 40  # characters


def traces() -> dict[str, RoutingTrace]:
    """The visitor's last traces by name, the newest first."""
    return dict(reversed(st.session_state.get(_RECENT, {}).items()))


def remember(trace: RoutingTrace, run: Hashable = None) -> None:
    """Keep a trace among the last ones, under a name, with the run that made it."""
    named = dict(st.session_state.get(_RECENT, {}))
    name = next((name for name, other in named.items() if other is trace), None)
    if name is None:
        name, number = title_of(trace), 1
        while name in named:
            number += 1
            name = f"{title_of(trace)} ({number})"
    named.pop(name, None)
    st.session_state[_RECENT] = dict([*named.items(), (name, trace)][-RECENT_TRACES:])
    if run is not None:
        kept = {id(other) for other in traces().values()} - {id(trace)}
        runs = [pair for pair in st.session_state.get(_RUNS, []) if id(pair[0]) in kept]
        st.session_state[_RUNS] = [*runs, (trace, run)]


def title_of(trace: RoutingTrace) -> str:
    """A name for a trace: the beginning of its text or, for a system of the gallery, the system's own name."""
    words = "".join(text for text in trace.tokens["text"].head(TITLE) if not text.startswith("<"))
    text = visible(" ".join((trace.model.name if trace.model.backend == "mixture" else words).split()))
    return text if len(text) <= TITLE else f"{text[:TITLE]}…"


def rename(old: str, new: str) -> None:
    """Give one of the recent traces another name; a name that another one has changes nothing."""
    named, new = st.session_state[_RECENT], new.strip()
    if new and new not in named:
        st.session_state[_RECENT] = {new if name == old else name: trace for name, trace in named.items()}


def run_of(trace: RoutingTrace | None) -> Any:
    """What the run was asked for that made this trace; None for one that came in a file."""
    return next((run for made, run in st.session_state.get(_RUNS, []) if made is trace), None)


def trace_of(run: Hashable) -> RoutingTrace | None:
    """A recent trace that was made by such a run."""
    return next((trace for trace, made_by in reversed(st.session_state.get(_RUNS, [])) if made_by == run), None)


def address() -> dict[str, str]:
    """What the address said when we wrote it last."""
    return st.session_state.get(_ADDRESS, {})


def set_address(query: dict[str, str]) -> None:
    """Remember what the address says from now on, and what it said before."""
    if query != address():
        st.session_state[_BEFORE] = address()
    st.session_state[_ADDRESS] = query
    st.session_state[_WIDGETS] = _widgets()


def on_its_way(query: dict[str, str]) -> bool:
    """Whether this is the address before the last with something clicked: the browser had not heard of the last yet.

    Who goes back asks for it too, but has clicked nothing on the page.
    """
    then, now = st.session_state.get(_WIDGETS, {}), _widgets()
    clicked = any(then[key] != now[key] for key in then.keys() & now.keys())  # Streamlit drops what is not drawn
    return clicked and query == st.session_state.get(_BEFORE)


def _widgets() -> dict[str, Any]:
    """What the widgets hold, and whatever else of a visitor's is a plain value."""
    return {key: value for key, value in st.session_state.items() if isinstance(value, str | int | float | None)}
