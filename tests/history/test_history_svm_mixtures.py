"""Mixtures of support vector machines: the rule with a capacity, the gater, soft EM, their traces and pictures."""

from dataclasses import fields

import numpy as np
import pytest
from history_checks.svm_experts_2002 import better, two_lines
from sklearn.svm import LinearSVC
from watching import heard_until_stopped

from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.history.shared.datasets import VOWELS, Vowels, stand_in
from moeviz.history.shared.results import load, save, shipped
from moeviz.history.svm_experts_2002 import em as soft_capture
from moeviz.history.svm_experts_2002 import em as svm_em
from moeviz.history.svm_experts_2002 import exhibit as pictures
from moeviz.history.svm_experts_2002 import frames as expert_room
from moeviz.history.svm_experts_2002 import model as svm_gater
from moeviz.history.svm_experts_2002 import model as svm_mixtures
from moeviz.history.svm_experts_2002.em import fitted_gate, line
from moeviz.history.svm_experts_2002.frames import ends, soft_errors, svm_lines
from moeviz.history.svm_experts_2002.model import (
    SVMMixture,
    assign,
    capacity_of,
    machine,
    mixed,
    new_gater,
    odd_or_even,
    squared_error,
    train,
)
from moeviz.history.svm_experts_2002.trace import trace_of
from moeviz.metrics.co_activation import co_activation
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import NO_EXPERT

QUICK = {"experts": 4, "iterations": 2}


@pytest.fixture(scope="module")
def mixture() -> SVMMixture:
    return train(**QUICK)


@pytest.fixture(scope="module")
def soft() -> svm_em.SoftMixture:
    return svm_em.train_soft()


class InThisOrder(np.random.Generator):
    """A generator whose permutation is no permutation."""

    def permutation(self, count):
        return np.arange(count)


def test_an_expert_that_is_full_sends_on_to_the_next_highest():
    """Capacity 1. Example 0 gets expert 1 (weight 3). Example 1 likes 1 too, which is full: of 0 (−1) and 2 (−2) it
    gets 0, since the rule sorts by the weight with its sign. Example 2 likes 0, full by now, as is 1: it gets 2."""
    weights = np.array([[0.0, 3.0, 1.0], [-1.0, 2.0, -2.0], [5.0, 4.0, -9.0]])
    assert assign(weights, 1, InThisOrder(np.random.PCG64())).tolist() == [1, 0, 2]
    given = assign(weights, 3, np.random.default_rng(0))
    assert given.tolist() == [1, 1, 0], "with room for all everyone gets its first choice"


def test_no_expert_gets_more_than_its_capacity_and_nobody_is_left_out():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(103, 5)) + np.array([9.0, 0, 0, 0, 0])  # all like expert 0 best
    capacity = capacity_of(103, 5, 1)
    assert capacity == 22  # 103 / 5 = 20.6, rounded up, and 1
    counts = np.bincount(assign(weights, capacity, rng), minlength=5)
    assert counts.sum() == 103 and counts.max() == counts[0] == capacity


def test_equal_weights_go_to_the_lower_id():
    assert assign(np.zeros((3, 4)), 3, np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_a_mixture_by_hand():
    """Weights 2 and −1, outputs 0.5 and 1: tanh(2·0.5 − 1·1) = 0. With weights 1 and 1: tanh(1.5)."""
    outputs = np.array([[0.5, 1.0], [0.5, 1.0]])
    assert mixed(np.array([[2.0, -1.0], [1.0, 1.0]]), outputs) == pytest.approx([0, np.tanh(1.5)])


def test_the_gater_begins_about_even_and_gets_better():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 2))
    desired, outputs = np.sign(inputs[:, 0]), np.sign(inputs[:, [0, 1]])  # expert 0 knows, expert 1 does not
    gater = new_gater(2, 3, 2, rng)
    assert gater.weights(inputs).mean() == pytest.approx(1 / 2, abs=0.2)
    better = svm_gater.trained(gater, inputs, outputs, desired)
    assert squared_error(better, inputs, outputs, desired)[0] < squared_error(gater, inputs, outputs, desired)[0] / 10
    assert better.weights(inputs)[:, 0].mean() > 1 > abs(better.weights(inputs)[:, 1].mean())


def test_a_machine_of_one_class_always_says_it_and_of_none_nothing():
    somewhere = np.ones((2, 3))
    for desired, says in (([1.0, 1.0], 1), ([-1.0, -1.0], -1), ([], 0)):
        inputs = np.zeros((len(desired), 3))
        assert machine(inputs, np.array(desired, float), "linear")(somewhere).tolist() == [says, says]


@pytest.mark.parametrize("kernel", svm_mixtures.KERNELS)
def test_a_machine_tells_apart_what_can_be_told_apart_and_stays_bounded(kernel):
    inputs = np.array([[-2.0, 0], [-1, 1], [1, 0], [2, 1]])
    said = machine(inputs, np.array([-1.0, -1, 1, 1]), kernel)(inputs)
    assert (np.sign(said) == [-1, -1, 1, 1]).all() and (np.abs(said) < 1).all()


def test_the_digits_are_odd_or_even_and_the_test_ones_are_others():
    task, test = odd_or_even()
    assert (task.inputs.shape, test.inputs.shape) == ((4000, 30), (1000, 30))
    assert ((task.odd > 0) == (task.digit % 2 == 1)).all()
    assert task.inputs.mean(axis=0) == pytest.approx(0, abs=1e-9), "the components are those of the training digits"
    assert np.abs(test.inputs.mean(axis=0)).max() > 1e-3


def test_the_same_seed_gives_the_same_mixture_and_another_seed_another(mixture, soft):
    again, other = train(**QUICK), train(**QUICK, seed=1)
    for each in fields(mixture):
        assert np.array_equal(getattr(mixture, each.name), getattr(again, each.name)), each.name
    assert not np.array_equal(mixture.assigned, other.assigned)
    again, other = svm_em.train_soft(), svm_em.train_soft(start="random", seed=1)
    for each in fields(soft):
        assert np.array_equal(getattr(soft, each.name), getattr(again, each.name)), each.name
    assert not np.array_equal(soft.expert_lines, other.expert_lines)


def test_nothing_draws_from_the_global_generator(mixture):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    train(**QUICK | {"iterations": 1}), svm_em.train_soft()
    assert np.array_equal(before, np.random.get_state()[1])


def test_no_part_is_larger_than_the_capacity_and_what_overflows_is_counted(mixture):
    assert mixture.capacity == 1001
    for given in mixture.assigned:
        assert np.bincount(given, minlength=4).max() <= 1001 and len(given) == 4000
    assert mixture.overflow.tolist() == (mixture.first_choice != mixture.assigned).mean(axis=1).tolist()
    assert (mixture.overflow > 0).all() and mixture.uniform_error == mixture.even_error[0]


def test_with_room_for_all_nobody_overflows():
    free = train(experts=4, room=4000, iterations=1)
    assert free.overflow.tolist() == [0]


def test_experts_that_know_nothing_leave_more_wrong():
    known, unknown = (train(experts=4, iterations=2, shuffled=shuffled, seed=1) for shuffled in (False, True))
    assert known.test_error[-1] < unknown.test_error[-1] and unknown.uniform_error > 0.3 > known.uniform_error


def test_who_watches_hears_often_and_may_stop():
    assert len(heard_until_stopped(train, 9)) == 9
    whole = []
    train(**QUICK, watch=lambda done, says: whole.append(done))
    assert len(whole) > 30 and whole == sorted(whole) and (whole[0], whole[-1]) == (0, 1)
    assert len(heard_until_stopped(svm_em.train_soft, 9)) == 9


@pytest.mark.parametrize(
    "wrong", [{"experts": 0}, {"experts": 65}, {"room": -1}, {"kernel": "cubic"}, {"iterations": 0}]
)
def test_what_cannot_be_trained_is_refused_with_a_sentence(wrong):
    with pytest.raises(MoevizError, match="1 to 64 experts"):
        train(**wrong)
    with pytest.raises(MoevizError, match="k-means"):
        svm_em.train_soft(start="elsewhere")


def test_a_line_of_one_class_is_a_constant_and_of_whole_shares_the_library_s():
    inputs = np.column_stack([np.arange(6.0), np.zeros(6), np.ones(6)])
    side = np.array([-1.0, -1, -1, 1, 1, 1])
    assert line(inputs, np.ones(6), np.ones(6)).tolist() == [0, 0, svm_em.ALWAYS]
    assert line(inputs, side, np.zeros(6)).tolist() == [0, 0, 0]
    known = LinearSVC(dual=False).fit(inputs[:, :2], side)
    assert line(inputs, side, np.ones(6)) == pytest.approx(np.append(known.coef_, known.intercept_))


def test_the_gate_learns_the_shares_of_inputs_that_say_nothing():
    """With 1 as its only input its proportions are the mean shares, but for the decay: ¾ and ¼."""
    gate = fitted_gate(np.zeros((1, 2)), np.ones((4, 1)), np.eye(2)[[0, 0, 0, 1]])
    assert gate[0, 0] - gate[0, 1] == pytest.approx(np.log(3), abs=0.05)


def test_soft_em_ends_higher_than_it_began_and_two_lines_do_what_one_cannot(soft):
    assert soft.log_likelihood[-1] > soft.log_likelihood[0] + 0.1
    assert soft.test_error[-1] < 0.1 < 0.4 < soft.single_error
    hard = svm_em.train_soft(hard=True, start="random", seed=3)
    assert hard.settings == {"experts": 2, "start": "random", "hard": True, "seed": 3}


def test_the_trace_has_the_first_choice_and_where_it_was_full_the_one_that_learns(mixture):
    trace = trace_of(mixture)
    assert trace.model.layers == (1, 2) and trace.model.layer_kind == "iteration" and trace.model.top_k == 2
    assert trace.tokens["text"][0] == f"{mixture.digit[0]}, image 1" and set(trace.tokens["label"]) == set("0123456789")
    assert np.array_equal(trace.experts[..., 0], mixture.first_choice[:, :1000])
    moved = mixture.first_choice[:, :1000] != mixture.assigned[:, :1000]
    assert np.array_equal(trace.experts[..., 1] != NO_EXPERT, moved)
    assert np.array_equal(trace.experts[..., 1][moved], mixture.assigned[:, :1000][moved])
    assert np.array_equal(trace.weights[..., 0], mixture.weights.max(axis=-1))
    assert "weights of any sign" in trace.model.caution


def test_each_view_of_the_trace_has_one_slot_and_there_are_no_probabilities(mixture):
    first, given = (trace_of(mixture, view) for view in ("first choice", "assigned"))
    assert first.experts.shape == given.experts.shape == (2, 1000, 1)
    assert np.array_equal(given.experts[..., 0], mixture.assigned[:, :1000])
    assert expert_load(given)["times_even"].max() < 1.3, "the capacity holds for the 1,000 about as for all"
    with pytest.raises(MissingField, match="score function"):
        first.probabilities("Expert importance")
    with pytest.raises(InvalidTrace, match="first choice"):
        trace_of(mixture, "elsewhere")


def test_pairs_of_experts_in_a_trace_are_examples_sent_on(mixture):
    last = trace_of(mixture).select(layers=[2])
    pairs = co_activation(last)
    once = pairs[pairs["expert"] < pairs["partner"]]["tokens"].sum()
    assert once == (mixture.first_choice[-1, :1000] != mixture.assigned[-1, :1000]).sum()


def test_the_soft_trace_is_the_gate_of_each_iteration(soft):
    trace = soft_capture.soft_trace_of(soft)
    assert trace.model.layers == soft.recorded == tuple(range(1, 21)) and set(trace.tokens["label"]) == set(VOWELS)
    assert trace.weights.sum(axis=-1) == pytest.approx(1, abs=1e-6) and "stand-in" in trace.model.caution
    data = stand_in()
    with pytest.raises(InvalidTrace, match="1 to 2"):
        soft_capture.soft_trace_of(soft, slots=3)
    with pytest.raises(InvalidTrace, match="trained on"):
        soft_capture.soft_trace_of(soft, Vowels(data.formants[:9], data.vowel[:9], data.speaker[:9], "x", False))


def made_up() -> SVMMixture:
    """Six examples, two experts of capacity 4: five like expert 0, which takes three of them and sends two on."""
    first, given = np.array([[0, 0, 0, 0, 0, 1]], np.uint8), np.array([[0, 0, 0, 1, 1, 1]], np.uint8)
    errors = {name: np.array([0.25]) for name in ("train_error", "test_error", "even_error")}
    weights = np.array([[[2.0, 1]] * 5 + [[-2.0, -1]]], np.float32)
    settings = {"experts": 2, "room": 1, "kernel": "linear", "iterations": 1, "shuffled": False, "seed": 0}
    return SVMMixture(settings, 4, np.arange(6, dtype=np.uint8), first, given, weights, single_error=0.5, **errors)


def test_the_numbers_of_the_pictures_by_hand():
    """Expert 0 keeps 3 of its 5, 2 are turned away, a share of 2/5; expert 1 keeps its 1 and takes the 2 in."""
    room = expert_room.expert_room(made_up()).set_index(["expert", "part"])
    counts = room["examples"].unstack()[[expert_room.HAS_ROOM, expert_room.TAKEN_IN, expert_room.TURNED_AWAY]]
    assert counts.to_numpy().tolist() == [[3, 0, 2], [1, 2, 0]]
    assert room["turned_away"].unstack().iloc[:, 0].tolist() == [0.4, 0] and set(room["capacity"]) == {4}
    assert set(room["uniform"]) == {3} and set(room["iteration"]) == {1}
    overflow = expert_room.overflow_by_iteration(made_up())
    assert overflow["overflow"].tolist() == [2 / 6] and overflow["busiest"].tolist() == [5 / 3]
    errors = expert_room.error_by_iteration(made_up())
    assert errors.set_index("system")["error"].to_dict() == {
        "gater, test": 0.25,
        "gater, training": 0.25,
        "uniform weights, test": 0.25,
        "one machine, test": 0.5,
    }


def test_the_parts_of_the_bars_are_all_examples(mixture):
    frame = expert_room.expert_room(mixture)
    learnt = frame[frame["part"] != expert_room.TURNED_AWAY]
    assert learnt["examples"].sum() == 4000 and learnt.groupby("expert")["examples"].sum().max() <= mixture.capacity
    liked = frame[frame["part"] != expert_room.TAKEN_IN]
    assert liked["examples"].sum() == 4000


def test_a_line_enters_and_leaves_the_box_where_it_should():
    """x + y − 1 = 0 in the unit square runs from (0, 1) to (1, 0); y = ½ runs straight; x = 2 is outside."""
    low, high = np.zeros(2), np.ones(2)
    assert sorted(ends(np.array([1.0, 1, -1]), low, high)) == [(0, 1), (1, 0)]
    assert sorted(ends(np.array([0.0, 1, -0.5]), low, high)) == [(0, 0.5), (1, 0.5)]
    assert ends(np.array([1.0, 0, -2]), low, high) == ends(np.array([0.0, 0, 5]), low, high) == []


def test_samples_of_the_plane_are_right_as_often_as_the_error_says(soft):
    data = stand_in()
    frame = svm_lines(soft, data)
    samples = frame[frame["what"] == "sample"]
    assert 1 - samples["right"][~data.training].mean() == pytest.approx(soft.test_error[-1])
    lines = frame[frame["what"] == "line"]
    for expert, points in lines.groupby("expert"):
        margins = np.column_stack([points[["f1", "f2"]], np.ones(len(points))]) @ soft.expert_lines[-1][:, expert]
        assert margins == pytest.approx(0, abs=1e-9)
    assert set(soft_errors(soft)["iteration"]) == set(soft.recorded)


def test_the_table_that_ships_has_the_settings_of_its_sweep_and_says_what_the_page_says():
    table = expert_room.swept()
    assert len(table) == len(expert_room.SEEDS) * (5 + 5 + 4 + len(expert_room.SWEPT_ROOM) - 1)
    errors = expert_room.error_by_experts().set_index(["kernel", "system", "experts"])["error"].sort_index()
    gated = errors["linear", "gated mixture"]
    assert gated.loc[:16].is_monotonic_decreasing, "beyond 16 it goes to and fro"
    assert (gated < errors["linear", "gated, experts that know nothing"]).all()
    assert (errors["rbf", "gated mixture"] > errors["rbf", "one machine"]).all(), "nothing gained with rbf"
    shares = expert_room.what_room_changes().pivot(index="capacity_factor", columns="what", values="share")
    turned_away = shares["not given to their first choice"]
    assert turned_away.iloc[0] > 0.3 > turned_away.iloc[2] > turned_away.iloc[-1] == 0
    assert np.ptp(shares["test error"]) < 0.01, "the error hardly changes"
    assert shares["learnt by the largest expert"].iloc[-1] > 2 * shares["learnt by the largest expert"].iloc[0]


def test_a_small_sweep_has_a_row_a_training(monkeypatch):
    monkeypatch.setattr(expert_room, "SEEDS", range(1))
    monkeypatch.setattr(expert_room, "SWEPT_EXPERTS", {"linear": (2,)})
    monkeypatch.setattr(expert_room, "SWEPT_ROOM", (1, 3500))
    monkeypatch.setattr(expert_room, "train", lambda *a, **k: train(*a, **k, iterations=1))
    table = expert_room.sweep()
    assert table["shuffled"].tolist() == [False, True, False] and table["experts"].tolist() == [2, 2, 8]
    assert table["capacity_factor"].tolist() == pytest.approx([2001 / 2000, 2001 / 2000, 8])
    assert table["overflow"].iloc[-1] == 0


def test_every_picture_asks_and_draws(mixture, soft):
    drawn = {
        pictures.EXPERT_ROOM: (mixture,),
        pictures.OVERFLOW: (mixture,),
        pictures.ERRORS: (mixture,),
        pictures.SOFT_ERRORS: (soft,),
        pictures.SVM_LINES: (soft, stand_in()),
        pictures.ERROR_BY_EXPERTS: (),
        pictures.WHAT_ROOM_CHANGES: (),
    }
    for chart, of in drawn.items():
        assert chart.question.endswith("?") and chart.reading.endswith(".") and "Columns:" in chart.method
        assert "Source:" in chart.method and chart.draw(chart.measure(*of)).to_dict()


def test_a_result_comes_back_from_its_file(mixture, tmp_path):
    save(mixture, tmp_path / "mixture.npz")
    again = load(SVMMixture, tmp_path / "mixture.npz")
    for each in fields(mixture):
        assert np.array_equal(getattr(mixture, each.name), getattr(again, each.name)), each.name


def test_what_ships_is_what_its_settings_give():
    """Up to the rounding of another machine's linear algebra, which an example on the edge may feel."""
    found = shipped(SVMMixture)
    again = train(**found.settings)
    assert found.settings == again.settings == train(iterations=1).settings | {"iterations": 6}
    assert (found.first_choice[0] == again.first_choice[0]).mean() > 0.99
    assert found.test_error == pytest.approx(again.test_error, abs=0.02)
    assert trace_of(found).experts.shape == (6, 1000, 2)


def test_claims_can_fail(monkeypatch):
    """A gater that leaves the experts as even as it found them is no better than the uniform mixture."""
    monkeypatch.setattr(svm_mixtures, "trained", lambda gater, *a: gater)
    assert not better({4: [svm_mixtures.train(4)]}).passed
    monkeypatch.setattr(svm_em, "ITERATIONS", 1)
    monkeypatch.setattr(svm_em, "line", lambda inputs, side, share: np.zeros(3))
    assert not two_lines(stand_in(), range(1))[0].passed
