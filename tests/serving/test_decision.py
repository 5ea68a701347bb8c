"""`moeviz decide`: what it says of routing of which the truth is known, by hand, and of files that say little."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from benchmarks.decide import KINDS, drifts, made_routing, split_gains, verdict
from moeviz import ExpertCounts, ModelInfo, RoutingTrace
from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.routing_trace import token_frame
from moeviz.serving.answers import (
    BALANCE,
    DRAFT,
    DRIFT,
    LABELS,
    MEMORY,
    PAIRS,
    _with_limits,
    best_split,
    decide,
    split_memory,
    split_sentence,
)
from moeviz.serving.batches import draft_sentence
from moeviz.serving.budget import most_used_by_label
from moeviz.serving.decision import (
    LITTLE,
    TRIAL,
    persistence,
    persistence_sentence,
    placement_judgements,
    placement_verdict,
    windows,
)
from moeviz.serving.placement import COPIES, device_pairs, device_pairs_sentence, serving_placement
from moeviz.serving.requests import different_texts
from moeviz.testing import sample_trace


def routed(*layers, sequence=None) -> RoutingTrace:
    """A trace of these experts: for each layer, those of each token."""
    experts = np.array(layers, np.int16)
    tokens, E = experts.shape[1], int(experts.max()) + 1
    model = ModelInfo("by hand", "test", (*range(len(layers)),), (E,) * len(layers), experts.shape[2])
    sequence = np.zeros(tokens) if sequence is None else np.array(sequence)
    return RoutingTrace(model, token_frame(sequence, np.arange(tokens), ["x"] * tokens), experts)


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_routing_is_judged_as_it_was_made_and_few_tokens_are_not_judged(kind):
    """In short; `python -m benchmarks.decide` is the long form."""
    truth = {"stationary": "Worth a trial", "rotating": "Too little evidence"}.get(kind, "Not now")
    for seed in (0, 1):
        trace = made_routing(kind, 9_000, seed)
        assert verdict(trace) == truth and drifts(trace) == (kind == "rotating")
        assert verdict(made_routing(kind, 300, seed)) == "Too little evidence"
        gains, noise = split_gains(made_routing(kind, 1_800, seed))
        assert min(gains) > -2 * noise


@pytest.mark.parametrize("seed", [10, 17])
def test_a_log_that_stays_in_a_state_for_long_is_no_trial(seed):
    """Of two regimes, the one that was seen more is the rarer one afterwards: the plan brings nothing."""
    frame = placement_judgements(made_routing("two regimes", 3_000, seed), 8)
    assert placement_verdict(frame)["verdict"] == LITTLE and frame["stretches"].max() < 30
    assert placement_verdict(frame.assign(stretches=np.nan))["verdict"] == TRIAL, "the control"
    assert placement_judgements(made_routing("stationary", 3_000, seed), 8)["stretches"].isna().all()


def test_in_order_may_be_unlucky_and_a_plan_that_random_placements_match_is_no_trial():
    """Experts 0 and 1 are hot and on one device: nearly every placement parts them, whatever it was made from."""
    loads = np.full((1, 8), 100)
    loads[0, :2] = 400
    counts = ExpertCounts(
        ModelInfo("hot", "test", (0,), (8,), 1),
        np.stack([loads] * 8) * 10,
        np.full((8, 1), 14_000),
        (*range(8),),
        "step",
    )
    frame = placement_judgements(counts, 4)
    assert len(frame) == 8 and (frame["planned"] < 0.8 * frame["in_order"]).all()
    assert (placement_verdict(frame)["verdict"], placement_verdict(frame)["devices"]) == ("Too little evidence", 4)
    assert (frame["luck"] <= frame["planned"]).all(), "many placements are as good"


def test_experts_that_stay_busy_and_loads_that_move_by_hand():
    """Two of eight experts are hot: 0 and 1 in the first four windows, 0 and 7 in the others."""
    counts = np.full((8, 1, 8), 100)
    counts[:4, 0, [0, 1]] = counts[4:, 0, [0, 7]] = 500
    model = ModelInfo("steps", "test", (0,), (8,), 1)
    (row,) = persistence(ExpertCounts(model, counts, np.full((8, 1), 1600), (*range(8),), "step")).itertuples()
    assert (row.busiest, row.windows, row.choices) == (2, 8, 6400) and row.kept == 0.5 and row.chance == 0.25
    assert row.moved == pytest.approx(400 / 1600) and row.beyond and row.dealt < row.moved
    alike = ExpertCounts(model, counts[[0, 4] * 4], np.full((8, 1), 1600), (*range(8),), "step")
    assert persistence(alike)["moved"].tolist() == [0.0] and not persistence(alike)["beyond"].any()


def test_of_many_texts_neighbours_share_a_window_and_a_table_too_large_is_refused():
    number = np.arange(1_000)
    trace = routed((number % 4)[:, None], sequence=number // 2)
    assert [len(each.counts) for each in windows(trace)] == [240]
    assert [int(each.counts.sum()) for each in windows(trace)] == [1_000]
    huge = replace(trace, model=replace(trace.model, num_experts=(32_000,)))
    with pytest.raises(InvalidTrace, match=r"240 .* 32,000"):
        [*windows(huge)]


def test_a_drift_is_claimed_of_most_layers_and_of_enough_windows_and_choices():
    facts = {"windows": 16, "choices": 5_000, "kept": 0.5, "chance": 0.25, "moved": [0.4, 0.2], "dealt": 0.1}
    frame = pd.DataFrame(facts | {"beyond": [True, False]})
    claim = persistence_sentence(frame)
    assert claim.name == "drift" and [*claim.values.values()][1:] == pytest.approx([0.5, 0.25, 0.3, 0.1, 1, 2])
    assert persistence_sentence(frame.assign(beyond=True))["verdict"] != claim["verdict"]
    assert persistence_sentence(frame.assign(windows=7)).name == "few_windows"
    assert persistence_sentence(frame.assign(choices=999)).name == "few_choices"


def test_a_layer_that_needs_more_room_gets_it_and_then_a_split_is_worth_it():
    """Layer 0 goes back and forth between two experts, layer 1 round through six."""
    tokens = np.arange(1_000)
    trace = routed((tokens % 2)[:, None], (tokens % 6)[:, None])
    trace = replace(trace, model=replace(trace.model, num_experts=(6, 6)))
    frame = split_memory(trace, capacity=4)
    assert frame["places"].tolist() == ["2 6", "2 6"]
    assert frame["split"].tolist() == pytest.approx([1 - 8 / 1_000] * 2), "the first uses miss"
    assert (frame["equal"] < 0.51).all() and split_sentence(frame)["verdict"] == "Worth it"
    claim = split_sentence(frame)
    gain = frame["split"] - frame["equal"]
    assert claim.name == "split_memory" and (claim["least"], claim["most"]) == (gain.min(), gain.max())
    assert split_sentence(split_memory(trace.select(tokens=slice(0, 100)), 4)).name == "few_tokens"
    uneven = replace(trace, model=replace(trace.model, num_experts=(6, 8)))
    assert split_memory(uneven, capacity=4)["chance"].tolist() == pytest.approx([8 / 14] * 2)


def test_the_best_split_is_what_a_search_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hits = [np.concatenate([[0], rng.integers(0, 9, 4).cumsum()]) for _ in range(3)]
        budget = int(rng.integers(3, 13))
        ways = [way for way in product(range(1, 5), repeat=3) if sum(way) == budget]
        most = max(sum(each[at] for each, at in zip(hits, way, strict=True)) for way in ways)
        found = best_split(hits, budget, np.ones(3, int))
        assert sum(found) == budget and sum(each[at] for each, at in zip(hits, found, strict=True)) == most


def test_devices_that_tokens_need_together_by_hand():
    """Experts 0 and 1 on device 0, 2 and 3 on device 1; the second half of the tokens is judged."""
    trace = routed([[0, 1]] * 4 + [[0, 1], [0, 2], [1, 3], [2, 3]])
    found = device_pairs(trace, 2).set_index(["placement", "device", "other"])["share"]
    assert found["contiguous"].to_dict() == {(0, 0): 0.75, (0, 1): 0.5, (1, 1): 0.75}
    few = device_pairs_sentence(device_pairs(trace, 2))
    assert (few.name, few["tokens"]) == ("few_tokens", 4)
    with pytest.raises(MissingField):
        device_pairs(trace.counts(), 2)


def test_devices_reached_are_the_diagonal_and_what_is_said_of_chance_is_what_random_tokens_do():
    trace = sample_trace(tokens=4_000, layers=2, top_k=3, experts=16)
    frame = device_pairs(trace, 4)
    alone = frame[frame["device"] == frame["other"]].groupby("placement")["share"].sum()
    reached = serving_placement(trace, 4).query("placement != @COPIES").groupby("placement")["reached"].mean()
    assert alone.to_dict() == pytest.approx(reached[["balanced", "contiguous"]].to_dict()), COPIES
    claim = device_pairs_sentence(frame)
    in_order = frame[(frame["placement"] == "contiguous") & (frame["device"] != frame["other"])]
    assert claim.name == "device_pairs" and claim["in_order"] == pytest.approx(reached["contiguous"])
    assert (claim["most"][2], claim["least"][2]) == (in_order["share"].max(), in_order["share"].min())
    even = made_routing("even", 9_000, 0)
    np.testing.assert_allclose(device_pairs(even, 8)["share"], device_pairs(even, 8)["by_lot"], atol=0.02)


def test_labels_are_judged_by_the_experts_that_the_others_use_most():
    """The others of a use 3 and 2, those of b 0 and 2 (6, 4, 5, 5), those of c 3 and 0 (6, 4, 3, 7)."""
    counts = np.array([[[6, 4, 0, 0]], [[0, 0, 3, 7]], [[0, 0, 5, 5]]])
    model = ModelInfo("kinds", "test", (0,), (4,), 1)
    labelled = ExpertCounts(model, counts, np.full((3, 1), 10), ("a", "b", "c"), "label")
    assert most_used_by_label(labelled)["share"].tolist() == [0.0, 0.3, 0.5]
    with pytest.raises(MissingField):
        most_used_by_label(labelled.counts())


def test_a_draft_is_named_with_what_it_costs():
    """Of a text that goes round through four experts, two tokens in a row always need twice what one does."""
    trace = routed((np.arange(600) % 4)[:, None])
    needs = draft_sentence(trace, 2)
    assert needs.name == "draft_needs" and (needs["one"], needs["needed"], needs["experts"]) == (1, 2, 4)
    few = draft_sentence(trace.select(tokens=slice(0, 100)), 2)
    assert (few.name, few["tokens"]) == ("few_tokens", 100)
    assert draft_sentence(trace.counts(), 2).name == "draft_unknown"
    with pytest.raises(MoevizError, match=r"\b1\b"):
        draft_sentence(trace, 1)


ODD = {
    "32 tokens": sample_trace(),
    "seven experts": sample_trace(experts=7),
    "one token": sample_trace(tokens=1),
    "no tokens": sample_trace(tokens=0),
    "all experts": sample_trace(tokens=20, experts=2, top_k=2),
    "counts": sample_trace().counts(),
}


@pytest.mark.parametrize("trace", ODD.values(), ids=ODD)
def test_little_evidence_gives_no_verdict(trace):
    found = {answer.question: answer for answer in decide(trace)}
    assert len(found) == 6 and all(answer.sentence and "nan" not in answer.sentence for answer in found.values())
    assert {answer.verdict for answer in found.values()} <= {"", "Not known", "Too little evidence"}
    in_order = isinstance(trace, RoutingTrace) and len(trace.tokens)
    assert not in_order or {found[name].verdict for name in (BALANCE, DRIFT)} <= {"", LITTLE}


def test_what_cannot_be_is_said_with_what_can():
    found = {answer.question: answer.sentence for answer in decide(sample_trace(), devices=3, capacity=9)}
    assert "3 devices cannot hold" in found[BALANCE] and "3 devices cannot hold" in found[PAIRS]
    assert "at most all 8; got 9. Choose another capacity." in found[MEMORY]
    assert "two labels or more" in found[LABELS] and "Too little evidence" in found[DRAFT]


def test_a_text_that_comes_again_counts_once():
    """One text sixty times: a plan would be judged on the tokens that it was made from."""
    drawn = made_routing("bursty", 9_000, 0)
    one = drawn.select(tokens=slice(0, 150))
    copies = [one.tokens.assign(sequence=np.int32(at)) for at in range(60)]
    frame = pd.concat(copies, ignore_index=True)
    copied = RoutingTrace(one.model, frame, np.tile(one.experts, (1, 60, 1)))
    assert placement_verdict(placement_judgements(copied, 8)).startswith(TRIAL)  # the control: what copies pretend
    balance, drift = decide(copied, 8)[:2]
    assert balance.verdict == drift.verdict == LITTLE and "59 texts came again" in balance.sentence
    assert len(different_texts(drawn)[0].tokens) == 9_000 and different_texts(copied)[1] == 59


def test_verdicts_say_what_was_seen_and_mention_one_another():
    balance = decide(made_routing("stationary", 9_000, 0), 8)[0]
    assert balance.verdict == TRIAL and "60 windows of time" in balance.sentence
    assert "loads drift" not in balance.sentence
    usual, moved = made_routing("stationary", 9_000, 1), made_routing("stationary", 9_000, 2)
    later = usual.experts.copy()
    later[:, 4_500::3] = moved.experts[:, 4_500::3]
    both = decide(RoutingTrace(usual.model, usual.tokens, later), 8)[:2]
    assert [one.verdict for one in both] == [LITTLE, "Loads drift"], "it has too few windows that are unlike each other"
    found = {both[0].question: both[0]._replace(verdict=TRIAL), both[1].question: both[1]}  # as of a longer log
    assert all("judge it again" in _with_limits(found, name, usual, 0).sentence for name in found)
