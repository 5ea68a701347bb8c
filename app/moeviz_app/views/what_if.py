"""The page What if: change the routing of a prompt, and see what that does to it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

import moeviz
from moeviz.capture.interventions import INTERVENTIONS
from moeviz.capture.interventions.parameter import EXPERTS, LAYER, Parameter
from moeviz.charts.comparison import COMPARISONS, changed_by_layer, difference_heatmap
from moeviz.charts.effect import EFFECT
from moeviz.embedded import EMBEDDED
from moeviz.metrics.effect import effect_summary
from moeviz.metrics.load import expert_load
from moeviz.metrics.tokens import visible
from moeviz.model_info import ModelInfo
from moeviz.text import cut
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.model_catalog import DEFAULT_LOAD
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, cached_for_example
from moeviz_app.jobs.run_request import LONGEST as LONGEST_IN_LINK
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import PageAddress
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.facts import figures
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_panel import waited_for

if TYPE_CHECKING:
    from moeviz.analyses.what_if import WhatIf
    from moeviz.capture.models.load import LoadedModel

CHANGES = {option.flag.lstrip("-"): option for option in INTERVENTIONS if option.title}  # as an address calls them
CHANGED_PROMPT = "changed_prompt"  # the prompt, if the page reads another text than the one on screen
NEXT = ("next_token", "next_token_changed")
LONGEST = 40  # characters of a token
PICTURES = [chart for chart in COMPARISONS if chart.draw in (difference_heatmap, changed_by_layer)]
READS = "The model reads the prompt twice, with and without the change …"


def widget_key(parameter: Parameter, layer: int | None = None) -> str:
    """Return the key of the widget that holds a parameter; each layer has its own where its experts differ."""
    return f"changed_{parameter.name}" + (f" of {layer}" if parameter.of_layer else "")


def _change_written() -> dict[str, str]:
    """Return the chosen change, if the rest of the address contains the page's own model."""
    run = _run_in_address()
    model, how = (run.model, run.how) if run else (settings.SETTINGS.models[0], model_catalog.DEFAULT_LOAD)
    prompt, kind = session.value(session.PROMPT) or "", session.value(session.CHANGE)
    chosen = session.value(session.MODEL) or settings.SETTINGS.models[0]
    if (
        visit().why_waiting is not None
        or kind is None
        or (chosen, session.how()) != (model, how)
        or len(prompt) > LONGEST_IN_LINK
    ):
        return {}
    own = {} if run is not None and run.prompt == prompt else {CHANGED_PROMPT: prompt}
    return own | {session.CHANGE: kind} | _particulars(kind)


def _particulars(kind: str) -> dict[str, str]:
    layer = session.value(widget_key(LAYER))
    values = {each: session.value(widget_key(each, layer)) for each in CHANGES[kind].parameters}
    return {each.name: each.text(value) for each, value in values.items() if value is not None}


def _ask_for_change(query: Mapping[str, str]) -> None:
    """Fill in the prompt at once, and the change when the page knows its model."""
    if query.get(session.CHANGE) not in CHANGES:
        return
    visit().change_asked = dict(query)
    if prompt := query.get(CHANGED_PROMPT):
        session.set_value(session.PROMPT, prompt[: settings.SETTINGS.max_prompt_chars])


def fill_in_change(info: ModelInfo) -> None:
    """Let the widgets of What if hold the change that a link asked for, as far as this model has it."""
    query, visit().change_asked = visit().change_asked, None
    if query is None:
        return
    session.set_value(session.CHANGE, query[session.CHANGE])
    layer = None
    for each in CHANGES[query[session.CHANGE]].parameters:
        if each.of_layer and layer is None:
            return  # the layer that the link asks for is not one of this model's
        value = each.value(query.get(each.name, ""), each.offered(info, layer))
        layer = value if each is LAYER else layer
        if value is not None:
            session.set_value(widget_key(each, layer), value)


ADDRESS = PageAddress(_change_written, _ask_for_change)


def _run_in_address() -> RunRequest | None:
    run = recent.run_of(visit().trace)
    return run if run is not None and run.fits_an_address else None


def what_if_page() -> None:
    """Choose a change, read the prompt with and without it, and show the difference; at first, that of an example."""
    st.title("What if", anchor=False)
    st.markdown(
        "Change what the routers decide, and see how the routing and the model's predictions change. To mute a single "
        "expert of a token, click it on Explore; here are whole texts, and the other changes."
    )
    prompt, name = _prompt_and_model()
    if visit().why_waiting is not None:
        return  # for a model of a stranger's choice, of which nothing may be fetched
    if (why := model_catalog.why_only_read(name)) is not None:
        say(why)
        return
    with explained():
        info = model_catalog.facts(name)
        change = _change(info)
        if st.button("Run with and without the change", type="primary", shortcut="mod+enter"):
            model_service.begin_run()
            visit().what_if = _run(name, prompt, change)
        if visit().what_if is None and _is_example(name, prompt, change):
            _show(*cached_for_example(recorded.example(), "what if", lambda: _run(name, prompt, change)))
    if (found := visit().what_if) is not None:
        _show(*found)


def _is_example(name: str, prompt: str, change: Any) -> bool:
    """Return whether this is the page's example: it is read once, for all visitors."""
    from moeviz.capture.interventions.mute import Mute

    layer, expert = _most_used(recorded.example().model)
    usual = (EMBEDDED, DEFAULT_LOAD, EXAMPLES[MIXED], Mute({layer: (expert,)}))
    return session.is_example() and (name, session.how(), prompt, change) == usual


def _prompt_and_model() -> tuple[str, str]:
    session.start_with(session.PROMPT, EXAMPLES[MIXED])
    prompt = st.text_area(
        "Prompt", height=100, max_chars=settings.SETTINGS.max_prompt_chars, key=session.PROMPT, persist_state="session"
    )
    chosen = session.value(session.MODEL)
    return prompt, chosen if chosen is not None else settings.SETTINGS.models[0]


def _change(info: ModelInfo) -> Any:
    fill_in_change(info)
    kind = st.selectbox(
        "Change",
        list(CHANGES),
        format_func=lambda kind: CHANGES[kind].title,
        key=session.CHANGE,
        persist_state="session",
    )
    option = CHANGES[kind]
    st.text(option.meaning)
    values: dict[str, Any] = {}
    with st.container(horizontal=True):
        for each in option.parameters:
            values[each.name] = _chosen(each, info, values.get(LAYER.name))
    assert option.of is not None
    return option.of(**values)


def _chosen(parameter: Parameter, info: ModelInfo, layer: int | None) -> Any:
    offered, key = parameter.offered(info, layer), widget_key(parameter, layer)
    if parameter is LAYER:
        first = _most_used(info)[0]
    elif parameter is EXPERTS:
        first = [_most_used(info, layer)[1]]
    else:
        first = parameter.first(info, offered)
    session.start_with(key, first)
    if parameter.several:
        return st.multiselect(parameter.label, offered, key=key)
    if parameter.scale and len(offered) > 1:
        return st.select_slider(parameter.label, offered, key=key, width=320)
    return st.selectbox(parameter.label, offered, key=key)


def _most_used(info: ModelInfo, layer: int | None = None) -> tuple[int, int]:
    """Return the layer and the expert to begin with: the most used one of the trace, if it is of this model."""
    trace = session.shown_trace()
    layers = info.layers if layer is None else (layer,)
    if trace.model.name != info.name or not set(layers) <= set(trace.model.layers) or trace.tokens.empty:
        return layers[len(layers) // 2], 0
    most = expert_load(trace.select(layers=list(layers))).sort_values("load", ascending=False, kind="stable").iloc[0]
    return int(most["layer"]), int(most["expert"])


def _run(name: str, prompt: str, change: Any) -> tuple["WhatIf", pd.DataFrame]:
    """Run the change, and return its effect, with the next tokens as text by the tokenizer of the model that ran."""

    def work(loaded: "LoadedModel", _tell: Callable[[Any], None]) -> tuple["WhatIf", pd.DataFrame]:
        found = moeviz.what_if(loaded, prompt, change)
        frame = EFFECT.measure(found.effect)
        texts = {name: [loaded.tokenizer.decode([token]) for token in frame[name]] for name in NEXT}
        return found, frame.assign(**texts)

    return waited_for(model_service.run_on_model(name, session.how(), work), READS)


def _show(found: "WhatIf", effect: pd.DataFrame) -> None:
    with st.container(border=True, key="answer"):
        st.text(_most_moved(effect))
        if found.moved:
            st.text(visible(found.moved))
    _figures(effect_summary(found.effect))
    heading(EFFECT)
    picture_and_words(EFFECT, effect)
    st.markdown("In the charts below, the first is the unchanged model and the second the changed one.")
    for chart in PICTURES:
        heading(chart)
        with explained():
            picture_and_words(chart, chart.measure((found.plain, found.changed)))
    if st.button("Keep both traces", help="Adds both to the recent traces; every page then shows the changed one."):
        session.set_trace(found.plain)
        session.set_trace(found.changed)
        st.success("Kept. You can compare them on the Compare page.")


def _most_moved(effect: pd.DataFrame) -> str:
    """Report after which token the prediction moves most, and what was likeliest to follow before and after."""
    if not (effect["kl"] > 0).any():
        return "The change moves no prediction of this text."
    most = effect.loc[effect["kl"].idxmax()]
    text, before, after = (f"“{cut(visible(most[name]), LONGEST)}”" for name in ("text", *NEXT))
    then = f"{after} instead of {before}" if before != after else f"{after}, as without the change"
    return f"The prediction moves most after {text}: the likeliest next token is {then}."


def _figures(summary: dict[str, float]) -> None:
    rows = {
        "Loss, unchanged": (f"{summary['loss']:.3f}", "Mean, in nats per token: how badly the text is predicted."),
        "Loss, changed": (f"{summary['loss_changed']:.3f}", "The same with the change."),
        "KL": (f"{summary['kl']:.4f}", "Mean over tokens, in nats: how far the next-token distribution moves."),
        "Next token changed": (
            f"{summary['another']:.0%}",
            "Share of tokens after which a different token becomes the most likely.",
        ),
    }
    figures(rows)
