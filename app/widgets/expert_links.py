"""The way to the page of an expert: its address, a click on a mark of a chart, and two boxes for the keyboard."""

from collections.abc import Callable
from functools import partial

import streamlit as st
from moeviz_app.session import session
from moeviz_app.url.expert import QUERY, expert_query

from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

STEPS, ASKED = "steps between experts", "expert that was asked for"
LAYER, NUMBER = "layer of the expert", "number of the expert"  # the two boxes


def open_expert(query: dict[str, str]) -> None:
    """Go to the page of an expert, which writes this query into its address: see `asked_expert`.

    Given to `st.switch_page`, it would stand in the browser's history with the page that is left too, and Back would
    need a step more.
    """
    session.set_value(QUERY, query)
    st.switch_page(session.page("Expert"))


def steps() -> int:
    """How often this visitor went on. Part of widgets' keys: a browser that goes back still has the click."""
    return session.value(STEPS) or 0


def one_more_step() -> None:
    """The visitor goes on to another expert."""
    session.set_value(STEPS, steps() + 1)


def follow_click(trace: RoutingTrace) -> None:
    """Go where the last click asked to go: before a page draws, since what it would draw is left at once."""
    follow_click_to(partial(expert_query, trace))


def follow_click_to(query: Callable[[int, int], dict[str, str]]) -> None:
    """The same, to the page of an expert that this query of its layer and id asks for."""
    if (where := session.value(ASKED)) is not None:
        session.set_value(ASKED, None)
        open_expert(query(*where))


def choose_expert(trace: RoutingTrace) -> None:
    """What a click does, and the same by the keyboard."""
    choose_expert_of(trace.model, f"{id(trace)}", partial(expert_query, trace))


def choose_expert_of(model: ModelInfo, key: str, query: Callable[[int, int], dict[str, str]]) -> None:
    """The same, to the page that this query asks for; `key` tells widgets of one text from those of another."""
    word, layers = layer_word(model), model.layers
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("Click an expert to see what it does.", width="content")
        with st.popover("Go to an expert", width="content"), st.container(horizontal=True, vertical_alignment="bottom"):
            layer = st.selectbox(word.capitalize(), layers, key=f"{LAYER} {key}", width=120)
            ids = range(model.num_experts[layers.index(layer)])
            expert = st.selectbox("Expert", ids, key=f"{NUMBER} {key} {layer}", width=120)
            if st.button("Go", key="go to the expert"):
                open_expert(query(layer, expert))
