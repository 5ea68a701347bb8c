"""Counts alone: what a trace reduces to, and which metrics and charts need no more."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels import labelled
from routed_trace import trace_of

from moeviz import ExpertCounts, InvalidTrace, MissingField, ParameterCounts, RoutingTrace
from moeviz.charts import NAMED, TOPICS
from moeviz.expert_counts import added
from moeviz.metrics.comparison import balance_of_both, load_difference
from moeviz.metrics.coverage import experts_needed
from moeviz.metrics.inputs import COUNTS_ALONE
from moeviz.metrics.label_similarity import label_similarity
from moeviz.metrics.layers import balance_of_two, ranked_load
from moeviz.metrics.load import balance, coverage, expert_load
from moeviz.metrics.placement import HELD_OUT, placement, placement_imbalance
from moeviz.metrics.specialization import load_by_label
from moeviz.report.plots import choices, drawn
from moeviz.testing import sample_trace

every_chart = pytest.mark.parametrize("chart", NAMED.values(), ids=list(NAMED))
NEED_NO_MORE = {
    "load_heatmap",
    "load_bars",
    "coverage_curve",
    "balance_by_layer",
    "busiest_by_layer",
    "label_load_heatmap",
    "load_of_two_layers",
    "balance_of_two_layers",
    "active_by_convention",
    "parameters_by_part",
    "experts_needed_grid",
    "imbalance_by_layer",
    "device_load_grid",
}


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Four tokens, two labels; layers 1 (3 experts) and 4 (2 experts), top-2.

    Layer 1: a to 2 and 0 · a dropped · b to 2 alone · b not recorded.
    Layer 4: a to 0 and 1 · a to 1 alone · b not recorded · b to 1 and 0.
    """
    experts = [[[2, 0], [-1, -1], [2, -1], [-2, -2]], [[0, 1], [1, -1], [-2, -2], [1, 0]]]
    return trace_of(experts, (3, 2), layers=(1, 4), text=list("wxyz"), label=["a", "a", "b", "b"])


@pytest.fixture
def sized() -> RoutingTrace:
    """The sample with labels and made-up parameter counts."""
    trace = labelled(sample_trace(layers=4, tokens=40))
    parameters = ParameterCounts(6_000, 6_000, 20_000, 400, 96_000, 0, 0, 90, per_expert=(3_000,) * 4)
    return replace(trace, model=replace(trace.model, parameters=parameters))


def test_a_trace_counts_what_is_recorded(by_hand):
    counts = by_hand.counts()
    assert counts.assignments.tolist() == [[[1, 0, 2], [2, 3, 0]]]
    assert counts.tokens.tolist() == [[3, 3]]
    assert (counts.groups, counts.group_kind) == (("",), "all")
    assert repr(counts) == "<ExpertCounts of 'by hand': 3 tokens, 2 MoE layers, top-2 of 3 experts>"


def test_a_trace_counts_by_label(by_hand):
    counts = by_hand.counts_by_label()
    assert counts.groups == ("a", "b")
    assert counts.assignments.tolist() == [[[1, 0, 1], [1, 2, 0]], [[0, 0, 1], [1, 1, 0]]]
    assert counts.tokens.tolist() == [[2, 2], [1, 1]]
    assert counts.counts().equals(by_hand.counts())
    assert "by 2 labels" in repr(counts)


def test_counts_of_some_layers_have_only_those(by_hand):
    part = by_hand.counts().select(layers=[4])
    assert part.model.layers == (4,)
    assert part.assignments.tolist() == [[[2, 3]]]
    assert part.equals(by_hand.select(layers=[4]).counts())
    seen = replace(by_hand.counts(), tokens=by_hand.counts().tokens + np.arange(len(by_hand.model.layers)))
    place = by_hand.model.layers.index(4)
    assert seen.select(layers=[4]).tokens.tolist() == seen.tokens[:, [place]].tolist() != seen.tokens[:, [0]].tolist()
    with pytest.raises(InvalidTrace, match="layer 2"):
        by_hand.counts().select(layers=[2])


def test_counts_of_pieces_add_up_to_those_of_the_whole(by_hand):
    pieces = [by_hand.select(tokens=rows).counts() for rows in (slice(0, 1), slice(1, 4))]
    assert added(pieces).equals(by_hand.counts())
    with pytest.raises(InvalidTrace, match="groups"):
        added([by_hand.counts(), by_hand.counts_by_label()])
    with pytest.raises(InvalidTrace, match="layers"):
        added([by_hand.counts(), by_hand.select(layers=[1]).counts()])
    with pytest.raises(InvalidTrace, match="counts"):
        added([])


def test_steps_are_whole_numbers_in_ascending_order(by_hand):
    one = by_hand.counts()
    arrays = {name: np.repeat(getattr(one, name), 2, axis=0) for name in ("assignments", "tokens")}
    steps = ExpertCounts(one.model, **arrays, groups=(0, 100), group_kind="step")
    assert steps.counts().assignments.tolist() == (2 * one.assignments).tolist()
    assert steps.select(layers=[1]).groups == (0, 100)
    for groups in ((100, 0), (-1, 0), (5, 5), ("0", "1")):
        with pytest.raises(InvalidTrace, match="steps"):
            replace(steps, groups=groups)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("assignments", [[[1, 0, 2, 0], [2, 3, 0, 0]]], "The assignments have the shape"),
        ("tokens", [[-3, 3]], "A count is negative"),
        ("tokens", [[1, 3]], "more assignments than the counted tokens can have"),
        ("assignments", [[[1, 0, 2], [2, 2, 1]]], "2.*layer 4.*experts 0.*1"),
        ("groups", ("a",), "one group without a name"),
    ],
)
def test_counts_that_do_not_fit_together_are_refused(by_hand, field, value, sentence):
    with pytest.raises(InvalidTrace, match=sentence):
        replace(by_hand.counts(), **{field: value if field == "groups" else np.array(value)})


def test_counts_without_labels_say_so(by_hand):
    with pytest.raises(MissingField, match="label"):
        load_by_label(by_hand.counts())


@pytest.mark.parametrize("metric", [expert_load, coverage, balance, experts_needed, lambda t: load_by_label(t)])
def test_counts_give_the_numbers_of_their_trace(sized, metric):
    counts = sized.counts_by_label()
    assert metric(counts).equals(metric(sized)) or np.allclose(
        metric(counts).select_dtypes("number"), metric(sized).select_dtypes("number"), equal_nan=True
    )


def test_counts_give_the_numbers_of_two_layers_and_of_two_traces(sized):
    pair, other = sized.select(layers=[0, 3]), sample_trace(layers=4, tokens=20, seed=1)
    for metric in (ranked_load, balance_of_two):
        assert np.allclose(metric(pair.counts()).select_dtypes("number"), metric(pair).select_dtypes("number"))
    assert load_difference((sized.counts(), other)).equals(load_difference((sized, other)))
    assert balance_of_both((sized.counts(), other.counts()))["cv"].equals(balance_of_both((sized, other))["cv"])
    assert label_similarity(other.counts(), sized.counts_by_label()).equals(label_similarity(other, sized))


def test_a_plan_made_from_counts_is_judged_on_them_alone(sized):
    loads = placement(sized)
    assert placement(sized.counts()).equals(loads[loads["judged_on"] != HELD_OUT].reset_index(drop=True))
    assert set(placement_imbalance(sized.counts())["judged_on"]) == {"same tokens"}


def test_chance_from_counts_takes_the_mean_of_the_filled_slots(by_hand):
    """Layer 1: 3 assignments of 3 tokens, so p = 1/3 for each: sqrt(3 x 1/3 x 2/3) / 1. The trace knows 2, 0 and 1."""
    assert balance(by_hand.counts())["chance_cv"].iloc[0] == pytest.approx(np.sqrt(2 / 3))
    assert balance(by_hand)["chance_cv"].iloc[0] == pytest.approx(np.sqrt(2 / 9 + 0 + 2 / 9))


def test_counts_of_billions_of_tokens_take_no_more_memory_than_few(by_hand):
    counts = by_hand.counts()
    many = replace(counts, assignments=counts.assignments * 10**12, tokens=counts.tokens * 10**12)
    assert balance(many)["cv"].equals(balance(counts)["cv"])
    assert experts_needed(many)["needed"].equals(experts_needed(counts)["needed"])


@every_chart
def test_every_chart_is_drawn_from_counts_or_says_that_it_needs_each_token(sized, chart):
    counts = sized.counts_by_label()
    chosen = choices(counts, None, None, None)
    if chart.key in NEED_NO_MORE:
        drawn(chart, counts, chosen).to_dict()
        return
    for make in (lambda: drawn(chart, counts, chosen), lambda: chart.measure(counts)):
        with pytest.raises(MissingField) as refusal:
            make()
        assert str(refusal.value) == COUNTS_ALONE


def test_counts_are_drawn_topic_by_topic(sized):
    words = [part.title.text for part in sized.counts().plot.load().vconcat]
    assert words == [chart.question for chart in TOPICS["Load"]]
    with pytest.raises(MissingField, match=COUNTS_ALONE):
        sized.counts().plot.tokens()


@given(st.integers(1, 3), st.integers(0, 30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_counts_are_those_of_counting_one_by_one(layers, tokens, top_k, random):
    trace = sample_trace(layers, tokens, top_k, experts=5, seed=random.randrange(1000))
    experts = trace.experts.copy()
    for layer in range(layers):
        for token in range(tokens):
            if (fate := random.randrange(4)) < 2:
                experts[layer, token] = -1 - fate
    trace = replace(trace, experts=experts, weights=None, logits=None)
    counts = trace.counts()
    for layer in range(layers):
        ids = experts[layer].ravel().tolist()
        assert counts.assignments[0, layer].tolist() == [ids.count(expert) for expert in range(5)]
        assert counts.tokens[0, layer] == tokens - ids.count(-2) // top_k
