"""What is worth seeing in a trace, and that nothing is said of what chance would do."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.errors import InvalidTrace
from moeviz.metrics.findings import findings, runs_of_layers
from moeviz.testing import sample_trace

TRACES, SELDOM = 200, 0.05


def at_random(rng, tokens, layers=6, experts=8, top_k=2, loads=None):
    """Experts drawn for each token: each as likely as the others, or by load."""
    chance = np.zeros((layers, 1, experts)) if loads is None else np.log(loads)[:, None]
    return np.argsort(-(chance + rng.gumbel(size=(layers, tokens, experts))), axis=-1)[..., :top_k]


def in_any_order(rng, trace):
    """Tokens shuffled within each layer, each with its set of experts."""
    shuffled = [layer[rng.permutation(len(layer))] for layer in trace.experts]
    return replace(trace, experts=np.stack(shuffled), weights=None, logits=None)


BUSIEST, PASSAGE, HABIT = KINDS = ("busiest_of_text", "passage", "habit")


def said(traces, usual=None, kinds=KINDS):
    found = [{one.sentence.name for one in findings(trace, usual)} for trace in traces]
    return sum(bool(one & {*kinds}) for one in found)


def words(rng, tokens):
    """As often as words are: a few make up most of a text."""
    return [f" w{rank}" for rank in np.minimum(rng.zipf(1.6, tokens), 40)]


@pytest.mark.parametrize("tokens", [6, 52, 400])
def test_of_routing_at_random_next_to_nothing_is_said(tokens):
    rng = np.random.default_rng(0)
    traces = [trace_of(at_random(rng, tokens), text=words(rng, tokens)) for _ in range(TRACES)]
    assert said(traces) <= SELDOM * TRACES


@pytest.mark.parametrize("others", [60, 5000])
def test_of_routing_drawn_at_random_with_the_usual_loads_next_to_nothing_is_said(others):
    rng = np.random.default_rng(1)
    loads = rng.dirichlet(np.full(8, 0.7), 6) + 1e-3
    usual = trace_of(at_random(rng, others, loads=loads))
    traces = [trace_of(at_random(rng, 80, loads=loads), text=words(rng, 80)) for _ in range(TRACES)]
    assert said(traces, usual) <= SELDOM * TRACES


def test_where_the_order_of_real_routing_is_shuffled_no_passage_and_no_habit_is_said():
    rng, real = np.random.default_rng(2), reference_routing()
    texts = [real.select(tokens=np.flatnonzero(real.tokens["sequence"] == text)) for text in range(0, 60, 3)]
    order = (PASSAGE, HABIT)
    assert said(texts, kinds=order) >= len(texts) // 2
    assert said([in_any_order(rng, text) for text in texts for _ in range(10)], kinds=order) <= SELDOM * 200


def test_of_tokens_drawn_from_all_texts_next_to_nothing_is_said():
    rng, real = np.random.default_rng(3), reference_routing()
    draws = [np.sort(rng.choice(len(real.tokens), 100, replace=False)) for _ in range(TRACES)]
    mixed = [in_any_order(rng, real.select(tokens=rows)) for rows in draws]
    mixed = [
        replace(one, tokens=one.tokens.assign(sequence=np.int32(0), position=np.arange(100, dtype=np.int32)))
        for one in mixed
    ]
    assert said(mixed, real) <= SELDOM * TRACES


def test_runs_of_alike_tokens_at_random_are_not_taken_for_a_busy_expert():
    rng = np.random.default_rng(4)
    traces = [trace_of(np.repeat(at_random(rng, 25), 4, axis=1)) for _ in range(TRACES)]
    assert said(traces, kinds=(BUSIEST,)) <= SELDOM * TRACES
    alone = [replace(one, experts=in_any_order(rng, one).experts) for one in traces]
    assert said(alone, kinds=(BUSIEST,)) > SELDOM * TRACES  # the same loads, if the tokens were independent


def test_an_expert_that_has_the_whole_text_is_named_with_its_share():
    rng = np.random.default_rng(5)
    experts = at_random(rng, 40, top_k=1)
    experts[2] = 7
    (found,) = findings(trace_of(experts, layers=(1, 3, 5, 7, 9, 11)))
    assert (found.sentence["share"], found.sentence["times"]) == (1, 8) and found.sentence["place"].first
    assert (found.layer, found.token, found.expert) == (5, 0, 7)


def test_what_is_usual_is_not_said_and_what_is_not_is_compared():
    rng = np.random.default_rng(6)
    experts, before = at_random(rng, 60, top_k=1), at_random(rng, 4000, top_k=1)
    experts[2], before[2, :3000] = 7, 7
    assert not said([trace_of(experts)], trace_of(before), kinds=(BUSIEST,))
    before[2, 400:3000] = 1
    (found,) = findings(trace_of(experts), trace_of(before))
    share = (before[2] == 7).mean()
    assert (found.sentence["times"], found.sentence["usual"]) == (8, share)
    before[2] = 1
    assert findings(trace_of(experts), trace_of(before))[0].sentence["usual"] == 0


def test_a_passage_is_told_with_its_ends_and_does_not_cross_from_one_text_to_another():
    rng = np.random.default_rng(7)
    experts = at_random(rng, 60, top_k=1, experts=4)
    experts[1] = np.where(experts[1] == 3, 0, experts[1])
    experts[1, 20:32] = 3
    (found,) = (one for one in findings(trace_of(experts, 4)) if one.sentence.name == PASSAGE)
    ends = [found.sentence[name].strip() for name in ("begin", "end")]
    assert (found.sentence["length"], ends, found.sentence["share"]) == (12, ["w20", "w31"], 0.2)
    assert (found.layer, found.token, found.expert) == (1, 20, 3)
    of_digits = trace_of(experts, 4)
    of_digits = replace(of_digits, model=replace(of_digits.model, item_kind="digit", layer_kind="gate"))
    places = {(one.sentence["place"].step, one.sentence["place"].item) for one in findings(of_digits)}
    assert places == {("gate", "digit")}
    halves, positions = np.repeat([0, 1], [26, 34]), np.concatenate([np.arange(26), np.arange(34)])
    runs = runs_of_layers(trace_of(experts, 4, sequence=halves, position=positions))[1]
    assert runs.length[runs.expert == 3].tolist() == [6, 6] and runs.stretches == 2


def test_a_token_that_is_not_recorded_ends_a_run_and_counts_nowhere():
    experts = np.zeros((1, 9, 1))
    experts[0, 4] = -2
    experts[0, 6] = -1
    (runs,) = runs_of_layers(trace_of(experts))
    assert runs.length.tolist() == [4, 1, 2] and runs.start.tolist() == [0, 5, 7]
    assert (len(runs.recorded), runs.stretches, runs.tokens[0]) == (8, 2, 7)


def test_a_token_that_keeps_to_an_expert_is_told_with_its_count_but_not_a_special_one():
    rng = np.random.default_rng(8)
    experts = at_random(rng, 80, top_k=1)
    experts[4, ::10] = 2
    for text, told in ((" la", True), ("<s>", False)):
        trace = trace_of(experts, text=[text if row % 10 == 0 else f"w{row}" for row in range(80)])
        found = [one for one in findings(trace) if one.sentence.name == HABIT and one.sentence["text"] == text]
        assert bool(found) == told and all(one.sentence["times"] == 8 for one in found)
        assert not told or (found[0].layer, found[0].token, found[0].expert) == (4, 0, 2)


@pytest.mark.parametrize(
    "trace",
    [
        sample_trace(tokens=1),
        sample_trace(tokens=2, layers=1),
        trace_of(np.tile(np.arange(4), (3, 50, 1)), 4, slot_order="unknown"),  # every token has every expert
        trace_of(np.full((2, 30, 2), -1)),
        trace_of(np.full((2, 30, 2), -2)),
        trace_of(np.zeros((2, 0, 2))),
        trace_of(np.zeros((2, 30, 1)), 1),
    ],
)
def test_where_there_is_nothing_to_see_nothing_is_said(trace):
    assert findings(trace) == []


def test_ids_in_unknown_order_and_layers_of_different_sizes_are_read_too():
    rng = np.random.default_rng(9)
    experts = np.concatenate([at_random(rng, 50, 1, experts=3), at_random(rng, 50, 1, experts=40)])
    experts[1, :, 1] = 39
    experts[1, :, 0] %= 39
    (found,) = findings(trace_of(experts, (3, 40), slot_order="unknown"))
    assert not found.sentence["place"].first and found.sentence["place"][:2] == (1, 39)
    assert (found.sentence["share"], found.sentence["times"]) == (1, 20)


def test_what_is_usual_must_be_of_the_same_layers_and_experts():
    with pytest.raises(InvalidTrace, match="model"):
        findings(sample_trace(), sample_trace(layers=2))


def test_the_example_that_ships_has_something_to_see():
    trace = example_trace()
    told = findings(trace, reference_routing())
    assert 1 <= len(told) <= 3
    for found in told:
        assert (trace.experts[trace.model.layers.index(found.layer), found.token] == found.expert).any()


def calls_of_findings(tokens: int) -> int:
    """Calls of functions of Python and of C, for 96 layers."""
    two = sample_trace(layers=2, tokens=tokens, top_k=8, experts=128)
    model = replace(two.model, layers=tuple(range(96)), num_experts=(128,) * 96)
    trace = RoutingTrace(model, two.tokens, np.concatenate([two.experts] * 48))
    calls = Counter()
    sys.setprofile(lambda frame, event, given: calls.update([event]))
    try:
        findings(trace)
    finally:
        sys.setprofile(None)
    return calls["call"] + calls["c_call"]


def test_a_long_trace_of_many_layers_is_not_walked_through_token_by_token():
    """Calls are counted, since seconds depend on what else the machine does."""
    more = calls_of_findings(4096) - calls_of_findings(1024)
    assert 0 < more < 96 * (4096 - 1024), "each token's kind is looked up once, not once at each layer"
