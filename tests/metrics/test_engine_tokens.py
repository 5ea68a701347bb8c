"""Two recordings of the same text, token by token and by margins, and the sentence on both."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from engine_traces import noisy

from moeviz.charts.engine_difference import MARGINS, PLACES
from moeviz.errors import MissingField
from moeviz.metrics.engine_difference import engine_difference, engine_difference_summary, first_partings
from moeviz.metrics.engine_tokens import APART, ORDER, OTHER, SAME, margins_of_both, token_differences
from moeviz.routing_trace import NOT_RECORDED, RoutingTrace
from moeviz.testing import sample_trace


@pytest.fixture
def one() -> RoutingTrace:
    return sample_trace(layers=3, tokens=60)


@pytest.fixture
def other(one) -> RoutingTrace:
    """At layer 1, token 5 has its experts in the other order and token 9 one other; token 7 is not recorded there."""
    experts = one.experts.copy()
    experts[1, 5] = experts[1, 5, ::-1]
    experts[1, 9, 1] = next(e for e in range(8) if e not in experts[1, 9])
    experts[1, 7] = NOT_RECORDED
    return replace(one, experts=experts, weights=None, logits=None)


def say(pair) -> str:
    return engine_difference_summary(engine_difference(pair), first_partings(pair))


def test_each_token_is_told_for_what_it_is(one, other):
    table = token_differences((one, other)).set_index(["place", "layer"])
    assert len(table) == 180 and table["kind"].value_counts().to_dict() == {SAME: 177, ORDER: 1, OTHER: 1, APART: 1}
    assert table.loc[[(5, 1), (9, 1), (7, 1)], "kind"].tolist() == [ORDER, OTHER, APART]
    assert table.loc[(9, 1), "experts"] == " ".join(map(str, one.experts[1, 9]))
    logits = np.sort(one.logits[1, 9])[::-1]
    assert table.loc[(9, 1), "margin"] == pytest.approx(logits[1] - logits[2])
    part = token_differences((one, other), 8, 4)
    assert part["place"].drop_duplicates().tolist() == [8, 9, 10, 11] and (part["kind"] == OTHER).sum() == 1


def test_without_an_order_no_order_is_another(one, other):
    unordered = replace(other, model=replace(other.model, slot_order="unknown"))
    assert (token_differences((one, unordered))["kind"] == ORDER).sum() == 0


def test_margins_of_what_differs_are_smaller_where_noise_did_it():
    one = sample_trace(tokens=2000)
    table = margins_of_both((one, noisy(one, 0.05)))
    at = table.pivot(index="margin", columns="kind", values="share")
    middle = at.iloc[(at[OTHER] - 0.5).abs().argmin()]
    assert middle[SAME] < 0.2 and (at.iloc[-1] == 1).all() and at.index[0] == 0
    rows = table.groupby("kind")["rows"].first()
    assert rows.sum() == 4 * 2000, "each token at each layer is in one of the two"
    MARGINS.draw(table)


def test_margins_that_cannot_be_had_say_why(one, other):
    with pytest.raises(MissingField, match="first"):
        margins_of_both((other, one))
    with pytest.raises(MissingField, match="same"):
        margins_of_both((one, one))
    lowest = np.argsort(one.logits, axis=-1)[..., :2].astype(np.int16)
    with pytest.raises(MissingField, match="decides"):
        margins_of_both((replace(one, experts=lowest, weights=None), one))


def test_ties_alone_are_drawn(one):
    tied = replace(one, logits=np.zeros_like(one.logits))
    experts = one.experts.copy()
    experts[0, 0, 1] = next(e for e in range(8) if e not in experts[0, 0])
    table = margins_of_both((tied, replace(one, experts=experts, weights=None)))
    assert table["margin"].tolist() == [0, 0] and table["share"].tolist() == [1, 1]
    MARGINS.draw(table)


def test_the_sentence_counts_ids_and_says_where_they_part_and_what_ties_explain(one, other):
    assert (
        say((one, one))
        == "All 360 expert ids of the first are the same in the second. They stand in the same order too."
    )
    assert say((one, other)) == (
        "Of 358 expert ids of the first, 1 is different in the second (under 1%). They first part at token 9 "
        "(“⏎”), layer 1. No tie explains any of it."
    )
    turned = one.experts.copy()
    turned[2, 3] = turned[2, 3, ::-1]
    assert say((one, replace(one, experts=turned, weights=None, logits=None))).endswith(
        "Once they stand in another order."
    )
    assert say((other, one)).endswith("What ties explain is not known: that takes the router logits of the first.")
    tied = replace(one, logits=np.zeros_like(one.logits))
    assert say((tied, other)).endswith("Ties in the first explain 100% of the tokens with other experts.")


def test_of_several_texts_it_is_said_how_many_part(one):
    tokens = one.tokens.assign(
        sequence=np.repeat([0, 1, 2], 20).astype("int32"), position=np.tile(np.arange(20, dtype="int32"), 3)
    )
    batch = replace(one, tokens=tokens)
    experts = one.experts.copy()
    experts[1, 25, 1] = next(e for e in range(8) if e not in experts[1, 25])
    said = say((batch, replace(batch, experts=experts, weights=None)))
    assert "1 of 3 sequences part, sequence 1 at token 5 (“" in said


def test_hostile_tokens_are_text_and_names_on_the_axis_are_data(one):
    texts = ["'\"}]);x", "</script>", "\u202eevil", "![x](http://example.com/x.png)"] * 15
    hostile = replace(one, tokens=one.tokens.assign(text=pd.Series(texts, dtype="str")))
    spec = PLACES.draw(PLACES.measure((hostile, noisy(hostile, 0.3)))).to_dict()
    names = next(param["value"] for param in spec["params"] if param["name"] == "names")
    assert names["2"].startswith("⟨U+202E⟩") and spec["encoding"]["x"]["axis"]["labelExpr"] == "names[datum.value]"
    assert not [row for row in next(iter(spec["datasets"].values())) if "\u202e" in str(row)]
