"""Controls and cards of the page Serve: memory for experts, number of devices, tokens to judge, size of an expert; and
of each question the sentence that answers it, and the part that has its figures.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from math import gcd
from typing import NamedTuple

import pandas as pd
import streamlit as st

from moeviz.charts.serving import MEMORY as FIT
from moeviz.metrics.words import byte_unit, bytes_said, in_words_of, percent
from moeviz.model_info import ModelInfo
from moeviz.parameters import ServedModel
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.answers import BALANCE, DRAFT, MEMORY, STALE, Answer, answer, balance, drafted, split, stale
from moeviz.serving.budget import budget_of
from moeviz.serving.decision import LITTLE, TRIAL
from moeviz.serving.memory import fit_sentence
from moeviz.serving.plans.engines import ENGINES
from moeviz.serving.requests import served_tokens
from moeviz_app.jobs.recorded import cached_for_example
from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import recent, session
from moeviz_app.url import serve_address
from moeviz_app.url.fields import fill_in
from moeviz_app.widgets.messages import explained, note, say
from moeviz_app.widgets.pickers import ask_for_runs, bring_up_pair, choice_of, run_in_address

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
USUAL_BITS = 16
OFF = "off"
MEGABYTE, GIGABYTE = 1e6, 1e9
MOST_DEVICES = 64
MOST_JUDGED = 100_000  # tokens x layers: about two seconds of one core
PHASES = {
    "auto": "generated ones, if there are any",
    "generated": "generated ones",
    "prompt": "those of prompts",
    "all": "all of them",
}


class ServingQuery(NamedTuple):
    """A question about serving: tokens, memory, size of an expert, devices."""

    counted: Counted  # the tokens that are judged, or how often each expert was used
    tokens: str  # which these are
    gigabytes: float | None
    expert_bytes: float | None
    devices: int
    all_layers: int  # with experts, of the model

    @property
    def copies(self) -> int:
        """Number of copies: one a device, and none for a single device, which has no use for any."""
        return self.devices if self.devices > 1 else 0

    @property
    def capacity(self) -> int | None:
        """Number of experts of each layer that the memory holds."""
        if self.gigabytes is None or self.expert_bytes is None:
            return None
        return budget_of(self.counted, self.gigabytes, self.expert_bytes).capacity

    @property
    def layers_that_fit(self) -> int | None:
        """Number of whole layers of experts that the memory holds, for engines that place whole layers."""
        if self.gigabytes is None or self.expert_bytes is None:
            return None
        model = self.counted.model
        one = (max(model.num_experts) - model.zero_experts) * self.expert_bytes / GIGABYTE
        return min(int(self.gigabytes / one + 1e-9), len(model.layers))


def bits_of(model: ModelInfo) -> int:
    """Return the bits of a weight as the model ran."""
    return BITS.get(model.dtype or "", USUAL_BITS)


def ask(
    counted: Counted, served: ServedModel | None, bits: int | None, fit: int, wanted: Mapping[str, str]
) -> ServingQuery:
    """Draw the two controls that matter, and the rest in a menu beside them.

    At first, the memory is that of the `fit` experts of each layer that fit the cards, or of half of them all. Where
    some layers alone were counted, each stands for as many others: memory is that of the whole model.
    """
    model, here = counted.model, len(counted.model.layers)
    all_layers = max(here if served is None else len(served.parameters.per_expert), here)
    fill_in(session.ENGINE, wanted.get(serve_address.ENGINE), ENGINES)
    if (engine := session.value(session.ENGINE)) in ENGINES:
        session.keep(session.ENGINE)
        serve_address.show(serve_address.ENGINE, engine, next(iter(ENGINES)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        budget, devices = st.container(width=180), st.container(width=130)
        with st.popover("Tokens and sizes"):
            size = _expert_bytes(model, _known_bytes(model, served, bits), wanted)
            part, tokens = _tokens(counted, wanted)
    with devices:
        number = _devices(model, wanted)
    with budget:
        size = None if size is None else size * all_layers / here
        gigabytes = _gigabytes(counted, size, fit, wanted)
    return ServingQuery(part, tokens, gigabytes, size, number, all_layers)


def chosen_tokens(counted: Counted) -> Counted:
    """Return the tokens that the page's controls choose, or the counts. Raises `MissingField` if there are none."""
    if not isinstance(counted, RoutingTrace):
        return counted
    phase, repeats = session.value(session.PHASE) or "auto", session.value(session.REPEATS) is not False
    return _not_too_many(*served_tokens(counted, phase, keep_repeats=repeats))[0]


def chosen_devices(model: ModelInfo) -> int:
    """Return the number of devices that the page's control holds, or that it holds at first."""
    key, numbers, usual = _numbers(model)
    chosen = session.value(key)
    return chosen if chosen in numbers else usual


def _tokens(counted: Counted, wanted: Mapping[str, str]) -> tuple[Counted, str]:
    """Ask which tokens are judged; return them with a sentence about them."""
    if not isinstance(counted, RoutingTrace):
        return counted, f"{int(counted.tokens.sum(axis=0).max()):,} tokens, which are counted and not in order."
    fill_in(session.PHASE, wanted.get(serve_address.TOKENS), PHASES)
    session.start_with(session.REPEATS, True)
    if wanted.get(serve_address.REPEATS) == OFF:
        session.set_value(session.REPEATS, False)
    phase = st.selectbox(
        "Which tokens", list(PHASES), format_func=PHASES.get, key=session.PHASE, persist_state="session"
    )
    repeats = st.toggle(
        "Keep repeated prefixes",
        key=session.REPEATS,
        persist_state="session",
        help="A server with a prefix cache does not run a token again where its text so far has been the same.",
    )
    serve_address.show(serve_address.TOKENS, phase, "auto")
    serve_address.show(serve_address.REPEATS, None if repeats else OFF, None)
    return _not_too_many(*served_tokens(counted, phase, keep_repeats=repeats))


def _not_too_many(trace: RoutingTrace, tokens: str) -> tuple[RoutingTrace, str]:
    """Return as many of the first tokens as a page can judge at each visit, and which tokens these are."""
    most = max(MOST_JUDGED // len(trace.model.layers), 1)
    if len(trace.tokens) <= most:
        return trace, tokens
    return trace.select(tokens=slice(0, most)), f"the first {most:,} of {tokens} “moeviz cost” judges all of them."


def _known_bytes(model: ModelInfo, served: ServedModel | None, bits: int | None) -> float | None:
    """Return the size of the largest expert: as the model ran, or in the precision that fits the cards."""
    if model.parameters is not None:
        return max(model.parameters.per_expert) * bits_of(model) / 8
    return None if served is None or bits is None else max(served.parameters.per_expert) * bits / 8


def _expert_bytes(model: ModelInfo, known: float | None, wanted: Mapping[str, str]) -> float | None:
    """Ask for the size of an expert, filled in where the trace has the model's parameters."""
    key = f"{session.EXPERT_MB} {model.name}"
    if known is not None:
        known, key = known / MEGABYTE, f"{key} {known:.0f}"
        session.start_with(key, known)
    serve_address.fill_in_number(key, wanted.get(serve_address.EXPERT_MB))
    size = st.number_input(
        "Size of one expert (MB)",
        min_value=0.0,
        value=None,
        format="%.4g",
        key=key,
        persist_state="session",
        help="All its matrices, in the precision that is served, with scales. Shared experts are not cached.",
    )
    serve_address.show(serve_address.EXPERT_MB, size, known)
    return size * MEGABYTE if size else None


def _gigabytes(counted: Counted, expert_bytes: float | None, fit: int, wanted: Mapping[str, str]) -> float | None:
    """Ask for the budget, in the unit that suits these experts."""
    if expert_bytes is None:
        st.number_input("Memory for experts (GB)", value=None, disabled=True, placeholder="how large is an expert?")
        serve_address.show(serve_address.MEMORY, None, None)
        return None
    whole = budget_of(counted, 0.0, expert_bytes).all_of_them * GIGABYTE
    (unit, size), model = byte_unit(whole), counted.model
    most = max(model.num_experts)
    part = fit / most if 0 < fit < most else 1 / 2
    exact = whole / size * part
    usual = float(f"{exact:.3g}")
    if usual < exact:  # three digits are to hold what they stand for
        usual = float(f"{exact * 1.005:.3g}")
    key = f"{session.GIGABYTES} {model.name} {expert_bytes} {usual}"
    session.start_with(key, usual)
    serve_address.fill_in_number(key, wanted.get(serve_address.MEMORY), size / GIGABYTE)
    number = st.number_input(
        f"Memory for experts ({unit})",
        min_value=0.0,
        step=float(f"{whole / size / max(model.num_experts):.2g}"),
        format="%.4g",
        key=key,
        persist_state="session",
        help=f"On all devices together, as one cache. All experts take {bytes_said(whole)}.",
    )
    gigabytes = number * size / GIGABYTE
    serve_address.show(serve_address.MEMORY, gigabytes, usual * size / GIGABYTE)
    return gigabytes


def _devices(model: ModelInfo, wanted: Mapping[str, str]) -> int:
    """Ask for the number of devices, one that divides the experts of every layer."""
    key, numbers, usual = _numbers(model)
    asked = number_in(wanted.get(serve_address.DEVICES))
    session.start_with(key, usual)
    if asked in numbers:
        session.set_value(key, asked)
    number = st.selectbox(
        "Devices",
        numbers,
        key=key,
        persist_state="session",
        help="GPUs that share the experts of each layer: a number that divides them.",
    )
    serve_address.show(serve_address.DEVICES, number, usual)
    return number


def _numbers(model: ModelInfo) -> tuple[str, list[int], int]:
    """Return the key of the choice of devices, numbers that divide the experts of every layer, and the usual one."""
    common = reduce(gcd, (number - model.zero_experts for number in model.num_experts))
    numbers = [number for number in range(1, min(common, MOST_DEVICES) + 1) if common % number == 0]
    usual = max((number for number in numbers if number <= 8 and common >= 2 * number), default=1)
    return f"{session.DEVICES} {common}", numbers, usual


FITS, CACHED, DEVICES, BATCHES, _, _, PLAN = serve_address.PARTS
FILE = "Is there a plan for my engine?"
COLORS = {TRIAL: "green", "Worth it": "green", "Ready": "green", LITTLE: "orange", "Not whole": "orange", "No": "red"}


def draw_cards(
    counted: Counted | None, all_layers: int, fits: pd.DataFrame | None, bits: int | None, opened: str
) -> None:
    """Draw a card per question, each a way to its picture; of a model without routing, only the first.

    fits   of `memory_on_cards`, `bits` being the precision that is served. The model has `all_layers` MoE layers.
    """
    cards, fit = [], 0
    if fits is not None:
        of_bits = fits[fits["weight_bits"] == bits]
        fit = int(of_bits["fit"].iloc[0])
        cards.append((FITS, answer(FIT.question, lambda: (fit_sentence(of_bits), of_bits))))
    if counted is not None:
        chosen = fit, chosen_devices(counted.model), session.value(session.PHASE), session.value(session.REPEATS)
        found = cached_for_example(counted, ("serve cards", *chosen), lambda: [*_cards(counted, fit)])
        cards += [*found, (PLAN, _of_file(counted, all_layers, found))]
    with st.container(key="serve cards"):
        for part, said in cards:
            _card(part, said, None if counted is None else counted.model, part == opened)


def _card(part: str, said: Answer, model: ModelInfo | None, is_open: bool) -> None:
    """Draw a question with its verdict and the sentence that answers it, all of it a way to the picture."""
    short = serve_address.PARTS[part]
    with st.container(key=f"swap serve-{short}{'-shown' if is_open else ''}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            about = {"key": f"serve {short}", "on_click": session.set_value, "width": "stretch"}
            st.button(said.question, type="tertiary", args=(session.SERVE_PART, part), **about)
            if said.verdict:
                color = COLORS.get(said.verdict, "green" if said.verdict.startswith("Yes") else "gray")
                st.badge(said.verdict, color=color, width="content")
        _say(in_words_of(model, said.sentence) if model else said.sentence, said.verdict, is_open)


def _say(sentence: str, verdict: str, is_open: bool) -> None:
    """Draw the sentence that answers, without the verdict, which stands above it; of the open card, also the rest."""
    answers, _, rest = sentence.removeprefix(f"{verdict}: ").partition(". ")
    st.text(answers[:1].upper() + answers[1:] + "." * (rest != ""))
    if rest and is_open:
        note(rest)


def _cards(counted: Counted, fit: int) -> Iterator[tuple[str, Answer]]:
    """Yield the cards that are computed, with the parts behind them."""
    capacity, devices = _capacity(counted.model, fit), chosen_devices(counted.model)
    yield CACHED, answer(MEMORY, lambda: split(chosen_tokens(counted), capacity))
    yield DEVICES, answer(BALANCE, lambda: balance(chosen_tokens(counted), devices))
    yield BATCHES, answer(DRAFT, lambda: drafted(chosen_tokens(counted)))


def _capacity(model: ModelInfo, fit: int) -> int | None:
    """Return how many experts of each layer fit; None where not even a token's do, or where all do."""
    return fit if model.top_k <= fit < max(model.num_experts) - model.zero_experts else None


def draw_staleness(counted: Counted, fit: int, wanted: Mapping[str, str]) -> None:
    """Ask for another recording, and draw what plans of this one are worth there: one number, and a sentence each."""
    with explained():
        ask_for_runs(wanted, [serve_address.JUDGED_ON])
    for sentence in recent.restore():
        say(sentence)
    bring_up_pair()
    model = counted.model
    others = {
        name: trace
        for name, trace in recent.traces().items()
        if trace is not counted and (trace.model.layers, trace.model.num_experts) == (model.layers, model.num_experts)
    }
    if not others:
        serve_address.show(serve_address.JUDGED_ON, None, None)
        return
    with st.container(border=True, key="serve-card-judged-on"):
        name = choice_of(
            st.selectbox,
            "Is a plan of this recording still good on another?",
            [*others],
            session.JUDGED_ON,
            None,
            index=None,
            placeholder="another recording: a day, a customer, a checkpoint",
        )
        serve_address.show(serve_address.JUDGED_ON, run_in_address(name), None)
        if name is None:
            return
        capacity, devices = _capacity(model, fit), chosen_devices(model)
        found = answer(STALE, lambda: stale(chosen_tokens(counted), chosen_tokens(others[name]), devices, capacity))
        if found.figures.empty or found.verdict == LITTLE:
            st.text(found.sentence)
            return
        with st.container(horizontal=True):
            for row in found.figures.itertuples():
                kept = "none to keep" if row.kept != row.kept else percent(row.kept).replace("-", "−")
                st.metric(f"{row.plan}: kept", kept, help="0% is chance, and 100% a fresh plan of the other recording.")
        st.dataframe(found.figures[["plan", "stale", "fresh", "chance", "verdict"]], hide_index=True, width="stretch")
        note(in_words_of(model, found.sentence))


def lacks_layers(counted: Counted, all_layers: int) -> str:
    """Say that there is no plan, since only some layers were counted."""
    here = len(counted.model.layers)
    return f"No plan: an engine asks for all {all_layers} layers, and {here} of them were counted."


def _of_file(counted: Counted, all_layers: int, others: list[tuple[str, Answer]]) -> Answer:
    """Report whether a plan can be written, given the answer on balancing."""
    figures = others[0][1].figures
    if len(counted.model.layers) < all_layers:
        return Answer(FILE, "No plan", lacks_layers(counted, all_layers), figures)
    verdict = dict(others)[DEVICES].verdict
    but = "" if verdict in ("", TRIAL) else f" But on balancing the evidence says “{verdict.lower()}”."
    return Answer(FILE, "Ready", f"It can be written as {len(ENGINES)} kinds of file.{but}", figures)
