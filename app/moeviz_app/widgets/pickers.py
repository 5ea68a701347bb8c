"""Pickers of what a visitor looks at: a layer, a pair of layers, a stretch of tokens, a token."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from moeviz.charts import TOPICS
from moeviz.charts.overview import BRUSH, WHOLE_TRACE, described, with_window
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, PHASES, RoutingTrace
from moeviz.text import quoted
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.run_request import RunRequest, run_from_query
from moeviz_app.session import recent, session
from moeviz_app.session.subject import subject
from moeviz_app.session.visit import visit
from moeviz_app.url import fields, serve_address
from moeviz_app.url.fields import PageAddress
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, particulars
from moeviz_app.widgets.components.texts import colours_of, token_strip
from moeviz_app.widgets.facts import layer_word, trace_name
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_options import fill_in
from moeviz_app.widgets.run_panel import run_live

MANY_LAYERS = 2  # fewer leave nothing to choose


def choice_of(widget: Any, label: str, options: Sequence[Any], key: str, usual: Any, **looks: Any) -> Any:
    """Draw a widget that holds one of these options, on other pages too; `usual` where it holds none of them."""
    if session.value(key) not in options:
        session.set_value(key, usual)
    session.keep(key)
    return widget(label, options, key=key, persist_state="session", **looks)


def layer_of(layers: Sequence[int], key: str, usual: int, label: str = "Layer") -> int:
    """Ask for one of these layers, `usual` at first; with only one, nothing is asked."""
    if len(layers) == 1:
        session.set_value(key, layers[0])
        return layers[0]
    return choice_of(st.select_slider, label, layers, key, usual, width=420)


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


def choose_text() -> None:
    """Choose one of several texts, on a page that shows one at a time."""
    if visit().takes.one_text and (one := subject()).id in ROUTING:
        texts = one.read().tokens["sequence"].nunique()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"Text {visit().text + 1} of {texts}", width="content")
            for label, step in (("‹ text", -1), ("text ›", 1)):
                st.button(label, on_click=_another_text, args=(visit().text + step, texts))


def _another_text(number: int, texts: int) -> None:
    visit().text, visit().is_placed = number % texts, False
    session.turn_page()


def choose_window(trace: RoutingTrace) -> None:
    """Choose which stretch of a long text is drawn token by token."""
    windows = session.windows(trace)
    if windows == 1:
        return
    if session.value(session.WINDOW) not in range(1, windows + 1):
        session.set_value(session.WINDOW, 1)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.pagination(windows, key=session.WINDOW, on_change=session.turn_page, persist_state="session")
        rows = session.window()
        st.text(f"tokens {rows.start:,} to {rows.stop - 1:,} of {len(trace.tokens):,}")


def choose_stretch(trace: RoutingTrace) -> None:
    """Choose a stretch of a long text, in a picture of all of it if there is one."""
    if session.windows(trace) > 1 and trace.ordered and trace.recorded.any():
        _overview(trace)
    choose_window(trace)


def choose_token(trace: RoutingTrace) -> None:
    """Let the visitor choose a window, a layer, and a token in the strip, coloured by first choice at that layer."""
    choose_stretch(trace)
    choose_layer(trace)
    (layer,), rows = session.chosen_layers("one"), session.window()
    colours = colours_of(trace, layer, rows)
    token_strip(trace, layer, rows, session.selected_token(), colours, session.pick_from_strip, session.STRIP)
    first = trace.experts[trace.model.layers.index(layer), rows.start : rows.stop, 0]
    words = {NO_EXPERT: "–: the token got no expert.", NOT_RECORDED: "?, hatched: its experts are not recorded."}
    if said := [meaning for mark, meaning in words.items() if (first == mark).any()]:
        st.caption(" ".join(said))


def _overview(trace: RoutingTrace) -> None:
    """Draw the whole of a long trace. A brush in it chooses the window, as the pages below it do for the keyboard."""
    frame = WHOLE_TRACE.measure(trace)
    chart = described(frame).of(trace.model)
    heading(chart)
    altair_chart(
        with_window(chart.draw(frame), session.window()),
        key=f"overview {visit().overviews}",
        on_select=session.pick_from_overview,
        selection_mode=BRUSH,
        alt=alternative(chart),
    )
    particulars(chart, frame)


CHART = "chart"  # in an address: the key of one of them
SIDES = {"first": session.FIRST_TRACE, "second": session.SECOND_TRACE}
THIRD = {"third": session.THIRD_TRACE}  # on Compare only, if one is chosen
JUDGED = {serve_address.JUDGED_ON: session.JUDGED_ON}  # only on Serve
MOST_FIELDS = 30  # of a run in an address
BESIDE = {  # charts that Compare draws of both traces
    chart.question: chart
    for charts in TOPICS.values()
    for chart in charts
    if chart.layers in ("all", "one") and chart.tokens == "all"
}

Pair = tuple[RoutingTrace, RoutingTrace]
ORDER = ("First trace", "Second trace", "Third trace")
KEYS = (session.FIRST_TRACE, session.SECOND_TRACE, session.THIRD_TRACE)


def offered(parts: bool = True) -> dict[str, RoutingTrace]:
    """Return the recent traces, and with `parts` of those with generated tokens the two parts too."""
    return offered_of(recent.traces(), parts)


def offered_of(traces: Mapping[str, RoutingTrace], parts: bool = True) -> dict[str, RoutingTrace]:
    """Return these traces by name; with `parts`, the prompt and the generated text of each that has both too."""
    found = {}
    for name, trace in traces.items():
        found[name] = trace
        phases = trace.tokens["phase"]
        if parts and phases.nunique() == len(PHASES.categories):
            found |= {
                part_name(name, phase): trace.select(tokens=(phases == phase).to_numpy()) for phase in PHASES.categories
            }
    return {name: trace for name, trace in found.items() if len(trace.tokens)}


def is_chosen() -> bool:
    """Return whether the visitor, or a link, has chosen what is compared."""
    return session.value(KEYS[0]) is not None


def choose_newest() -> None:
    """Callback: compare the two newest traces, of earlier visits too."""
    for key, name in zip(KEYS, [*offered()][:2], strict=False):
        session.set_value(key, name)


def choose(one: RoutingTrace, other: RoutingTrace, third: RoutingTrace | None = None) -> None:
    """Let these be what is compared; all are among the recent ones."""
    names = {id(trace): name for name, trace in recent.traces().items()}
    for key, trace in zip(KEYS, (one, other, third), strict=True):
        session.set_value(key, names.get(id(trace)))


def chosen(of: dict[str, RoutingTrace]) -> Pair:
    """Return the two that the visitor chooses: at first the two newest, or the two parts of the only one."""
    (_, one), (_, other) = _chosen(of, KEYS[:2])
    return one, other


def chosen_with_third(of: dict[str, RoutingTrace]) -> list[tuple[str, RoutingTrace]]:
    """Return the two traces that the visitor chooses, and a third where they want one, each with its name."""
    return _chosen(of, KEYS)


def _chosen(of: dict[str, RoutingTrace], keys: tuple[str, ...]) -> list[tuple[str, RoutingTrace]]:
    names = list(of)
    newest = [*recent.traces(), *names[1:]][:2]
    for key, default in zip(KEYS, (*newest, None), strict=True):
        if session.value(key) not in names:
            session.set_value(key, default)
    found = []
    for column, key, label in zip(st.columns(len(keys), gap="large"), keys, ORDER[: len(keys)], strict=True):
        with column:
            if (name := _choose_one(label, names, key)) is not None:
                trace_name(of[name])
                found.append((name, of[name]))
    return found


def _choose_one(label: str, names: list[str], key: str) -> str | None:
    third = key == session.THIRD_TRACE
    return st.selectbox(
        f"{label}{' (optional)' * third}",
        names,
        index=None if third else 0,
        placeholder="none: two are compared",
        key=key,
        persist_state="session",
        on_change=forget_pair,
    )


def forget_pair() -> None:
    """Callback of the choice of traces: somebody wants others than a link did."""
    visit().pair_asked = {}


def bring_up_pair() -> bool:
    """Let a page show the traces that a link asked for; return whether one of them waits for somebody to press Run."""
    waiting = {}
    for side, (run, part) in visit().pair_asked.items():  # it is kept until all is done: a run can be interrupted
        with explained():
            if (trace := _brought_up(run, f"{side} going on")) is None:
                waiting[side] = run, part
            else:
                name = next(name for name, other in recent.traces().items() if other is trace)
                session.set_value((SIDES | THIRD | JUDGED)[side], name if part is None else part_name(name, part))
    visit().pair_asked = waiting
    if waiting:
        _wait(next(iter(waiting.values()))[0])
    return bool(waiting)


def _brought_up(run: RunRequest, key: str) -> RoutingTrace | None:
    """Return this run's trace, made now if need be, as the newest; None if that must wait.

    Raises `ModelNotFound` if the model is not on offer, and what `run_live` raises.
    """
    model_catalog.check_on_offer(run.model)
    trace = recent.trace_of(run)
    if trace is None and model_service.at_hand(run.model, run.how) and not run.new_tokens:
        trace = run_live(run, key)
    if trace is not None:
        recent.remember(trace, run)
    return trace


def _wait(run: RunRequest) -> None:
    """Let this run wait on the first page, and say so; if another run waits already, the page has said so before."""
    if visit().why_waiting is None:
        what = f"with up to {run.new_tokens} tokens to generate" if run.new_tokens else "a model that is not loaded"
        why = (
            f"This link asks for a run of {quoted(run.prompt)} by {quoted(run.model)}, {what}. Links do not start such "
            "runs by themselves: to start it, press Run on the Explore page, and come back."
        )
        session.wait(why, run, None, None)
        fill_in(run)
        say(why)


def part_name(name: str, phase: str) -> str:
    """Return the name of the prompt, or of the generated text, of a recent trace."""
    return f"{name} · {phase}"


def _pair_written() -> dict[str, str]:
    found = {side: run_in_address(session.value(key)) for side, key in SIDES.items()}
    return found if all(found.values()) else {}


def _compared_written() -> dict[str, str]:
    """Return the traces that are compared, the third if there is one, and the chart that is drawn of all."""
    pair, chart = _pair_written(), BESIDE.get(session.value(session.BESIDE))
    if (third := session.value(session.THIRD_TRACE)) is not None and pair:
        text = run_in_address(third)
        pair = pair | {"third": text} if text else {}
    return pair | {CHART: chart.key} if pair and chart is not None else pair


def run_in_address(chosen: str | None) -> str | None:
    """Return the run of a trace, or of a part of one, by the name that was chosen; None if no address can repeat it."""
    for name, trace in recent.traces().items():
        run, parts = recent.run_of(trace), {part_name(name, phase): {"part": phase} for phase in PHASES.categories}
        if chosen in (name, *parts):
            fits = run is not None and run.fits_an_address
            return urlencode(run.parameters() | parts.get(chosen, {})) if fits else None
    return None


def ask_for_runs(query: Mapping[str, str], sides: Iterable[str]) -> bool:
    """Remember which runs are wanted, if any; the page brings them up. Raises what `run_from_query` raises."""
    runs: dict[str, tuple[RunRequest, str | None]] = {}  # by side: a run, and which part of its trace
    for side in sides:
        try:
            asked = dict(parse_qsl(query.get(side, ""), max_num_fields=MOST_FIELDS))
        except ValueError:
            continue
        if "prompt" in asked:
            runs[side] = run_from_query(asked), asked.get("part")
    if runs:
        visit().pair_asked = runs
    return bool(runs)


def _ask_for_pair(query: Mapping[str, str]) -> None:
    if ask_for_runs(query, SIDES | THIRD):
        session.set_value(session.THIRD_TRACE, None)  # until it is chosen again, if there is one
        by_key = {chart.key: question for question, chart in BESIDE.items()}
        fields.fill_in(session.BESIDE, by_key.get(query.get(CHART, "")), BESIDE)


PAIR = PageAddress(_pair_written, _ask_for_pair)
COMPARED = PageAddress(_compared_written, _ask_for_pair)
