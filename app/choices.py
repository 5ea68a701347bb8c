"""What a visitor looks at: a layer, a pair of layers, a stretch of tokens, a token."""

import streamlit as st
from moeviz_app import state
from moeviz_app.components.strip import colours_of, token_strip
from moeviz_app.facts import layer_word
from moeviz_app.pictures import altair_chart
from moeviz_app.show import alternative, heading, particulars

from moeviz.charts.overview import BRUSH, WHOLE_TRACE, described, with_window
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

MANY_LAYERS = 2  # fewer leave nothing to choose


def choose_layer(trace: RoutingTrace) -> None:
    """One of the layers."""
    kind = layer_word(trace.model)
    if len(trace.model.layers) >= MANY_LAYERS:
        state.keep(state.LAYER)
        st.select_slider(kind.capitalize(), trace.model.layers, key=state.LAYER, persist_state="session")
    else:
        st.text(f"This trace has only one MoE {kind}, {trace.model.layers[0]}.")


def choose_two_layers(trace: RoutingTrace) -> None:
    """Two different layers."""
    layers, kind = trace.model.layers, layer_word(trace.model)
    if len(layers) < MANY_LAYERS:
        return
    with st.container(horizontal=True):
        for label, key, other in (
            (f"First {kind}", state.FIRST_LAYER, state.SECOND_LAYER),
            (f"Second {kind}", state.SECOND_LAYER, state.FIRST_LAYER),
        ):
            free = [layer for layer in layers if layer != state.value(other)]
            state.keep(key)
            st.selectbox(label, free, key=key, persist_state="session", width=160)


def choose_window(trace: RoutingTrace) -> None:
    """Which stretch of a long text is drawn token by token."""
    windows = state.windows(trace)
    if windows == 1:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.pagination(windows, key=state.WINDOW, on_change=state.turn_page, persist_state="session")
        rows = state.window()
        st.text(f"tokens {rows.start:,} to {rows.stop - 1:,} of {len(trace.tokens):,}")


def choose_stretch(trace: RoutingTrace) -> None:
    """The same, in a picture of all of it where there is one."""
    if state.windows(trace) > 1 and trace.ordered and trace.recorded.any():
        _overview(trace)
    choose_window(trace)


def choose_token(trace: RoutingTrace) -> None:
    """A token, in the strip of all: coloured by first choice at a layer that is chosen too, as is the window."""
    choose_stretch(trace)
    choose_layer(trace)
    (layer,), rows = state.chosen_layers("one"), state.window()
    colours = colours_of(trace, layer, rows)
    token_strip(trace, layer, rows, state.selected_token(), colours, state.pick_from_strip, state.STRIP)
    _explain_marks(trace, layer, rows)


def _explain_marks(trace: RoutingTrace, layer: int, rows: range) -> None:
    """What stands under a token that has no expert here, as far as there are such tokens."""
    first = trace.experts[trace.model.layers.index(layer), rows.start : rows.stop, 0]
    words = {NO_EXPERT: "–: the token got no expert.", NOT_RECORDED: "?, hatched: its experts are not recorded."}
    if said := [meaning for mark, meaning in words.items() if (first == mark).any()]:
        st.caption(" ".join(said))


def _overview(trace: RoutingTrace) -> None:
    """The whole of a long trace. A brush in it chooses the window, as the pages below it do for the keyboard."""
    frame = WHOLE_TRACE.measure(trace)
    chart = described(frame).of(trace.model)
    heading(chart)
    altair_chart(
        with_window(chart.draw(frame), state.window()),
        key=state.overview_key(),
        on_select=state.pick_from_overview,
        selection_mode=BRUSH,
        alt=alternative(chart),
    )
    particulars(chart, frame)
