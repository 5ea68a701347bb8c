"""Names of experts: planted rules are found and counted again, and so are the names of our own models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import EMBEDDED, reference_routing
from moeviz.errors import MissingField
from moeviz.metrics.expert_names import (
    BEATEN,
    HOLDS,
    UNNAMED,
    expert_name_sentence,
    expert_names,
    expert_names_caption,
    names_by_chance,
    names_sentence,
    names_that_hold,
    with_names,
)
from moeviz.metrics.vocabulary import kind_of
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace
from moeviz.testing import sample_trace

TEXTS = 4  # of each kind


def of_kinds(kinds: list[str], experts: dict[str, int], tokens: int = 50, seed: int = 0) -> RoutingTrace:
    """A trace of one layer with 4 texts of each kind, whose tokens mostly go to the kind's expert of 8."""
    rng, size = np.random.default_rng(seed), tokens * TEXTS * len(kinds)
    made = sample_trace(layers=1, tokens=size, top_k=1)
    sequence = np.arange(size) // tokens
    labels = pd.Series([kinds[number // TEXTS] for number in sequence], dtype="str")
    own = np.array([experts[label] for label in labels])
    chosen = np.where(rng.random(size) < 0.9, own, rng.integers(0, 8, size)).astype(np.int16)
    where = {"sequence": sequence.astype(np.int32), "position": (np.arange(size) % tokens).astype(np.int32)}
    frame = made.tokens.assign(label=labels, **where)
    return replace(made, experts=chosen[None, :, None], weights=None, logits=None, tokens=frame)


@pytest.fixture(scope="module")
def texts():
    return reference_routing().select(layers=[0])


def with_first_choice(trace, first):
    """The trace with one expert per token, of eight."""
    experts = np.full((1, len(first), 2), -1, np.int16)
    experts[0, :, 0] = first
    return replace(trace, experts=experts, weights=None)


def f1(found, own):
    return 2 * (found & own).sum() / (found.sum() + own.sum())


def test_a_name_is_the_kinds_that_an_expert_has_and_its_figures_are_of_the_texts_set_aside():
    trace = of_kinds(["law", "code", "verse", "news"], {"law": 2, "code": 2, "verse": 5, "news": 1})
    names = expert_names(trace)
    row = names.set_index("expert").loc[2]
    assert set(row["name"].split(", ")) == {"law", "code"} and row["by"] == "kinds" and row["holds"]
    aside = trace.tokens["sequence"].to_numpy() % 2 == 1
    has = (trace.experts[0] == 2).any(-1)
    of = trace.tokens["label"].isin(["law", "code"]).to_numpy()
    assert row["phi"] == pytest.approx(np.corrcoef(has[aside], of[aside])[0, 1])
    assert row["precision"] == pytest.approx(has[aside & of].mean())
    assert row["recall"] == pytest.approx(of[aside & has].mean())
    assert row["share"] == pytest.approx(of[aside].mean()) and row["tokens"] == has.sum()
    assert row["f1"] == pytest.approx((f1(of[aside], has[aside]) + f1(of[~aside], has[~aside])) / 2)
    always = [f1(np.ones(half.sum(), bool), has[half]) for half in (aside, ~aside)]
    assert row["f1_always"] == pytest.approx(np.mean(always)) and row["f1_kind"] == pytest.approx(row["f1"])
    claim = expert_name_sentence(names, trace.model.layers[0], 2)
    figures = ("precision", "recall", "f1", "f1_token", "f1_kind", "f1_position")
    assert claim.name == "name_that_holds" and [claim[one] for one in figures] == row[[*figures]].tolist()


def test_a_planted_rule_of_two_facts_is_found_and_the_tables_are_counted_again(texts):
    labels, words = texts.tokens["label"], texts.tokens["text"]
    digits = np.array([kind_of(text) == "digits" for text in words])
    sql, spare = (labels == "SQL").to_numpy(), np.random.default_rng(0).integers(1, 8, len(words))
    names = expert_names(with_first_choice(texts, np.where(digits | sql, 0, spare)))
    row = names.iloc[0]
    assert {*row["name"].split(", ")} == {"digits", "SQL"}
    assert row[["precision", "recall", "f1", "phi"]].tolist() == [1, 1, 1, 1] and row["beats_token"]
    assert names["f1"][1:].max() < 0.4 and not names["holds"][1:].any() and set(names["name"][1:]) == {UNNAMED}
    assert expert_names_caption(names)["held"] == 1 and expert_names_caption(names)["expert"] == 0
    claim = names_sentence(names)
    assert claim.name == "names_that_predict"
    assert (claim["better"], claim["names"]) == (names["beats_token"].sum(), 8)
    assert claim["f1_token"] == pytest.approx(names["f1_token"].mean())
    both = expert_names(with_first_choice(texts, np.where(digits & sql, 0, spare))).iloc[0]
    assert both["name"] == "digits in SQL" and both["f1"] == 1


def test_where_the_token_decides_no_rule_beats_it_and_short_names_say_so(texts):
    first = texts.tokens["text"].map(lambda text: sum(text.encode()) * 7919 % 8).to_numpy()
    names = expert_names(with_first_choice(texts, first))
    assert not names["beats_token"].any() and (names["f1_token"] > names["f1"] + 0.2).all()
    assert names_that_hold(names.assign(holds=True))["short"].str.endswith(f"({BEATEN})").all()


def test_what_does_not_hold_on_the_other_texts_is_no_name():
    trace = of_kinds(["law", "verse", "news"], {"law": 2, "verse": 5, "news": 1})
    aside = trace.tokens["sequence"].to_numpy() % 2 == 1
    rng = np.random.default_rng(1)
    chosen = np.where(aside[:, None], rng.integers(0, 8, (len(aside), 1)), trace.experts[0]).astype(np.int16)
    frame = expert_names(replace(trace, experts=chosen[None]))
    assert not frame["holds"].any() and set(frame["name"]) == {UNNAMED}
    assert expert_name_sentence(frame, trace.model.layers[0], 2).name == "no_name"
    assert expert_names_caption(frame) is None


def test_without_labels_classes_of_tokens_make_names():
    trace = of_kinds(["a", "b"], {"a": 0, "b": 1})
    texts = np.where(np.arange(len(trace.tokens)) % 3 == 0, "7", " word")
    chosen = np.where(texts == "7", 4, 6).astype(np.int16)[None, :, None]
    frame = trace.tokens.drop(columns="label").assign(text=pd.Series(texts, dtype="str"))
    names = expert_names(replace(trace, tokens=frame, experts=chosen)).set_index("expert")
    assert names.loc[4, ["name", "by"]].tolist() == ["digits", "tokens"]
    assert names.loc[6, "name"] == "beginning of a word" and names.loc[0, "name"] == UNNAMED
    assert names.loc[4, "f1"] == names.loc[4, "f1_token"] == 1


def test_an_expert_with_half_of_all_tokens_is_named_by_what_it_takes_more_often():
    """Top-2 of 4: expert 0 has 85 % of the tokens of one kind, and 40 % of the others: "always" has the highest F1."""
    rng, T = np.random.default_rng(0), 4_000
    kind = np.arange(T) // 100 % 4
    first = rng.random(T) < np.where(kind == 0, 0.85, 0.4)
    others = np.array([rng.permutation([1, 2, 3])[:2] for _ in range(T)])
    experts = np.where(first[:, None], np.stack([np.zeros(T, int), others[:, 0]], 1), others).astype(np.int16)
    label = np.array(["French", "SQL", "HTML", "prose"], object)[kind]
    where = {"sequence": np.arange(T) // 100, "position": np.arange(T) % 100, "text": ["word"] * T}
    trace = trace_of(np.sort(experts, axis=1)[None], 4, slot_order="unknown", label=label, **where)
    named = expert_names(trace)
    assert named["name"].tolist() == ["French", *[UNNAMED] * 3] and named["phi"][0] > HOLDS
    assert named["f1"][0] < named["f1_always"][0], "F1 alone would have chosen another"
    assert names_by_chance(trace, 4) == [0] * 4


def test_a_trace_without_texts_of_tokens_keeps_its_tokens():
    trace = of_kinds(["French", "SQL"], {"French": 1, "SQL": 5})
    silent = replace(trace, tokens=trace.tokens.assign(text=pd.Series("", trace.tokens.index, dtype="str")))
    assert expert_names(silent).query("holds")["name"].tolist() == ["French", "SQL"]


def test_without_texts_names_are_compared_with_ids_of_tokens_and_without_those_with_none():
    trace = of_kinds(["law", "code"], {"law": 2, "code": 5})
    texts, bare = trace.tokens["text"], trace.tokens.assign(text=pd.array([""] * len(trace.tokens), "str"))
    by_text, by_id, by_none = (
        expert_names(replace(trace, tokens=tokens)).set_index("expert")
        for tokens in (
            trace.tokens,
            bare.assign(token_id=pd.factorize(texts)[0].astype(np.int32)),
            bare.assign(token_id=np.int32(NO_TOKEN_ID)),
        )
    )
    assert by_id.loc[2, "f1_token"] == by_text.loc[2, "f1_token"] > 0
    assert by_none["f1_token"].isna().all() and not by_none["beats_token"].any() and by_none["holds"].any()
    for claim in (names_sentence(by_none.reset_index()), expert_name_sentence(by_none.reset_index(), 0, 2)):
        assert np.isnan(claim["f1_token"]) and "nan" not in str(claim)
    assert not names_that_hold(by_none.reset_index())["beaten"].any()


def test_one_text_has_no_half_to_set_aside(trace):
    with pytest.raises(MissingField):
        expert_names(trace.select(tokens=(trace.tokens["sequence"] == 0).to_numpy()))


def test_an_expert_of_few_tokens_has_no_name():
    trace = of_kinds(["law", "verse"], {"law": 2, "verse": 5}, tokens=8)
    names = expert_names(trace)
    few = names[names["tokens"] < 20]
    assert len(few) and set(few["name"]) == {UNNAMED} and few["phi"].isna().all()
    assert expert_name_sentence(names, trace.model.layers[0], int(few["expert"].iloc[0])) is None


def test_kinds_in_a_name_are_apart_whatever_a_label_says_and_a_table_gets_the_names_that_hold():
    trace = of_kinds(["law, civil", "code", "verse", "news"], {"law, civil": 2, "code": 2, "verse": 5, "news": 1})
    names = expert_names(trace)
    held = names.set_index("expert")["name"]
    assert set(held[2].split(", ")) == {"law; civil", "code"}
    table = pd.DataFrame({"expert": [5, 2, 7, 5], "load": 1.0}).assign(layer=trace.model.layers[0])
    assert with_names(table, names)["name"].tolist() == ["verse", held[2], "", "verse"]
    assert with_names(table, None) is table and with_names(names, names) is names
    assert with_names(table.drop(columns="layer"), names).columns.tolist() == ["expert", "load"]
    assert "name" not in with_names(table.assign(expert="2"), names)


@pytest.mark.parametrize(("name", "counts"), [(EMBEDDED, (46, 40, 6)), (NATURAL, (15, 3, 42)), (FINE, (134, 71, 101))])
def test_names_of_our_own_models_and_how_many_say_more_or_less_than_the_token(name, counts):
    names = expert_names(reference_routing(name))
    assert (names["holds"].sum(), names["beats_token"].sum(), (names["f1_token"] > names["f1"]).sum()) == counts
