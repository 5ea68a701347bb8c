"""One text read twice, with a word changed: which tokens both have, and which first choices change. By hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.effect import APART, OTHER, SAME, kept_rows, word_change, word_change_summary
from moeviz.routing_trace import NO_TOKEN_ID, NOT_RECORDED
from moeviz.testing import sample_trace


def of(ids: list[int], first: list[list[int]]):
    """A trace of these tokens: a row of first choices for each layer, of top-1 experts."""
    trace = sample_trace(layers=len(first), tokens=len(ids), top_k=1)
    tokens = trace.tokens.assign(
        token_id=np.int32(ids), sequence=np.int32(0), position=np.arange(len(ids), dtype="int32")
    )
    tokens = tokens.assign(text=pd.Series([chr(97 + i) for i in ids], dtype="str"))
    return replace(trace, tokens=tokens, experts=np.int16(first)[..., None], weights=None, logits=None)


ONE = of([0, 1, 2, 3], [[5, 5, 6, 6], [1, 1, 1, 1]])
TWO = of([0, 7, 8, 2, 3], [[5, 4, 4, 7, 6], [2, 1, 1, 1, 3]])  # token 1 has become two


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        ([0, 1, 2, 3], [0, 7, 8, 2, 3], ([0, 2, 3], [0, 3, 4], 1)),
        ([0, 7, 8, 2, 3], [0, 1, 2, 3], ([0, 3, 4], [0, 2, 3], 1)),
        ([0, 1, 2], [0, 9, 2], ([0, 2], [0, 2], 1)),
        ([0, 1], [0, 1, 1], ([0, 1], [0, 1], 2)),  # added at the end
        ([1, 1], [1, 1, 1], ([0, 1], [0, 1], 2)),  # no token is of two pairs
        ([4, 5], [6, 5], ([1], [1], 0)),
        ([4], [6], ([], [], 0)),
    ],
)
def test_tokens_of_both_texts_are_those_before_the_word_and_those_after_it(one, other, kept):
    pair = tuple(of(ids, [[0] * len(ids)]) for ids in (one, other))
    mine, theirs, head = kept_rows(pair)
    assert (mine.tolist(), theirs.tolist(), head) == kept


def test_first_choices_that_a_word_changes_counted_by_hand():
    found = word_change((ONE, TWO))
    assert found["place"].tolist() == [0, 1, 2] * 2 and found["text"].tolist() == ["a", "c", "d"] * 2
    assert found["row"].tolist() == [0, 2, 3] * 2 and found["other_row"].tolist() == [0, 3, 4] * 2
    assert found["layer"].tolist() == [0] * 3 + [1] * 3 and found["follows"].tolist() == [False, True, True] * 2
    assert found["expert"].tolist() == [5, 6, 6, 1, 1, 1] and found["other_expert"].tolist() == [5, 7, 6, 2, 1, 3]
    assert found["kind"].tolist() == [SAME, OTHER, SAME, OTHER, SAME, OTHER]
    assert [*word_change_summary(found).values.values()] == [3, 6, 1, 2, 3, 1]


def test_what_is_not_recorded_is_not_compared_and_nothing_that_changes_is_said_so():
    experts = TWO.experts.copy()
    experts[1, 4] = NOT_RECORDED
    found = word_change((ONE, replace(TWO, experts=experts)))
    assert found["kind"].tolist() == [SAME, OTHER, SAME, OTHER, SAME, APART]
    claim = word_change_summary(found)
    assert (claim["changed"], claim["of"], claim["before"]) == (2, 5, 1)
    assert claim["layer"] is None, "two layers have one each: none has most"
    none = word_change_summary(word_change((ONE, ONE)))
    assert (none["changed"], none["of"]) == (0, 8)


def test_texts_stand_for_ids_that_are_not_known():
    unknown = replace(TWO, tokens=TWO.tokens.assign(token_id=np.int32(NO_TOKEN_ID)))
    assert word_change((ONE, unknown)).equals(word_change((ONE, TWO)))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InvalidTrace, match=r"0 .*0 to 1"):
        word_change((of([0, 1], [[0, 0]]), ONE))
    with pytest.raises(InvalidTrace, match="token"):
        word_change((of([4], [[0]]), of([6], [[0]])))
    unordered = replace(sample_trace(), weights=None, model=replace(sample_trace().model, slot_order="unknown"))
    with pytest.raises(MissingField, match="choice"):
        word_change((unordered, unordered))
