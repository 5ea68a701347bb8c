"""The adaptive mixture of 1991: its three errors, its data, its training, its trace, and what its paper claims."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from watching import heard_until_stopped

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.local_experts_1991.checks import acceptance, backprop_epochs, claims
from moeviz.history.local_experts_1991.model import ERRORS, MAX_EPOCHS, STOP_AT, Mixture, train
from moeviz.history.local_experts_1991.picture import decision_lines
from moeviz.history.local_experts_1991.trace import trace_of
from moeviz.history.shared import vowels
from moeviz.history.shared.activations import sigmoid, softmax
from moeviz.history.shared.results import load, save, shipped
from moeviz.history.shared.vowels import VOWELS, encode, peterson_barney, read_table, stand_in
from moeviz.metrics.specialization import label_divergence, load_by_label

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def data():
    return stand_in()


@pytest.fixture(scope="module")
def mixture(data):
    return train(data)


@pytest.fixture(scope="module")
def proportions(data, mixture):
    """Of every recorded epoch, sample and expert."""
    inputs, _ = encode(data)
    return np.stack([mixture.state(at).proportions(inputs) for at in range(len(mixture.recorded))])


@pytest.mark.parametrize("name", ERRORS)
def test_the_gradients_of_each_error_are_its_numerical_differences(name):
    rng = np.random.default_rng(1)
    outputs, logits, desired = rng.uniform(size=(5, 3)), rng.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1.0])
    error = ERRORS[name]
    _, by_output, by_logit = error(outputs, softmax(logits), desired)
    for expert in range(3):
        nudge = 1e-6 * (np.arange(3) == expert)
        rise = error(outputs + nudge, softmax(logits), desired)[0] - error(outputs - nudge, softmax(logits), desired)[0]
        assert rise / 2e-6 == pytest.approx(by_output[:, expert], abs=1e-8)
        rise = error(outputs, softmax(logits + nudge), desired)[0] - error(outputs, softmax(logits - nudge), desired)[0]
        assert rise / 2e-6 == pytest.approx(by_logit[:, expert], abs=1e-8)


def test_the_errors_of_one_sample_are_those_worked_by_hand():
    """d = 1, experts say 1 and 0, the gate 1/4 and 3/4: the mixture says 1/4."""
    outputs, gate, desired = np.array([[1.0, 0.0]]), np.array([[0.25, 0.75]]), np.array([1.0])
    values = {name: float(error(outputs, gate, desired)[0][0]) for name, error in ERRORS.items()}
    assert values == pytest.approx(
        {
            "cooperative": 0.75**2,
            "competitive": 0.75,
            "mixture likelihood": -np.log(0.25 + 0.75 * np.exp(-0.5)),
        }
    )


def test_sigmoid_and_softmax_stand_large_numbers():
    assert sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])).tolist() == [[1, 0], [0.5, 0.5]]


def test_the_stand_in_has_the_published_averages_and_says_what_it_is(data):
    assert data.formants.shape == (600, 2) and np.unique(data.speaker).size == 75
    assert "stand-in" in data.source and not data.measured
    assert (data.training.sum(), np.unique(data.speaker[data.training]).max()) == (400, 50)
    for vowel, average in enumerate(vowels.AVERAGES[0][1]):
        men = data.formants[(data.vowel == vowel) & (data.speaker <= 33)]
        assert men.mean(axis=0) == pytest.approx(average, rel=0.05)


def test_a_table_other_than_the_checked_one_is_refused():
    with pytest.raises(MoevizError, match="SHA-256"):
        read_table(b"Speaker,Vowel,F1,F2\n1,iy,240,2280\n")


def test_the_same_seed_gives_the_same_mixture_and_another_seed_another(data, mixture):
    again, other = train(data), train(data, seed=1, max_epochs=5)
    for each in fields(mixture):
        assert np.array_equal(getattr(mixture, each.name), getattr(again, each.name)), each.name
    assert not np.array_equal(mixture.expert_lines[0], other.expert_lines[0])


def test_training_stops_at_the_first_epoch_that_reaches_the_error(mixture):
    assert mixture.error_by_epoch[-1] <= STOP_AT < mixture.error_by_epoch[:-1].min()
    assert mixture.epochs == mixture.recorded[-1] == len(mixture.error_by_epoch) - 1
    assert train(stand_in(), max_epochs=3).epochs is None


def test_the_gate_starts_without_preference_and_its_proportions_sum_to_1(proportions):
    assert (proportions[0] == 1 / 4).all()
    assert proportions.sum(axis=-1) == pytest.approx(1)


def test_a_state_is_that_of_its_recorded_epoch(data, mixture):
    inputs, desired = encode(data)
    for at in (0, 3, -1):
        miss = desired - mixture.state(at).answer(inputs)
        assert (miss[data.training] ** 2).mean() == pytest.approx(mixture.state(at).error)


def test_a_result_comes_back_from_its_file(mixture, tmp_path):
    save(mixture, tmp_path / "mixture.npz")
    again = load(Mixture, tmp_path / "mixture.npz")
    for each in fields(mixture):
        assert np.array_equal(getattr(mixture, each.name), getattr(again, each.name)), each.name


def test_what_ships_is_what_its_settings_give(mixture):
    found = shipped(Mixture)
    assert found.settings == mixture.settings and trace_of(found).equals(trace_of(mixture))


def test_who_watches_sees_each_epoch_and_may_stop(data):
    seen = heard_until_stopped(train, 4, data=data)
    assert [done for done, _ in seen] == [epoch / MAX_EPOCHS for epoch in range(4)]
    errors = train(data, max_epochs=3).error_by_epoch
    assert [says for _, says in seen] == [f"epoch {e}, average squared error {errors[e]:.3f}" for e in range(4)]


def test_what_cannot_be_trained_is_refused_with_a_sentence(data):
    with pytest.raises(MoevizError, match="cooperative"):
        train(data, error="squared")
    with pytest.raises(MoevizError, match="at least 1 expert"):
        train(data, experts=0)
    with pytest.raises(MoevizError, match="4 or 8 experts"):
        acceptance(range(3), experts=5)
    with pytest.raises(MoevizError, match="two seeds"):
        acceptance([0])


def test_what_the_paper_claims_of_its_mixtures_holds_for_a_few_seeds_of_the_stand_in():
    found = acceptance(range(3))
    assert not [claim for claim in found if not claim.passed]
    assert np.isnan([claim.paper for claim in found]).all(), "no figure of the paper is claimed for made-up vowels"
    assert all("stand-in" in claim.remark for claim in found)


def test_the_paper_s_figures_hold_for_a_few_seeds_of_the_measured_vowels():
    pytest.importorskip("parselmouth", reason="the measured vowels are in praat-parselmouth")
    found = [claim for claim in claims(quick=True) if "stand-in" not in claim.remark]
    assert not [claim for claim in found if not claim.passed]
    assert any("test speakers" in claim.what for claim in found)
    assert found == acceptance(range(3), peterson_barney())


def test_acceptance_can_fail(monkeypatch):
    """Stopped after 20 epochs no mixture has learnt anything."""
    short = partial(train, max_epochs=20)
    monkeypatch.setattr("moeviz.history.local_experts_1991.checks.train", short)
    passed = {claim.what: claim.passed for claim in acceptance(range(2))}
    assert not passed["share of runs that reach error 0.08"]


def test_a_network_that_hardly_learns_does_not_reach_the_error(data):
    assert backprop_epochs(data, hidden=6, seed=0, step=1e-3) is None


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


def test_late_in_training_the_vowels_have_gone_to_different_experts(data, mixture):
    trace = trace_of(mixture, data, slots=1).select(layers=mixture.recorded[-1:])
    load = load_by_label(trace)
    of_winners = load[load["expert"].isin(mixture.surviving)].groupby("label")["share"].sum()
    assert of_winners["i"] == of_winners["ɑ"] == pytest.approx(1)
    assert load.pivot(index="label", columns="expert", values="share").max(axis=1).min() > 0.8
    assert label_divergence(trace)["divergence"].max() > 0.8


def test_with_all_slots_every_expert_has_the_same_assignments(data, mixture):
    late = trace_of(mixture, data).select(layers=mixture.recorded[-1:])
    assert (load_by_label(late)["share"] == 1 / 4).all()


def test_a_trace_of_other_data_or_too_many_slots_is_refused(data, mixture):
    with pytest.raises(InvalidTrace, match="1 to 4"):
        trace_of(mixture, data, slots=5)
    with pytest.raises(InvalidTrace, match="trained on"):
        trace_of(mixture, vowels.Vowels(data.formants[:9], data.vowel[:9], data.speaker[:9], "x", False))


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
