"""Which tokens each expert gets, on texts small enough to count by hand."""

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import InvalidTrace
from moeviz.metrics.vocabulary import (
    KINDS,
    kind_of,
    token_kinds,
    top_tokens,
    vocabulary_by_layer,
    vocabulary_specialization,
)
from moeviz.routing_trace import NO_TOKEN_ID
from moeviz.testing import sample_trace

OF_OFTEN_SEEN = (top_tokens, vocabulary_by_layer, vocabulary_specialization)
MEASURES = (*OF_OFTEN_SEEN, token_kinds)


def routed(tokens: list[tuple[str, list[int]]], num_experts: int, ids: list[int] | None = None) -> RoutingTrace:
    """A trace of one layer, 4, with the text and the experts of each token."""
    texts, experts = zip(*tokens, strict=True)
    return trace_of([experts], num_experts, layers=(4,), text=[*texts], token_id=ids)


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Ids 5 ('a', 4 times), 7 (' b', 2 times) and 9 ('c', once); top-2 of four experts.

    a: 0 1, 0 1, 0 1, 0 2: experts 0 to 3 in 4 3 1 0 of 4 occurrences. b: 3 1 and 3 2: in 0 1 1 2 of 2. c: left out
    where two occurrences are needed.
    """
    tokens = [("a", [0, 1]), (" b", [3, 1]), ("a", [0, 1]), ("a", [0, 1]), (" b", [3, 2]), ("a", [0, 2]), ("c", [0, 1])]
    return routed(tokens, 4, [5, 7, 5, 5, 7, 5, 9])


def test_the_tokens_of_an_expert_stand_in_the_order_of_their_shares(by_hand):
    frame = top_tokens(by_hand, at_least=2)
    rows = frame[["expert", "rank", "token_id", "text", "tokens", "occurrences", "specialization"]].values.tolist()
    assert rows == [
        [0, 1, 5, "a", 4, 4, 1.0],
        [1, 1, 5, "a", 3, 4, 0.75],
        [1, 2, 7, " b", 1, 2, 0.5],
        [2, 1, 7, " b", 1, 2, 0.5],
        [2, 2, 5, "a", 1, 4, 0.25],
        [3, 1, 7, " b", 2, 2, 1.0],
    ]
    assert (frame["layer"] == 4).all() and (frame["chance"] == 0.5).all()
    assert frame.dtypes.astype(str).to_dict() == {
        "layer": "int32",
        "expert": "int16",
        "rank": "int16",
        "token_id": "int32",
        "text": "str",
        "tokens": "int64",
        "occurrences": "int64",
        "specialization": "float64",
        "chance": "float64",
    }


def test_of_equal_shares_the_more_frequent_token_comes_first_and_then_the_earlier_one():
    tokens = [("rare", [0])] + [("often", [0])] * 2 + [("late", [0])]
    assert top_tokens(routed(tokens, 2), at_least=1)["text"].tolist() == ["often", "rare", "late"]


def test_no_more_tokens_than_asked_for(by_hand):
    assert top_tokens(by_hand, at_least=1, most=1)["rank"].tolist() == [1, 1, 1, 1]


def test_a_token_that_occurs_ten_times_is_in_and_one_that_occurs_nine_times_is_not():
    trace = routed([("ten", [0])] * 10 + [("nine", [1])] * 9, 2)
    assert top_tokens(trace)["text"].tolist() == ["ten"]
    assert vocabulary_by_layer(trace)["token_ids"].tolist() == [1]


def test_an_id_is_one_token_whatever_its_text_and_shows_the_most_frequent():
    trace = routed([("one", [0]), ("two", [0]), ("two", [1])], 2, [3, 3, 3])
    assert top_tokens(trace, at_least=3)[["text", "tokens"]].values.tolist() == [["two", 2], ["two", 1]]


def test_without_ids_a_text_is_a_token():
    trace = routed([("one", [0]), ("two", [1]), ("one", [0])], 2)
    frame = top_tokens(trace, at_least=1)
    assert frame[["text", "occurrences"]].values.tolist() == [["one", 2], ["two", 1]]
    assert (frame["token_id"] == NO_TOKEN_ID).all()


def test_texts_are_kept_as_they_are():
    texts = ["", " ", "\n", "<b>x</b>", "\u202e", "=1+1", "nan"]
    assert set(top_tokens(routed([(text, [0]) for text in texts], 2), at_least=1)["text"]) == set(texts)


def test_an_experts_own_tokens_are_those_that_choose_it_most_often(by_hand):
    """a belongs to 0, with all occurrences; b to 3, with all; c too to 0, where one occurrence is enough."""
    frame = vocabulary_specialization(by_hand, at_least=2)
    assert frame["expert"].tolist() == [0, 1, 2, 3]
    assert frame["token_ids"].tolist() == [1, 0, 0, 1]
    assert frame["specialization"].tolist() == pytest.approx([1, np.nan, np.nan, 1], nan_ok=True)
    assert (frame["chance"] == 0.5).all()
    assert vocabulary_specialization(by_hand, at_least=1)["token_ids"].tolist() == [2, 0, 0, 1]


def test_each_token_of_the_vocabulary_counts_once_however_often_it_occurs():
    """a: 3 of 4 at expert 0; b: 1 of 1 at expert 0. Mean 7/8, not 4/5."""
    tokens = [("a", [0])] * 3 + [("a", [1]), ("b", [0])]
    trace = routed(tokens, 2)
    assert vocabulary_by_layer(trace, at_least=1)["specialization"].tolist() == pytest.approx([7 / 8])
    frame = vocabulary_specialization(trace, at_least=1)
    assert frame["specialization"].tolist() == pytest.approx([7 / 8, np.nan], nan_ok=True)
    assert frame["token_ids"].tolist() == [2, 0]


def test_a_layer_is_the_mean_of_its_experts_weighted_by_their_tokens():
    """The sample's ten words belong to ten experts or fewer."""
    trace = sample_trace(tokens=200)
    experts = vocabulary_specialization(trace)
    sums = (experts["specialization"] * experts["token_ids"]).groupby(experts["layer"]).sum()
    assert vocabulary_by_layer(trace)["specialization"].tolist() == pytest.approx((sums / 10).tolist())


def test_columns_say_what_they_are(by_hand):
    layer, experts = vocabulary_by_layer(by_hand, at_least=2), vocabulary_specialization(by_hand, at_least=2)
    both = {"layer": "int32", "token_ids": "int64", "specialization": "float64", "shuffled": "float64"}
    assert layer.dtypes.astype(str).to_dict() == both | {"chance": "float64"}
    assert experts.dtypes.astype(str).to_dict() == both | {"expert": "int16", "chance": "float64"}
    assert (layer["layer"] == 4).all() and (experts["layer"] == 4).all()


def test_tokens_that_mean_nothing_are_at_their_luck_which_is_above_chance():
    row = vocabulary_by_layer(sample_trace(layers=1, tokens=2_000)).iloc[0]
    assert row["specialization"] == pytest.approx(row["shuffled"], abs=0.02)
    assert row["shuffled"] > row["chance"] + 0.1


def test_tokens_with_an_expert_of_their_own_are_far_above_luck():
    trace = routed([(str(n % 4), [n % 4]) for n in range(200)], 4)
    row = vocabulary_by_layer(trace).iloc[0]
    assert row["specialization"] == 1
    assert row["chance"] < row["shuffled"] < 0.5
    assert (vocabulary_specialization(trace)["shuffled"] == row["shuffled"]).all()


def test_a_token_that_got_no_expert_belongs_to_none():
    trace = routed([("a", [1]), ("dropped", [-1])], 2)
    assert vocabulary_specialization(trace, at_least=1)["token_ids"].tolist() == [0, 1]
    assert vocabulary_by_layer(trace, at_least=1)["specialization"].tolist() == [0.5]
    assert top_tokens(trace, at_least=1)["text"].tolist() == ["a"]


def test_chance_counts_filled_slots_only():
    """Two tokens, top-2 of four, one of the four slots empty: 3 / 2 slots a token, of 4 experts."""
    trace = routed([("a", [0, 1]), ("a", [0, -1])], 4)
    assert vocabulary_by_layer(trace, at_least=1)["chance"].tolist() == [3 / 8]


def test_shares_of_a_token_sum_to_k():
    frame = top_tokens(sample_trace(tokens=200), most=10)
    assert frame.groupby(["layer", "token_id"])["specialization"].sum().to_numpy() == pytest.approx(2)


@pytest.mark.parametrize("measure", OF_OFTEN_SEEN)
def test_a_text_too_short_says_how_much_more_there_must_be(measure):
    words = r"occur at least 10 times, and here no token occurs more than 4 times\. Trace a longer .*“moeviz corpus”"
    with pytest.raises(InvalidTrace, match=words):
        measure(sample_trace())


@pytest.mark.parametrize("measure", MEASURES)
def test_no_tokens_raise_no_alarm(measure):
    trace = sample_trace(tokens=200)
    empty = measure(trace.select(tokens=slice(0, 0)))
    assert empty.dtypes.equals(measure(trace).dtypes)


def test_kinds_are_counted_by_hand():
    """Words: 0 1 and 0 2. A digit: 3 0. Counts by expert 2 1 1 0 and 1 0 0 1, of all 3 1 1 1 of 6."""
    frame = token_kinds(routed([(" a", [0, 1]), ("7", [3, 0]), (" b", [0, 2])], 4))
    assert frame["kind"].tolist() == ["digits"] * 4 + ["word, space before"] * 4
    assert frame["tokens"].tolist() == [1] * 4 + [2] * 4
    assert frame["assignments"].tolist() == [1, 0, 0, 1, 2, 1, 1, 0]
    assert frame["share"].tolist() == [0.5, 0, 0, 0.5, 0.5, 0.25, 0.25, 0]
    assert frame["share_of_tokens"].tolist() == [1, 0, 0, 1, 1, 0.5, 0.5, 0]
    assert frame["lift"].tolist() == pytest.approx([1, 0, 0, 3, 1, 1.5, 1.5, 0])
    assert (frame["uniform"] == 0.25).all() and (frame["layer"] == 4).all()


def test_an_idle_expert_has_no_lift():
    assert token_kinds(routed([("a", [0]), ("1", [0])], 2))["lift"].tolist() == pytest.approx(
        [1, np.nan] * 2, nan_ok=True
    )


@pytest.mark.parametrize(
    ("kind", "texts"),
    {
        "space or line break": [" ", "\n\n", "\t ", "\u00a0"],
        "digits": ["7", " 2024", "3.14", "½", "٣", "1,"],
        "punctuation": [",", ' "', ".\n", "€", "😀", "()", "，", "_", "<", "⟨", "⟨❤\ufe0f 1/2⟩"],
        "word, space before": [" the", " Über", "\nThe", " x1", "⟨ Á 1/2⟩", " don't"],
        "word, no space before": ["ing", "'s", "É", "⟨é 2/2⟩", "e\u0301", "x2", "</p>"],
        "other script": ["и", " Привет", "的", "ا", "⟨的 1/3⟩", "\u093f", "ñи"],
        "special": ["<s>", "</s>", "<|endoftext|>", "<｜begin▁of▁sentence｜>", "[CLS]", "<pad>", "⟨<0xF0>⟩", ""],
    }.items(),
)
def test_kinds_of_text(kind, texts):
    assert {text: kind_of(text) for text in texts} == dict.fromkeys(texts, kind)


def test_every_kind_is_found():
    assert {kind_of(text) for text in (" ", "1", ",", " a", "a", "и", "<s>")} == set(KINDS)
