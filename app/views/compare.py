"""Two traces side by side: two prompts, two models, prompt against generation, with and without a change."""

import streamlit as st
from moeviz_app import pairs, settings, state
from moeviz_app.asked import Run
from moeviz_app.carried import BESIDE, bring_up_pair
from moeviz_app.earlier import bring_back
from moeviz_app.examples import EXAMPLES
from moeviz_app.links import record
from moeviz_app.pictures import altair_chart
from moeviz_app.show import explained, heading, on_dark, part_of, picture_and_words, refuse, say

from moeviz.charts.comparison import COMPARISONS
from moeviz.embedded import EMBEDDED
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

TWO_EXAMPLES = ("English", "Python")


def compare_page() -> None:
    """Choose two of the recent traces, or parts of one; see how they differ, and any chart of both."""
    st.title("Compare", anchor=False)
    bring_back()
    waits = bring_up_pair()
    offered = pairs.offered()
    if len(offered) < 2:
        if not waits:
            _say_where_traces_come_from()
        return
    pair = pairs.chosen(offered)
    for chart in COMPARISONS:
        heading(chart, _words(pair))
        with explained():
            picture_and_words(chart, chart.measure(pair), model=_words(pair))
    _side_by_side(pair)


def _words(pair: tuple[RoutingTrace, RoutingTrace]) -> ModelInfo | None:
    """The model in whose words both can be spoken of; None where they route different things."""
    one, other = (trace.model for trace in pair)
    kinds = ("item_kind", "label_kind", "layer_kind")
    return one if all(getattr(one, kind) == getattr(other, kind) for kind in kinds) else None


def _say_where_traces_come_from() -> None:
    say(
        "This page compares two traces, and there are fewer than two so far. Run two prompts on the Explore page, "
        "or one that also generates tokens; open a trace file on the Traces page; or change the routing on the "
        "What if page."
    )
    if EMBEDDED in settings.SETTINGS.models and st.button(f"Compare two examples: {' and '.join(TWO_EXAMPLES)}"):
        with explained(refuse):
            for name in reversed(TWO_EXAMPLES):
                record(Run(EXAMPLES[name], EMBEDDED), key=f"{name} goes on")
            st.rerun()


def _side_by_side(pair: tuple[RoutingTrace, RoutingTrace]) -> None:
    st.subheader("Any chart, side by side", anchor=False)
    chart = BESIDE[st.selectbox("Chart", list(BESIDE), key=state.BESIDE, persist_state="session")]
    for label, trace, column in zip("AB", pair, st.columns(2, gap="large"), strict=True):
        with column, explained():
            st.text(f"Trace {label}")
            frame = chart.measure(part_of(trace, chart))
            own = chart.of(trace.model)
            altair_chart(
                own.picture(frame, dark=on_dark()), key=f"{chart.key} {label}", alt=f"Trace {label}: {own.question}"
            )
    st.markdown(chart.reading)
