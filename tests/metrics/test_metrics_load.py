"""How work is shared out, on cases small enough to work out by hand and on counts of real models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import MissingField
from moeviz.metrics.load import balance, balance_of_counts, coverage, expert_load, importance
from moeviz.testing import sample_trace

DATA = Path(__file__).parents[1] / "data"
MEASURES = {
    "max_over_mean": "max_over_mean",
    "max_violation": "max_violation",
    "cv": "cv",
    "normalised_entropy": "entropy_over_log_e",
    "gini": "gini",
    "jain": "jain",
}


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Two tokens, top-2, two layers of 4 and 2 experts.

    Layer 3 (4 experts): token 0 to 1 and 2, token 1 to 1 alone (empty slot): counts 0 2 1 0, loads 0 2/3 1/3 0.
    Layer 5 (2 experts): both tokens to 0 and 1: counts 2 2, loads 1/2 1/2.
    Logits: all equal, so each router thinks 1/4 (1/2) of each expert.
    """
    logits = np.zeros((2, 2, 4), np.float32)
    logits[1, :, 2:] = -np.inf
    experts = [[[1, 2], [1, -1]], [[0, 1], [1, 0]]]
    return trace_of(experts, (4, 2), layers=(3, 5), logits=logits, score_function="softmax")


def test_load_counts_filled_slots_and_keeps_idle_experts(by_hand):
    frame = expert_load(by_hand)
    assert frame["layer"].tolist() == [3, 3, 3, 3, 5, 5]
    assert frame["tokens"].tolist() == [0, 2, 1, 0, 2, 2]
    assert frame["load"].tolist() == pytest.approx([0, 2 / 3, 1 / 3, 0, 0.5, 0.5])
    assert frame["uniform"].tolist() == [0.25] * 4 + [0.5] * 2
    assert frame["times_uniform"].tolist() == pytest.approx([0, 8 / 3, 4 / 3, 0, 1, 1])
    assert frame["rank"].tolist() == [3, 1, 2, 4, 1, 2]


def test_loads_of_a_layer_sum_to_one_and_counts_to_its_filled_slots(trace):
    sums = expert_load(trace).groupby("layer")[["load", "tokens"]].sum()
    assert sums["load"].tolist() == pytest.approx([1.0] * 4)
    assert sums["tokens"].tolist() == [32 * 2] * 4


def test_balance_of_real_models_is_what_was_computed_independently():
    counts = pd.read_csv(DATA / "expert_counts.csv").sort_values("expert")
    expected = pd.read_csv(DATA / "expert_counts_metrics.csv").set_index(["model", "domain", "layer"])
    cases = dict(tuple(counts.groupby(["model", "domain", "layer"])["assignments"]))
    assert set(cases) == set(expected.index)
    for case, assignments in cases.items():
        measures = balance_of_counts(assignments.to_numpy())
        for ours, theirs in MEASURES.items():
            assert measures[ours] == pytest.approx(expected.loc[case, theirs], abs=1e-6), (case, ours)


def test_an_even_load_has_the_best_value_of_every_measure():
    assert balance_of_counts(np.full(8, 3)) == {
        "max_over_mean": 1,
        "max_violation": 0,
        "cv": 0,
        "normalised_entropy": pytest.approx(1),
        "gini": 0,
        "jain": 1,
        "dead_experts": 0,
    }


def test_one_expert_that_takes_all_has_the_worst_value_of_every_measure():
    assert balance_of_counts(np.array([0, 7, 0, 0])) == {
        "max_over_mean": 4,
        "max_violation": 3,
        "cv": pytest.approx(np.sqrt(3)),
        "normalised_entropy": 0,
        "gini": 0.75,
        "jain": 0.25,
        "dead_experts": 3,
    }


def test_where_nothing_was_assigned_no_measure_is_made_up():
    measures = balance_of_counts(np.zeros(4, np.int64))
    assert measures.pop("dead_experts") == 4
    assert np.isnan(list(measures.values())).all()


def test_balance_is_one_row_a_layer_with_its_own_number_of_experts(by_hand):
    frame = balance(by_hand).set_index("layer")
    assert frame["num_experts"].tolist() == [4, 2]
    assert frame["assignments"].tolist() == [3, 4]
    assert frame["max_over_mean"].tolist() == pytest.approx([8 / 3, 1])
    assert frame["dead_experts"].tolist() == [2, 0]


def test_layers_that_lean_to_opposite_sides_do_not_look_balanced():
    """Ten tokens, top-1: layer 0 sends all to expert 0, layer 1 all to expert 1. Pooled, both experts get ten."""
    trace = sample_trace(layers=2, tokens=10, top_k=1, experts=2)
    leaning = np.repeat(np.array([0, 1], np.int16), 10).reshape(2, 10, 1)
    assert balance(replace(trace, experts=leaning))["gini"].tolist() == [0.5, 0.5]


def test_chance_cv_is_what_a_router_by_lot_shows_on_average():
    """40 tokens, 2 of 8 experts drawn without replacement, 500 times: root mean square cv is sqrt(0.75 / 10)."""
    frame = balance(sample_trace(layers=1, tokens=40))
    assert frame["chance_cv"].item() == pytest.approx(np.sqrt(0.75 / 10))
    rng = np.random.default_rng(0)
    draws = rng.random((500, 40, 8)).argsort(axis=-1)[..., :2].reshape(500, -1)
    cvs = [balance_of_counts(np.bincount(draw, minlength=8))["cv"] for draw in draws]
    assert np.sqrt(np.mean(np.square(cvs))) == pytest.approx(frame["chance_cv"].item(), rel=0.05)


def test_importance_is_the_mean_probability_of_each_layers_own_experts(by_hand):
    assert importance(by_hand)["importance"].tolist() == pytest.approx([0.25] * 4 + [0.5] * 2)


def test_importance_without_logits_says_so(ids_only_trace):
    with pytest.raises(MissingField, match="logits"):
        importance(ids_only_trace)


def test_coverage_climbs_from_nothing_to_all_by_the_busiest_first(by_hand):
    frame = coverage(by_hand)
    assert frame.query("layer == 3")["covered"].tolist() == pytest.approx([0, 2 / 3, 1, 1, 1])
    assert frame.query("layer == 5")["share_of_experts"].tolist() == [0, 0.5, 1]
