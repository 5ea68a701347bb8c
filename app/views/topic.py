"""The page of one topic: each of its charts, and a choice of layers and tokens if they need one."""

import streamlit as st
from moeviz_app.choices import choose_layer, choose_token, choose_two_layers, choose_window
from moeviz_app.facts import trace_name
from moeviz_app.show import show, trace_to_draw
from moeviz_app.to_expert import choose_expert

from moeviz.charts import TOPICS
from moeviz.routing_trace import RoutingTrace


def topic_page(topic: str) -> None:
    """Draw every chart of `topic` for the current trace."""
    st.title(topic, anchor=False)
    trace = trace_to_draw()
    if trace is None:
        return
    trace_name(trace)
    if any(chart.expert for chart in TOPICS[topic]):
        choose_expert(trace)
    _choices(topic, trace)
    for chart in TOPICS[topic]:
        show(chart, trace)


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
