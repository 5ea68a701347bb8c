"""What this routing costs to serve: what a memory for experts buys, what devices do, what fits, and a plan to take."""

from functools import reduce
from math import gcd
from typing import NamedTuple

import pandas as pd
import streamlit as st
from moeviz_app import shared, state
from moeviz_app.facts import trace_name
from moeviz_app.plan_file import offer_plan
from moeviz_app.show import explained, heading, picture_and_words, say, trace_to_draw
from streamlit.delta_generator import DeltaGenerator

from moeviz.charts.chart import Chart
from moeviz.charts.serving import BATCH, CACHE, FITS, PLANE, PREFETCH
from moeviz.metrics.said import said
from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.serving.batches import batch_coverage
from moeviz.serving.budget import budget_of, budget_sentence, hit_rates
from moeviz.serving.memory import what_fits
from moeviz.serving.phases import served_tokens
from moeviz.serving.placement import placement_sentence, serving_placement
from moeviz.serving.prefetch import prefetch_recall

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
USUAL_BITS = 16
MEGABYTE, GIGABYTE = 1e6, 1e9
MOST_DEVICES = 64
MOST_JUDGED = 100_000  # tokens x layers: about two seconds of one core
PHASES = {
    "auto": "generated ones, if there are any",
    "generated": "generated ones",
    "prompt": "those of prompts",
    "all": "all of them",
}


class Asked(NamedTuple):
    """What the visitor wants to know, of which tokens."""

    trace: RoutingTrace  # the tokens that are judged
    tokens: str  # which these are
    gigabytes: float | None
    expert_bytes: float | None
    devices: int

    @property
    def copies(self) -> int:
        """One a device; a single device has no use for any."""
        return self.devices if self.devices > 1 else 0

    @property
    def capacity(self) -> int | None:
        """Experts of each layer that the memory holds."""
        if self.gigabytes is None or self.expert_bytes is None:
            return None
        return budget_of(self.trace, self.gigabytes, self.expert_bytes).capacity


def serve_page() -> None:
    """Two controls, the answer in a sentence or two, then the charts, and last the plan."""
    st.title("Serve", anchor=False)
    trace = trace_to_draw()
    if trace is None:
        return
    trace_name(trace)
    with explained():
        asked = _asked(trace)
        answer = st.container(border=True, key="answer")
        _cache(asked, answer)
        _placement(asked, answer)
        answer.text(f"Judged on the second half of {asked.tokens}")
        _draw(BATCH, batch_coverage(asked.trace), asked.trace)
        with explained():
            _draw(PREFETCH, prefetch_recall(asked.trace), asked.trace)
        _cards(trace.model)
        offer_plan(asked.trace, asked.devices, asked.copies, _layers_that_fit(asked))


def _asked(trace: RoutingTrace) -> Asked:
    """The two controls that matter, and the rest in a menu beside them."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        budget, devices = st.container(width=230), st.container(width=230)
        with st.popover("Tokens and sizes"):
            size = _expert_bytes(trace.model)
            phase = st.selectbox(
                "Which tokens", list(PHASES), format_func=PHASES.get, key=state.PHASE, persist_state="session"
            )
            repeats = st.toggle(
                "Keep repeated prefixes",
                value=True,
                key=state.REPEATS,
                persist_state="session",
                help="A server with a prefix cache does not run a token again where its text so far has been the same.",
            )
    with devices:
        number = _devices(trace)
    with budget:
        gigabytes = _gigabytes(trace, size)
    part, tokens = _not_too_many(*served_tokens(trace, phase, keep_repeats=repeats))
    return Asked(part, tokens, gigabytes, size, number)


def _not_too_many(trace: RoutingTrace, tokens: str) -> tuple[RoutingTrace, str]:
    """As many of the first tokens as a page can judge at each visit, and which tokens these are."""
    most = max(MOST_JUDGED // len(trace.model.layers), 1)
    if len(trace.tokens) <= most:
        return trace, tokens
    return trace.select(tokens=slice(0, most)), f"the first {most:,} of {tokens} “moeviz serve” judges all of them."


def _expert_bytes(model: ModelInfo) -> float | None:
    """The size of an expert: filled in where the trace has the model's parameters, and asked for where not."""
    known = None
    if model.parameters is not None:
        known = max(model.parameters.per_expert) * BITS.get(model.dtype or "", USUAL_BITS) / 8 / MEGABYTE
    size = st.number_input(
        "Size of one expert (MB)",
        min_value=0.0,
        value=known,
        format="%.4g",
        key=f"{state.EXPERT_MB} {model.name}",
        persist_state="session",
        help="All its matrices, in the precision that is served, with scales. Shared experts are not cached.",
    )
    return size * MEGABYTE if size else None


def _gigabytes(trace: RoutingTrace, expert_bytes: float | None) -> float | None:
    """The budget; at first, half of what all experts take."""
    if expert_bytes is None:
        st.number_input("Memory for experts (GB)", value=None, disabled=True, placeholder="how large is an expert?")
        return None
    whole = budget_of(trace, 0.0, expert_bytes).all_of_them
    return st.number_input(
        "Memory for experts (GB)",
        min_value=0.0,
        value=float(f"{whole / 2:.3g}"),
        step=float(f"{whole / max(trace.model.num_experts):.2g}"),
        format="%.4g",
        key=f"{state.GIGABYTES} {trace.model.name} {expert_bytes}",
        persist_state="session",
        help=f"On all devices together, as one cache. All experts take {whole:.3g} GB.",
    )


def _devices(trace: RoutingTrace) -> int:
    """A number that divides the experts of every layer."""
    zero = trace.model.zero_experts
    common = reduce(gcd, (number - zero for number in trace.model.num_experts))
    numbers = [number for number in range(1, min(common, MOST_DEVICES) + 1) if common % number == 0]
    usual = max((number for number in numbers if number <= 8 and common >= 2 * number), default=1)
    return st.selectbox(
        "Devices",
        numbers,
        index=numbers.index(usual),
        key=f"{state.DEVICES} {common}",
        persist_state="session",
        help="GPUs that share the experts of each layer: a number that divides them.",
    )


def _cache(asked: Asked, answer: DeltaGenerator) -> None:
    rates = hit_rates(asked.trace, asked.expert_bytes, asked.capacity)
    if asked.gigabytes is None or asked.expert_bytes is None:
        answer.text("What does memory buy? Say how large an expert is, under “Tokens and sizes”.")
    else:
        answer.text(budget_sentence(asked.trace, rates, asked.gigabytes, asked.expert_bytes))
    _draw(CACHE, rates, asked.trace)


def _placement(asked: Asked, answer: DeltaGenerator) -> None:
    if asked.devices == 1:
        answer.text("One device does all the work: with more, you see here how evenly they share it.")
        return
    with explained():
        table = serving_placement(asked.trace, asked.devices, asked.copies)
        if (sentence := placement_sentence(table)) is not None:
            answer.text(sentence)
        _draw(PLANE, table, asked.trace)


def _cards(model: ModelInfo) -> None:
    if shared.why_only_read(model.name) is not None:
        return  # what another engine runs comes without a configuration
    heading(FITS)
    with explained(lambda why: say(f"This needs the model's configuration. {why}")):
        bits = BITS.get(model.dtype or "", USUAL_BITS)
        picture_and_words(FITS, what_fits(shared.served_facts(model.name), bits))


def _draw(chart: Chart, frame: pd.DataFrame, trace: RoutingTrace) -> None:
    heading(chart)
    with explained():
        if layer_word(trace.model) == "layer" and (sentence := said(chart.key, frame)):
            st.text(sentence)
        picture_and_words(chart, frame)


def _layers_that_fit(asked: Asked) -> int | None:
    """Whole layers of experts that the memory holds, for engines that place those."""
    if asked.gigabytes is None or asked.expert_bytes is None:
        return None
    model = asked.trace.model
    one = (max(model.num_experts) - model.zero_experts) * asked.expert_bytes / GIGABYTE
    return min(int(asked.gigabytes / one + 1e-9), len(model.layers))
