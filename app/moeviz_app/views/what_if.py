"""The page What if: change the routing of a prompt, and see what that does to it."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

import moeviz
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
from moeviz_app.jobs.run_request import RunRequest, number_in
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import AMOUNTS, PageAddress, fill_in
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.facts import figures
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_panel import waited_for

if TYPE_CHECKING:
    from moeviz.analyses.what_if import WhatIf
    from moeviz.capture.models.load import LoadedModel

CHANGES = {
    "Mute experts": "They cannot be chosen: each router takes its next best expert instead, weighted as it would be.",
    "Force experts": "Every token is sent to them; any slots left go to the router's best experts.",
    "Turn experts up or down": (
        "This is added to their scores before each router chooses; it weighs those it chooses as it would."
    ),
    "Change top-k": "Every token goes to a different number of experts in every layer, weighted as the router would.",
    "Swap two experts": "Each gets the other's tokens, with the weights that the router gave.",
    "Change precision": "The whole model runs in another precision; its routers decide freely.",
}
KINDS = {  # of changes, as an address calls them
    "mute": "Mute experts",
    "force": "Force experts",
    "bias": "Turn experts up or down",
    "top-k": "Change top-k",
    "swap": "Swap two experts",
    "precision": "Change precision",
}
ONE_VALUE = {"top-k": session.TOP_K, "precision": session.PRECISION}  # changes of every layer, by the widget's key
PRECISIONS = ("bfloat16", "float16", "int8")
CHANGED_PROMPT = "changed_prompt"  # where the page reads another text than the one on screen
NEXT = ("next_token", "next_token_changed")
LONGEST = 40  # characters of a token
PICTURES = [chart for chart in COMPARISONS if chart.draw in (difference_heatmap, changed_by_layer)]
READS = "The model reads the prompt twice, with and without the change …"


def experts_key(layer: int) -> str:
    """Widget key of the experts that are muted or forced in a layer."""
    return f"{session.EXPERTS} of {layer}"


def swap_keys(layer: int) -> tuple[str, str]:
    """Widget keys of the two experts that are swapped in a layer."""
    return f"{session.EXPERTS} 0 of {layer}", f"{session.EXPERTS} 1 of {layer}"


def _change_written() -> dict[str, str]:
    """The change that is chosen, where the rest of the address brings the page's own model."""
    run = _run_in_address()
    model, how = (run.model, run.how) if run else (settings.SETTINGS.models[0], model_catalog.DEFAULT_LOAD)
    prompt, kind = session.value(session.PROMPT) or "", _short(session.value(session.CHANGE))
    chosen = session.value(session.MODEL) or settings.SETTINGS.models[0]
    if (
        session.waiting() is not None
        or kind is None
        or (chosen, session.how()) != (model, how)
        or len(prompt) > LONGEST_IN_LINK
    ):
        return {}
    own = {} if run is not None and run.prompt == prompt else {CHANGED_PROMPT: prompt}
    return own | {session.CHANGE: kind} | _particulars(kind)


def _short(kind: str | None) -> str | None:
    return next((short for short, name in KINDS.items() if name == kind), None)


def _particulars(kind: str) -> dict[str, str]:
    """Return the fields of a change of this kind."""
    if kind in ONE_VALUE:
        values = {ONE_VALUE[kind]: session.value(ONE_VALUE[kind])}
    else:
        layer = session.value(session.CHANGED_LAYER)
        experts = map(session.value, swap_keys(layer)) if kind == "swap" else session.value(experts_key(layer)) or ()
        values = {session.CHANGED_LAYER: layer, session.EXPERTS: ",".join(map(str, experts))}
        values |= {session.AMOUNT: session.value(session.AMOUNT)} if kind == "bias" else {}
    return {key: str(value) for key, value in values.items()}


def _ask_for_change(query: Mapping[str, str]) -> None:
    """Fill in the prompt at once, and the change when the page knows the model that it is made in."""
    if query.get(session.CHANGE) not in KINDS:
        return
    visit().change_asked = dict(query)
    if prompt := query.get(CHANGED_PROMPT):
        session.set_value(session.PROMPT, prompt[: settings.SETTINGS.max_prompt_chars])


def fill_in_change(info: ModelInfo) -> None:
    """Let the widgets of What if hold the change that a link asked for, as far as this model has it."""
    query, visit().change_asked = visit().change_asked, None
    if query is None:
        return
    kind = query[session.CHANGE]
    session.set_value(session.CHANGE, KINDS[kind])
    if kind == "top-k":
        fill_in(session.TOP_K, number_in(query.get(session.TOP_K)), range(1, min(info.num_experts) + 1))
    elif kind == "precision":
        fill_in(session.PRECISION, query.get(session.PRECISION), PRECISIONS)
    elif (layer := number_in(query.get(session.CHANGED_LAYER))) in info.layers:
        session.set_value(session.CHANGED_LAYER, layer)
        if kind == "bias":
            amount = next((amount for amount in AMOUNTS if str(amount) == query.get(session.AMOUNT)), None)
            fill_in(session.AMOUNT, amount, AMOUNTS)
        _fill_in_experts(layer, range(info.num_experts[info.layers.index(layer)]), query)


def _fill_in_experts(layer: int, offered: range, query: Mapping[str, str]) -> None:
    asked = map(number_in, query.get(session.EXPERTS, "").split(","))
    experts = [expert for expert in asked if expert in offered]
    if query[session.CHANGE] == "swap":
        for key, expert in zip(swap_keys(layer), experts, strict=False):
            session.set_value(key, expert)
    elif experts:
        session.set_value(experts_key(layer), list(dict.fromkeys(experts)))


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
    if session.waiting() is not None:
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
    """Return whether this is how the page opens for who has run nothing: it is read once, for all visitors."""
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
    """The intervention that the visitor asks for."""
    from moeviz.capture.interventions.bias import Bias
    from moeviz.capture.interventions.force import Force
    from moeviz.capture.interventions.mute import Mute
    from moeviz.capture.interventions.precision import Precision
    from moeviz.capture.interventions.swap import Swap
    from moeviz.capture.interventions.top_k import TopK

    fill_in_change(info)
    kind = st.selectbox("Change", list(CHANGES), key=session.CHANGE, persist_state="session")
    st.text(CHANGES[kind])
    if kind == "Change top-k":
        session.start_with(session.TOP_K, max(info.top_k - 1, 1))
        return TopK(st.slider("Experts per token", 1, min(info.num_experts), key=session.TOP_K))
    if kind == "Change precision":
        return Precision(st.selectbox("Precision", PRECISIONS, key=session.PRECISION))
    with st.container(horizontal=True):
        session.start_with(session.CHANGED_LAYER, _most_used(info)[0])
        layer = st.selectbox("Layer", info.layers, key=session.CHANGED_LAYER)
        ids = range(info.num_experts[info.layers.index(layer)])
        if kind == "Swap two experts":
            return Swap(layer, *_two_experts(layer, ids))
        session.start_with(experts_key(layer), [_most_used(info, layer)[1]])
        experts = st.multiselect("Experts", ids, key=experts_key(layer))
        if kind == "Turn experts up or down":
            session.start_with(session.AMOUNT, 2.0)
            amount = st.select_slider("Added to the score", AMOUNTS, key=session.AMOUNT, width=320)
            return Bias({layer: dict.fromkeys(experts, amount)})
    return (Mute if kind == "Mute experts" else Force)({layer: tuple(experts)})


def _two_experts(layer: int, ids: range) -> Iterator[int]:
    for expert, (key, label) in enumerate(zip(swap_keys(layer), ("Expert", "With expert"), strict=True)):
        session.start_with(key, min(expert, ids[-1]))
        yield st.selectbox(label, ids, key=key)


def _most_used(info: ModelInfo, layer: int | None = None) -> tuple[int, int]:
    """The layer and the expert to begin with: of the trace on screen, where it is of this model, the one most used."""
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
    """Say after which token the prediction moves most, and what was likeliest to follow before and after."""
    if not (effect["kl"] > 0).any():
        return "The change moves no prediction of this text."
    most = effect.loc[effect["kl"].idxmax()]
    text, before, after = (f"“{cut(visible(most[name]), LONGEST)}”" for name in ("text", *NEXT))
    then = f"{after} in place of {before}" if before != after else f"{after}, as without the change"
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
