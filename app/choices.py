"""What a visitor looks at: a layer, a pair of layers, a stretch of tokens."""

import streamlit as st
from moeviz_app import state
from moeviz_app.facts import layer_word

from moeviz.routing_trace import RoutingTrace

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
