"""A page with the explorer alone, for tests/browser/test_browser_explorer.py. Its address says what is shown.

`trace`, `layers`, `tokens`, `top_k`, `experts`: see `explorer_traces.made`. `stale`: the text has changed.
`live`: a run that goes on. `keep`: the page gives back the place that it was told last.
"""

import streamlit as st
from explorer_traces import STAND_IN, made
from moeviz_app.url.expert import expert_query
from moeviz_app.widgets.components.explorer import explorer, told

st.set_page_config(layout="wide")
ask = st.query_params.get


@st.cache_resource
def trace_of(kind: str, layers: int, tokens: int, top_k: int, experts: int):
    """The same trace in every rerun, as a page keeps it."""
    return made(kind, layers, tokens, top_k, experts)


sizes = [int(ask(name, usual)) for name, usual in (("layers", 6), ("tokens", 52), ("top_k", 2), ("experts", 8))]
trace = trace_of(ask("trace", "whole"), *sizes)
with st.container(horizontal=True):
    st.button("Run again")
    if st.button("Go elsewhere"):
        st.session_state["elsewhere"] = (trace.model.layers[-1], 1)
    if st.button("Another trace"):
        st.session_state["other"] = True
if st.session_state.get("other"):
    trace = trace_of("whole", 3, 12, 1, 4)
if "live" in st.query_params:
    explorer(trace, (trace.model.layers[0], len(trace.tokens) - 1))
    st.stop()


def keep():
    """Of a page that keeps the place itself, and gives it back."""
    if (at := told(trace, st.session_state["explorer"]).at) is not None:
        st.session_state["elsewhere"] = at


@st.fragment
def shown():
    start = st.session_state.get("elsewhere", (trace.model.layers[1 % len(trace.model.layers)], 2))
    found = STAND_IN if len(trace.tokens) > 20 else ()
    stale, on_choice = "stale" in st.query_params, keep if "keep" in st.query_params else None
    chosen = explorer(trace, start, found, stale=stale, key="explorer", link=expert_query, on_choice=on_choice)
    st.text(f"At {chosen.at}")
    if chosen.opened:
        st.text(f"Opened {chosen.opened}")


shown()
