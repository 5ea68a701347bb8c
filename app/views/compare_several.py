"""Two or three traces beside each other: their tokens by first choice, and what is said of each. A part of Compare."""

from collections.abc import Mapping
from typing import NamedTuple
from weakref import ref

import pandas as pd
import streamlit as st
from moeviz_app.jobs.recorded import names_of, names_of_layer
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.chart_panel import altair_chart, heading, on_dark, picture_and_words
from moeviz_app.widgets.components.texts import colours_of, token_strip
from moeviz_app.widgets.messages import escape_markdown, explained, note, say

from moeviz.charts import TOPICS, theme
from moeviz.charts.chart import Chart
from moeviz.charts.multi_trace import CHARTS, REPETITION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import NATURAL, OWN_MODELS
from moeviz.embedded.recorded_routing import said_of_study
from moeviz.errors import MissingField
from moeviz.metrics.multi_trace import (
    Several,
    depths,
    figures_of_several,
    first_choices_summary,
    layer_at,
    multi_trace_summary,
    of_one_text,
)
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace

_KEPT = "figures of several"
MAP = TOPICS["Tokens"][0]
WIDTH = 420  # pixels of the slider
MOST_EXPERTS = 3  # of a token, in words


class SeveralTables(NamedTuple):
    """The sentences and tables of two or three traces."""

    says: list[str]
    frames: list[pd.DataFrame | MissingField]  # of each of CHARTS, or why there is none


def figures_side_by_side(traces: Several) -> None:
    """Draw what differs of traces with experts of their own: in sentences, and figure by figure."""
    found = None
    with explained():
        found = _found(traces)
        with st.container(border=True, key="answer"):
            st.text("Means over layers; by layer they are drawn below.")
            for sentence in found.says:
                st.text(sentence)
            _kept_even(traces)
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
    if known and [(name, kept()) for name, kept in known[0]] == [*traces.items()]:
        return known[1]
    frames = [_measured(chart, traces) for chart in CHARTS]
    repetition = frames[CHARTS.index(REPETITION)]
    repetition = None if isinstance(repetition, MissingField) else repetition
    found = SeveralTables(multi_trace_summary(figures_of_several(traces), repetition, of_one_text(traces)), frames)
    session.keep_result(_KEPT, ([(name, ref(trace)) for name, trace in traces.items()], found))
    return found


def _measured(chart: Chart, traces: Several) -> pd.DataFrame | MissingField:
    try:
        return chart.measure(traces)
    except MissingField as why:
        return why  # said where it would be drawn


def _kept_even(traces: Several) -> None:
    """Say what kept each model's load even in training, and the losses it came to: known of our own models."""
    models = {name: trace.model.name for name, trace in traces.items()}
    known = {name: OWN_MODELS[model] for name, model in models.items() if model in OWN_MODELS}
    if not known:
        return
    rest = [name for name in traces if name not in known]
    unknown = f"; of {' and '.join(rest)} it is not known" if rest else ""
    says = ", ".join(f"{name} by {own.balance}" for name, own in known.items())
    st.text(f"In training, the load was kept even in {says}{unknown}.")
    if {EMBEDDED, NATURAL} <= set(models.values()):
        st.text(said_of_study())
        session.link_to("Mixtral", "Both models on sixty labelled texts, beside Mixtral's published figures")
    if len(set(map(id, known.values()))) > 1:
        cost = "; ".join(
            f"{name} {own.bits_per_byte:.2f}, after {own.tokens / 1e6:.1f} million tokens of training"
            for name, own in known.items()
        )
        st.text(f"Bits for a byte of held-out text: {cost}.")


def strips(traces: Several) -> None:
    """Draw the tokens of each trace by first choice at one depth, a sentence on what is seen there, and its map."""
    first = next(iter(traces.values()))
    choices = depths(first.model)
    depth = choices[0]
    if len(choices) > 1:
        if (before := session.value(session.DEPTH)) not in choices and before is not None:  # of other models
            session.set_value(session.DEPTH, min(choices, key=lambda deep: abs(deep - before)))
        alike = len({trace.model.layers for trace in traces.values()}) == 1
        depth = st.select_slider(
            "Layer" if alike else f"Layer of {next(iter(traces))}, and of the others the one that is as deep",
            choices,
            value=choices[len(choices) // 2],  # in the first layer a router has seen little but the token
            format_func=lambda deep: f"layer {layer_at(first.model, deep)}",
            key=session.DEPTH,
            width=WIDTH,
            persist_state="session",
        )
    columns = zip(traces.items(), st.columns(len(traces), gap="medium"), strict=True)
    for at, ((name, trace), column) in enumerate(columns):
        with column, explained():
            _strip(at, name, trace, layer_at(trace.model, depth))
    longest = max(len(trace.tokens) for trace in traces.values())
    cut = f" Of {longest:,} tokens, the first {theme.MAX_TOKENS} are shown." if longest > theme.MAX_TOKENS else ""
    st.markdown(
        "Each token has the colour and the number of its first choice in that layer. A click on a token marks it in "
        f"all strips.{'' if _of_one_model(traces) else ' A number means another expert in each model.'}{cut}"
    )


def _of_one_model(traces: Several) -> bool:
    return len({trace.model.name for trace in traces.values()}) == 1


def _strip(at: int, name: str, trace: RoutingTrace, layer: int) -> None:
    shown = trace.select(tokens=slice(0, theme.MAX_TOKENS))
    st.markdown(f"**{escape_markdown(name)}** · layer {layer}")
    rows, key, row = range(len(shown.tokens)), f"strip {at}", visit().row_of_several
    names = names_of_layer(names_of(trace.model, [trace, *recent.traces().values()]), layer)
    token_strip(shown, layer, rows, row, colours_of(shown, layer, rows), lambda: _pick(key), key=key, names=names)
    part = shown.select(layers=[layer])
    with explained():
        st.text(first_choices_summary(part))
    if row is not None and row in rows:
        st.text(_choice_of(part, row, names))
    with explained():
        drawn = MAP.picture(MAP.measure(shown), dark=on_dark())
        altair_chart(drawn, key=f"map {at}", alt=f"{name}: {MAP.question}")
    if name in OWN_MODELS:
        note(OWN_MODELS[name].trained_for)


def _choice_of(part: RoutingTrace, row: int, names: Mapping[int, str]) -> str:
    """Say which experts a token of one layer has, the first ones with their names and weights."""
    experts = [int(expert) for expert in part.experts[0, row] if expert >= 0]
    weights = part.weights
    shares = ["" if weights is None else f" {weights[0, row, at]:.0%}" for at in range(len(experts))]
    called = [f"{expert} ({names[expert]})" if expert in names else str(expert) for expert in experts]
    said = [f"{expert}{share}" for expert, share in zip(called, shares, strict=True)]
    more = f" and {len(said) - MOST_EXPERTS} more" if len(said) > MOST_EXPERTS else ""
    return f"{visible(part.tokens['text'].iloc[row])} → {' + '.join(said[:MOST_EXPERTS]) or 'no expert'}{more}"


def _pick(key: str) -> None:
    """Callback of a strip: the same row is marked in the others."""
    visit().row_of_several = int(session.value(key).pick)


def _say_who_is_missing(traces: Several, frame: pd.DataFrame) -> None:
    """Say which traces have no line in a chart: what it needs may be in some of them alone."""
    without = [name for name in traces if name not in set(frame["trace"])]
    if without:
        lack = "they lack" if len(without) > 1 else "it lacks"
        say(f"There is no line for {' and '.join(without)}: {lack} what this chart is made from.")
