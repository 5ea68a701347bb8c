"""Rules of experts: planted ones are found and judged on other texts, and shuffled routing has none that predicts."""

from dataclasses import replace

import numpy as np
import pytest

from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import MissingField
from moeviz.metrics.expert_rules import expert_rules, rules_sentence
from moeviz.metrics.vocabulary import kind_of


@pytest.fixture(scope="module")
def trace():
    return reference_routing().select(layers=[0])


def with_first_choice(trace, first):
    """The trace with one expert a token, of eight."""
    experts = np.full((1, len(first), 2), -1, np.int16)
    experts[0, :, 0] = first
    return replace(trace, experts=experts, weights=None)


def test_a_planted_rule_is_found_and_its_figures_are_counted_again(trace):
    labels, texts = trace.tokens["label"], trace.tokens["text"]
    digits = np.array([kind_of(text) == "digits" for text in texts])
    sql = (labels == "SQL").to_numpy()
    first = np.where(digits | sql, 0, np.random.default_rng(0).integers(1, 8, len(texts)))
    rules = expert_rules(with_first_choice(trace, first))
    rule = rules.iloc[0]
    assert {*rule["rule"].split(" or ")} == {"digits", "in SQL"}
    assert rule[["precision", "recall", "f1"]].tolist() == [1, 1, 1] and rule["beats_token"]
    assert rules["f1"][1:].max() < 0.4 and not rules["beats_token"][1:].all()
    claim = rules_sentence(rules)
    assert claim.name == "rules_that_predict"
    assert (claim["better"], claim["rules"]) == (rules["beats_token"].sum(), 8)
    assert claim["f1_token"] == pytest.approx(rules["f1_token"].mean())


def test_where_the_token_decides_no_rule_beats_it(trace):
    first = trace.tokens["text"].map(lambda text: sum(text.encode()) * 7919 % 8).to_numpy()
    rules = expert_rules(with_first_choice(trace, first))
    assert not rules["beats_token"].any() and (rules["f1_token"] > rules["f1"] + 0.2).all()


def test_experts_without_tokens_have_no_rule_and_one_text_is_refused(trace):
    rules = expert_rules(with_first_choice(trace, np.zeros(len(trace.tokens), int)))
    assert rules["rule"][1:].eq("").all() and rules["f1"][1:].isna().all()
    with pytest.raises(MissingField):
        expert_rules(trace.select(tokens=(trace.tokens["sequence"] == 0).to_numpy()))
