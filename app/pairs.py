"""Two traces to compare, of the recent ones and their parts: the same two on every page about pairs."""

import streamlit as st
from moeviz_app import state
from moeviz_app.carried import forget_pair, part_name
from moeviz_app.facts import trace_name
from moeviz_app.traces import recent

from moeviz.routing_trace import PHASES, RoutingTrace

Pair = tuple[RoutingTrace, RoutingTrace]


def offered(parts: bool = True) -> dict[str, RoutingTrace]:
    """The recent traces, and with `parts` of those with generated tokens the two parts too."""
    found = {}
    for name, trace in recent.traces().items():
        found[name] = trace
        phases = trace.tokens["phase"]
        if parts and phases.nunique() == len(PHASES.categories):
            found |= {
                part_name(name, phase): trace.select(tokens=(phases == phase).to_numpy()) for phase in PHASES.categories
            }
    return {name: trace for name, trace in found.items() if len(trace.tokens)}


def choose(one: RoutingTrace, other: RoutingTrace) -> None:
    """Let these two be the pair; both are among the recent ones."""
    names = {id(trace): name for name, trace in recent.traces().items()}
    for key, trace in ((state.FIRST_TRACE, one), (state.SECOND_TRACE, other)):
        state.set_value(key, names.get(id(trace)))


def chosen(of: dict[str, RoutingTrace]) -> Pair:
    """The two that the visitor chooses: at first the two newest, or the two parts of the only one."""
    names, pair = list(of), []
    newest = [*recent.traces(), *names[1:]][:2]
    for key, default in zip((state.FIRST_TRACE, state.SECOND_TRACE), newest, strict=True):
        if state.value(key) not in names:
            state.set_value(key, default)
    columns = st.columns(2, gap="large")
    for column, key, label in zip(columns, (state.FIRST_TRACE, state.SECOND_TRACE), "AB", strict=True):
        with column:
            name = st.selectbox(f"Trace {label}", names, key=key, persist_state="session", on_change=forget_pair)
            trace_name(of[name])
            pair.append(of[name])
    return pair[0], pair[1]
