"""The page Serve: does a model fit, and what does its routing cost; by parts, and a plan for an engine."""

from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts import placement
from moeviz.charts.chart import Chart
from moeviz.charts.serving import BATCH, CACHE, FITS, MEMORY, PLANE, PREFETCH
from moeviz.errors import MissingField, ModelNotFound
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import layer_word
from moeviz.parameters import CARDS, ServedModel
from moeviz.published import CHECKPOINTS
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.batches import batch_coverage
from moeviz.serving.budget import budget_sentence, hit_rates
from moeviz.serving.decision import ENOUGH, placement_judgements
from moeviz.serving.memory import (
    PRECISIONS,
    USUAL_CONTEXT,
    best_precision,
    known_model,
    memory_on_cards,
    what_fits,
)
from moeviz.serving.placement import placement_sentence, serving_placement
from moeviz.serving.plans.engines import ENGINES, READ_NONE, export_plan, plan_remarks, sizes_for
from moeviz.serving.plans.plan import ExpertPlan, make_plan
from moeviz.serving.prefetch import prefetch_recall
from moeviz.text import quoted
from moeviz_app.jobs import model_catalog
from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import session
from moeviz_app.session.subject import subject
from moeviz_app.url import serve_address
from moeviz_app.url.fields import fill_in
from moeviz_app.views.serve_controls import ServingQuery, ask, bits_of, draw_cards, draw_staleness, lacks_layers
from moeviz_app.widgets.chart_panel import heading, menu, picture, question
from moeviz_app.widgets.facts import cautions
from moeviz_app.widgets.files import file_stem
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.pickers import choice_of

NEEDS_TORCH = "ktransformers"
PARTS = serve_address.PARTS
FITS_PART, CACHED, DEVICES, BATCHES, AHEAD, EVERY_CARD, PLAN = PARTS
NUMBERS = (1, 2, 4, 8)  # of cards
CONTEXTS, SEQUENCES = (2_048, USUAL_CONTEXT, 32_768, 131_072), (1, 8, 32, 128)
ON = {f"{number}x {card}": (card, number) for card in CARDS for number in NUMBERS}  # as an address says it
BEST = 0  # instead of a precision: the best that fits
CARD = "RTX 4090"  # at first
USUAL = f"1x {CARD}"
BY_CONFIG = (
    "Known only by its configuration, which does not say how often each expert is used. To record it: “moeviz trace - "
    "--model {} -o trace.npz < text.txt”."
)


def serve_page() -> None:
    """Draw the controls; five questions with answers; and one picture, of the question that is chosen."""
    question("Serve", MEMORY, "What will it cost to run?")
    wanted = serve_address.asked()
    one = subject()
    name, counted = one.model, one.read()
    if isinstance(counted, RoutingTrace) and counted.tokens.empty:
        say("This trace contains no tokens, so nothing more can be said. Run a prompt, or open another file.")
        return
    on, bits = _ask_cards(wanted)
    served, fits, lacking = None, None, list[str]()
    with explained(lacking.append):
        served = _served(name, counted)
        fits = memory_on_cards(served, **on)
    if lacking:
        say(f"Which cards hold it takes the model's configuration. {lacking[0]}")
    if counted is None:
        say(BY_CONFIG.format(name))
    serving(counted, served, fits, bits, wanted)


def _ask_cards(wanted: dict[str, str]) -> tuple[dict[str, Any], int | None]:
    """Ask for the cards that it will run on, what they serve, and a precision; None for the best that fits."""
    if (on := wanted.get(serve_address.CARD)) in ON:
        for key, value in zip((session.CARD, session.CARDS), ON[on], strict=True):
            session.set_value(key, value)
    fill_in(session.SERVED_BITS, number_in(wanted.get(serve_address.BITS)), PRECISIONS)
    fill_in(session.CONTEXT, number_in(wanted.get(serve_address.CONTEXT)), CONTEXTS)
    fill_in(session.SEQUENCES, number_in(wanted.get(serve_address.SEQUENCES)), SEQUENCES)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        card = choice_of(st.selectbox, "On", [*CARDS], session.CARD, CARD, format_func=_card_said, width=200)
        cards = choice_of(
            st.segmented_control, "Cards", NUMBERS, session.CARDS, 1, format_func="× {}".format, required=True
        )
        bits = choice_of(
            st.segmented_control,
            "Precision",
            [BEST, *PRECISIONS],
            session.SERVED_BITS,
            BEST,
            format_func=_bits_said,
            required=True,
        )
        context = choice_of(
            st.selectbox, "Context", CONTEXTS, session.CONTEXT, USUAL_CONTEXT, format_func="{:,}".format, width=120
        )
        sequences = choice_of(st.selectbox, "Sequences", SEQUENCES, session.SEQUENCES, 1, width=100)
    serve_address.show(serve_address.CARD, f"{cards}x {card}", USUAL)
    serve_address.show(serve_address.BITS, bits, BEST)
    serve_address.show(serve_address.CONTEXT, context, USUAL_CONTEXT)
    serve_address.show(serve_address.SEQUENCES, sequences, 1)
    return {"card": card, "cards": cards, "context": context, "sequences": sequences}, bits or None


def _card_said(card: str) -> str:
    return f"{card} · {CARDS[card]} GB"


def _bits_said(bits: int) -> str:
    return "best" if bits == BEST else f"{bits} bits"


def _served(name: str, counted: Counted | None) -> ServedModel:
    """Return the facts that memory depends on, from the table of well-known models or else the configuration.

    Raises `MissingField` where that is of another model, and what `model_catalog.served_facts` raises.
    """
    if counted is None:
        return known_model(name) or model_catalog.served_facts(name)
    model = CHECKPOINTS.get(counted.model.name, counted.model.name)
    if model_catalog.why_only_read(model) is not None:
        raise MissingField(f"{quoted(model)} came from another engine, without one.")
    try:
        served = known_model(model) or model_catalog.served_facts(model)
    except ModelNotFound as why:  # whatever the hub said, in words for those who fetch a model
        raise MissingField(f"That of {quoted(model)} is not at hand. Offer the model here, or its folder.") from why
    if served.num_experts != max(counted.model.num_experts):  # a file may call itself anything
        raise MissingField(
            f"That of {quoted(model)} has {served.num_experts:,} experts in a layer, and this routing has "
            f"{max(counted.model.num_experts):,}."
        )
    return served


def serving(
    counted: Counted | None,
    served: ServedModel | None = None,
    fits: pd.DataFrame | None = None,
    bits: int | None = None,
    wanted: dict[str, str] | None = None,
) -> None:
    """Draw five answers, and the picture of the part that is open: of a model without routing, of its cards alone.

    fits   of `memory_on_cards`.
    bits   the precision that is asked for; None for the best that fits.
    """
    wanted = serve_address.asked() if wanted is None else wanted
    fit = 0
    if fits is not None:
        bits = best_precision(fits) if bits is None else bits
        fit = int(fits.loc[fits["weight_bits"] == bits, "fit"].iloc[0])
    parts = [part for part in PARTS if counted is not None or part in (FITS_PART, EVERY_CARD)]
    fill_in(session.SERVE_PART, serve_address.part_of(wanted), parts)
    left, right = st.columns([4, 5], gap="medium")
    with right:
        opened = choice_of(
            st.segmented_control,
            "Picture",
            parts,
            session.SERVE_PART,
            FITS_PART,
            label_visibility="collapsed",
            wrap=True,
        )
        opened = FITS_PART if opened is None else opened
        serve_address.show(serve_address.PART, PARTS[opened], PARTS[FITS_PART])
        with explained():
            _draw_opened(opened, counted, served, fits, bits, fit, wanted)
    with left:  # when the controls beside hold what they are to hold
        draw_cards(counted, 0 if served is None else len(served.parameters.per_expert), fits, bits, opened)
    if counted is not None:
        draw_staleness(counted, fit, wanted)


def _draw_opened(
    opened: str,
    counted: Counted | None,
    served: ServedModel | None,
    fits: pd.DataFrame | None,
    bits: int | None,
    fit: int,
    wanted: dict[str, str],
) -> None:
    if opened in (FITS_PART, EVERY_CARD):
        if served is None or fits is None:
            say("This needs the model's configuration.")
        elif opened == FITS_PART:
            _picture(MEMORY, fits)
        else:
            heading(FITS)
            _picture(FITS, what_fits(served, bits_of(counted.model) if counted else bits))
        return
    if isinstance(counted, RoutingTrace):
        cautions(counted)
    elif counted.model.caution:
        st.text(f"Caution: {visible(counted.model.caution)}")
    _draw_part(opened, ask(counted, served, bits, fit, wanted))


def _picture(chart: Chart, frame: pd.DataFrame) -> None:
    """Draw these numbers, and under them what belongs to them."""
    picture(chart, frame, None, None)
    menu(chart, frame, reading=True)


def _draw_part(opened: str, asked: ServingQuery) -> None:
    if opened == CACHED:
        _cache(asked)
    elif opened == DEVICES:
        _placement(asked)
    elif opened == BATCHES:
        _draw(BATCH, batch_coverage(asked.counted), asked.counted)
    elif opened == AHEAD:
        _draw(PREFETCH, prefetch_recall(asked.counted), asked.counted)
    elif opened == PLAN:
        _offer_plan(asked)


def _cache(asked: ServingQuery) -> None:
    """Draw what memory buys; and say first on what that was judged."""
    rates = hit_rates(asked.counted, asked.expert_bytes, asked.capacity)
    with st.container(border=True):
        if asked.gigabytes is None or asked.expert_bytes is None:
            st.text("What does memory buy? Say how large an expert is, under “Tokens and sizes”.")
        else:
            st.text(budget_sentence(asked.counted, rates, asked.gigabytes, asked.expert_bytes))
        ordered = isinstance(asked.counted, RoutingTrace)
        st.text(f"Judged on {'the second half of ' if ordered else 'the same '}{asked.tokens}")
        if not ordered:
            st.text("LRU and what else remembers the last tokens needs their order: open a trace to see that.")
    _draw(CACHE, rates, asked.counted)


def _placement(asked: ServingQuery) -> None:
    if asked.devices == 1:
        st.text("One device does all the work: with more, you see here how evenly they share it.")
        return
    if not isinstance(asked.counted, RoutingTrace):  # the plane takes the experts of each token
        chart = placement.CHARTS[0]
        _draw(chart, chart.measure(asked.counted, asked.devices), asked.counted)
        return
    table = serving_placement(asked.counted, asked.devices, asked.copies)
    judged = placement_judgements(asked.counted, asked.devices)
    if not judged.empty and judged["choices"].min() >= ENOUGH and (sentence := placement_sentence(table)) is not None:
        st.text(sentence)
    _draw(PLANE, table, asked.counted)


def _draw(chart: Chart, frame: pd.DataFrame, counted: Counted) -> None:
    heading(chart)
    with explained():
        tokens = len(counted.tokens) if isinstance(counted, RoutingTrace) else None
        if layer_word(counted.model) == "layer" and (sentence := chart.caption(frame, tokens)):
            st.text(sentence)
        _picture(chart, frame)


def _offer_plan(asked: ServingQuery) -> None:
    """Offer the plan as a file for the chosen engine."""
    trace, devices, copies = asked.counted, asked.devices, asked.copies
    placed = serving_placement(trace, devices, copies) if devices > 1 else None
    if asked.all_layers > len(trace.model.layers):
        say(lacks_layers(trace, asked.all_layers))
        return
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
        plan = make_plan(trace, *sizes_for(engine, devices, copies), in_all, asked.layers_that_fit, placed)
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
