"""The contract of RoutingTrace: what it refuses, in which words, and what its few methods give."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.capture.record.joining import joined
from moeviz.errors import InvalidTrace, MissingField
from moeviz.expert_outputs import ExpertOutputs
from moeviz.model_info import PARTS, ModelInfo, ParameterCounts
from moeviz.next_tokens import NEXT, NextTokens
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, normalised_scores, sort_slots, token_frame
from moeviz.testing import sample_trace

COUNTS = ParameterCounts(100, 50, 40, 8, 60, 5, 7, 2, per_expert=(15, 15, 15, 15))


@pytest.fixture
def hand() -> RoutingTrace:
    """Layers 1 and 4 with 3 and 2 experts, top-2, three tokens; at layer 4 the last token was dropped.

    layer 1: token 0 -> 2 (0.75), 0 (0.25);  token 1 -> 1 (0.5), 2 (0.5);  token 2 -> 0 (1.0), empty
    layer 4: token 0 -> 1 (0.75), 0 (0.25);  token 1 -> 0 (1.0), empty;    token 2 -> empty, empty
    """
    odds = np.float32([[[1, 1, 2], [1, 2, 1], [2, 1, 1]], [[1, 3, 0], [1, 1, 0], [1, 1, 0]]])
    with np.errstate(divide="ignore"):  # ln 0 = -infinity: layer 4 has no expert 2
        logits = np.log(odds)
    return RoutingTrace(
        model=ModelInfo("by hand", "sample", (1, 4), (3, 2), 2, "softmax"),
        tokens=token_frame(np.array([0, 0, 1]), np.array([0, 1, 0]), ["a", "", "c"]),
        experts=np.array([[[2, 0], [1, 2], [0, -1]], [[1, 0], [0, -1], [-1, -1]]], np.int16),
        weights=np.float32([[[0.75, 0.25], [0.5, 0.5], [1, 0]], [[0.75, 0.25], [1, 0], [0, 0]]]),
        logits=logits,
    )


def changed(trace: RoutingTrace, field: str, place: tuple, value: float) -> RoutingTrace:
    values = getattr(trace, field).copy()
    values[place] = value
    return replace(trace, **{field: values})


# What is refused


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"layers": (0, 1, 2)}, "4 MoE.*lists 3"),
        ({"num_experts": (8, 8, 8)}, "4 MoE.*lists 3"),
        ({"parameters": replace(COUNTS, per_expert=(15,))}, "lists 1"),
        ({"layers": (0, 1, 1, 2)}, r"\(0.*1.*1.*2\)"),
        ({"layers": (3, 2, 1, 0)}, r"\(3.*2.*1.*0\)"),
        ({"top_k": 3}, "2 slots.*top_k.*3"),
        ({"num_experts": (9, 8, 8, 8)}, r"shape \(4.*32.*8\).*\(4.*32.*9\)"),
        ({"num_experts": (1, 8, 8, 8)}, "layer 0.*experts 0.*0"),
    ],
)
def test_facts_about_the_model_that_do_not_fit_the_arrays_are_refused(trace, facts, sentence):
    with pytest.raises(InvalidTrace, match=sentence):
        replace(trace, model=replace(trace.model, **facts))


def test_a_trace_of_no_layers_is_refused(trace):
    model = replace(trace.model, layers=(), num_experts=())
    with pytest.raises(InvalidTrace, match="order"):
        RoutingTrace(model, trace.tokens, trace.experts[:0])


def test_a_row_of_tokens_too_few_is_refused(trace):
    with pytest.raises(InvalidTrace, match=r"32 tokens.*31 rows"):
        replace(trace, tokens=trace.tokens[:-1])


def test_logits_for_another_number_of_experts_are_refused(trace):
    # Under pytest the shape annotations speak first where L, T or K differ; E is the size that is left to this check.
    with pytest.raises(InvalidTrace, match=r"\(4.*32.*7\).*\(4.*32.*8\)"):
        replace(trace, logits=trace.logits[..., :7])


@pytest.mark.parametrize("column", ["sequence", "position", "token_id", "text", "phase"])
def test_a_token_column_that_is_missing_is_named(trace, column):
    with pytest.raises(InvalidTrace, match=f"'{column}'"):
        replace(trace, tokens=trace.tokens.drop(columns=column))


@pytest.mark.parametrize("column", ["sequence", "position", "token_id", "text", "phase"])
def test_a_token_column_of_another_dtype_is_named_with_both_dtypes(trace, column):
    with pytest.raises(InvalidTrace, match=f"'{column}'.*object"):
        replace(trace, tokens=trace.tokens.astype({column: object}))


@pytest.mark.parametrize("column", ["text", "phase", "label"])
def test_a_missing_value_in_the_tokens_is_refused(trace, column):
    tokens = trace.tokens.assign(label=pd.Series(["x"] * 32, dtype="str"))
    tokens.loc[3, column] = None
    with pytest.raises(InvalidTrace, match="missing"):
        replace(trace, tokens=tokens)


@pytest.mark.parametrize("column", ["sequence", "position"])
def test_negative_places_are_refused(trace, column):
    tokens = trace.tokens.copy()
    tokens.loc[5, column] = -1
    with pytest.raises(InvalidTrace, match=r"\b0\b"):
        replace(trace, tokens=tokens)


def test_two_tokens_at_one_place_are_refused(trace):
    tokens = trace.tokens.copy()
    tokens.loc[5, "position"] = 4
    with pytest.raises(InvalidTrace, match="position"):
        replace(trace, tokens=tokens)


@pytest.mark.parametrize("expert", [8, 32767, -3, -32768])
def test_an_expert_that_the_layer_does_not_have_is_named_with_its_place(trace, expert):
    with pytest.raises(InvalidTrace, match=f"expert {expert}.*layer 2.*token 7.*0 to 7"):
        changed(trace, "experts", (2, 7, 0), expert)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_weights_are_finite(trace, weight):
    with pytest.raises(InvalidTrace, match="NaN"):
        changed(trace, "weights", (0, 0, 0), weight)


def test_an_empty_slot_weighs_nothing(trace):
    with pytest.raises(InvalidTrace, match="weight"):
        changed(trace, "experts", (0, 0, 1), NO_EXPERT)


def test_slots_are_in_order_of_weight(trace):
    with pytest.raises(InvalidTrace, match="order"):
        changed(trace, "weights", (0, 0, 1), 10)


def test_an_empty_slot_does_not_come_before_a_filled_one(trace):
    emptied = changed(changed(trace, "weights", (0, 0), 0), "experts", (0, 0, 1), NO_EXPERT)
    assert emptied.experts[0, 0, 1] == NO_EXPERT
    with pytest.raises(InvalidTrace, match="order"):
        changed(changed(trace, "weights", (0, 0), 0), "experts", (0, 0, 0), NO_EXPERT)


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_are_numbers_or_minus_infinity(trace, logit):
    with pytest.raises(InvalidTrace, match="NaN"):
        changed(trace, "logits", (0, 0, 0), logit)
    assert changed(trace, "logits", (0, 0, 0), -np.inf).logits[0, 0, 0] == -np.inf


@pytest.mark.parametrize("weight", [-0.25, 2.5])
def test_weights_may_be_negative_or_above_one(trace, weight):
    weights = np.full_like(trace.weights, weight)
    assert (replace(trace, weights=weights).weights == weight).all()


# Fields that may be absent


@pytest.mark.parametrize("field", ["weights", "logits"])
def test_a_field_that_is_absent_is_said_with_who_did_not_record_it(trace, ids_only_trace, field):
    assert trace.need(field, "Router entropy") is getattr(trace, field)
    with pytest.raises(MissingField, match=rf"{field}.*\(sample\)"):
        ids_only_trace.need(field, "Router entropy")


# Probabilities, by hand: the logits are logarithms, so softmax gives the numbers back over their sum


def test_probabilities_of_a_softmax_router_worked_by_hand(hand):
    expected = [
        [[0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]],
        [[0.25, 0.75, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]],
    ]
    assert hand.probabilities("This").tolist() == pytest.approx(np.array(expected), abs=1e-6)


def test_probabilities_of_a_sigmoid_router_are_its_scores_over_their_sum():
    logits = np.log(np.float32([[1, 3, 1]]))  # sigmoid(ln x) = x / (1 + x): 1/2, 3/4, 1/2
    assert normalised_scores(logits, "sigmoid")[0].tolist() == pytest.approx([2 / 7, 3 / 7, 2 / 7])


def test_probabilities_of_a_sqrt_softplus_router_are_its_scores_over_their_sum():
    logits = np.log(np.expm1(np.float32([[1, 4, 9]])))  # softplus gives 1, 4, 9 back; roots 1, 2, 3
    assert normalised_scores(logits, "sqrt_softplus")[0].tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6], rel=1e-5)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "sqrt_softplus"])
def test_an_expert_that_a_layer_does_not_have_has_probability_zero(function):
    scores = normalised_scores(np.float32([[2, -np.inf, 1]]), function)
    assert scores[0, 1] == 0 and scores.sum() == pytest.approx(1)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "sqrt_softplus"])
def test_extreme_logits_give_probabilities_without_overflow(function):
    scores = normalised_scores(np.float32([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]]), function)
    assert np.isfinite(scores).all() and (scores >= 0).all()


def test_probabilities_need_a_known_score_function(trace):
    unknown = replace(trace, model=replace(trace.model, score_function="unknown"))
    with pytest.raises(MissingField, match="'sample'"):
        unknown.probabilities("This")


# The long form


def test_assignments_are_the_filled_slots_by_layer_token_and_slot(hand):
    rows = hand.assignments()
    assert rows.drop(columns="weight").to_numpy().tolist() == [
        *([1, 0, 0, 2], [1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 2], [1, 2, 0, 0]),
        *([4, 0, 0, 1], [4, 0, 1, 0], [4, 1, 0, 0]),
    ]
    assert rows["weight"].tolist() == [0.75, 0.25, 0.5, 0.5, 1, 0.75, 0.25, 1]
    assert [str(kind) for kind in rows.dtypes] == ["int32", "int32", "int16", "int16", "float32"]


def test_assignments_of_ids_alone_have_no_weight(ids_only_trace):
    rows = ids_only_trace.assignments()
    assert len(rows) == ids_only_trace.experts.size and rows["weight"].isna().all()
    assert rows["weight"].dtype == "float32"


# Selection


def test_a_layer_is_selected_by_the_models_own_index(hand):
    one = hand.select(layers=[4])
    assert one.model.layers == (4,) and one.model.num_experts == (2,)
    assert one.experts.tolist() == hand.experts[1:].tolist() and one.weights.tolist() == hand.weights[1:].tolist()
    assert one.logits.tolist() == hand.logits[1:, :, :2].tolist()  # no column for an expert that no layer has


def test_layers_keep_the_models_order_whatever_order_is_asked_for(hand):
    assert hand.select(layers=[4, 1]).equals(hand.select(layers=[1, 4]))


def test_selecting_layers_drops_the_parameters_of_the_whole_model(trace):
    counted = replace(trace, model=replace(trace.model, parameters=COUNTS))
    assert counted.select(layers=[0]).model.parameters is None
    assert counted.select(tokens=slice(0, 4)).model.parameters == COUNTS


def test_a_layer_that_is_not_there_is_named(hand):
    with pytest.raises(InvalidTrace, match=r"MoE layer 2.*1.*4"):
        hand.select(layers=[1, 2])


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([False, True, True]), np.array([1, 2])])
def test_tokens_are_selected_by_slice_by_mask_or_by_row(hand, rows):
    part = hand.select(tokens=rows)
    assert part.experts.tolist() == hand.experts[:, 1:].tolist() and part.logits.shape == (2, 2, 3)
    assert part.tokens["text"].tolist() == ["", "c"] and part.tokens.index.tolist() == [0, 1]


def test_selecting_everything_changes_nothing(hand, ids_only_trace):
    assert hand.select().equals(hand)
    assert ids_only_trace.select(layers=ids_only_trace.model.layers).equals(ids_only_trace)


# Equality


def test_a_trace_equals_itself_made_again():
    assert sample_trace().equals(sample_trace()) and not sample_trace().equals(sample_trace(seed=1))


@pytest.mark.parametrize("field", ["weights", "logits"])
def test_one_bit_makes_a_difference(trace, field):
    value = np.nextafter(getattr(trace, field)[3, 31, -1], np.float32(-1e9))
    assert not trace.equals(changed(trace, field, (3, 31, -1), value))
    assert not trace.equals(replace(trace, **{field: None}))
    assert not replace(trace, **{field: None}).equals(trace)


def test_a_fact_or_a_text_makes_a_difference(trace):
    tokens = trace.tokens.copy()
    tokens.loc[0, "text"] = "the"
    assert not trace.equals(replace(trace, tokens=tokens))
    assert not trace.equals(replace(trace, model=replace(trace.model, revision="abc")))
    assert not trace.equals(replace(trace, tokens=trace.tokens.assign(label="x")))


# Slots in order


def test_slots_are_sorted_by_weight_with_empty_ones_last_and_ties_as_they_came():
    experts = np.array([[[4, 7, -1, 2], [1, 3, 5, 0]]], np.int16)
    weights = np.float32([[[0.2, 0.5, 0.9, -0.1], [0.25, 0.5, 0.25, 0.5]]])
    sorted_experts, sorted_weights = sort_slots(experts, weights)
    assert sorted_experts.tolist() == [[[7, 4, 2, -1], [3, 0, 1, 5]]]
    assert sorted_weights.tolist() == np.float32([[[0.5, 0.2, -0.1, 0], [0.5, 0.5, 0.25, 0.25]]]).tolist()
    assert sorted_experts.dtype == np.int16 and sorted_weights.dtype == np.float32


def test_slots_without_weights_keep_their_order_with_empty_ones_last():
    experts, weights = sort_slots(np.array([[[-1, 9, 3], [2, -1, 1]]], np.int16), None)
    assert experts.tolist() == [[[9, 3, -1], [2, 1, -1]]] and weights is None


# Facts about the model


def test_parts_of_a_model_sum_to_its_total():
    assert COUNTS.total == 100 + 50 + 40 + 8 + 60 + 5 + 7 + 2
    assert "per_expert" not in PARTS and len(PARTS) == 8


def test_a_matrix_that_serves_as_both_embeddings_is_counted_once():
    assert not COUNTS.tied and replace(COUNTS, output_embedding=0).tied


def test_tokens_get_the_dtypes_of_the_contract():
    tokens = token_frame(np.zeros(2), np.arange(2), ["a", "b"])
    assert tokens["token_id"].tolist() == [-1, -1] and tokens["phase"].tolist() == ["prompt", "prompt"]
    assert [str(kind) for kind in tokens.dtypes] == ["int32", "int32", "int32", "str", "category"]
    assert list(tokens["phase"].cat.categories) == ["prompt", "generated"]


def test_next_tokens_follow_the_tokens_and_layers_that_are_selected_and_joined():
    trace = sample_trace(layers=3, tokens=6)
    ids = np.arange(30, dtype=np.int32).reshape(6, NEXT) % 7
    p = np.full((6, NEXT), 0.1, np.float32)
    lens = np.stack([ids, ids[::-1], ids]), np.stack([p, p / 2, p])
    whole = replace(trace, next_tokens=NextTokens(tuple("abcdefg"), ids, p, *lens))
    part = whole.select(layers=[1], tokens=np.array([4, 2]))
    assert part.next_tokens.rows.tolist() == ids[[4, 2]].tolist()
    assert part.next_tokens.lens_rows.tolist() == [ids[::-1][[4, 2]].tolist()]
    assert part.next_tokens.after(0) == [("abcdefg"[at], pytest.approx(0.1)) for at in ids[4]]
    assert "next tokens" in repr(whole) and whole.nbytes > trace.nbytes
    rest = whole.select(tokens=slice(2, None))
    other = replace(
        rest.next_tokens,
        texts=tuple("gfedcba"),
        rows=6 - rest.next_tokens.rows,
        lens_rows=6 - rest.next_tokens.lens_rows,
    )
    again = joined([whole.select(tokens=slice(2)), replace(rest, next_tokens=other)])
    texts, first = np.array(again.next_tokens.texts), np.array(whole.next_tokens.texts)
    assert (texts[again.next_tokens.rows] == first[ids]).all()
    assert (texts[again.next_tokens.lens_rows] == first[lens[0]]).all()
    assert joined([whole, trace]).next_tokens is None


def test_outputs_of_experts_follow_the_tokens_and_layers_that_are_selected():
    trace = sample_trace(layers=3, tokens=6)
    norm = np.arange(trace.experts.size, dtype=np.float32).reshape(trace.experts.shape)
    whole = replace(trace, outputs=ExpertOutputs(norm, 2 * norm, norm, 0 * norm, 0 * norm))
    part = whole.select(layers=[1], tokens=np.array([4, 2]))
    assert part.outputs.added.tolist() == (2 * norm[[1]][:, [4, 2]]).tolist()
    assert "outputs" in repr(whole) and whole.nbytes == trace.nbytes + 5 * norm.nbytes
    again = joined([whole.select(tokens=slice(2)), whole.select(tokens=slice(2, None))])
    assert again.outputs.equals(whole.outputs)
    with pytest.raises(InvalidTrace, match="shape"):
        replace(trace, outputs=whole.select(tokens=slice(3)).outputs)
