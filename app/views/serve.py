"""The page Serve: costs of serving, by memory for experts, by devices, and by what fits; and a plan for an engine."""

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_catalog
from moeviz_app.session import session
from moeviz_app.url import serve_address
from moeviz_app.views.serve_controls import ServingQuery, ask, bits_of
from moeviz_app.widgets.chart_panel import heading, picture_and_words, trace_to_draw
from moeviz_app.widgets.downloads import file_stem
from moeviz_app.widgets.facts import trace_name
from moeviz_app.widgets.messages import explained, say
from streamlit.delta_generator import DeltaGenerator

from moeviz.charts.chart import Chart
from moeviz.charts.serving import BATCH, CACHE, FITS, PLANE, PREFETCH
from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.batches import batch_coverage
from moeviz.serving.budget import budget_sentence, hit_rates
from moeviz.serving.memory import what_fits
from moeviz.serving.placement import placement_sentence, serving_placement
from moeviz.serving.plans.engines import ENGINES, READ_NONE, export_plan, plan_remarks, sizes_for
from moeviz.serving.plans.plan import ExpertPlan, make_plan
from moeviz.serving.prefetch import prefetch_recall

NEEDS_TORCH = "ktransformers"


def serve_page() -> None:
    """Two controls, the answer in a sentence or two, then the charts, and last the plan."""
    st.title("Serve", anchor=False)
    trace = trace_to_draw()
    if trace is None:
        return
    trace_name(trace)
    with explained():
        serving(trace)


def serving(counted: Counted) -> None:
    """All of the page that a trace, or counts, have: counts are told what needs the order of tokens."""
    asked = ask(counted)
    answer = st.container(border=True, key="answer")
    _cache(asked, answer)
    placed = _placement(asked, answer)
    _draw(BATCH, batch_coverage(asked.counted), asked.counted)
    heading(PREFETCH)
    with explained():
        _picture(PREFETCH, prefetch_recall(asked.counted), asked.counted)
    _cards(counted.model)
    offer_plan(asked.counted, asked.devices, asked.copies, asked.layers_that_fit, placed)


def _cache(asked: ServingQuery, answer: DeltaGenerator) -> None:
    """Draw what memory buys; and say first on what that was judged."""
    rates = hit_rates(asked.counted, asked.expert_bytes, asked.capacity)
    if asked.gigabytes is None or asked.expert_bytes is None:
        answer.text("What does memory buy? Say how large an expert is, under “Tokens and sizes”.")
    else:
        answer.text(budget_sentence(asked.counted, rates, asked.gigabytes, asked.expert_bytes))
    ordered = isinstance(asked.counted, RoutingTrace)
    answer.text(f"Judged on {'the second half of ' if ordered else 'the same '}{asked.tokens}")
    if not ordered:
        answer.text("LRU and what else remembers the last tokens needs their order: open a trace to see that.")
    _draw(CACHE, rates, asked.counted)


def _placement(asked: ServingQuery, answer: DeltaGenerator) -> pd.DataFrame | None:
    if asked.devices == 1:
        answer.text("One device does all the work: with more, you see here how evenly they share it.")
        return None
    table = None
    with explained():
        table = serving_placement(asked.counted, asked.devices, asked.copies)
        if (sentence := placement_sentence(table)) is not None:
            answer.text(sentence)
        _draw(PLANE, table, asked.counted)
    return table


def _cards(model: ModelInfo) -> None:
    if model_catalog.why_only_read(model.name) is not None:
        return  # what another engine runs comes without a configuration
    heading(FITS)
    with explained(lambda why: say(f"This needs the model's configuration. {why}")):
        bits = bits_of(model)
        picture_and_words(FITS, what_fits(model_catalog.served_facts(model.name), bits))


def _draw(chart: Chart, frame: pd.DataFrame, counted: Counted) -> None:
    heading(chart)
    with explained():
        _picture(chart, frame, counted)


def _picture(chart: Chart, frame: pd.DataFrame, counted: Counted) -> None:
    tokens = len(counted.tokens) if isinstance(counted, RoutingTrace) else None
    if layer_word(counted.model) == "layer" and (sentence := chart.caption(frame, tokens)):
        st.text(sentence)
    picture_and_words(chart, frame)


def offer_plan(
    trace: Counted, devices: int, copies: int, layers_on_gpu: int | None, placed: pd.DataFrame | None
) -> None:
    """Where each expert goes, as a file for the engine that is chosen. `placed`: as for `make_plan`."""
    st.subheader("The plan for an engine", anchor=False)
    engine = st.selectbox(
        "Engine",
        list(ENGINES),
        format_func=lambda name: ENGINES[name].title,
        key=session.ENGINE,
        persist_state="session",
    )
    serve_address.show(serve_address.ENGINE, engine, next(iter(ENGINES)))
    in_all = trace.model.num_layers or _layers_in_all(trace)
    with explained():
        plan = make_plan(trace, *sizes_for(engine, devices, copies), in_all, layers_on_gpu, placed)
        for remark in plan_remarks(plan, engine, trace):
            st.text(remark)
        _file(plan, engine, f"{file_stem(trace)}-plan{ENGINES[engine].suffix}")
    st.text(READ_NONE["vllm"])


def _layers_in_all(trace: Counted) -> int | None:
    return st.number_input(
        "Layers of the model, dense ones too",
        min_value=max(trace.model.layers) + 1,
        value=None,
        key=f"{session.ALL_LAYERS} {trace.model.name}",
        persist_state="session",
        help="The trace does not say; it is the configuration's num_hidden_layers. Some engines count all layers.",
    )


def _file(plan: ExpertPlan, name: str, file: str) -> None:
    """Written, read back and compared now: what an engine cannot hold is said here, and no broken file is offered."""
    if name == NEEDS_TORCH:
        model_catalog.bring_torch()
    data = export_plan(plan, name)
    st.text(f"{ENGINES[name].title} reads {ENGINES[name].reads}. Start it with:")
    st.code(ENGINES[name].command(plan, file), language="bash", wrap_lines=True)
    st.download_button("Download the plan", data, file, on_click="ignore", key="plan file", icon=":material/download:")
