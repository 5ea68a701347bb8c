"""Traces side by side: two prompts, two models, prompt against generation, with and without a change; or three."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from weakref import ref

import pandas as pd
import streamlit as st

from moeviz.charts import TOPICS, theme
from moeviz.charts.chart import Chart
from moeviz.charts.comparison import COMPARISONS
from moeviz.charts.multi_trace import CHARTS, REPETITION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import NATURAL, OWN_MODELS, installed
from moeviz.embedded.recorded_routing import ROUTING, said_of_study
from moeviz.errors import MissingField
from moeviz.metrics.comparison import matched
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
from moeviz.text import cut
from moeviz_app import settings
from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, names_of, names_of_layer
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.widgets import pickers
from moeviz_app.widgets.chart_panel import altair_chart, heading, on_dark, part_of, picture_and_words
from moeviz_app.widgets.components.texts import colours_of, token_strip
from moeviz_app.widgets.messages import escape_markdown, example_note, explained, note, refuse, say
from moeviz_app.widgets.pickers import BESIDE, bring_up_pair
from moeviz_app.widgets.run_panel import record

HOW_MANY = {2: "both", 3: "all three"}
LONGEST = 40  # characters of a name
SHOWN_OF_A_TEXT, SHOWN_KINDS = 9, ("French", "German", "Python", "SQL")  # of the held-out texts, at first


def compare_page() -> None:
    """Choose two of the recent traces, or parts of one, or three; see where they differ, and any chart of all.

    Traces of one model are compared expert by expert; of several, by what holds for each, since their experts share
    only numbers. Before there are two, the models that ship are side by side.
    """
    st.title("Compare", anchor=False)
    for sentence in recent.restore():
        say(sentence)
    waits = bring_up_pair()
    offered = pickers.offered()
    own = pickers.offered_of(recent.of_this_visit())
    if len(offered) < 2 or (len(own) < 2 and not pickers.is_chosen()):
        if not waits:
            _what_ships(next(iter(own.values()), None))
        if len(offered) > 1:
            st.button("Compare traces of earlier visits", on_click=pickers.choose_newest)
        return
    choice = st.container()
    _offer_own_models(offered.get(session.value(session.FIRST_TRACE), next(iter(offered.values()))))
    with choice:
        chosen = pickers.chosen_with_third(offered)
    _compare(named(chosen))


def _what_ships(trace: RoutingTrace | None) -> None:
    """Show, before there is a pair, beginnings of held-out texts through the models whose recordings ship."""
    example_note(
        f"The first {SHOWN_OF_A_TEXT} tokens of {len(SHOWN_KINDS)} held-out texts ({', '.join(SHOWN_KINDS)}) in the "
        f"{len(ROUTING)} models that ship. To compare your own, run a second text or open a file."
    )
    _offer_own_models(trace)
    _compare({name: _beginnings(recorded.held_out(name)) for name in ROUTING})


def _beginnings(trace: RoutingTrace) -> RoutingTrace:
    """Select the first tokens of the first text of some kinds, as texts from 0 on."""
    tokens = trace.tokens
    of_kinds = tokens[tokens["label"].isin(SHOWN_KINDS) & (tokens["position"] < SHOWN_OF_A_TEXT)]
    first = of_kinds.groupby("label", observed=True)["sequence"].transform("min")
    part = trace.select(tokens=of_kinds.index[of_kinds["sequence"] == first].to_numpy())
    texts = part.tokens["sequence"].rank(method="dense").astype("int32") - 1
    return replace(part, tokens=part.tokens.assign(sequence=texts.astype("int32")))


def named(chosen: Iterable[tuple[str, RoutingTrace]]) -> dict[str, RoutingTrace]:
    """Name traces by what distinguishes them: their models, or else the names that they have among the recent ones."""
    chosen = list(chosen)
    models = [trace.model.name for _, trace in chosen]
    apart = len({*models}) == len(models)
    found: dict[str, RoutingTrace] = {}
    for name, trace in chosen:
        short = cut(visible(trace.model.name if apart else name), LONGEST)
        same = [other for other in found if other.partition(" (")[0] == short]
        found[f"{short} ({len(same) + 1})" if same else short] = trace
    return found


def _compare(traces: dict[str, RoutingTrace]) -> None:
    strips(traces)
    if len(traces) == 2 and _one_model(*traces.values()):
        _expert_by_expert(traces)
    else:
        figures_side_by_side(traces)
        if len(traces) == 2:
            _if_trained_further(traces)
    st.subheader("Any chart, side by side", anchor=False)
    chart = BESIDE[st.selectbox("Chart", list(BESIDE), key=session.BESIDE, persist_state="session")]
    for (name, trace), column in zip(traces.items(), st.columns(len(traces), gap="large"), strict=True):
        with column, explained():
            st.text(name)
            frame = chart.measure(part_of(trace, chart))
            own = chart.of(trace.model)
            altair_chart(own.picture(frame, dark=on_dark()), key=f"{chart.key} {name}", alt=f"{name}: {own.question}")
    st.markdown(chart.reading)


def _if_trained_further(traces: dict[str, RoutingTrace]) -> None:
    """Offer the comparison expert by expert, for models of which one may have been trained from the other."""
    with explained():
        matched(tuple(traces.values()))
        with st.expander("Expert by expert: only if one was trained further from the other"):
            st.text(
                "An expert's number means the same in both only if one model was trained further from the other. "
                "Otherwise expert 3 of one has nothing to do with expert 3 of the other, and what follows says nothing."
            )
            _expert_by_expert(traces)


def _expert_by_expert(traces: dict[str, RoutingTrace]) -> None:
    called, (one, other) = dict(zip("AB", traces, strict=True)), traces.values()
    st.text(f"The first is {called['A']}, the second {called['B']}.")
    names = names_of(one.model, [one, other, *recent.traces().values()]) if _one_model(one, other) else None
    kinds = ("item_kind", "label_kind", "layer_kind")
    words = one.model if all(getattr(one.model, kind) == getattr(other.model, kind) for kind in kinds) else None
    for chart in COMPARISONS:
        heading(chart, words)
        with explained():
            frame = chart.measure((one, other))
            if "trace" in frame:
                frame = frame.assign(trace=frame["trace"].map(called))
            picture_and_words(chart, frame, model=words, names=names)


def _one_model(one: RoutingTrace, other: RoutingTrace) -> bool:
    return one.model.name == other.model.name


def _offer_own_models(first: RoutingTrace | None) -> None:
    """Offer the first text, or an example, through the embedded model and its siblings, if these are here."""
    names, made_by = [name for name in installed() if name in settings.SETTINGS.models], recent.run_of(first)
    which = "an example" if made_by is None else "the first text"
    if len(names) < 2 or not st.button(f"Run {which} through {HOW_MANY[len(names)]} embedded models"):
        return
    prompt = EXAMPLES[MIXED] if made_by is None else made_by.prompt
    with explained(refuse):
        traces = [_in_model(prompt, name) for name in names]
        pickers.choose(*traces)
        st.rerun()


def _in_model(prompt: str, name: str) -> RoutingTrace:
    trace = record(RunRequest(prompt, name), key=f"{name} goes on")
    recent.rename(next(iter(recent.traces())), recent.free_name(f"{name} · {next(iter(recent.traces()))}"))
    return trace


_KEPT = "figures of several"
MAP = TOPICS["Tokens"][0]
WIDTH = 420  # pixels of the slider
STRIPS = (
    "A token has the colour and the number of its first choice there; a click marks it in all strips. In each model, a "
    "number means another expert."
)
MOST_EXPERTS = 3  # of a token, in words


def figures_side_by_side(traces: Several) -> None:
    """Draw the differences between traces with experts of their own: in sentences, and figure by figure."""
    frames: list[pd.DataFrame | MissingField] = []
    with explained():
        says, frames = _compute_tables(traces)
        with st.container(border=True, key="answer"):
            st.text("Means over layers; by layer they are drawn below.")
            for sentence in says:
                st.text(sentence)
            _report_balance_in_training(traces)
    for chart, frame in zip(CHARTS, frames, strict=False):
        heading(chart)
        with explained():
            if isinstance(frame, MissingField):
                raise frame
            without = [name for name in traces if name not in set(frame["trace"])]
            if without:
                lack = "they lack" if len(without) > 1 else "it lacks"
                say(f"There is no line for {' and '.join(without)}: {lack} what this chart is made from.")
            picture_and_words(chart, frame)


def _compute_tables(traces: Several) -> tuple[list[str], list[pd.DataFrame | MissingField]]:
    """Return sentences, and the table of each of CHARTS or why it has none, cached while they are on screen."""
    known = session.result(_KEPT)
    if known and [(name, kept()) for name, kept in known[0]] == [*traces.items()]:
        return known[1]
    frames = [_measure(chart, traces) for chart in CHARTS]
    repetition = frames[CHARTS.index(REPETITION)]
    repetition = None if isinstance(repetition, MissingField) else repetition
    found = multi_trace_summary(figures_of_several(traces), repetition, of_one_text(traces)), frames
    session.keep_result(_KEPT, ([(name, ref(trace)) for name, trace in traces.items()], found))
    return found


def _measure(chart: Chart, traces: Several) -> pd.DataFrame | MissingField:
    try:
        return chart.measure(traces)
    except MissingField as why:
        return why  # shown instead of the drawing


def _report_balance_in_training(traces: Several) -> None:
    """Report how each model's load was balanced in training, and its final losses: known for our own models."""
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
        session.link_to("Mixtral", "Both models on sixty labelled texts, and Mixtral's published figures")
    if len(set(map(id, known.values()))) > 1:
        cost = "; ".join(
            f"{name} {own.bits_per_byte:.2f}, after {own.tokens / 1e6:.1f} million tokens of training"
            for name, own in known.items()
        )
        st.text(f"Bits per byte of held-out text: {cost}.")


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
            help=STRIPS,
            persist_state="session",
        )
    columns = zip(traces.items(), st.columns(len(traces), gap="medium"), strict=True)
    for at, ((name, trace), column) in enumerate(columns):
        with column, explained():
            _strip(at, name, trace, layer_at(trace.model, depth))
    longest = max(len(trace.tokens) for trace in traces.values())
    if longest > theme.MAX_TOKENS:
        st.text(f"Of {longest:,} tokens, the first {theme.MAX_TOKENS} are shown.")


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
    """Name the experts of a token at one layer, the first ones with their names and weights."""
    experts = [int(expert) for expert in part.experts[0, row] if expert >= 0]
    weights = part.weights
    shares = ["" if weights is None else f" {weights[0, row, at]:.0%}" for at in range(len(experts))]
    called = [f"{expert} ({names[expert]})" if expert in names else str(expert) for expert in experts]
    said = [f"{expert}{share}" for expert, share in zip(called, shares, strict=True)]
    more = f" and {len(said) - MOST_EXPERTS} more" if len(said) > MOST_EXPERTS else ""
    return f"{visible(part.tokens['text'].iloc[row])} → {' + '.join(said[:MOST_EXPERTS]) or 'no expert'}{more}"


def _pick(key: str) -> None:
    """Mark the row of a click in the other strips."""
    visit().row_of_several = int(session.value(key).pick)
