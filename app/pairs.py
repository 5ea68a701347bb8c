"""Two traces to compare, of the recent ones and their parts: the same on every page about pairs. Compare has three."""

import streamlit as st
from moeviz_app import state
from moeviz_app.carried import forget_pair, part_name
from moeviz_app.facts import trace_name
from moeviz_app.traces import recent

from moeviz.routing_trace import PHASES, RoutingTrace

Pair = tuple[RoutingTrace, RoutingTrace]
KEYS = (state.FIRST_TRACE, state.SECOND_TRACE, state.THIRD_TRACE)


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


def choose(one: RoutingTrace, other: RoutingTrace, third: RoutingTrace | None = None) -> None:
    """Let these be what is compared; all are among the recent ones."""
    names = {id(trace): name for name, trace in recent.traces().items()}
    for key, trace in zip(KEYS, (one, other, third), strict=True):
        state.set_value(key, names.get(id(trace)))


def chosen(of: dict[str, RoutingTrace]) -> Pair:
    """The two that the visitor chooses: at first the two newest, or the two parts of the only one."""
    one, other, _ = _chosen(of, KEYS[:2])
    return one, other


def chosen_with_third(of: dict[str, RoutingTrace]) -> tuple[RoutingTrace, RoutingTrace, RoutingTrace | None]:
    """The same, and one more where the visitor wants one."""
    return _chosen(of, KEYS)


def _chosen(
    of: dict[str, RoutingTrace], keys: tuple[str, ...]
) -> tuple[RoutingTrace, RoutingTrace, RoutingTrace | None]:
    names = list(of)
    newest = [*recent.traces(), *names[1:]][:2]
    for key, default in zip(KEYS, (*newest, None), strict=True):
        if state.value(key) not in names:
            state.set_value(key, default)
    found: list[RoutingTrace | None] = []
    for column, key, label in zip(st.columns(len(keys), gap="large"), keys, "ABC", strict=False):
        with column:
            name = _choose_one(label, names, key)
            if name is not None:
                trace_name(of[name])
            found.append(None if name is None else of[name])
    one, other, third = (*found, None)[:3]
    assert one is not None and other is not None, "of these two there is always one"
    return one, other, third


def _choose_one(label: str, names: list[str], key: str) -> str | None:
    """One of the names; the third may be none."""
    third = key == state.THIRD_TRACE
    return st.selectbox(
        f"Trace {label}" + " (optional)" * third,
        names,
        index=None if third else 0,
        placeholder="none: two are compared",
        key=key,
        persist_state="session",
        on_change=forget_pair,
    )
