"""The token strip and what hangs on it: choose a layer and a token, and see where that token went in every layer."""

import streamlit as st
from moeviz_app import links, state
from moeviz_app.choices import choose_layer, choose_window
from moeviz_app.components.strip import colours_of, token_strip
from moeviz_app.components.written import written
from moeviz_app.downloads import downloads
from moeviz_app.facts import trace_facts
from moeviz_app.show import alternative, explained, heading, part_of, particulars, say, show, trace_to_draw
from moeviz_app.timing import log_moment

from moeviz.charts import NAMED
from moeviz.charts.marked_token import with_marked_token
from moeviz.charts.overview import BRUSH, WHOLE_TRACE, described, with_window
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

OVERVIEW = (NAMED["load_heatmap"], NAMED["balance_by_layer"], NAMED["active_by_convention"])


def explore() -> None:
    """The current trace, from its tokens to its balance."""
    st.divider()
    trace = trace_to_draw()
    if trace is None:
        return
    trace_facts(trace)
    _tokens()
    for chart in OVERVIEW:
        show(chart, trace)
    st.subheader("Download this trace", anchor=False)
    downloads(trace)


@st.fragment
def _tokens() -> None:
    """Strip, heat map and route. A fragment: a click here redraws these three and nothing else."""
    trace = state.current_trace()
    if not trace.ordered:
        say(
            f"This trace does not say which of a token's {trace.model.top_k} experts has the highest weight. So tokens "
            "have no colours here, only the ids of their experts, and pictures of first choices are left out."
        )
    written(trace, "written")
    strip(trace)
    heatmap, route = st.columns([3, 2], gap="large")
    with heatmap:
        if trace.ordered:
            _heatmap(trace)
        else:
            _experts_of_layer(trace)
    with route:
        _route(trace)
    links.write()


def strip(trace: RoutingTrace) -> None:
    """The tokens, coloured by their first-choice expert at the chosen layer; and the choice of layer and window."""
    if state.windows(trace) > 1 and trace.ordered and trace.recorded.any():
        _overview(trace)
    choose_window(trace)
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
    chart = described(frame)
    heading(chart)
    st.altair_chart(
        with_window(chart.draw(frame), state.window()),
        key=state.overview_key(),
        on_select=state.pick_from_overview,
        selection_mode=BRUSH,
        alt=alternative(chart),
    )
    particulars(chart, frame)


def _heatmap(trace: RoutingTrace) -> None:
    chart, token = NAMED["top_expert_grid"], state.selected_token()
    heading(chart)
    with explained():
        frame = chart.measure(part_of(trace, chart))
        start = None if token is None else _place(trace, token)
        st.altair_chart(
            with_marked_token(chart.draw(frame), start),
            key=state.heatmap_key(),
            on_select=state.pick_from_heatmap,
            selection_mode=state.CELL,
            alt=alternative(chart),
        )
        log_moment("first chart sent")
        particulars(chart, frame)


def _experts_of_layer(trace: RoutingTrace) -> None:
    """In place of the heat map, for a trace that has no first choices."""
    chart = NAMED["token_expert_grid"]
    heading(chart)
    with explained():
        frame = chart.measure(part_of(trace, chart))
        st.altair_chart(chart.draw(frame), key=chart.key, alt=alternative(chart))
        particulars(chart, frame)


def _place(trace: RoutingTrace, token: int) -> int:
    """Where the chart's axis has that token: at its position in a single text, at its row among several."""
    rows = state.window()
    one_text = trace.tokens["sequence"].iloc[rows.start : rows.stop].nunique() == 1
    return int(trace.tokens["position"].iloc[token]) if one_text else token - rows.start


def _route(trace: RoutingTrace) -> None:
    chart = NAMED["token_route"]
    heading(chart)
    if state.selected_token() is None:
        say("Click a token in the text or in the chart to see its experts in every layer, with their weights.")
        return
    with explained():
        frame = chart.measure(part_of(trace, chart))
        st.altair_chart(chart.draw(frame), key=chart.key, alt=alternative(chart))
        particulars(chart, frame)
