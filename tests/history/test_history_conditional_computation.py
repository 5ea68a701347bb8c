"""Conditional computation of 2013 and 2015: gates and losses, training, trace, and what the paper claims."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import history_tables
from moeviz.errors import MissingField
from moeviz.history.conditional_computation_2015 import exhibit as gated_blocks
from moeviz.history.conditional_computation_2015.exhibit import (
    DRAWN_BLOCKS,
    NAMES,
    blocks_by_digit,
    blocks_on,
    error_by_blocks,
)
from moeviz.history.conditional_computation_2015.model import (
    Conditional,
    trace_of,
    train,
)
from moeviz.history.shared.datasets import digits
from moeviz.history.shared.results import shipped
from moeviz.routing_trace import NO_EXPERT


@pytest.fixture(scope="module")
def brief():
    return train(epochs=1)


@pytest.fixture(scope="module")
def uniform():
    return train("uniform", target=1 / 4, epochs=1)


def result_of(on, probability, answer=(3, 3), digit=(3, 8)) -> Conditional:
    """Two digits, a 3 told right and an 8 taken for a 3."""
    return Conditional(
        settings={"estimator": "policy", "target": 0.25, "seed": 0},
        digit=np.array(digit, np.uint8),
        answer=np.array(answer, np.uint8),
        logits=np.log(np.array(probability, np.float32) / (1 - np.array(probability, np.float32))),
        probability=np.array(probability, np.float32),
        on=np.array(on),
        error=0.5,
        on_share=0.25,
        threshold_error=0.5,
        threshold_on_share=0.25,
    )


def test_the_trace_has_the_blocks_that_were_drawn_and_may_have_none():
    """Of three blocks the 3 has the last two on and the 8 none; over 1/2 are the first of the 3 and none of the 8."""
    result = result_of([[False, True, True], [False] * 3], [[0.75, 0.5, 0.25], [0.1, 0.1, 0.1]])
    trace = trace_of(result)
    assert trace.experts.tolist() == [[[1, 2], [NO_EXPERT, NO_EXPERT]]]
    assert trace.weights.tolist() == [[[1, 1], [0, 0]]]
    assert trace.tokens["text"].tolist() == ["3", "8 taken for 3"] and trace.tokens["label"].tolist() == ["3", "8"]
    assert np.array_equal(trace.logits[0], result.logits) and trace.model.score_function == "sigmoid"
    assert "drawn" in trace.model.name and "drawn once" in trace.model.caution


def test_the_trace_of_uniform_dropout_has_no_logits_and_says_so(uniform):
    trace = trace_of(uniform)
    assert trace.logits is None and trace.model.score_function == "unknown"
    with pytest.raises(MissingField, match="logits"):
        trace.probabilities("This test")


def test_what_each_digit_switches_on_is_worked_by_hand():
    """Two of each kind, all alike: σ (1/2, 1/4) and (3/4, 3/4), so 5/8 and 1/2; block 0 is on for one of the two."""
    result = result_of(
        np.tile([[False, True], [True, True]], (10, 1)),
        np.tile([[0.5, 0.25], [0.75, 0.75]], (10, 1)),
        np.zeros(20),
        np.repeat(np.arange(10), 2),
    )
    frame = blocks_by_digit(result)
    assert frame.groupby("digit")["probability"].apply(list).tolist() == [[0.625, 0.5]] * 10
    assert frame.groupby("digit")["on"].apply(list).tolist() == [[0.5, 1.0]] * 10
    assert (frame["target"] == 0.25).all() and result.class_spread() == 0


def test_how_many_blocks_are_on_beside_the_lot_by_hand():
    """Two digits, two blocks: one has both on, the other none. By lot with 1/2: 1/4, 1/2, 1/4."""
    frame = blocks_on(result_of([[True, True], [False, False]], [[0.5, 0.5], [0.5, 0.5]]))
    assert frame["digits"].tolist() == [1, 0, 1] and frame["share"].tolist() == [0.5, 0, 0.5]
    assert frame["by_lot"].tolist() == [0.25, 0.5, 0.25]


def test_the_sweep_is_averaged_over_its_seeds_and_what_is_shown_comes_last(tmp_path, brief):
    path = tmp_path / "runs.csv"
    rows = [("learned policy", 0.125, 0, 0.1, 0.06), ("learned policy", 0.125, 1, 0.2, 0.08)]
    pd.DataFrame(rows, columns=["network", "target", "seed", "on_share", "error"]).to_csv(path, index=False)
    mean, own = error_by_blocks(brief, path).to_dict("records")
    assert mean == pytest.approx(
        {"network": "learned policy", "target": 0.125, "on_share": 0.15, "mean": 0.07, "lowest": 0.06}
        | {"highest": 0.08, "seeds": 2}
    )
    assert own["network"] == DRAWN_BLOCKS and own["mean"] == own["lowest"] == brief.error and own["seeds"] == 1


def test_the_sweep_trains_each_network_at_each_seed(monkeypatch, brief):
    asked = []
    monkeypatch.setattr(
        "moeviz.history.conditional_computation_2015.model.train",
        lambda *where, **how: asked.append((where, how)) or brief,
    )
    frame = history_tables.blocks_on(seeds=(0, 1))
    assert len(frame) == len(asked) == 2 * (sum(map(len, history_tables.TARGETS.values())) + 2)
    assert asked[-1] == (("uniform", 1.0), {"blocks": 2, "seed": 1})
    assert frame["network"].iloc[-1] == "dense, 32 units"


def test_the_sweep_that_ships_has_every_network_and_three_seeds():
    runs = pd.read_csv(gated_blocks.SWEEP)
    assert set(runs["network"]) == {*NAMES.values(), "dense, 256 units", "dense, 32 units"}
    assert (runs.groupby(["network", "target"])["seed"].apply(list).map(tuple) == (0, 1, 2)).all()
    again = train("uniform", target=1.0, blocks=2)
    row = runs[(runs["network"] == "dense, 32 units") & (runs["seed"] == 0)]
    assert row["error"].item() == pytest.approx(again.error, abs=0.02)


def test_what_ships_is_what_its_settings_say():
    result, again = shipped(Conditional), train()
    assert np.array_equal(result.digit, digits()[1].digit)
    assert result.error == pytest.approx(again.error, abs=0.02)
    assert result.on_share == pytest.approx(again.on_share, abs=0.02)
    sigmoid = 1 / (1 + np.exp(-result.logits.astype(np.float64)))
    assert result.probability == pytest.approx(sigmoid, abs=1e-5)
