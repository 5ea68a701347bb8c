"""What pages write of a trace themselves, counted again by the second implementation (`recount.py`)."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from app_pages import first_page
from claims_of_traces import of_charts
from random_traces import random_trace
from recount import HANDFUL, Seen, all_and_active

from moeviz.embedded.recorded_routing import example_trace
from moeviz.metrics.expert import expert_numbers
from moeviz.testing import sample_trace
from moeviz_app.session import session
from moeviz_app.views import expert_context
from moeviz_app.widgets import facts, subject_bar


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """What is written on a page, in Streamlit's place."""
    said = []
    note = SimpleNamespace(text=lambda words, **_: said.append(words), markdown=lambda words, **_: said.append(words))
    for module in (facts, expert_context):
        monkeypatch.setattr(module, "st", note)
    return said


def numbers(words: str) -> list[float]:
    """All that is written in digits, in their order."""
    return [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*(?:\.\d+)?", words)]


@pytest.mark.parametrize("seed", range(0, 400, 8))
def test_the_numbers_that_pages_write_of_a_random_trace_are_so(written, seed):
    trace = random_trace(seed)
    seen = Seen(trace)
    facts.trace_name(trace)
    assert numbers(written[0])[0] == seen.T and any(numbers(line)[:1] == [HANDFUL] for line in written[1:]) == (
        seen.T < HANDFUL
    )
    sizes = {min(seen.E.values()): 0, max(seen.E.values()): 0}
    assert numbers(subject_bar.shape(trace.model).replace("–", " ")) == [len(seen.layers), *sizes, seen.K]
    values = {name: str(value) for name, (value, _) in facts._figures_of(trace).items()}
    assert numbers(values["Experts"].replace("–", " ")) == [seen.K, *sizes]
    missing = sum(any(seen.first(layer, t) == -2 for layer in seen.layers) for t in range(seen.T))
    assert numbers(values.get("Not recorded", "0")) == [missing]
    for name, n in zip(("Prompt tokens", "Generated"), map(seen.phase.count, ("prompt", "generated")), strict=True):
        assert name not in values or numbers(values[name]) == [n]
    if trace.model.parameters is not None:
        assert [int(values[name]) for name in ("Parameters", "Active")] == [*all_and_active(seen)[:2]]
    layer = trace.model.layers[0]
    expert = seed % seen.E[layer]
    written.clear()
    expert_context.numbers_line(expert_numbers(trace, layer, expert))
    counts, rows = seen.counts(layer), seen.recorded(layer)
    own = [t for t in rows if expert in seen.has(layer, t)]
    rank = 1 + sum((-n, e) < (-counts[expert], expert) for e, n in enumerate(counts))
    told = [seen.times(layer)[expert], rank, len(counts)] if rows and sum(counts) else []
    assert numbers(written[0])[: len(told) + 2] == pytest.approx([*told, len(own), len(rows)], abs=0.006)


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
