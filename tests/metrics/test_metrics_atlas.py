"""The atlas of many texts, and who takes a word: against plain counts, on our own models and on odd traces."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics.atlas import MOST_KINDS, OTHERS, atlas
from moeviz.metrics.expert_names import MOST_TOKENS, sample_of_texts
from moeviz.metrics.vocabulary import SPECIAL, kind_of
from moeviz.metrics.who_takes import LONGEST_WORD, tokens_of_word, who_takes, who_takes_sentence
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace


@pytest.fixture(scope="module")
def held_out() -> RoutingTrace:
    return reference_routing()


def written(texts: list[str], sequence: list[int] | None = None, **more: str) -> RoutingTrace:
    """A trace of these tokens."""
    made = sample_trace(layers=2, tokens=len(texts), top_k=2, experts=4)
    own = {"text": pd.Series(texts, dtype="str"), "sequence": np.array(sequence or [0] * len(texts), np.int32)}
    return replace(made, tokens=made.tokens.assign(**own, **more))


def hits(trace: RoutingTrace, word: str) -> list[int]:
    return np.flatnonzero(tokens_of_word(trace, word).tokens).tolist()


def test_a_word_is_found_in_the_text_and_not_in_tokens_whole_words_first():
    trace = written(
        ["<s>", " ant", "wort", "ete", " ant", ",", "⟨é 1/2⟩", "⟨é 2/2⟩", "t", "17", "7", "Ant"], [0] * 11 + [1]
    )
    assert hits(trace, "antwortete") == [1, 2, 3]
    assert hits(trace, "ant") == [4] and tokens_of_word(trace, "ant").what == "of “ant”"
    assert hits(trace, "ort") == [2] and tokens_of_word(trace, "ort").what == "of “ort” inside words"
    assert hits(trace, "ét") == [6, 7, 8], "a character that is split over tokens"
    assert hits(trace, "7") == [9, 10], "a digit is looked for in numbers too"
    assert hits(trace, "ANT") == [1, 4, 11][1:] and tokens_of_word(trace, "ANT").what == "of “ANT” in any case"
    assert hits(trace, "digits") == [9, 10] and hits(trace, "punctuation") == [5]
    assert hits(trace, "<s>") == hits(trace, "7Ant") == hits(trace, ".*") == []


@pytest.mark.parametrize("word", ["", "  ", "\0", "x" * (LONGEST_WORD + 1), "x" * 100_000])
def test_what_is_no_word_is_one_sentence(word, trace):
    with pytest.raises(MoevizError, match="100 characters"):
        tokens_of_word(trace, word)


@pytest.mark.parametrize("word", ["SELECT", "JavaScript"])
def test_searches_of_the_held_out_texts_are_as_counted_by_hand(held_out, word):
    """Against the texts themselves: characters are given to tokens one by one."""
    found, wanted = tokens_of_word(held_out, word), set()
    for _, tokens in held_out.tokens.groupby("sequence"):
        owner = [row for row, text in tokens["text"].items() for _ in text]
        text = "".join(tokens["text"])
        wanted |= {owner[at] for match in re.finditer(rf"\b{word}\b", text) for at in range(*match.span())}
    assert set(np.flatnonzero(found.tokens)) == wanted and found.what == f"of “{word}”"
    takers = who_takes(held_out, found.tokens)
    if word == "JavaScript":
        few = who_takes_sentence(found, takers, weighed=True)
        assert (few.name, few["tokens"]) == ("word_is_rare", 2)
        return
    first = takers.iloc[0]
    row = held_out.model.layers.index(first["layer"])
    own = held_out.experts[row] == first["expert"]
    assert first["tokens"] == own[sorted(wanted)].any(-1).sum() and first["of"] == len(wanted)
    weights = held_out.weights[row].astype(float) / held_out.weights[row].sum(-1, keepdims=True)
    assert first["share"] == pytest.approx((weights * own)[sorted(wanted)].sum() / len(wanted))
    assert first["usual"] == pytest.approx((weights * own).sum() / len(own))
    assert (takers["low"] - takers["usual"] > 0.05).all() and (takers["low"] <= takers["share"] + 1e-9).all()
    assert len(wanted) == 9 and (first["layer"], first["expert"]) == (3, 7) and len(takers) == 6


def test_the_first_is_who_has_most_of_the_weight_beyond_the_usual_and_not_a_faint_second_choice():
    trace = sample_trace(layers=1, tokens=40, top_k=2, experts=4)
    hit = np.arange(40) < 10
    experts = np.where(hit[:, None], [1, 3], [0, 3]).astype(np.int16)[None]
    weights = np.tile(np.float32([0.9, 0.1]), (1, 40, 1))
    takers = who_takes(replace(trace, experts=experts, weights=weights, logits=None), hit)
    assert takers["expert"].tolist() == [1], "expert 3 has all of these tokens too, and as much of all others"
    assert takers.loc[0, ["share", "usual"]].tolist() == pytest.approx([0.9, 0.225])


def test_an_atlas_counts_what_each_expert_has_of_each_kind(held_out):
    found = atlas(held_out)
    labels = held_out.tokens["label"].astype(str).to_numpy()
    assert [name for name, _, _ in found.columns] == found.kinds == list(dict.fromkeys(labels)) and found.by == "kinds"
    for row, expert in ((0, 3), (2, 4), (5, 7)):
        has = (held_out.experts[row] == expert).any(-1)
        assert found.counts[row, expert].tolist() == [(has & (labels == kind)).sum() for kind in found.kinds]
        assert found.tokens[row, expert] == has.sum()
        drawn = found.drawn[row, expert]
        assert (found.trace.experts[row, drawn, 0] == expert).all(), "its first choices"
        assert len(set(found.text[drawn].tolist())) == 3, "of different texts"
        code, kept, times = found.keeps[row, expert, 0]
        same = found.code == code
        assert (kept, times) == (
            (same & (found.trace.experts[row] == expert).any(-1)).sum(),
            same.sum(),
        ) and times >= 10
    assert (found.of == [[(labels == kind).sum() for kind in found.kinds]]).all()
    assert np.array_equal(atlas(held_out).drawn, found.drawn), "drawn with a fixed seed"


def test_texts_of_one_kind_stand_together_whatever_their_order():
    trace = written(list("abcdef"), [0, 0, 1, 1, 2, 2], label=pd.Series(["x", "x", "y", "y", "x", "x"], dtype="str"))
    found = atlas(trace)
    assert found.columns == [("x", 0, 4), ("y", 4, 6)]
    assert found.trace.tokens["text"].tolist() == list("abefcd") and found.text.tolist() == [0, 0, 2, 2, 1, 1]
    assert np.array_equal(found.trace.experts, trace.experts[:, [0, 1, 4, 5, 2, 3]])


def test_without_labels_experts_are_compared_by_classes_of_tokens_and_without_texts_there_is_a_sentence():
    trace = written([" the", "42", ",", "<s>"] * 5, [0] * 10 + [1] * 10)
    found = atlas(trace)
    assert (found.by, found.kinds) == ("tokens", ["word, space before", "digits", "punctuation"])
    assert [column[0] for column in found.columns] == ["text 1", "text 2"]
    assert (found.kind == -1).tolist() == [kind_of(text) == SPECIAL for text in found.trace.tokens["text"]]
    with pytest.raises(MissingField, match="labels"):
        atlas(replace(trace, tokens=trace.tokens.assign(text="")))
    labelled = trace.tokens.assign(text="", label="a")
    assert atlas(replace(trace, tokens=labelled)).kinds == ["a"]


def test_a_text_whose_tokens_have_several_labels_gives_no_context_of_another_place():
    trace = written(list("abcd"), label=pd.Series(["x", "y", "x", "y"], dtype="str"))
    assert len(set(atlas(trace).text.tolist())) == 4


def test_many_kinds_are_the_largest_and_one_of_all_others():
    labels = [f"kind {n}" for n in range(60) for _ in range(2 if n == 59 else 1)]
    trace = written(["a"] * 61, list(range(61)), label=pd.Series(labels, dtype="str"))
    found = atlas(trace)
    assert len(found.kinds) == MOST_KINDS and found.kinds[-1] == OTHERS and "kind 59" in found.kinds
    assert found.of[0].sum() == 61 and len(found.columns) == 60


@pytest.mark.parametrize(
    "what", ["unordered", "unrecorded", "one layer", "one expert", "one token", "no tokens", "uneven"]
)
def test_odd_traces_have_an_atlas_too(what):
    trace = sample_trace(layers=3, tokens=30, top_k=2, experts=6)
    if what == "unordered":
        trace = replace(trace, model=replace(trace.model, slot_order="unknown"), weights=None, logits=None)
    elif what == "unrecorded":
        experts = trace.experts.copy()
        experts[0], experts[1, :5], experts[2, 7] = -2, -2, -1
        trace = replace(trace, experts=experts, weights=None, logits=None)
    elif what == "one layer":
        trace = trace.select(layers=trace.model.layers[:1])
    elif what == "one expert":
        trace = sample_trace(layers=1, tokens=5, top_k=1, experts=1)
    elif what in ("one token", "no tokens"):
        trace = trace.select(tokens=slice(0, int(what == "one token")))
    elif what == "uneven":
        model = replace(trace.model, num_experts=(6, 6, 2))
        experts = trace.experts.copy()
        experts[2] %= 2
        trace = replace(trace, model=model, experts=experts, logits=None)
    if what == "no tokens":
        with pytest.raises(MissingField):
            atlas(trace)
        return
    found = atlas(trace)
    L, T, _ = trace.experts.shape
    for row in range(L):
        of_layer = trace.experts[row]
        assert found.tokens[row].sum() == (of_layer >= 0).sum() and found.recorded[row] == (of_layer[:, 0] != -2).sum()
    who_takes(found.trace, np.ones(T, bool))


def test_a_large_trace_is_a_sample_of_whole_texts_in_turn_of_each_kind():
    kinds = ["many"] * 200 + ["few"] * 4
    sequence = np.repeat(np.arange(204), 250)
    made = sample_trace(layers=1, tokens=len(sequence), top_k=1, experts=4)
    label = pd.Series(np.array(kinds, object)[sequence], dtype="str")
    trace = replace(made, tokens=made.tokens.assign(sequence=sequence.astype(np.int32), label=label))
    part = sample_of_texts(trace)
    sizes = part.tokens["sequence"].value_counts()
    assert (sizes == 250).all() and len(part.tokens) == MOST_TOKENS
    assert part.tokens.groupby("label")["sequence"].nunique().to_dict() == {"few": 4, "many": 76}
    one = replace(made, tokens=made.tokens.assign(sequence=np.int32(0)))
    assert len(sample_of_texts(one).tokens) == MOST_TOKENS
    small = sample_trace(tokens=10)
    assert sample_of_texts(small) is small
