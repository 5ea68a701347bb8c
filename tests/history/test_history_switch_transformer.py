"""The Switch Transformer of 2021: its training, what it drops, its trace, and what its paper claims."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.history_tables import dropping as train_kinds
from benchmarks.history_tables import large_logits
from moeviz.errors import InvalidTrace
from moeviz.history.shared.results import shipped
from moeviz.history.switch_2021.exhibit import (
    KINDS,
    LARGE_LOGITS,
    OTHERS,
    SEEDS,
    THIS_RUN,
    drop_rates,
    dropped_by_lot,
    dropped_by_place,
    expert_queues,
    shipped_sweep,
)
from moeviz.history.switch_2021.model import EXPERTS, SEQUENCES, STEPS, WORDS, Switch, capacity, corpus, trace_of, train
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import NO_EXPERT

GROUP = SEQUENCES * WORDS


@pytest.fixture(scope="module")
def short():
    """Twelve steps: it drops much."""
    return train(steps=12, capacity_factor=1.0)


@pytest.fixture(scope="module")
def shipping():
    return shipped(Switch)


def test_the_corpus_repeats_no_word_and_holds_back_a_twelfth():
    training, held_out, vocabulary = corpus()
    for words in (training, held_out):
        seams = int((words[1:] == words[:-1]).sum())
        assert seams <= 10, "only where two stretches meet"
    assert len(held_out) / len(training) == pytest.approx(1 / 11, abs=0.01) and len(vocabulary) == 2000


def test_the_dense_twin_drops_nothing_routes_nothing_and_has_no_trace():
    twin = train(steps=1, dense=True)
    assert twin.dropped_by_step.sum() == 0 and not twin.dropped.any() and twin.logits.shape == (GROUP, 0)
    with pytest.raises(InvalidTrace, match="dense"):
        trace_of(twin)


def test_the_switch_has_its_twin_s_parameters_and_a_router_and_the_experts_that_it_has_more(short):
    """An expert has 2 · 64 · 128 weights, a router 64 for each expert."""
    assert short.parameters - train(steps=1, dense=True).parameters == 7 * 2 * 64 * 128 + 8 * 64


def test_the_trace_has_no_expert_where_a_word_was_dropped_but_what_its_router_wanted(short):
    trace = trace_of(short)
    assert trace.experts.shape == (1, GROUP, 1) and trace.model.num_layers == 2 and trace.model.top_k == 1
    dropped = trace.experts[0, :, 0] == NO_EXPERT
    assert (dropped == short.dropped).all() and (trace.weights[0, dropped, 0] == 0).all()
    assert np.array_equal(trace.weights[0, ~dropped, 0], short.gate[~dropped])
    assert (trace.logits[0].argmax(1) == short.chosen).all()
    assert trace.probabilities("This test").max(axis=-1)[0] == pytest.approx(short.gate, abs=1e-6)
    assert trace.tokens["position"].max() == WORDS - 1 and trace.tokens["sequence"].max() == SEQUENCES - 1
    assert set(trace.tokens["label"]) <= {"word", "number", "sign", "rare"}
    assert str(short.dropped.sum()) in trace.model.caution
    assert expert_load(trace)["tokens"].sum() == GROUP - short.dropped.sum()


def test_queues_hold_every_word_once_and_none_over_capacity(short):
    frame = expert_queues(short).pivot(index="expert", columns="fate", values="words")
    assert frame.to_numpy().sum() == GROUP and expert_queues(short)["share"].sum() == pytest.approx(1)
    assert frame["served"].max() == capacity(GROUP, EXPERTS, 1.0) == expert_queues(short)["capacity"][0]
    assert (frame["served"][frame["dropped"] > 0] == 128).all() and frame["dropped"].sum() == short.dropped.sum()


def test_of_two_words_that_draw_one_of_two_experts_each_a_quarter_is_dropped():
    """Both draw the same expert in half of the cases, and then one of two finds no room: 1/2 · 1/2."""
    assert dropped_by_lot(2, 1.0, words=2) == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(GROUP, [1 / 8] * 8, size=2000)
    drawn = np.maximum(0, counts - 128).sum(1).mean() / GROUP
    assert dropped_by_lot(8, 1.0) == pytest.approx(drawn, rel=0.02)
    assert dropped_by_lot(1, 0.5) == 0.5 and dropped_by_lot(8, 2.0) == pytest.approx(0, abs=1e-9)


def test_early_in_training_late_places_lose_most(shipping):
    frame = dropped_by_place(shipping)
    early = frame[frame["stage"] == "first 20 steps"].set_index("sequence")["dropped"]
    assert early[:4].max() < 0.1 < early.mean() < early[-4:].min()
    assert frame.groupby("stage")["dropped"].mean().tolist() == pytest.approx(frame["mean"].unique().tolist())


def test_drop_rates_are_means_of_ten_steps_and_of_the_seeds(short):
    runs = pd.DataFrame(
        {"dense": False, "capacity_factor": 1.0, "aux_weight": 0.0, "seed": [0, 1], "step": 0, "dropped": [0.2, 0.4]}
    )
    frame = drop_rates(short, runs).set_index("run")
    assert frame.loc[OTHERS, "dropped"] == pytest.approx(0.3)
    mine = frame.loc[THIS_RUN].set_index("step")["dropped"]
    assert mine.to_dict() == pytest.approx({0: short.drop_rate(slice(10)), 10: short.drop_rate(slice(10, 12))})
    assert frame["by_lot"].unique() == pytest.approx([dropped_by_lot(8, 1.0)])


def test_the_sweep_that_ships_has_all_kinds_and_agrees_with_the_result_that_ships(shipping):
    runs = shipped_sweep()
    same = runs[(runs["capacity_factor"] == 1.25) & (runs["aux_weight"] == 1e-2) & (runs["seed"] == 0)]
    mine = drop_rates(shipping, runs).query("run == @THIS_RUN")
    assert same["dropped"].to_numpy() == pytest.approx(mine["dropped"].to_numpy(), abs=0.005)
    assert same["perplexity"].iloc[0] == pytest.approx(shipping.perplexity, rel=1e-3)
    assert len(runs) == len(KINDS) * len(SEEDS) * STEPS / 10 and set(runs["seed"]) == set(SEEDS)


def test_what_ships_is_what_training_begins_with(shipping):
    again = train(steps=3)
    assert np.abs(again.dropped_by_step.astype(int) - shipping.dropped_by_step[:3]).sum() <= 0.01 * 3 * GROUP


def test_a_sweep_trains_each_kind():
    runs = train_kinds(KINDS[-2:], seeds=(3,), steps=1)
    assert runs["dense"].tolist() == [False, True] and runs["capacity_factor"].isna().tolist() == [False, True]


def test_large_logits_change_experts_in_16_bits_and_the_z_loss_alone_pulls_them_back(shipping):
    found = large_logits(shipping)
    pd.testing.assert_frame_equal(found, pd.read_csv(LARGE_LOGITS), rtol=1e-3, atol=1e-6)
    assert found["changed"].is_monotonic_increasing and found["changed"].iloc[-1] > 0.7
    assert found["without"].tolist() == pytest.approx(found["offset"].tolist(), abs=1e-6), "no slope along an offset"
    assert found["with_z_loss"].abs().max() < 3
