"""Traces side by side: two prompts, two models, prompt against generation, with and without a change; or three."""

from collections.abc import Collection

import streamlit as st
from moeviz_app import settings
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.url.fields import BESIDE
from moeviz_app.views.compare_several import several_side_by_side
from moeviz_app.views.examples import EXAMPLES, MIXED
from moeviz_app.widgets import trace_picker
from moeviz_app.widgets.chart_panel import altair_chart, heading, on_dark, part_of, picture_and_words
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.run_panel import record
from moeviz_app.widgets.trace_picker import bring_up_pair

from moeviz.charts.comparison import COMPARISONS
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import installed
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

TWO_EXAMPLES = ("English", "Python")
HOW_MANY = {2: "both", 3: "all three"}


def compare_page() -> None:
    """Choose two of the recent traces, or parts of one, or three; see how they differ, and any chart of all.

    Of one model, expert by expert; of several, by what holds for each, since their experts share no more than numbers.
    """
    st.title("Compare", anchor=False)
    for sentence in recent.restore():
        say(sentence)
    waits = bring_up_pair()
    offered = trace_picker.offered()
    if len(offered) < 2:
        if not waits:
            _say_where_traces_come_from()
        return
    choice = st.container()
    _offer_own_models(offered.get(session.value(session.FIRST_TRACE), next(iter(offered.values()))))
    with choice:
        one, other, third = trace_picker.chosen_with_third(offered)
    traces = {"A": one, "B": other} | ({} if third is None else {"C": third})
    if third is not None:
        several_side_by_side(traces)
    elif _share_experts(traces.values()):
        _expert_by_expert(one, other)
    else:
        several_side_by_side(traces)
        with st.expander("Expert by expert: only if one was trained further from the other"):
            st.text(
                "An expert's number means the same in both only if one model was trained further from the other. "
                "Otherwise expert 3 of A has nothing to do with expert 3 of B, and what follows says nothing."
            )
            _expert_by_expert(one, other)
    _side_by_side(tuple(traces.values()))


def _share_experts(traces: Collection[RoutingTrace]) -> bool:
    """Return whether an expert's number means the same in all, as far as names tell."""
    return len({trace.model.name for trace in traces}) == 1


def _expert_by_expert(one: RoutingTrace, other: RoutingTrace) -> None:
    words = _words(one, other)
    for chart in COMPARISONS:
        heading(chart, words)
        with explained():
            picture_and_words(chart, chart.measure((one, other)), model=words)


def _words(one: RoutingTrace, other: RoutingTrace) -> ModelInfo | None:
    """The model in whose words both can be spoken of; None where they route different things."""
    kinds = ("item_kind", "label_kind", "layer_kind")
    return one.model if all(getattr(one.model, kind) == getattr(other.model, kind) for kind in kinds) else None


def _say_where_traces_come_from() -> None:
    say(
        "This page compares two traces, and there are fewer than two so far. Run two prompts on the Explore page, "
        "or one that also generates tokens; open a trace file on the Traces page; or change the routing on the "
        "What if page."
    )
    if EMBEDDED in settings.SETTINGS.models and st.button(f"Compare two examples: {' and '.join(TWO_EXAMPLES)}"):
        with explained(refuse):
            for name in reversed(TWO_EXAMPLES):
                record(RunRequest(EXAMPLES[name], EMBEDDED), key=f"{name} goes on")
            st.rerun()
    _offer_own_models(None)


def _own_models() -> list[str]:
    """The embedded model and its siblings, of those on offer."""
    return [name for name in installed() if name in settings.SETTINGS.models]


def _offer_own_models(first: RoutingTrace | None) -> None:
    """Where siblings of the embedded model are here too: the text of trace A, or an example, through all of them."""
    names, made_by = _own_models(), recent.run_of(first)
    which = "an example" if made_by is None else "the text of A"
    if len(names) < 2 or not st.button(f"Run {which} through {HOW_MANY[len(names)]} embedded models"):
        return
    prompt = EXAMPLES[MIXED] if made_by is None else made_by.prompt
    with explained(refuse):
        traces = [_in_model(prompt, name) for name in names]
        trace_picker.choose(*traces)
        st.rerun()


def _in_model(prompt: str, name: str) -> RoutingTrace:
    trace = record(RunRequest(prompt, name), key=f"{name} goes on")
    recent.rename(next(iter(recent.traces())), recent.free_name(f"{name} · {next(iter(recent.traces()))}"))
    return trace


def _side_by_side(traces: tuple[RoutingTrace, ...]) -> None:
    st.subheader("Any chart, side by side", anchor=False)
    chart = BESIDE[st.selectbox("Chart", list(BESIDE), key=session.BESIDE, persist_state="session")]
    for label, trace, column in zip("ABC", traces, st.columns(len(traces), gap="large"), strict=False):
        with column, explained():
            st.text(f"Trace {label}")
            frame = chart.measure(part_of(trace, chart))
            own = chart.of(trace.model)
            altair_chart(
                own.picture(frame, dark=on_dark()), key=f"{chart.key} {label}", alt=f"Trace {label}: {own.question}"
            )
    st.markdown(chart.reading)
