"""Traces side by side: two prompts, two models, prompt against generation, with and without a change; or three."""

from collections.abc import Iterable
from dataclasses import replace

import streamlit as st
from moeviz_app import settings
from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, names_of
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.url.fields import BESIDE
from moeviz_app.views.compare_several import figures_side_by_side, strips
from moeviz_app.widgets import pickers
from moeviz_app.widgets.chart_panel import altair_chart, heading, on_dark, part_of, picture_and_words
from moeviz_app.widgets.messages import example_note, explained, refuse, say
from moeviz_app.widgets.pickers import bring_up_pair
from moeviz_app.widgets.run_panel import record

from moeviz.charts.comparison import COMPARISONS
from moeviz.embedded.own_models import installed
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.metrics.comparison import matched
from moeviz.metrics.tokens import visible
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cut

HOW_MANY = {2: "both", 3: "all three"}
LONGEST = 40  # characters of a name
SHOWN_OF_A_TEXT, SHOWN_KINDS = 14, ("French", "German", "Python", "SQL")  # of the held-out texts, at first


def compare_page() -> None:
    """Choose two of the recent traces, or parts of one, or three; see where they differ, and any chart of all.

    Of one model, expert by expert; of several, by what holds for each, since their experts share no more than numbers.
    Before there are two, the models that ship stand side by side.
    """
    st.title("Compare", anchor=False)
    for sentence in recent.restore():
        say(sentence)
    waits = bring_up_pair()
    offered = pickers.offered()
    if len(offered) < 2:
        if not waits:
            _what_ships(next(iter(offered.values()), None))
        return
    choice = st.container()
    _offer_own_models(offered.get(session.value(session.FIRST_TRACE), next(iter(offered.values()))))
    with choice:
        chosen = pickers.chosen_with_third(offered)
    _compare(named(chosen))


def _what_ships(trace: RoutingTrace | None) -> None:
    """Before there is a pair: the beginnings of some held-out texts, through the models whose routing of them ships."""
    example_note("Run a second text on the Explore page, or open a trace file on the Traces page, to compare your own.")
    _offer_own_models(trace)
    _compare({name: _beginnings(recorded.held_out(name)) for name in ROUTING})


def _beginnings(trace: RoutingTrace) -> RoutingTrace:
    """The first tokens of the first text of some kinds, as texts from 0 on."""
    tokens = trace.tokens
    of_kinds = tokens[tokens["label"].isin(SHOWN_KINDS) & (tokens["position"] < SHOWN_OF_A_TEXT)]
    first = of_kinds.groupby("label", observed=True)["sequence"].transform("min")
    part = trace.select(tokens=of_kinds.index[of_kinds["sequence"] == first].to_numpy())
    texts = part.tokens["sequence"].rank(method="dense").astype("int32") - 1
    return replace(part, tokens=part.tokens.assign(sequence=texts.astype("int32")))


def named(chosen: Iterable[tuple[str, RoutingTrace]]) -> dict[str, RoutingTrace]:
    """The traces by what tells them apart: their models, or else the names that they have among the recent ones."""
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
    _side_by_side(traces)


def _if_trained_further(traces: dict[str, RoutingTrace]) -> None:
    """Offer what needs an expert's number to mean the same in both, where their layouts allow it."""
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
    words = _words(one, other)
    for chart in COMPARISONS:
        heading(chart, words)
        with explained():
            frame = chart.measure((one, other))
            if "trace" in frame:
                frame = frame.assign(trace=frame["trace"].map(called))
            picture_and_words(chart, frame, model=words, names=names)


def _one_model(one: RoutingTrace, other: RoutingTrace) -> bool:
    return one.model.name == other.model.name


def _words(one: RoutingTrace, other: RoutingTrace) -> ModelInfo | None:
    """The model in whose words both can be spoken of; None where they route different things."""
    kinds = ("item_kind", "label_kind", "layer_kind")
    return one.model if all(getattr(one.model, kind) == getattr(other.model, kind) for kind in kinds) else None


def _offer_own_models(first: RoutingTrace | None) -> None:
    """Offer the first text, or an example, through the embedded model and its siblings, where these are here."""
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


def _side_by_side(traces: dict[str, RoutingTrace]) -> None:
    st.subheader("Any chart, side by side", anchor=False)
    chart = BESIDE[st.selectbox("Chart", list(BESIDE), key=session.BESIDE, persist_state="session")]
    for (name, trace), column in zip(traces.items(), st.columns(len(traces), gap="large"), strict=True):
        with column, explained():
            st.text(name)
            frame = chart.measure(part_of(trace, chart))
            own = chart.of(trace.model)
            altair_chart(own.picture(frame, dark=on_dark()), key=f"{chart.key} {name}", alt=f"{name}: {own.question}")
    st.markdown(chart.reading)
