"""Pickers of what a visitor looks at: a layer, a pair of layers, a stretch of tokens, a token."""

import streamlit as st
from moeviz_app.session import session
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, particulars
from moeviz_app.widgets.components.strip import colours_of, token_strip
from moeviz_app.widgets.facts import layer_word

from moeviz.charts.overview import BRUSH, WHOLE_TRACE, described, with_window
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

MANY_LAYERS = 2  # fewer leave nothing to choose


def choose_layer(trace: RoutingTrace) -> None:
    """One of the layers."""
    kind = layer_word(trace.model)
    if len(trace.model.layers) >= MANY_LAYERS:
        session.keep(session.LAYER)
        st.select_slider(kind.capitalize(), trace.model.layers, key=session.LAYER, persist_state="session")
    else:
        st.text(f"This trace has only one MoE {kind}, {trace.model.layers[0]}.")


def choose_two_layers(trace: RoutingTrace) -> None:
    """Two different layers."""
    layers, kind = trace.model.layers, layer_word(trace.model)
    if len(layers) < MANY_LAYERS:
        return
    with st.container(horizontal=True):
        for label, key, other in (
            (f"First {kind}", session.FIRST_LAYER, session.SECOND_LAYER),
            (f"Second {kind}", session.SECOND_LAYER, session.FIRST_LAYER),
        ):
            free = [layer for layer in layers if layer != session.value(other)]
            session.keep(key)
            st.selectbox(label, free, key=key, persist_state="session", width=160)


def choose_window(trace: RoutingTrace) -> None:
    """Choose which stretch of a long text is drawn token by token."""
    windows = session.windows(trace)
    if windows == 1:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.pagination(windows, key=session.WINDOW, on_change=session.turn_page, persist_state="session")
        rows = session.window()
        st.text(f"tokens {rows.start:,} to {rows.stop - 1:,} of {len(trace.tokens):,}")


def choose_stretch(trace: RoutingTrace) -> None:
    """Choose a stretch of a long text, in a picture of all of it where there is one."""
    if session.windows(trace) > 1 and trace.ordered and trace.recorded.any():
        _overview(trace)
    choose_window(trace)


def choose_token(trace: RoutingTrace) -> None:
    """A token, in the strip of all: coloured by first choice at a layer that is chosen too, as is the window."""
    choose_stretch(trace)
    choose_layer(trace)
    (layer,), rows = session.chosen_layers("one"), session.window()
    colours = colours_of(trace, layer, rows)
    token_strip(trace, layer, rows, session.selected_token(), colours, session.pick_from_strip, session.STRIP)
    _explain_marks(trace, layer, rows)


def _explain_marks(trace: RoutingTrace, layer: int, rows: range) -> None:
    """Explain the marks of tokens that have no expert here, as far as there are such tokens."""
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
        with_window(chart.draw(frame), session.window()),
        key=session.overview_key(),
        on_select=session.pick_from_overview,
        selection_mode=BRUSH,
        alt=alternative(chart),
    )
    particulars(chart, frame)
