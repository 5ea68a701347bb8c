"""Conventions in which engines differ: each that was planted is named, also next to another; else none is."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from engine_traces import OF_IDS, OF_WEIGHTS, all_rows, bare, noisy, other_layer, rows_from

from moeviz import RoutingTrace
from moeviz.embedded.recorded_routing import example_trace
from moeviz.metrics.conventions import explain
from moeviz.metrics.engine_difference import agreement_sentence, convention_sentence, engine_difference
from moeviz.testing import sample_trace

PLANTED = {**OF_IDS, **OF_WEIGHTS}
WITH_WEIGHTS_ALONE = {"bias", *OF_WEIGHTS} - {"slot order"}
# What writes a layer or the weights anew comes first, so that the other of two is not written over.
FIRST = ("bias", "score function", "normalisation", "token alone", "other model", "rows of layers")
# Two that are one: a sum and a factor of weights, the same layer twice, or slots of which no order is left.
ONE = [
    *combinations(("scale", "scale by layer", "normalisation", "equal weights"), 2),
    *((kind, "score function") for kind in ("normalisation", "equal weights", "slots")),
    *(("weights of other slots", "equal weights"), ("slots", "normalisation"), ("bias", "slot order")),
    *(("token alone", "rows of layers"), ("token alone", "layers.exchanged"), ("rows of layers", "layers.exchanged")),
    *((kind, "slot order") for kind in OF_WEIGHTS),
    *(("bias", "token alone"), ("bias", "other model")),  # logits are gone with the layer, so a bias is fitted
]


@pytest.fixture(scope="module")
def one() -> RoutingTrace:
    return sample_trace(layers=6, tokens=120, top_k=3)


def kinds(pair) -> list[str]:
    return sorted(found.kind for found in explain(pair).conventions)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_convention_is_named_and_undone(one, name):
    found = explain((one, PLANTED[name](one)))
    (convention,) = found.conventions
    assert convention.kind == name.partition(".")[0] and convention.after < 0.1 * convention.before
    assert convention_sentence(convention)
    lone = name in ("other model", "token alone")
    assert engine_difference(found.undone)["equal_sets"].median() > 0.99 or lone


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in WITH_WEIGHTS_ALONE])
def test_it_is_named_by_ids_alone_too(one, name):
    assert kinds((bare(one), bare(PLANTED[name](one)))) == [name.partition(".")[0]]


def two_at_once() -> list[tuple[str, str]]:
    names = [*FIRST, *(name for name in PLANTED if name not in FIRST)]
    same = {frozenset(two) for two in ONE}
    return [
        two
        for two in combinations(names, 2)
        if frozenset(two) not in same and two[0].partition(".")[0] != two[1].partition(".")[0]
    ]


def test_two_at_once_are_both_named(one):
    """Every third pair of which one shows in weights alone; pairs of ids are tried below, without weights."""
    wrong = {}
    for first, second in [two for two in two_at_once() if WITH_WEIGHTS_ALONE & {*two}][::3]:
        wanted = sorted(name.partition(".")[0] for name in (first, second))
        if (got := kinds((one, PLANTED[second](PLANTED[first](one))))) != wanted:
            wrong[first, second] = got
    assert not wrong


def test_two_at_once_are_named_by_ids_alone_too(one):
    """Every third pair: one comparison takes a fifth of a second."""
    pairs = [two for two in two_at_once() if not WITH_WEIGHTS_ALONE & {*two}][::3]
    wrong = {}
    for first, second in pairs:
        got = kinds((bare(one), bare(PLANTED[second](PLANTED[first](one)))))
        if got != sorted(name.partition(".")[0] for name in (first, second)):
            wrong[first, second] = got
    assert not wrong and {name for two in pairs for name in two} == {*PLANTED} - WITH_WEIGHTS_ALONE


def test_nothing_is_named_where_nothing_was_planted():
    for seed, (layers, tokens, top_k, experts) in enumerate([(4, 32, 2, 8), (1, 9, 1, 2), (6, 300, 2, 8)] * 2):
        trace = sample_trace(layers, tokens, top_k, experts, seed)
        for other in (trace, noisy(trace, 0.02), noisy(trace, 0.5)):
            assert not kinds((trace, other))


def test_random_pairs_have_no_cause_and_are_compared_with_chance():
    recorded = example_trace()
    layers, tokens, top_k = recorded.experts.shape
    for seed in range(8):
        drawn = np.argsort(np.random.default_rng(seed).random((layers, tokens, 8)), axis=-1)[..., :top_k]
        random = RoutingTrace(recorded.model, recorded.tokens, drawn.astype(np.int16))
        for pair in ((recorded, random), (random, recorded), (random, sample_trace(6, tokens, top_k, seed=seed))):
            pair = pair[0], replace(pair[1], tokens=pair[0].tokens)
            found = explain(pair)
            assert not found.conventions and found.left.ids == pytest.approx(found.left.chance, abs=0.12)
            assert "at chance" in agreement_sentence(found)


def test_few_tokens_are_too_little_evidence():
    """Eight choices between two experts agree by chance once they may be moved: nothing is named."""
    for seed in range(40):
        pair = sample_trace(1, 8, 1, 2, seed), sample_trace(1, 8, 1, 2, seed + 100)
        assert not kinds(pair)


@pytest.mark.parametrize(("spoilt", "named"), [(0, ["rows"]), (4, ["rows"]), (60, [])])
def test_a_convention_that_leaves_a_tenth_is_not_named(one, spoilt, named):
    """The control of the limit: rows are moved, and some of them go elsewhere."""
    moved = rows_from(one, all_rows(one)[1:])
    experts = moved.experts.copy()
    experts[:, :spoilt] = np.argsort(np.random.default_rng(0).random((6, spoilt, 8)), axis=-1)[..., :3]
    assert kinds((one, replace(moved, experts=experts, weights=None, logits=None))) == named


def test_two_candidates_that_do_as_well_are_not_named(one):
    """All rows of two tokens in turn: two rows earlier and two rows later is the same."""
    turns = rows_from(one, np.arange(120) % 4)
    assert kinds((turns, rows_from(turns, all_rows(turns)[2:]))) == []


def test_weights_that_differ_without_a_rule_are_a_figure_and_no_cause(one):
    weights = one.weights * (1 + 0.3 * np.random.default_rng(1).random(one.weights.shape))
    ordered = -np.sort(-weights.astype(np.float32), axis=-1)
    found = explain((one, replace(one, weights=ordered)))
    assert not found.conventions and found.left.weights > 0.05 and found.left.ids == 0
    assert "Mixing weights" in agreement_sentence(found)


def test_a_layer_of_another_model_is_named_only_where_the_others_agree(one):
    both = other_layer(other_layer(other_layer(other_layer(one, 0), 1, 4), 2, 5), 3, 6)
    assert kinds((one, both)) == []
