"""Mixtures of hidden Markov models: their sums, EM, whom they find, the gate over time, its trace, and their claims."""

import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from benchmarks.history_tables import accuracies, pair
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.hmm_experts_1996.exhibit import (
    GATE_OVER_TIME,
    first_right,
    gate_over_time,
    names,
    settling,
    shipped_accuracies,
    slowest,
)
from moeviz.history.hmm_experts_1996.hidden_markov import (
    log_gate,
    responsibilities,
    side_by_side,
    step,
)
from moeviz.history.hmm_experts_1996.model import NO_SPEAKER, HMMMixture, fit, trace_of, train
from moeviz.history.shared.datasets import Utterances, japanese_vowels
from moeviz.history.shared.results import shipped
from moeviz.routing_trace import NO_EXPERT


@pytest.fixture(scope="module")
def mixture():
    return shipped(HMMMixture)


@pytest.fixture(scope="module")
def test_part():
    return japanese_vowels()[1]


@pytest.mark.parametrize("start", ["k-means", "random"])
def test_soft_em_never_lowers_its_objective(start):
    """Also beyond the iteration where `fit` ends, and where a variance stands at its floor."""
    sequences, _ = pair(0, 30)
    sequences = [np.round(each) for each in sequences]
    experts, objective = fit(sequences, 3, 3, "soft", start)
    values = list(objective)
    for _ in range(30):
        experts, value = step(experts, side_by_side(sequences), "soft")
        values.append(value)
    assert (np.diff(values) >= -1e-9 * np.abs(values[:-1])).all()
    assert experts.variances.min() >= 1e-2


def test_without_hmmlearn_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "hmmlearn.hmm", None)
    with pytest.raises(MoevizError, match=r"hmmlearn.*moeviz\[history\]"):
        train(supervised=True)


def test_the_shipped_mixture_is_what_its_settings_make(mixture):
    again = train(**mixture.settings)
    for each in fields(mixture):
        ours, theirs = getattr(mixture, each.name), getattr(again, each.name)
        same = np.allclose(ours, theirs, rtol=1e-6) if isinstance(ours, np.ndarray | float) else ours == theirs
        assert same, each.name


def test_smyth_s_two_models_give_the_same_numbers_in_another_order():
    sequences, model = pair(0)
    high = np.array([each[:, 0] > 1.5 for each in sequences])
    stays = (high[:, 1:] == high[:, :-1]).mean(axis=1)
    assert len(sequences) == 40 and model.tolist() == [0, 1] * 20
    assert stays[model == 0].mean() > 0.55 > 0.45 > stays[model == 1].mean()
    assert high.mean(axis=1)[model == 0].mean() == pytest.approx(high.mean(axis=1)[model == 1].mean(), abs=0.05)


def test_the_shipped_accuracies_are_the_ones_that_come_out():
    shipped_rows, again = shipped_accuracies(), accuracies(range(1))
    assert len(shipped_rows) == 80 and dict(shipped_rows.dtypes) == dict(again.dtypes)
    assert shipped_rows[shipped_rows["data_set"] == 0].reset_index(drop=True).equals(again)


def test_the_gate_over_time_begins_with_the_prior_and_ends_with_the_posterior(mixture, test_part):
    number = slowest(mixture, test_part)
    frame = gate_over_time(mixture, test_part, number)
    shares = frame.pivot(index="frame", columns="expert", values="share").to_numpy()
    assert shares.shape == (len(test_part.frames[number]) + 1, 9)
    assert shares[0] == pytest.approx(mixture.prior) and shares.sum(axis=1) == pytest.approx(1)
    joint = log_gate(mixture.experts, side_by_side(test_part.frames[number : number + 1]))[-1]
    assert shares[-1] == pytest.approx(responsibilities(joint, "soft")[0])
    assert frame[frame["own"]]["expert"].unique().tolist() == [mixture.speaker_of.index(test_part.speaker[number])]
    with pytest.raises(MoevizError, match="0 to 369"):
        gate_over_time(mixture, test_part, 370)


def test_the_page_begins_with_an_utterance_that_turns_once_to_its_speaker_s_expert(mixture, test_part):
    number = first_right(mixture, test_part)
    frame = gate_over_time(mixture, test_part, number)
    heard = frame[frame["frame"] > 0]
    ahead = heard.loc[heard.groupby("frame")["share"].idxmax()]["own"].tolist()
    assert not ahead[0] and ahead[-1] and sum(np.diff(ahead)) == 1 and number != slowest(mixture, test_part)


def test_settling_ends_with_all_settled_and_the_share_of_the_result(mixture, test_part):
    frame = settling(mixture, test_part)
    assert frame["settled"].is_monotonic_increasing and frame["settled"].iloc[-1] == 1
    assert frame["right"].iloc[-1] == pytest.approx(mixture.test_share)
    assert frame["frame"][frame["settled"] >= 0.9].min() == mixture.frames_needed
    assert frame["speaking"].iloc[0] == 370 and frame["speaking"].is_monotonic_decreasing
    assert frame["chance"].unique() == pytest.approx([1 / 9])


def test_the_trace_has_a_layer_a_frame_and_no_expert_after_the_end(mixture, test_part):
    trace = trace_of(mixture)
    lengths = np.array([len(each) for each in test_part.frames])
    assert trace.model.layers == tuple(range(1, 30)) and trace.model.layer_kind == "time step"
    assert trace.tokens["text"][0] == "utterance 1 of speaker 1" and set(trace.tokens["label"]) == {
        f"speaker {number}" for number in range(1, 10)
    }
    over = np.arange(29)[:, None] >= lengths
    assert ((trace.experts == NO_EXPERT) == over[..., None]).all()
    assert trace.weights.sum(axis=-1)[~over] == pytest.approx(1, abs=1e-5)
    assert (trace.logits.max(axis=-1) == 0).all() and "no expert after" in trace.model.caution
    ends = np.take_along_axis(trace.logits, (lengths - 1)[None, :, None], axis=0)
    assert (trace.logits[-1] == ends).all()


def test_a_trace_of_too_many_slots_is_refused(mixture):
    with pytest.raises(InvalidTrace, match="1 to 9"):
        trace_of(mixture, slots=10)


def test_names_count_the_utterances_of_each_speaker():
    data = Utterances(tuple(np.zeros((7, 12), np.float32) for _ in range(3)), np.array([0, 1, 0]))
    assert names(data) == ["utterance 1 of speaker 1", "utterance 1 of speaker 2", "utterance 2 of speaker 1"]


def test_the_gate_is_drawn_where_no_expert_speaks_for_anybody_too(mixture, test_part):
    nobody = replace(mixture, speaker_of=(NO_SPEAKER,) * 9)
    assert "no expert is the speaker's" in str(GATE_OVER_TIME.draw(gate_over_time(nobody, test_part, 0)).to_dict())
