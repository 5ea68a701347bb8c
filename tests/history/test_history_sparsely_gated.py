"""The sparsely-gated mixture of 2017: its gate, its losses, its experts, its training, its trace, and its claims."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.history_tables import balance_table
from moeviz.history.shared.results import WITHOUT_BALANCE, shipped
from moeviz.history.sparsely_gated_2017.exhibit import (
    NO_LOSS,
    PRINTED_TABLE,
    balance_by_step,
    beside_paper,
    shipped_table,
)
from moeviz.history.sparsely_gated_2017.model import (
    MEASURES,
    SparselyGated,
    trace_of,
    train,
)
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import NO_EXPERT

STEPS = 12


@pytest.fixture(scope="module")
def flat():
    return train(steps=STEPS)


@pytest.fixture(scope="module")
def hierarchy():
    return train(groups=4, steps=STEPS)


@pytest.fixture(scope="module")
def runs():
    """The table after one step, when it says nothing yet."""
    return balance_table(seeds=[0], steps=1)


def test_training_guesses_better_and_says_so_in_its_perplexity(flat):
    assert flat.perplexity_by_step[0] == pytest.approx(2000, rel=0.5), "as good as guessing one word of 2,000"
    assert flat.perplexity_by_step[-1] < 400 and 1 < flat.perplexity < 400
    assert (flat.balance[:, 2:] >= 1).all() and (flat.balance >= 0).all()


def test_the_trace_of_a_hierarchy_has_a_level_for_groups_and_one_for_experts(hierarchy):
    trace = trace_of(hierarchy)
    assert (trace.model.layer_kind, trace.model.layers, trace.model.num_experts) == ("level", (1, 2), (4, 16))
    groups, experts = trace.experts
    assert (groups[:, 2:] == NO_EXPERT).all() and (groups[:, :2] != NO_EXPERT).all()
    both = [set(word) for word in groups[:, :2].tolist()]
    assert [set(word) for word in (experts // 4).tolist()] == both, "experts are of the chosen groups"
    assert trace.weights.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    of_groups, of_experts = trace.probabilities("This test")
    assert (of_groups[:, 4:] == 0).all() and of_experts.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert of_experts.reshape(-1, 4, 4).sum(axis=-1) == pytest.approx(of_groups[:, :4], abs=1e-5)
    load = expert_load(trace)
    assert load.groupby("layer")["load"].sum().tolist() == pytest.approx([1, 1])


def test_the_curve_is_the_mean_of_ten_steps_and_the_rest(flat):
    flat = replace(flat, settings=flat.settings | {"experts": 8})  # no run without losses has as many
    steps = np.arange(1, 26, dtype=np.float32)
    longer = replace(flat, balance=np.column_stack([0 * steps, 0 * steps, steps, 2 * steps]), perplexity_by_step=steps)
    curve = balance_by_step(longer).pivot(index="step", columns="measure", values="value")
    assert curve[MEASURES[2]].to_dict() == {10: 5.5, 20: 15.5, 25: 23.0}
    assert curve[MEASURES[3]].to_dict() == {10: 11.0, 20: 31.0, 25: 46.0}
    assert balance_by_step(flat)["step"].tolist() == [10, 10, STEPS, STEPS]


def test_a_run_with_losses_stands_beside_the_one_without_them_of_as_many_experts(flat):
    shipping = {"experts": 16, "top_k": 2, "groups": 0, "importance": 0.1, "load": 0.1}
    beside = [
        (balance_by_step(replace(flat, settings=shipping | but))["measure"] == NO_LOSS).any()
        for but in ({}, {"experts": 8}, {"importance": 0.0, "load": 0.0})
    ]
    assert beside == [True, False, False]
    without, runs = shipped(SparselyGated, WITHOUT_BALANCE), shipped_table()
    assert without.settings == shipped(SparselyGated).settings | {"importance": 0.0, "load": 0.0}
    same = runs[(runs["importance"] == 0) & (runs["load"] == 0) & (runs["seed"] == 0)]
    assert without.at_end()[MEASURES[3]] == pytest.approx(same[MEASURES[3]].item(), abs=0.1)
    ends = balance_by_step(shipped(SparselyGated)).groupby("measure")["value"].last()
    assert ends[NO_LOSS] > 1.5 > ends[MEASURES[3]]


def test_the_table_trains_each_pair_of_weights_and_says_how_far_it_is(monkeypatch):
    seen = []

    def trained(**settings):
        seen.append(settings)
        return result

    result = train(steps=1)
    monkeypatch.setattr("moeviz.history.sparsely_gated_2017.model.train", trained)
    table = balance_table(seeds=[4], steps=7)
    assert [(run["importance"], run["load"]) for run in seen] == list(PRINTED_TABLE)
    assert {(run["steps"], run["seed"]) for run in seen} == {(7, 4)}
    assert table[MEASURES[0]].tolist() == [result.at_end()[MEASURES[0]]] * 6


def test_beside_the_paper_stand_mean_lowest_and_highest_of_the_seeds(runs):
    other = runs.assign(seed=1, **{MEASURES[1]: runs[MEASURES[1]] + 1})
    rows = beside_paper(pd.concat([runs, other])).set_index(["measure", "setting"])
    row, alone = rows.loc[MEASURES[1], "load 0.2"], runs.loc[2, MEASURES[1]]
    assert (row["lowest"], row["ours"], row["highest"]) == pytest.approx((alone, alone + 0.5, alone + 1))
    assert (row["paper"], row["even"], row["seeds"]) == (0.04, 0, 2)
    assert rows.loc[(MEASURES[2], "no loss"), "paper"] == 17.8


def test_what_ships_is_what_its_settings_say(flat):
    kept = shipped(SparselyGated)
    assert kept.balance[:STEPS] == pytest.approx(flat.balance, abs=0.02)
    assert kept.perplexity_by_step[:STEPS] == pytest.approx(flat.perplexity_by_step, rel=0.02)
    assert len(kept.balance) == kept.settings["steps"]


def test_the_table_that_ships_has_every_pair_and_seed_and_agrees_with_the_result_that_ships():
    table = shipped_table()
    pairs = {(*pair, seed) for pair in PRINTED_TABLE for seed in range(3)}
    assert set(table[["importance", "load", "seed"]].itertuples(index=False, name=None)) == pairs
    kept = shipped(SparselyGated)
    same = (table["importance"] == 0.1) & (table["load"] == 0.1) & (table["seed"] == 0)
    assert table.loc[same, list(MEASURES)].iloc[0].tolist() == pytest.approx(list(kept.at_end().values()), abs=0.05)
