"""How many experts the work needs and a text has been to, counted by hand and against draws by lot."""

from math import ceil, lgamma

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.metrics.coverage import MAX_ROWS, experts_needed, experts_touched
from moeviz.metrics.load import coverage
from moeviz.testing import sample_trace


def routed(layers: list[list[list[int]]], num_experts: tuple[int, ...]) -> RoutingTrace:
    """A trace of one sequence: for each layer the experts of each token."""
    return trace_of(layers, num_experts, layers=tuple(range(1, 2 * len(layers), 2)))


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Top-1, ten tokens. Layer 1, 4 experts: 5 3 1 1 tokens. Layer 3, 2 experts: all ten to expert 1.

    Layer 1, busiest first: 5 8 9 10 of 10, so 50% needs 1, 75 % 2, 90 % 3, 95% and 99 % 4; even 2 3 4 4 4.
    """
    spread = [0, 2, 2, 2, 2, 2, 1, 1, 1, 3]
    return routed([[[expert] for expert in spread], [[1]] * 10], (4, 2))


def test_experts_needed_by_hand(by_hand):
    frame = experts_needed(by_hand)
    assert frame["layer"].tolist() == [1] * 5 + [3] * 5
    assert frame["level"].tolist() == [0.5, 0.75, 0.9, 0.95, 0.99] * 2
    assert frame["needed"].tolist() == [1, 2, 3, 4, 4] + [1] * 5
    assert frame["even"].tolist() == [2, 3, 4, 4, 4, 1, 2, 2, 2, 2]
    assert frame["of_even"].tolist() == pytest.approx([1 / 2, 2 / 3, 3 / 4, 1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2])
    kinds = ["int32", "int16", "float64", "int16", "int16", "int16", "float64"]
    assert frame.dtypes.astype(str).tolist() == kinds


@pytest.mark.parametrize("seed", range(3))
def test_the_experts_needed_are_where_the_coverage_curve_reaches_the_level(seed):
    trace = sample_trace(experts=20, tokens=50, top_k=3, seed=seed)
    curves = coverage(trace)
    for row in experts_needed(trace).itertuples():
        curve = curves[curves["layer"] == row.layer].set_index("experts")["covered"]
        assert curve[row.needed] >= row.level - 1e-9
        assert curve[row.needed - 1] < row.level - 1e-9


def test_an_even_load_needs_what_even_says():
    """24 experts in turn, of 24 tokens with 5 each: every expert serves 5."""
    turns = [[(token + slot) % 24 for slot in range(5)] for token in range(24)]
    frame = experts_needed(routed([turns], (24,)))
    assert frame["needed"].tolist() == frame["even"].tolist() == [12, 18, 22, 23, 24]
    assert frame["of_even"].tolist() == [1] * 5


@pytest.mark.parametrize(("tokens", "k", "num_experts"), [(20, 1, 16), (40, 8, 64), (300, 2, 8), (5, 4, 128)])
def test_by_lot_is_what_draws_by_lot_need(tokens, k, num_experts):
    """The mean of 100 draws of k different experts for each token, a whole expert away at most."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(100):
        chosen = rng.permuted(np.tile(np.arange(num_experts), (tokens, 1)), axis=1)[:, :k]
        frames.append(experts_needed(routed([chosen.tolist()], (num_experts,))))
    drawn = pd.concat(frames).groupby("level")["needed"].mean()
    assert frames[0]["by_lot"].tolist() == pytest.approx(drawn.tolist(), abs=1)


def test_by_lot_of_many_tokens_takes_the_whole_binomial():
    """Every number of tokens from 0 to 5,000, for which draws take long: the busiest first, up to the level."""
    tokens, k, num_experts = 5_000, 8, 256
    n = np.arange(tokens, -1, -1)
    ways = np.array([lgamma(tokens + 1) - lgamma(m + 1) - lgamma(tokens - m + 1) for m in n.tolist()])
    serve_n = num_experts * np.exp(ways + n * np.log(k / num_experts) + (tokens - n) * np.log(1 - k / num_experts))
    work = (n * serve_n).cumsum() / (tokens * k)
    turns = (np.arange(tokens * k) % num_experts).reshape(1, tokens, k)
    by_lot = experts_needed(routed(turns.tolist(), (num_experts,)))["by_lot"]
    for level, needed in zip((0.5, 0.75, 0.9, 0.95, 0.99), by_lot, strict=True):
        last = np.searchsorted(work, level)  # of these, as many experts as are still missing
        before = serve_n[:last].sum() + (level - work[last - 1]) * tokens * k / n[last]
        assert needed == ceil(before)


def test_with_many_tokens_drawing_by_lot_is_even():
    """100,000 tokens, by turns to each of 8 experts."""
    many = np.resize(np.arange(8), (1, 100_000, 1))
    frame = experts_needed(routed(many.tolist(), (8,)))
    assert frame["by_lot"].tolist() == frame["even"].tolist() == [4, 6, 8, 8, 8]


def test_where_every_token_goes_to_every_expert_there_is_no_lot_to_draw():
    frame = experts_needed(routed([[[0, 1, 2]] * 4], (3,)))
    assert frame["needed"].tolist() == frame["by_lot"].tolist() == frame["even"].tolist()


def test_experts_touched_by_hand(by_hand):
    """Layer 1: 0 2 2 2 2 2 1 1 1 3, so 1 2 2 2 2 2 3 3 3 4 different. Layer 3: always the same one."""
    frame = experts_touched(by_hand)
    assert frame["tokens"].tolist() == list(range(1, 11)) * 2
    assert frame["experts"].tolist() == [1, 2, 2, 2, 2, 2, 3, 3, 3, 4] + [1] * 10
    assert frame["num_experts"].tolist() == [4] * 10 + [2] * 10
    assert frame.dtypes.astype(str).tolist() == ["int32", "int16", "int32", "int32", "float64"]


def test_chance_is_the_coupon_collectors_expectation(by_hand):
    expected = [n * (1 - (1 - 1 / n) ** t) for n in (4, 2) for t in range(1, 11)]
    assert experts_touched(by_hand)["chance"].tolist() == pytest.approx(expected)


def test_an_empty_slot_touches_nothing_and_is_no_draw():
    """Two of four, none, one of four: 2, 2, 2 different; 4(1 - 1/2), the same, 4(1 - 1/2 x 3/4) by lot."""
    frame = experts_touched(routed([[[3, 1], [-1, -1], [3, -1]]], (4,)))
    assert frame["experts"].tolist() == [2, 2, 2]
    assert frame["chance"].tolist() == pytest.approx([2, 2, 2.5])


def test_every_token_has_its_row_where_they_are_few():
    frame = experts_touched(sample_trace(layers=2, tokens=200))
    assert frame["tokens"].tolist() == list(range(1, 201)) * 2


@pytest.mark.parametrize("layers", [1, 48])
def test_a_long_text_is_thinned_out_between_its_first_and_last_token(layers):
    trace = sample_trace(layers=layers, tokens=1_000, experts=16)
    frame = experts_touched(trace)
    assert len(frame) <= MAX_ROWS
    for experts, (_, rows) in zip(trace.experts, frame.groupby("layer"), strict=True):
        steps = rows["tokens"].tolist()
        assert (steps[0], steps[-1]) == (1, 1_000)
        assert (np.diff(steps) > 0).all()
        assert rows["experts"].tolist() == [len(np.unique(experts[:t])) for t in steps]
