"""The page of one topic: each of its charts, and a choice of layers and tokens if they need one."""

import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.pages.dataset_topic import dataset_topic
from moeviz_app.session import datasets, session
from moeviz_app.widgets.chart_panel import show_all, trace_to_draw
from moeviz_app.widgets.expert_links import choose_expert
from moeviz_app.widgets.facts import trace_name
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.pickers import choose_layer, choose_token, choose_two_layers, choose_window

from moeviz.charts import TOPICS, specialization
from moeviz.embedded import EMBEDDED
from moeviz.routing_trace import RoutingTrace


def topic_page(topic: str) -> None:
    """Draw every chart of `topic` for the current trace, or for the dataset that is on screen in its place."""
    st.title(topic, anchor=False)
    if datasets.chosen() is not None:
        with explained():
            dataset_topic(topic, datasets.shown())
        return
    trace = trace_to_draw()
    if trace is None:
        return
    trace_name(trace)
    if any(chart.expert for chart in TOPICS[topic]):
        choose_expert(trace)
    _choices(topic, trace)
    charts = TOPICS[topic]
    if "label" not in trace.tokens and set(specialization.CHARTS) <= set(charts):
        _offer_labels(trace)
        charts = tuple(chart for chart in charts if chart not in specialization.CHARTS)
    show_all(charts, trace)


def _offer_labels(trace: RoutingTrace) -> None:
    """One sentence in place of every chart that compares kinds of text, and the way to see them."""
    whose = "the embedded model's" if trace.model.name == EMBEDDED else "the embedded model's, not those of this trace"
    say(
        "Which kinds of text an expert takes is seen in texts with labels, and this trace has none. The sixty "
        f"evaluation texts have them, fifteen kinds; their numbers are {whose}."
    )
    if st.button("Use the evaluation texts"):
        session.set_trace(recorded.evaluation_routing())
        st.rerun()


def _choices(topic: str, trace: RoutingTrace) -> None:
    layers, tokens = ({getattr(chart, what) for chart in TOPICS[topic]} for what in ("layers", "tokens"))
    if "two" in layers:
        choose_two_layers(trace)
    if "one" in tokens:
        choose_token(trace)
        return
    if "one" in layers:
        choose_layer(trace)
    if "window" in tokens:
        choose_window(trace)
