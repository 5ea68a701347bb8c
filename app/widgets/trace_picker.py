"""Two traces to compare, of the recent ones and their parts: the same on every page about pairs. Compare has three."""

import streamlit as st
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import SIDES, THIRD, part_name
from moeviz_app.widgets.facts import trace_name
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_options import fill_in
from moeviz_app.widgets.run_panel import run_live

from moeviz.routing_trace import PHASES, RoutingTrace
from moeviz.text import quoted

Pair = tuple[RoutingTrace, RoutingTrace]
ORDER = ("First trace", "Second trace", "Third trace")
KEYS = (session.FIRST_TRACE, session.SECOND_TRACE, session.THIRD_TRACE)


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
        session.set_value(key, names.get(id(trace)))


def chosen(of: dict[str, RoutingTrace]) -> Pair:
    """The two that the visitor chooses: at first the two newest, or the two parts of the only one."""
    one, other, _ = _chosen(of, KEYS[:2])
    return one, other


def chosen_with_third(of: dict[str, RoutingTrace]) -> list[tuple[str, RoutingTrace]]:
    """Return the two traces that the visitor chooses, and a third where they want one, each with its name."""
    _chosen(of, KEYS)
    names = (session.value(key) for key in KEYS)
    return [(name, of[name]) for name in names if name is not None]


def _chosen(
    of: dict[str, RoutingTrace], keys: tuple[str, ...]
) -> tuple[RoutingTrace, RoutingTrace, RoutingTrace | None]:
    names = list(of)
    newest = [*recent.traces(), *names[1:]][:2]
    for key, default in zip(KEYS, (*newest, None), strict=True):
        if session.value(key) not in names:
            session.set_value(key, default)
    found: list[RoutingTrace | None] = []
    for column, key, label in zip(st.columns(len(keys), gap="large"), keys, ORDER[: len(keys)], strict=True):
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
    third = key == session.THIRD_TRACE
    return st.selectbox(
        f"{label}{' (optional)' * third}",
        names,
        index=None if third else 0,
        placeholder="none: two are compared",
        key=key,
        persist_state="session",
        on_change=forget_pair,
    )


def forget_pair() -> None:
    """Callback of the choice of traces: somebody wants others than a link did."""
    visit().pair_asked = {}


def bring_up_pair() -> bool:
    """Let Compare show the traces that a link asked for; whether one of them waits for somebody to press Run."""
    waiting = {}
    for side, (run, part) in visit().pair_asked.items():  # it is kept until all is done: a run can be interrupted
        with explained():
            if (trace := _brought_up(run, f"{side} going on")) is None:
                waiting[side] = run, part
            else:
                name = next(name for name, other in recent.traces().items() if other is trace)
                session.set_value((SIDES | THIRD)[side], name if part is None else part_name(name, part))
    visit().pair_asked = waiting
    if waiting:
        _wait(next(iter(waiting.values()))[0])
    return bool(waiting)


def _brought_up(run: RunRequest, key: str) -> RoutingTrace | None:
    """The newest of the recent traces from now on, the one that this run made or makes; None where that is to wait.

    Raises `ModelNotFound` if the model is not on offer, and what `run_live` raises.
    """
    model_catalog.check_on_offer(run.model)
    trace = recent.trace_of(run)
    if trace is None and model_service.at_hand(run.model, run.how) and not run.new_tokens:
        trace = run_live(run, key)
    if trace is not None:
        recent.remember(trace, run)
    return trace


def _wait(run: RunRequest) -> None:
    """Let this run wait on the first page, where no other does yet, which the page has said already."""
    if session.waiting() is None:
        what = f"with up to {run.new_tokens} tokens to generate" if run.new_tokens else "a model that is not loaded"
        why = (
            f"This link compares a run of {quoted(run.prompt)} by {quoted(run.model)}, {what}. Links do not start such "
            "runs by themselves: to start it, press Run on the Explore page, and come back."
        )
        session.wait(why, run, None, None)
        fill_in(run)
        say(why)
