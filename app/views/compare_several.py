"""Two or three traces next to each other, each with experts of its own. A part of the page Compare."""

from typing import NamedTuple
from weakref import ref

import pandas as pd
import streamlit as st
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.components.strip import colours_of, token_strip
from moeviz_app.widgets.messages import explained, say

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.multi_trace import CHARTS, REPETITION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.balance_study import said_of_study
from moeviz.embedded.own_models import NATURAL, OWN_MODELS
from moeviz.errors import MissingField
from moeviz.metrics.multi_trace import Several, depths, figures_of_several, layer_at, multi_trace_summary, of_one_text
from moeviz.routing_trace import RoutingTrace

_KEPT = "figures of several"


class SeveralTables(NamedTuple):
    """The sentences and tables of two or three traces."""

    says: list[str]
    frames: list[pd.DataFrame | MissingField]  # of each of CHARTS, or why there is none


def several_side_by_side(traces: Several) -> None:
    """Draw what differs: in sentences, in the text of each trace by first choice, then figure by figure."""
    found = None
    with explained():
        found = _found(traces)
        with st.container(border=True, key="answer"):
            st.text("Means over layers; by layer they are drawn below.")
            for sentence in found.says:
                st.text(sentence)
            _kept_even(traces)
    _strips(traces)
    for chart, frame in zip(CHARTS, found.frames if found else (), strict=False):
        heading(chart)
        with explained():
            if isinstance(frame, MissingField):
                raise frame
            _say_who_is_missing(traces, frame)
            picture_and_words(chart, frame)


def _found(traces: Several) -> SeveralTables:
    """The tables, kept as long as they are on screen: of long texts they take seconds."""
    known = session.result(_KEPT)
    if known and [id(kept()) for kept in known[0]] == [id(trace) for trace in traces.values()]:
        return known[1]
    frames = [_measured(chart, traces) for chart in CHARTS]
    repetition = frames[CHARTS.index(REPETITION)]
    repetition = None if isinstance(repetition, MissingField) else repetition
    found = SeveralTables(multi_trace_summary(figures_of_several(traces), repetition, of_one_text(traces)), frames)
    session.keep_result(_KEPT, (tuple(map(ref, traces.values())), found))
    return found


def _measured(chart: Chart, traces: Several) -> pd.DataFrame | MissingField:
    try:
        return chart.measure(traces)
    except MissingField as why:
        return why  # said where it would be drawn


def _kept_even(traces: Several) -> None:
    """Say what kept each model's load even in training, and the losses it came to: known of our own models."""
    names = {letter: trace.model.name for letter, trace in traces.items()}
    known = {letter: OWN_MODELS[name] for letter, name in names.items() if name in OWN_MODELS}
    if not known:
        return
    rest = [letter for letter in traces if letter not in known]
    unknown = f"; of {' and '.join(rest)} it is not known" if rest else ""
    says = ", ".join(f"{letter} by {own.balance}" for letter, own in known.items())
    st.text(f"In training, the load was kept even in {says}{unknown}.")
    if {EMBEDDED, NATURAL} <= set(names.values()):
        st.text(said_of_study())
        session.link_to("Mixtral", "Both models on sixty labelled texts, beside Mixtral's published figures")
    if len(set(map(id, known.values()))) > 1:
        cost = "; ".join(
            f"{letter} {own.bits_per_byte:.2f}, after {own.tokens / 1e6:.1f} million tokens of training"
            for letter, own in known.items()
        )
        st.text(f"Bits for a byte of held-out text: {cost}.")


def _strips(traces: Several) -> None:
    st.subheader("Which expert is each token's first choice?", anchor=False)
    first = next(iter(traces.values()))
    choices = depths(first.model)
    depth = choices[0]
    if len(choices) > 1:
        depth = st.select_slider(
            "Depth, by the layers of trace A",
            choices,
            value=choices[len(choices) // 2],  # in the first layer a router has seen little but the token
            format_func=lambda deep: f"layer {layer_at(first.model, deep)}",
            key=session.DEPTH,
            persist_state="session",
        )
    for (letter, trace), column in zip(traces.items(), st.columns(len(traces), gap="medium"), strict=True):
        with column, explained():
            _strip(letter, trace, layer_at(trace.model, depth))
    longest = max(len(trace.tokens) for trace in traces.values())
    cut = f" Of {longest:,} tokens, the first {theme.MAX_TOKENS} are shown." if longest > theme.MAX_TOKENS else ""
    st.markdown(
        "Each token has the colour of its first choice in the layer closest to that depth; a colour means another "
        f"expert in each trace. A click on a token marks it in every strip.{cut}"
    )


def _strip(letter: str, trace: RoutingTrace, layer: int) -> None:
    rows = range(min(len(trace.tokens), theme.MAX_TOKENS))
    st.text(f"Trace {letter}: {trace.model.name}, layer {layer}")
    key = f"strip of {letter}"
    token_strip(trace, layer, rows, visit().row_of_several, colours_of(trace, layer, rows), lambda: _pick(key), key=key)


def _pick(key: str) -> None:
    """Callback of a strip: the same row is marked in the others."""
    visit().row_of_several = int(session.value(key).pick)


def _say_who_is_missing(traces: Several, frame: pd.DataFrame) -> None:
    """Say which traces have no line in a chart: what it needs may be in some of them alone."""
    without = [letter for letter in traces if letter not in set(frame["trace"])]
    if without:
        lack = "they lack" if len(without) > 1 else "it lacks"
        say(f"There is no line for {' and '.join(without)}: {lack} what this chart is made from.")
