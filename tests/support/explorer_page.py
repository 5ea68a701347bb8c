"""A page with the explorer alone, for tests/browser/test_browser_explorer.py. Its address says what is shown.

`trace`, `layers`, `tokens`, `top_k`, `experts`: see `explorer_traces.made`. `stale`: the text has changed.
`live`: a run that goes on. `keep`: the page gives back the place that it was told last. `mute`: experts can be muted.
`names`: every other expert has a name.
"""

import pandas as pd
import streamlit as st
from explorer_traces import STAND_IN, made, without

from moeviz_app.widgets.components.explorer import Muted, explorer, told


def address(_, layer, expert):
    """Return the query of an expert's page, as a page does that says where the trace comes from."""
    return {"of": "sample", "layer": str(layer), "expert": str(expert)}


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


def hear():
    """Keep what is muted."""
    heard = told(trace, st.session_state["explorer"])
    if heard.mutes is not None:
        st.session_state["muted"] = (heard.mutes, heard.asked)
    if "keep" in st.query_params and heard.at is not None:
        st.session_state["elsewhere"] = heard.at


def names_of(trace):
    """German for the even experts, and a name of four kinds for the last."""
    if "names" not in st.query_params:
        return None
    pairs = [(layer, e) for layer, n in zip(trace.model.layers, trace.model.num_experts, strict=True) for e in range(n)]
    frame = pd.DataFrame(pairs, columns=["layer", "expert"])
    last = frame["expert"] == max(trace.model.num_experts) - 1
    return frame.assign(holds=(frame["expert"] % 2 == 0) | last, name="German", f1=0.6, f1_token=0.5).assign(
        name=lambda all_: all_["name"].mask(last, "German, <b>SQL</b>, French, Python")
    )


@st.fragment
def shown():
    start = st.session_state.get("elsewhere", (trace.model.layers[1 % len(trace.model.layers)], 2))
    found = STAND_IN if len(trace.tokens) > 20 else ()
    stale, (experts, asked) = "stale" in st.query_params, st.session_state.get("muted", ((), 0))
    muted = Muted(experts, without(trace, experts) if experts else None, asked) if "mute" in st.query_params else None
    chosen = explorer(
        trace,
        start,
        found,
        stale=stale,
        key="explorer",
        link=address,
        on_choice=hear,
        muted=muted,
        names=names_of(trace),
    )
    st.text(f"At {chosen.at}")
    if experts:
        st.text(f"Muted {experts}")
    if chosen.opened:
        st.text(f"Opened {chosen.opened}")


shown()
