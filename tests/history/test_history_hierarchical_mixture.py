"""The tree of experts of 1994: its equations, its fits, its trace, and what its paper claims."""

import numpy as np
import pytest

from benchmarks.gates_1994 import _curve, errors
from moeviz.history.hierarchical_1994.exhibit import (
    EM,
    ONE_CUT,
    TREE,
    shipped_error_by_shape,
    square_lines,
    tree_lines,
)
from moeviz.history.hierarchical_1994.model import Hierarchy, trace_of, train, two_cuts
from moeviz.history.shared.datasets import stand_in
from moeviz.history.shared.results import shipped

HALF, NEVER, ALWAYS = [0.0], [-100.0], [100.0]


@pytest.fixture(scope="module")
def result():
    return train()


def test_no_pass_makes_the_tree_worse(result):
    assert np.diff(result.likelihood).min() > -1e-9
    assert result.squared_error[-1] < 0.08 < result.squared_error[0]


def test_what_ships_is_what_its_settings_give(result):
    ships, made = trace_of(shipped(Hierarchy)), trace_of(result)
    assert ships.model == made.model and ships.tokens.equals(made.tokens)
    assert np.array_equal(ships.experts, made.experts)
    for one, other in ((ships.weights, made.weights), (ships.logits, made.logits)):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)  # another processor rounds sums in another order


def test_the_plane_has_every_sample_and_gates_that_are_even_on_their_lines(result):
    data = stand_in()
    frame, tree = tree_lines(result, data), result.tree()
    samples, lines, gates = (frame[frame["what"] == what] for what in ("sample", "line", "gate"))
    assert len(samples) == 600 and samples["right"].mean() > 0.85
    assert sorted(lines["expert"]) == sorted([*samples["expert"].unique()] * 2)
    root = gates[gates["line"] == "root"][["f1", "f2"]].to_numpy()
    assert tree.branches(np.column_stack([root, np.ones(2)])) == pytest.approx(0.5)
    used = set(samples["expert"])
    assert set(gates["line"]) == {"root"} | {f"branch {i}" for i in (0, 1) if {2 * i, 2 * i + 1} <= used}


def test_the_curve_of_the_tree_is_that_of_its_training():
    run = train(two_cuts(), passes=5, seed=4)
    assert errors(EM, TREE, 4, 5) == pytest.approx(run.squared_error[1:])


def test_the_curves_that_ship_are_made_by_the_code_that_there_is():
    made, ships = _curve(EM, ONE_CUT, range(20)), shipped_error_by_shape()
    same = ships[(ships["way"] == EM) & (ships["shape"] == ONE_CUT)]
    assert same["squared_error"].to_numpy() == pytest.approx(made["squared_error"].to_numpy(), rel=1e-3)


def test_the_square_is_divided_among_all_four_leaves():
    frame = square_lines()
    samples, gates = frame[frame["what"] == "sample"], frame[frame["what"] == "gate"]
    assert samples["expert"].value_counts(normalize=True).min() > 0.15 and samples["right"].mean() > 0.9
    assert set(gates["line"]) == {"root", "branch 0", "branch 1"} and set(samples["vowel"]) == {"0", "1"}
