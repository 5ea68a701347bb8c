"""What pages write of a trace themselves, counted again by the second implementation (`recount.py`)."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import page_sentences as pages
import pytest
from app_pages import first_page
from claims_of_traces import of_charts
from random_traces import random_trace
from recount import HANDFUL

from moeviz.embedded.recorded_routing import example_trace
from moeviz.metrics.expert import expert_numbers
from moeviz.testing import sample_trace
from moeviz_app.session import session
from moeviz_app.views import expert_context
from moeviz_app.widgets import facts, subject_bar


class Written:
    """In Streamlit's place: what is written on a page."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def text(self, sentence: str, **_) -> None:
        self.said.append(sentence)

    markdown = text

    def container(self, **_):
        return nullcontext()


@pytest.fixture
def page(monkeypatch):
    written = Written()
    for module in (facts, expert_context):
        monkeypatch.setattr(module, "st", written)
    return written


@pytest.mark.parametrize("case", range(8))
def test_what_pages_write_of_a_random_trace_is_so(page, case):
    for seed in range(case, 400, 8):
        trace = random_trace(seed)
        page.said.clear()
        facts.trace_name(trace)
        pages.check_name(page.said, trace)
        pages.check_shape(subject_bar.shape(trace.model), trace)
        pages.check_figures(facts._figures_of(trace), trace)
        for layer in trace.model.layers[:2]:
            expert = seed % trace.model.num_experts[trace.model.layers.index(layer)]
            page.said.clear()
            expert_context.numbers_line(expert_numbers(trace, layer, expert))
            pages.check_numbers(page.said[0], trace, layer, expert)


def test_bar_and_box_belong_to_the_trace_on_screen_and_not_to_the_model_chosen():
    trace = sample_trace(layers=3, tokens=30, experts=16, top_k=4)
    app = first_page(trace)
    assert ":small[30 tokens · 3 layers × 16 experts, 4 per token]" in [line.value for line in app.markdown]
    written = "".join(trace.tokens["text"][trace.tokens["phase"] == "prompt"])
    assert app.session_state[session.PROMPT] == written
    app = first_page(example_trace())
    assert any("6 layers × 8 experts, 2 per token" in line.value for line in app.markdown)


@pytest.mark.parametrize("tokens", [1, HANDFUL - 1, HANDFUL])
def test_of_a_few_tokens_it_is_said_once_that_they_are_too_few_and_nothing_else(tokens):
    trace = sample_trace(tokens=tokens, top_k=1, experts=64)
    trace = replace(trace, experts=np.zeros_like(trace.experts), logits=None)  # as far from a uniform load as can be
    written = [text.value for text in first_page(trace).text]
    assert len([text for text in written if "too little to say what stands out" in text]) == (tokens < HANDFUL)
    claimed = {claim for claim, *_ in of_charts(trace)}
    captions = [text for text in written if text in claimed]
    assert bool(captions) == (tokens >= HANDFUL)
