"""Cards of the page Serve: one question each, the sentence that answers it, and the part that has its figures."""

from collections.abc import Iterator

import streamlit as st
from moeviz_app.jobs.recorded import cached_for_example
from moeviz_app.session import session
from moeviz_app.url import serve_address
from moeviz_app.views.serve_controls import chosen_devices, chosen_tokens
from moeviz_app.widgets.messages import note

from moeviz.metrics.words import in_words_of
from moeviz.routing_trace import Counted
from moeviz.serving.answers import BALANCE, DRAFT, MEMORY, Answer, answer, balance, drafted, split
from moeviz.serving.decision import LITTLE, TRIAL
from moeviz.serving.plans.engines import ENGINES

CACHED, DEVICES, BATCHES, _, _, PLAN = serve_address.PARTS
FILE = "Is there a plan for my engine?"
COLORS = {TRIAL: "green", "Worth it": "green", LITTLE: "orange"}


def draw_cards(counted: Counted, all_layers: int, fit: int) -> None:
    """Two rows of two cards. `fit`: experts of each layer that fit the cards; the model has so many MoE layers."""
    found = cached_for_example(counted, ("serve cards", *_chosen(counted, fit)), lambda: [*_cards(counted, fit)])
    cards = [*found, (PLAN, _of_file(counted, all_layers, found))]
    for row in (cards[:2], cards[2:]):
        for place, (part, said) in zip(st.columns(2), row, strict=True):
            with place.container(border=True, key=f"serve-card-{serve_address.PARTS[part]}", height="stretch"):
                with st.container(horizontal=True):
                    st.markdown(f":small[{part} · {said.question}]", width="stretch")
                    if said.verdict:
                        st.badge(said.verdict, color=COLORS.get(said.verdict, "gray"), width="content")
                _say(in_words_of(counted.model, said.sentence), said.verdict)


def _say(sentence: str, verdict: str) -> None:
    """The sentence that answers, without the verdict, which stands above it; and smaller, what else there is to say."""
    answers, _, rest = sentence.removeprefix(f"{verdict}: ").partition(". ")
    st.text(answers[:1].upper() + answers[1:] + "." * (rest != ""))
    if rest:
        note(rest)


def _chosen(counted: Counted, fit: int) -> tuple[object, ...]:
    """Collect the choices on which the answers depend, beside the routing."""
    return fit, chosen_devices(counted.model), session.value(session.PHASE), session.value(session.REPEATS)


def _cards(counted: Counted, fit: int) -> Iterator[tuple[str, Answer]]:
    """The cards that are computed, with the parts behind them."""
    most, least = max(counted.model.num_experts) - counted.model.zero_experts, counted.model.top_k
    capacity, devices = fit if least <= fit < most else None, chosen_devices(counted.model)
    yield CACHED, answer(MEMORY, lambda: split(chosen_tokens(counted), capacity))
    yield DEVICES, answer(BALANCE, lambda: balance(chosen_tokens(counted), devices))
    yield BATCHES, answer(DRAFT, lambda: drafted(chosen_tokens(counted)))


def _of_file(counted: Counted, all_layers: int, others: list[tuple[str, Answer]]) -> Answer:
    """Whether a plan can be written, beside what was said of balancing."""
    figures, here = others[0][1].figures, len(counted.model.layers)
    if here < all_layers:
        lacks = f"No plan: an engine asks for all {all_layers} layers, and {here} of them were counted."
        return Answer(FILE, "No plan", lacks, figures)
    verdict = dict(others)[DEVICES].verdict
    but = "" if verdict in ("", TRIAL) else f" But on balancing the evidence says “{verdict.lower()}”."
    return Answer(FILE, "Ready", f"It can be written as {len(ENGINES)} kinds of file.{but}", figures)
