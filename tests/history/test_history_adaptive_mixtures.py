"""The adaptive mixture of 1991: its three errors, its data, its training, its trace, and what its paper claims."""

import numpy as np
import pytest
from history_checks.local_experts_1991 import acceptance, claims

from benchmarks import history_tables
from benchmarks.measured_vowels import peterson_barney, read_table
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.local_experts_1991 import exhibit as table_1
from moeviz.history.local_experts_1991.exhibit import MIXTURE, NETWORK, decision_lines, error_by_epoch
from moeviz.history.local_experts_1991.model import (
    ERRORS,
    HIDDEN,
    MAX_EPOCHS,
    STEPS,
    STOP_AT,
    AdaptiveMixture,
    trace_of,
    train,
    train_network,
)
from moeviz.history.shared import datasets
from moeviz.history.shared.datasets import VOWELS, encode, stand_in
from moeviz.history.shared.results import shipped


@pytest.fixture(scope="module")
def data():
    return stand_in()


@pytest.fixture(scope="module")
def mixture(data):
    return train(data)


@pytest.fixture(scope="module")
def proportions(data, mixture):
    """Of every recorded epoch, sample and expert."""
    return proportions_of(mixture, data)


def proportions_of(mixture, data):
    inputs, _ = encode(data)
    return np.stack([mixture.state(at).proportions(inputs) for at in range(len(mixture.recorded))])


def test_the_stand_in_has_the_published_averages_and_says_what_it_is(data):
    assert data.formants.shape == (600, 2) and np.unique(data.speaker).size == 75
    assert "stand-in" in data.source and not data.measured
    assert (data.training.sum(), np.unique(data.speaker[data.training]).max()) == (400, 50)
    for vowel, average in enumerate(datasets.AVERAGES[0][1]):
        men = data.formants[(data.vowel == vowel) & (data.speaker <= 33)]
        assert men.mean(axis=0) == pytest.approx(average, rel=0.05)


def test_a_table_other_than_the_checked_one_is_refused():
    with pytest.raises(MoevizError, match="SHA-256"):
        read_table(b"Speaker,Vowel,F1,F2\n1,iy,240,2280\n")


def test_what_ships_is_what_its_settings_give(mixture, data):
    found = shipped(AdaptiveMixture)
    assert found.settings == mixture.settings and found.surviving == mixture.surviving
    assert found.epochs == pytest.approx(mixture.epochs, abs=10)
    ships = proportions_of(found, data)

    def apart(other):
        """At the last epoch that both recorded before an end. Processors round differently, so the way varies."""
        both = min(len(found.recorded), len(other.recorded)) - 2
        return np.abs(ships[both] - proportions_of(other, data)[both]).max()

    assert apart(mixture) < 0.05 < 0.5 < apart(train(data, seed=1)), "nor is that so of any seed"


def test_each_error_has_its_own_step_and_all_need_about_as_many_epochs():
    epochs = {name: train(error=name).epochs for name in ERRORS}
    assert max(epochs.values()) < 1.1 * min(epochs.values())
    assert {name: train(error=name, max_epochs=1).settings["step"] for name in ERRORS} == STEPS
    assert train(step=STEPS["cooperative"]).epochs > 1.9 * epochs["mixture likelihood"], "at the step of another error"


def test_the_paper_s_figures_hold_for_a_few_seeds_of_the_measured_vowels():
    pytest.importorskip("parselmouth", reason="the measured vowels are in praat-parselmouth")
    found = [claim for claim in claims(quick=True) if "stand-in" not in claim.remark]
    assert not [claim for claim in found if not claim.passed]
    assert any("test speakers" in claim.what for claim in found)
    assert found[: len(found) // 2] == acceptance(range(3), peterson_barney())[: len(found) // 2]


def test_a_network_that_hardly_learns_does_not_reach_the_error(data):
    network = train_network(data, hidden=6, seed=0, step=1e-3)
    assert network.epochs is None and len(network.error_by_epoch) == MAX_EPOCHS + 1


def test_a_network_stops_at_the_error_and_has_about_as_many_weights_as_the_experts(data):
    network = train_network(data, HIDDEN[4], seed=0)
    assert network.error_by_epoch[-1] <= STOP_AT < network.error_by_epoch[:-1].min()
    assert network.epochs == len(network.error_by_epoch) - 1
    assert network.train_accuracy > 0.85 and network.test_accuracy > 0.85
    for experts, hidden in HIDDEN.items():
        assert abs(3 * hidden + hidden + 1 - 2 * 3 * experts) <= 1


def test_the_curves_end_where_the_error_is_reached(data, mixture):
    frame = error_by_epoch(mixture, data)
    last = frame.groupby("system").last()
    assert last.loc[MIXTURE, "epoch"] == mixture.epochs < last.loc[NETWORK, "epoch"]
    assert (last["squared_error"] <= last["goal"]).all() and (frame.groupby("system").first()["epoch"] == 0).all()


def test_the_table_of_the_paper_stands_beside_ours_of_the_same_seeds(monkeypatch):
    monkeypatch.setattr(history_tables, "at_hand", lambda: [stand_in()])
    ours = history_tables.table_1(range(2)).set_index(["system", "of"])
    mixtures = [train(experts=8, seed=seed) for seed in range(2)]
    row = ours.loc[("8 experts", table_1.STAND_IN)]
    assert row["epochs"] == np.mean([run.epochs for run in mixtures]) and row["missed"] == 0
    assert row["training"] == np.mean([run.train_accuracy for run in mixtures]) and row["experts left"] == "2"
    assert ours.loc[("4 experts", table_1.PAPER), ["epochs", "deviation"]].tolist() == [1124, 23]
    assert len(ours) == 8


def test_the_table_that_ships_has_the_measured_vowels_too_and_nobody_missed_the_error():
    frame = table_1.shipped_table_1()
    assert frame.groupby("of").size().to_dict() == dict.fromkeys((table_1.PAPER, table_1.MEASURED, table_1.STAND_IN), 4)
    assert (frame["missed"].dropna() == 0).all() and set(frame["system"]) == set(table_1.PRINTED)


def test_the_trace_holds_the_gate_of_every_recorded_epoch(data, mixture, proportions):
    trace = trace_of(mixture, data)
    assert trace.model.layers == mixture.recorded and trace.model.layer_kind == "epoch"
    assert (trace.model.backend, trace.model.top_k, trace.model.num_layers) == ("mixture", 4, None)
    assert "stand-in" in trace.model.caution
    assert trace.tokens["text"][0] == "[i] speaker 1" and set(trace.tokens["label"]) == set(VOWELS)
    assert trace.weights.sum(axis=-1) == pytest.approx(1, abs=1e-6)
    restored = np.take_along_axis(trace.weights, np.argsort(trace.experts, axis=-1), axis=-1)
    assert restored == pytest.approx(proportions, abs=1e-6)
    assert trace.probabilities("This test") == pytest.approx(proportions, abs=1e-6)


def test_a_trace_of_other_data_or_too_many_slots_is_refused(data, mixture):
    with pytest.raises(InvalidTrace, match="1 to 4"):
        trace_of(mixture, data, slots=5)
    with pytest.raises(InvalidTrace, match="train"):
        trace_of(mixture, datasets.Vowels(data.formants[:9], data.vowel[:9], data.speaker[:9], "x", False))


def test_the_plane_has_every_sample_a_line_for_each_expert_in_use_and_the_gate_between_them(data, mixture):
    frame = decision_lines(mixture, data)
    samples, lines, gate = (frame[frame["what"] == what] for what in ("sample", "line", "gate"))
    assert len(samples) == len(data.vowel) and samples["right"].mean() > 0.85
    assert sorted(lines["expert"]) == sorted([*samples["expert"].unique()] * 2)
    assert len(gate) == 2 and gate["line"].nunique() == 1
    ends = np.column_stack([gate[["f1", "f2"]].to_numpy(), np.ones(2)])
    logits = np.sort(mixture.state().logits(ends), axis=1)
    assert logits[:, -1] == pytest.approx(logits[:, -2]), "on its line the gate is even between the two"
    assert "gate" not in set(decision_lines(mixture, data, 0)["what"]), "before training it prefers nobody"
