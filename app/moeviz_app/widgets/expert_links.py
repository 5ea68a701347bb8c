"""The way to the page of an expert: its address, a click on a mark of a chart, and two boxes for the keyboard.

On that page, the expert that is seen there knows the way to others.
"""

from dataclasses import dataclass

import streamlit as st

from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.url.navigation import expert_query, for_the_address

ASKED = "expert that was asked for"
LAYER, NUMBER = "layer of the expert", "number of the expert"  # the two boxes


def open_expert(query: dict[str, str]) -> None:
    """Go to the page of an expert, which writes this query into its address: see `asked_expert`.

    Given to `st.switch_page`, it would stand in the browser's history with the page that is left too, and Back would
    need a step more.
    """
    visit().expert_asked = query
    st.switch_page(visit().pages["Expert"])


def steps() -> int:
    """Return how often this visitor went on: part of widgets' keys, since a browser that goes back has the click."""
    return visit().expert_steps


def one_more_step() -> None:
    """The visitor goes on to another expert."""
    visit().expert_steps += 1


def follow_click() -> None:
    """Go where the last click asked to go: before a page draws, since what it would draw is left at once."""
    if (where := session.value(ASKED)) is not None:
        session.set_value(ASKED, None)
        open_expert(expert_query(*where))


def choose_expert(model: ModelInfo) -> None:
    """Say what a click on an expert does, and offer the same by the keyboard."""
    word, layers = layer_word(model), model.layers
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("Click an expert to see what it does.", width="content")
        with st.popover("Go to an expert", width="content"), st.container(horizontal=True, vertical_alignment="bottom"):
            layer = st.selectbox(word.capitalize(), layers, key=f"{LAYER} {layers}", width=120)
            ids = range(model.num_experts[layers.index(layer)])
            expert = st.selectbox("Expert", ids, key=f"{NUMBER} {ids} {layer}", width=120)
            if st.button("Go", key="go to the expert"):
                open_expert(expert_query(layer, expert))


@dataclass(frozen=True, slots=True)
class SeenExpert:
    """One expert, as a trace or a dataset shows it."""

    model: ModelInfo
    layer: int
    expert: int
    trouble: str  # what of the address could not be had
    texts: str  # the part of `key` that is of the texts in which it is seen

    @property
    def key(self) -> str:
        """The part of the keys of widgets and results that another expert, or other texts, has differently."""
        return f"{self.texts} {self.layer} {self.expert}"

    def go(self, layer: int, expert: int, **more: int) -> None:
        """Go to another expert in the same texts."""
        go_to_expert(expert_query(layer, expert, **more))


def go_to_expert(query: dict[str, str]) -> None:
    """Go to the page of an expert that this query asks for: one step in the browser's history."""
    st.query_params.from_dict(for_the_address(query))
    one_more_step()
    st.rerun(scope="app")
