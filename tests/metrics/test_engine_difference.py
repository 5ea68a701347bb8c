"""Two recordings of the same text: how far they agree, where they part, and whether their rows belong together."""

from dataclasses import replace

import numpy as np
import pytest
from engine_traces import late, noisy

from moeviz import InvalidTrace, RoutingTrace
from moeviz.metrics.conventions import explain
from moeviz.metrics.engine_difference import engine_difference, first_partings, tokens_caption, tokens_checked
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED, sort_slots
from moeviz.testing import sample_trace


@pytest.fixture
def one() -> RoutingTrace:
    return sample_trace(layers=3, tokens=60)


def test_a_trace_agrees_with_itself(one):
    table = engine_difference((one, one))
    assert table["layer"].tolist() == [0, 1, 2] and (table["tokens"] == 60).all()
    assert (table[["equal_ids", "equal_sets", "shared"]] == 1).all(axis=None) and (table["ties"] == 0).all()
    assert first_partings((one, one))[["layer", "before"]].to_numpy().tolist() == [[-1, 60]]


def test_shares_by_hand(one):
    """At layer 1, token 5 has its two experts in the other order, and token 9 one other expert."""
    experts = one.experts.copy()
    experts[1, 5] = experts[1, 5, ::-1]
    experts[1, 9, 1] = next(e for e in range(8) if e not in experts[1, 9])
    table = engine_difference((one, replace(one, experts=experts, weights=None, logits=None))).set_index("layer")
    assert table.loc[1, ["equal_ids", "equal_sets", "shared"]].tolist() == [58 / 60, 59 / 60, 119 / 120]
    assert (table.loc[[0, 2], "equal_ids"] == 1).all()
    assert first_partings((one, replace(one, experts=experts, weights=None)))[
        ["position", "layer", "before"]
    ].to_numpy().tolist() == [[9, 1, 9]]


def test_equal_ids_are_not_said_where_no_order_is_known(one):
    unordered = replace(one, model=replace(one.model, slot_order="unknown"), weights=None)
    assert engine_difference((one, unordered))["equal_ids"].isna().all()


@pytest.mark.parametrize("by", [1, 2])
def test_a_planted_shift_is_found_and_is_no_disagreement(one, by):
    for pair, moved in (((late(one, by), one), by), ((one, late(one, by)), -by)):
        found = explain(pair)
        assert [convention.detail for convention in found.conventions] == [(moved, ())]
        assert (engine_difference(found.undone)["equal_sets"] == 1).all()


def test_a_shift_is_found_in_every_sequence_of_a_batch():
    trace = sample_trace(tokens=60)
    tokens = trace.tokens.assign(
        sequence=np.repeat([0, 1, 2], 20).astype("int32"), position=np.tile(np.arange(20, dtype="int32"), 3)
    )
    batch = replace(trace, tokens=tokens)
    first = np.arange(60) % 20 < 19
    lost = RoutingTrace(batch.model, tokens[first].reset_index(drop=True), batch.experts[:, np.roll(first, 1)])
    found = explain((lost, batch))
    assert [convention.detail for convention in found.conventions] == [(1, ())]
    assert first_partings(found.undone)["layer"].tolist() == [-1, -1, -1]


def test_weights_are_compared_by_expert_where_both_have_the_same(one):
    """A layer's weights changed by .1 each: the ids are all the same, the weights are not."""
    weights = one.weights.copy()
    weights[1] += np.float32(0.1)
    table = engine_difference((one, replace(one, weights=weights))).set_index("layer")
    assert table["weights"].tolist() == [0, pytest.approx(0.2 / one.weights[1].sum(axis=1).mean(), rel=1e-3), 0]
    assert engine_difference((one, replace(one, weights=None)))["weights"].isna().all()


def test_margins_explain_what_noise_does(one):
    table = engine_difference((sample_trace(tokens=2000), noisy(sample_trace(tokens=2000), 0.05)))
    assert (table["margin_different"] < table["margin_equal"] / 3).all() and (table["by_margin"] > 0.9).all()
    rng = np.random.default_rng(0)
    swapped = one.experts.copy()
    at = rng.choice(60, 20, replace=False)
    swapped[:, at] = swapped[:, rng.permutation(at)]
    table = engine_difference((one, replace(one, experts=swapped, weights=None)))
    assert table["by_margin"].between(0.2, 0.8).all()


def test_margins_are_not_said_where_a_bias_decides(one):
    other = np.argsort(one.logits, axis=-1)[..., :2].astype(np.int16)  # the lowest logits
    biased = replace(one, experts=other, weights=None)
    assert engine_difference((biased, biased))["margin_equal"].isna().all()
    assert engine_difference((one, one))["margin_equal"].notna().all()


def test_ties_are_counted(one):
    """All logits are equal, so that any two experts are a right choice."""
    tied = replace(one, logits=np.zeros_like(one.logits))
    experts, _ = sort_slots((one.experts + 1) % 8, None)
    table = engine_difference((tied, replace(one, experts=experts.astype(np.int16), weights=None)))
    assert (table["ties"] == 1 - table["equal_sets"]).all() and (table["ties"] > 0.5).all()


def test_tokens_that_one_engine_did_not_record_are_not_compared(one):
    experts = one.experts.copy()
    experts[0, :50] = NOT_RECORDED
    other = RoutingTrace(one.model, one.tokens, experts)
    assert engine_difference((one, other))["tokens"].tolist() == [10, 60, 60]


def test_other_texts_and_other_layers_are_refused(one):
    ids = one.tokens.assign(token_id=np.arange(60, dtype=np.int32) + 100)
    with pytest.raises(InvalidTrace, match="100%"):
        engine_difference((one, replace(one, tokens=ids)))
    with pytest.raises(InvalidTrace, match=r"0.* 1 to 2"):
        engine_difference((one.select(layers=[0]), one.select(layers=[1, 2])))


def without_ids(trace: RoutingTrace, **columns: object) -> RoutingTrace:
    return replace(trace, tokens=trace.tokens.assign(token_id=np.int32(NO_TOKEN_ID), **columns))


def says(pair: tuple[RoutingTrace, RoutingTrace]) -> str | None:
    return tokens_caption(tokens_checked(pair))


def test_texts_are_compared_where_a_side_has_no_token_ids(one):
    other = without_ids(one)
    assert (engine_difference((one, other))["tokens"] == 60).all() and says((one, other)) is None
    for pair in ((one, without_ids(one, text="SELECT")), (without_ids(one, text="SELECT"), other)):
        with pytest.raises(InvalidTrace, match="100%"):
            engine_difference(pair)


def test_where_neither_ids_nor_texts_are_known_it_is_said_that_nothing_can_be_checked(one):
    bare = without_ids(one, text="")
    for pair in ((one, bare), (bare, one), (bare, bare)):
        assert (engine_difference(pair)["equal_sets"] == 1).all()
        assert says(pair) == (
            "Whether both are of the same text cannot be checked: no token has an id, or a text, in both."
        )
    half = without_ids(one, text=one.tokens["text"].where(one.tokens.index < 48, ""))
    assert says((one, half)) == "12 of 60 tokens have neither an id nor a text in both, and cannot be checked."


def test_another_token_is_left_out_and_is_no_disagreement(one):
    """Token 30 is another one in the second, which sends it elsewhere: 29 equal tokens come after it."""
    ids, experts = one.tokens["token_id"].to_numpy().copy(), one.experts.copy()
    ids[30], experts[:, 30] = 99, (experts[:, 30] + 1) % 8
    other = RoutingTrace(one.model, one.tokens.assign(token_id=ids), experts)
    assert (engine_difference((one, other))["equal_sets"] == 1).all()
    assert tokens_checked((one, other)).iloc[0].tolist() == [60, 0, 1, 29]
    moved = explain((late(one, 1), other))
    assert [convention.kind for convention in moved.conventions] == ["rows"] and moved.left.ids < 0.05
