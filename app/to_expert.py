"""The way to the page of an expert: its address, a click on a mark of a chart, and two boxes for the keyboard."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import streamlit as st
from moeviz_app import settings, state
from moeviz_app.pictures import altair_chart
from moeviz_app.server.short_links import LINKS
from moeviz_app.traces import recent, recorded

from moeviz.charts.chart import EXPERT, PAIR, Chart, clickable
from moeviz.embedded import EMBEDDED
from moeviz.errors import MoevizError
from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace


class HasModel(Protocol):
    """A trace, or a part of a dataset."""

    @property
    def model(self) -> ModelInfo:
        """Whose experts its charts are of."""


STEPS, ASKED, QUERY = "steps between experts", "expert that was asked for", "query of the expert"
LAYER, NUMBER = "layer of the expert", "number of the expert"  # the two boxes


def of_expert(trace: RoutingTrace, layer: int, expert: int) -> dict[str, str]:
    """The query of the page of an expert, as this trace shows it."""
    where, model = {"layer": str(layer), "expert": str(expert)}, trace.model.name
    if trace is recorded.held_out(model):
        return where if model == EMBEDDED else where | {"model": model, "seen": "held-out"}
    run = recent.run_of(trace)
    if run is not None and run.fits_an_address:
        return run.parameters() | where | {"seen": "trace"}
    return where | {"model": model, "seen": "trace"}


def open_expert(query: dict[str, str]) -> None:
    """Go to the page of an expert, which writes this query into its address: see `asked_expert`.

    Given to `st.switch_page`, it would stand in the browser's history with the page that is left too, and Back would
    need a step more.
    """
    state.set_value(QUERY, query)
    st.switch_page(state.page("Expert"))


def asked_expert() -> dict[str, str]:
    """The query of the page of an expert: that of the address or, right after `open_expert`, the one given there."""
    try:
        asked = LINKS.shown(st.query_params.to_dict())
    except MoevizError:  # which was told where the link was followed
        asked = {}
    return asked or state.value(QUERY) or {}


def for_the_address(query: dict[str, str]) -> dict[str, str]:
    """A query as the browser's address may hold it: with what was typed, or with a key in its place."""
    return query if settings.SETTINGS.prompts_in_links else LINKS.hidden(query)


def steps() -> int:
    """How often this visitor went on. Part of widgets' keys: a browser that goes back still has the click."""
    return state.value(STEPS) or 0


def one_more_step() -> None:
    """The visitor goes on to another expert."""
    state.set_value(STEPS, steps() + 1)


def follow_click(trace: RoutingTrace) -> None:
    """Go where the last click asked to go: before a page draws, since what it would draw is left at once."""
    follow_click_to(partial(of_expert, trace))


def follow_click_to(query: Callable[[int, int], dict[str, str]]) -> None:
    """The same, to the page of an expert that this query of its layer and id asks for."""
    if (where := state.value(ASKED)) is not None:
        state.set_value(ASKED, None)
        open_expert(query(*where))


def picture_of_experts(chart: Chart, picture: Any, part: HasModel, alt: str) -> None:
    """A chart whose marks are experts of this part of a trace, or of a dataset, each a way to its page."""
    key = f"{chart.key} {steps()}"
    altair_chart(
        clickable(picture, ["layer", chart.expert]),
        key=key,
        alt=alt,
        on_select=partial(_ask, key, chart, part.model),
        selection_mode=EXPERT,
    )


def _ask(key: str, chart: Chart, model: ModelInfo) -> None:
    """Callback of a click. What is no expert of the model is none: the band of all others, the space between."""
    for point in state.value(key).selection.get(EXPERT, []):
        only = model.layers[0] if chart.layers != "all" else None  # marks of one layer do not name it
        layer, expert = point.get("layer", only), point.get(chart.expert)
        if layer in model.layers and expert in range(model.num_experts[model.layers.index(layer)]):
            state.set_value(ASKED, (int(layer), int(expert)))
            one_more_step()


def picture_of_pairs(chart: Chart, picture: Any, part: RoutingTrace, alt: str) -> None:
    """A chart whose marks are pairs of layers: a click on one chooses them."""
    drawn, chosen = clickable(picture, ["from_layer", "to_layer"], PAIR), partial(_choose_pair, chart.key, part.model)
    altair_chart(drawn, key=chart.key, alt=alt, on_select=chosen, selection_mode=PAIR)


def _choose_pair(key: str, model: ModelInfo) -> None:
    """Callback of a click."""
    for point in state.value(key).selection.get(PAIR, []):
        pair = point.get("from_layer"), point.get("to_layer")
        if set(pair) <= set(model.layers):
            state.set_value(state.FIRST_LAYER, int(pair[0]))
            state.set_value(state.SECOND_LAYER, int(pair[1]))


def choose_expert(trace: RoutingTrace) -> None:
    """What a click does, and the same by the keyboard."""
    choose_expert_of(trace.model, f"{id(trace)}", partial(of_expert, trace))


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
