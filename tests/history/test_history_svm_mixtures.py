"""The mixture of support vector machines of 2002: the rule with a capacity, the gater, its trace and its pictures."""

import numpy as np
import pytest

from benchmarks import history_tables
from moeviz.errors import InvalidTrace, MissingField
from moeviz.history.shared.results import shipped
from moeviz.history.svm_experts_2002 import exhibit as expert_room
from moeviz.history.svm_experts_2002 import model as svm_mixtures
from moeviz.history.svm_experts_2002.model import (
    SVMMixture,
    odd_or_even,
    trace_of,
    train,
)
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import NO_EXPERT

QUICK = {"experts": 4, "iterations": 2}


@pytest.fixture(scope="module")
def mixture() -> SVMMixture:
    return train(**QUICK)


def test_the_digits_are_odd_or_even_and_the_test_ones_are_others():
    task, test = odd_or_even()
    assert (task.inputs.shape, test.inputs.shape) == ((4000, 30), (1000, 30))
    assert ((task.odd > 0) == (task.digit % 2 == 1)).all()
    assert task.inputs.mean(axis=0) == pytest.approx(0, abs=1e-9), "the components are those of the training digits"
    assert np.abs(test.inputs.mean(axis=0)).max() > 1e-3


def test_experts_that_know_nothing_leave_more_wrong():
    known, unknown = (train(experts=4, iterations=2, shuffled=shuffled, seed=1) for shuffled in (False, True))
    assert known.test_error[-1] < unknown.test_error[-1] and unknown.uniform_error > 0.3 > known.uniform_error


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
    assert expert_load(given)["times_uniform"].max() < 1.3, "the capacity holds for the 1,000 about as for all"
    with pytest.raises(MissingField, match="score"):
        first.probabilities("Expert importance")
    with pytest.raises(InvalidTrace, match="choice"):
        trace_of(mixture, "elsewhere")


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


def test_the_parts_of_the_bars_are_all_examples(mixture):
    frame = expert_room.expert_room(mixture)
    learnt = frame[frame["part"] != expert_room.TURNED_AWAY]
    assert learnt["examples"].sum() == 4000 and learnt.groupby("expert")["examples"].sum().max() <= mixture.capacity
    liked = frame[frame["part"] != expert_room.TAKEN_IN]
    assert liked["examples"].sum() == 4000


def test_the_table_that_ships_has_the_settings_of_its_sweep_and_says_what_the_page_says():
    table = expert_room.swept()
    assert len(table) == len(history_tables.MACHINE_SEEDS) * (5 + 5 + 4)
    errors = expert_room.error_by_experts().set_index(["kernel", "system", "experts"])["error"].sort_index()
    gated = errors["linear", "gated mixture"]
    assert gated.loc[:16].is_monotonic_decreasing, "beyond 16 it goes to and fro"
    assert (gated < errors["linear", "gated, experts that know nothing"]).all()
    assert (errors["rbf", "gated mixture"] > errors["rbf", "one machine"]).all(), "nothing gained with rbf"


def test_a_small_sweep_has_a_row_a_training(monkeypatch):
    monkeypatch.setattr(history_tables, "MACHINE_SEEDS", range(1))
    monkeypatch.setattr(history_tables, "SWEPT_EXPERTS", {"linear": (2,)})
    monkeypatch.setattr(svm_mixtures, "train", lambda *a, **k: train(*a, **k, iterations=1))
    table = history_tables.machines()
    assert table["shuffled"].tolist() == [False, True] and table["experts"].tolist() == [2, 2]
    assert table.columns.tolist() == expert_room.swept().columns.tolist()


def test_what_ships_is_what_its_settings_give():
    """Up to the rounding of another machine's linear algebra, which an example on the edge may feel."""
    found = shipped(SVMMixture)
    again = train(**found.settings)
    assert found.settings == again.settings == train(iterations=1).settings | {"iterations": 6}
    assert (found.first_choice[0] == again.first_choice[0]).mean() > 0.99
    assert found.test_error == pytest.approx(again.test_error, abs=0.02)
    assert trace_of(found).experts.shape == (6, 1000, 2)
