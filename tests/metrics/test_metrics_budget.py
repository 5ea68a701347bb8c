"""Metrics refuse a table that is too large for the trace it is of, before they make it."""

import tracemalloc
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.charts import NAMED
from moeviz.charts.tokens import token_expert_grid
from moeviz.cli.metrics import measure_chart
from moeviz.errors import InvalidTrace
from moeviz.metrics import expert_names as names
from moeviz.metrics.comparison import set_changes
from moeviz.metrics.flow import consecutive_transitions
from moeviz.metrics.layers import overlap, transitions
from moeviz.metrics.locality import locality
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.specialization import label_divergence, label_information, load_by_label
from moeviz.metrics.tokens import token_expert
from moeviz.metrics.vocabulary import top_tokens
from moeviz.routing_trace import NOT_RECORDED
from moeviz.testing import sample_trace

EXPERTS = 32_767


def wide(tokens: int, layers: int = 1, top_k: int = 1, labels: int = 1) -> RoutingTrace:
    """A few tokens of a model with as many experts as ids can have; each text is ten tokens long."""
    experts = np.arange(layers * tokens * top_k).reshape(layers, tokens, top_k) % EXPERTS
    text, position = np.divmod(np.arange(tokens), 10)
    label = [str(token % labels) for token in range(tokens)]
    return trace_of(experts, EXPERTS, sequence=text, position=position, text=[*text.astype(str)], label=label)


REFUSED = {
    "tokens by experts": (
        token_expert,
        wide(100),
        r"100 tokens x 32,767 experts, 3,276,700 cells in all, and at most 2,",
    ),
    "labels": (load_by_label, wide(100, labels=100), "100 labels x 32,767 experts"),
    "texts": (label_information, wide(1_000, labels=2), "200 texts x 32,767 experts"),
    "pairs of labels": (label_divergence, wide(60, labels=12), "66 pairs of labels x 32,767 experts"),
    "vocabulary": (top_tokens, wide(1_000), "100 tokens x 32,767 experts"),
    "sets of experts": (locality, wide(1_000), "1,000 tokens x 32,767 experts"),
    "pairs of experts": (transitions, wide(3, layers=2), "32,767 experts x 32,767 experts of the other layer"),
    "slots by slots": (overlap, wide(1, 2, 16_000), "1 tokens x 16,000 slots x 16,000 slots of the other"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_table_too_large_is_refused_before_it_is_made(what):
    metric, trace, sentence = REFUSED[what]
    tracemalloc.start()
    with pytest.raises(InvalidTrace, match=sentence):
        metric(trace)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_the_overlap_of_traces_with_very_many_slots_is_refused():
    with pytest.raises(InvalidTrace, match=r"16,000 .* 16,000"):
        set_changes(wide(1, 1, 16_000), wide(1, 1, 16_000))


def test_flow_needs_no_pairs_that_nobody_took():
    frame = consecutive_transitions(wide(3, layers=2))
    assert frame["from_expert"].tolist() == [0, 1, 2] and frame["to_expert"].tolist() == [3, 4, 5]


def test_names_take_room_for_the_experts_that_may_have_one(monkeypatch):
    """1,000 kinds and 32,767 experts, of which most have a token or none; in parts, names are as before."""
    few = wide(20_000, labels=1_000)
    few = replace(few, experts=np.where(few.experts < 16_000, few.experts % 50, few.experts))
    tracemalloc.start()
    whole = names.expert_names(few)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25 and (whole["by"] != "").sum() == 50
    monkeypatch.setattr(names, "MOST_CELLS", 7_000)
    pd.testing.assert_frame_equal(names.expert_names(few), whole)


def test_an_overview_takes_room_for_the_choices_there_are():
    few = wide(1_000)
    tracemalloc.start()
    frame = modal_first_choice(few)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 and frame["expert"].tolist() == few.experts[0, :, 0].tolist() and (frame["share"] == 1).all()


def test_a_longer_trace_may_have_a_larger_table():
    """20,000 tokens of 128 experts, top-8: more cells than a small trace may have, and few for this one."""
    trace = sample_trace(layers=1, tokens=20_000, top_k=8, experts=128)
    assert len(token_expert(replace(trace, logits=None))) == 20_000 * 128


def test_layers_one_by_one_are_refused_where_all_together_are_too_many(monkeypatch, trace):
    args = Namespace(layers=None, token=None)
    assert len(measure_chart(NAMED["token_expert_grid"], trace, args)) == 4 * 32 * 8
    monkeypatch.setattr("moeviz.metrics.inputs.MAX_CELLS", 500)
    monkeypatch.setattr("moeviz.metrics.inputs.CELLS_A_SLOT", 1)
    with pytest.raises(InvalidTrace, match=r"token_expert.*4 layers.*500 rows.*--layers"):
        measure_chart(NAMED["token_expert_grid"], trace, args)


def test_the_grid_of_experts_draws_a_token_that_is_not_recorded(ids_only_trace):
    ids_only_trace.experts[0, 3] = NOT_RECORDED
    chart = token_expert_grid(token_expert(ids_only_trace.select(layers=[0]))).to_dict()
    assert chart["layer"][0]["encoding"]["x"]["title"] == ["token of the text", "pale: not recorded"]
