"""All experts in one table: sums worked by hand, and what is said of them only beyond chance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of, with_outputs

from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import DIGITS, ROUTING, expert_table_of, names_by_chance, reference_routing
from moeviz.metrics.contribution import contribution, contribution_caption, missed_sentence
from moeviz.metrics.expert_names import UNNAMED, expert_names
from moeviz.metrics.expert_names import names_by_chance as names_of_other_routing
from moeviz.metrics.expert_table import (
    BROAD,
    COMMITTEE,
    GENERALIST,
    NARROW,
    SPECIALIST,
    _leading,
    _spec,
    adjusted,
    breadth,
    breadth_sentence,
    chance_sentence,
    expert_table,
    expert_table_sentences,
    notes_on_experts,
    super_experts,
    with_twins,
    with_writing,
)
from moeviz.testing import sample_trace

WHERE = ["layer", "expert"]


def of(table, layer, expert):
    return table[(table["layer"] == layer) & (table["expert"] == expert)].iloc[0]


@pytest.fixture
def small():
    return with_outputs()


def test_sums_are_those_worked_by_hand(small):
    table = expert_table(small)
    first, second, none = (of(table, 4, expert) for expert in range(3))
    assert (first.tokens, second.tokens, none.tokens) == (3, 2, 0)
    assert first.share == pytest.approx(3 / 5) and first.times_uniform == pytest.approx(9 / 5)
    assert first.mean_weight == pytest.approx((0.75 + 0.25 + 1) / 3) and second.mean_weight == pytest.approx(0.5)
    assert first.norm == pytest.approx(20 / 3) and first.added == pytest.approx((1.5 + 2 + 10) / 3)
    assert second.added == pytest.approx((1 + 4.5) / 2) and (first.greatest, second.greatest) == (5, 3)
    assert (first.cosine, first.residual) == (1, -0.5)
    assert np.isnan(none[["mean_weight", "norm", "added", "greatest"]].astype(float)).all()
    assert notes_on_experts(table) == ["", "", "no token is sent to it"]


def test_what_was_not_recorded_is_not_told(small):
    table = expert_table(replace(small, outputs=None))
    assert table[["norm", "added", "greatest", "cosine", "residual"]].isna().all(axis=None)
    assert not table["super"].any() and (table["mean_weight"].notna() == [True, True, False]).all()
    assert expert_table(replace(small, weights=None))["mean_weight"].isna().all()


def test_one_outlier_is_a_super_expert_and_none_is_named_without_one():
    greatest = np.random.default_rng(0).uniform(1, 3, 48)
    assert not super_experts(greatest).any()
    greatest[17] = 100
    assert np.flatnonzero(super_experts(greatest)).tolist() == [17]
    assert not super_experts(np.full(4, np.nan)).any() and not super_experts(np.zeros(4)).any()


def labelled_trace(seed, bias, texts=40, tokens=50, experts=8, kinds=2):
    """Texts of labels a, b, …; expert 1 has more of "b", less of others, by `bias` on its logit; 2 more of all."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(texts) % kinds, tokens)
    logits = rng.normal(size=(1, texts * tokens, experts)) + np.repeat(rng.normal(0, 0.3, (texts, experts)), tokens, 0)
    logits[0, :, 1] += np.where(label == 1, bias, -bias)
    logits[0, :, 2] += bias
    chosen = np.argsort(-logits, axis=-1)[..., :2].astype(np.int16)
    sequence = np.repeat(np.arange(texts), tokens)
    where = {"sequence": sequence, "position": np.tile(np.arange(tokens), texts)}
    kinds_of = np.array(list("abcdefgh"), object)[label]
    return trace_of(chosen, experts, slot_order="unknown", label=kinds_of, **where)


def test_a_specialist_one_of_a_committee_and_generalists_are_told():
    table = expert_table(labelled_trace(0, 3.0, texts=48, kinds=6))
    assert (of(table, 0, 1).kind, of(table, 0, 1).role) == ("b", SPECIALIST) and of(table, 0, 1).q <= 0.01
    assert of(table, 0, 2).role == COMMITTEE and of(table, 0, 2).times_uniform > 3
    others = table.drop(index=[1, 2])
    assert set(others["role"]) <= {GENERALIST, ""} and "b" not in set(others["kind"])
    first, second = expert_table_sentences(table)[:2]
    counts = breadth(table).value_counts()
    assert first == breadth_sentence(table) and first.name == "breadths" and counts.sum() == 8
    assert (first["experts"], first["narrow"]) == (8, counts[NARROW])
    assert breadth(table)[1] == NARROW and breadth(table)[2] != NARROW
    assert second.name == "committee" and second["members"] == 1
    assert 0.4 <= second["share"] < 0.5 and second["uniform"] == 0.125


@pytest.mark.parametrize(("name", "experts"), [(EMBEDDED, (20, 26, 2)), (NATURAL, None), (FINE, None)])
def test_the_words_for_experts_agree_with_their_names_for_each_of_our_own_models(name, experts):
    """The table, the map, the page of an expert and the path take names from one function, and these words from it."""
    table, names = expert_table_of(name), expert_names(reference_routing(name))
    words = breadth(table)
    assert ((words != UNNAMED).to_numpy() == names["holds"].to_numpy()).all()
    assert (table["name"].to_numpy() == names["name"].where(names["holds"], "").to_numpy()).all()
    counts = tuple(int((words == word).sum()) for word in (NARROW, BROAD, UNNAMED))
    assert sum(counts) == len(names) and experts in (None, counts)
    assert [*breadth_sentence(table).values.values()][1:] == [*counts]


def test_the_control_of_the_names_is_what_the_routing_of_other_texts_gives():
    recorded, texts = names_by_chance(), reference_routing()
    assert names_of_other_routing(texts, 2) == recorded[EMBEDDED][:2]
    assert max(recorded[EMBEDDED]) < 46, "names of the texts as they are"
    claim = chance_sentence(recorded[EMBEDDED], 48)
    assert claim.name == "names_by_chance" and (claim["fewest"], claim["most"]) == (0, 6)
    assert claim["mean"] == pytest.approx(1.5, abs=0.05)


def test_a_kind_beyond_luck_is_no_specialist_where_the_expert_has_all_others_too():
    """A lift of two, q under 5%, and yet the other five kinds are most of what it has."""
    table = expert_table(labelled_trace(0, 0.5, texts=240, kinds=6))
    one = of(table, 0, 1)
    assert one.kind == "b" and one.q <= 0.05 and one.lift >= 2 and one.spec < 0.25 and one.role == ""


def test_spec_is_that_worked_by_hand():
    """Shares of two kinds: the same, one alone, three to one; and an expert without a token."""
    share = np.array([[0.2, 0.4, 0.3, 0], [0.2, 0, 0.1, 0]])
    expected = [0, 1, 1 + (0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2), np.nan]
    np.testing.assert_allclose(_spec(share), expected)


def test_a_committee_leads_in_most_kinds_and_nobody_beats_it():
    """Six kinds, top-2 of 8. Expert 0 is first everywhere, 1 second in five kinds, 2 in one."""
    share = np.full((6, 8), 0.1)
    share[:, 0], share[:5, 1], share[5, 2] = 0.9, 0.5, 0.5
    assert np.flatnonzero(_leading(share, 2)).tolist() == [0], "the second has a larger mean rank and variance"
    share[:, 0] = [0.9, 0.9, 0.9, 0.9, 0.9, 0.05]  # first in five kinds, last in one: the other is steadier
    share[5, 1] = 0.45
    assert np.flatnonzero(_leading(share, 2)).tolist() == [0, 1]
    assert not _leading(share[:2], 2).any(), "of two kinds, luck would bring one to nearly half of all layers"
    assert not _leading(share, 8).any(), "where all are chosen nobody leads"


def test_where_shares_are_luck_there_is_no_committee():
    rng = np.random.default_rng(0)
    assert sum(_leading(rng.random((6, 8)), 2).any() for _ in range(400)) < 40, "once in twenty times, 5%"


def test_where_labels_mean_nothing_a_kind_is_named_in_few_of_many_traces():
    """Under shuffled labels at most one trace in twenty should name any; of twenty, five would be unlikely by 0.003."""
    named = [(expert_table(labelled_trace(seed, 0.0))["kind"] != "").any() for seed in range(20)]
    assert sum(named) < 5


def test_with_one_text_a_label_nothing_is_judged():
    trace = labelled_trace(0, 3.0, texts=2)
    assert expert_table(trace)["q"].isna().all() and (expert_table(trace)["kind"] == "").all()


def test_p_values_are_corrected_for_their_number():
    rng = np.random.default_rng(1)
    p = rng.random(30)
    q = adjusted(p)
    order = np.argsort(p)
    by_hand = [min(p[order][j] * 30 / (j + 1) for j in range(i, 30)) for i in range(30)]
    np.testing.assert_allclose(q[order], by_hand)
    assert np.isnan(adjusted(np.array([np.nan]))).all()


def test_tokens_that_keep_to_an_expert_are_named_and_dealt_anew_none_are():
    trace = reference_routing()
    found = expert_table(trace)
    assert (found["keeps"] != "").sum() > 10 and (found["kind"] != "").sum() > 20 and (found["name"] != "").any()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(trace.tokens))
    dealt = replace(trace, experts=trace.experts[:, order], weights=trace.weights[:, order])
    dealt = expert_table(dealt)
    assert (dealt["keeps"] != "").sum() <= 3 and set(dealt["role"]) <= {GENERALIST, ""}


def test_writing_is_told_where_it_holds_and_twins_by_name():
    table = expert_table(sample_trace(layers=1, experts=3))
    written = table[WHERE].assign(
        promoted=[("<b>", "\n"), ("x",), ("y",)],
        followed=0.5,
        usual=0.1,
        everywhere=0.1,
        beyond=9.0,
        holds=[True, False, False],
    )
    found = with_writing(table, written)
    assert found["writes"].tolist()[1:] == ["", ""] and found["writes"].iat[0].startswith("“<b>”, “")
    assert "\n" not in found["writes"].iat[0]
    assert (with_writing(table, written.iloc[:0])["writes"] == "").all()
    weights = table[WHERE].assign(twin=[1, 0, 0], cosine=[0.999, 0.999, 0.1])
    outputs = table[WHERE].assign(twin=[-1, -1, -1], cosine=np.nan)
    found = with_twins(found, weights, outputs)
    notes = notes_on_experts(found)
    assert [note["twins"] for note in notes] == [(("weights", 1),), (("weights", 0),), ()] and notes[2] == ""
    writers, odd, *_ = expert_table_sentences(found)
    assert (writers.name, dict(writers.values)) == ("writers", {"writers": 1, "experts": 3})
    assert (odd.name, dict(odd.values)) == ("odd_expert", {"layer": 0, "expert": 0, "note": notes[0]})


def test_what_an_expert_adds_is_beside_its_layer(small):
    """The choices add (1.5 + 2 + 10) and (1 + 4.5): 19 in 5, so 3.8 on average."""
    found = contribution(expert_table(small))
    assert found["expert"].tolist() == [0, 1], "one without a token adds nothing that is known"
    assert found["added_times"].tolist() == pytest.approx([4.5 / 3.8, 2.75 / 3.8], abs=1e-6)
    assert found["times_uniform"].tolist() == pytest.approx([9 / 5, 6 / 5])
    nothing = contribution(expert_table(replace(small, outputs=None)))
    assert nothing.empty and contribution_caption(nothing) is None
    still = contribution(expert_table(small).assign(added=0.0))
    assert still["added_times"].isna().all() and contribution_caption(still) is None


def layers_of(rows: np.random.Generator, lean: float) -> pd.DataFrame:
    """Six layers of 16 experts, whose contribution goes with their share as far as they lean."""
    share, own = rows.random((2, 6, 16))
    layer, expert = np.divmod(np.arange(96), 16)
    added = (lean * share + (1 - abs(lean)) * own).ravel()
    return pd.DataFrame({"layer": layer, "expert": expert, "times_uniform": share.ravel(), "added": added})


def test_often_and_much_are_said_to_go_together_only_where_luck_rarely_brings_it():
    rows = np.random.default_rng(0)
    for lean in (0.8, -0.8):
        claim = contribution_caption(layers_of(rows, lean))
        assert claim.name == "often_and_added" and claim["correlation"] * lean > 0.7 and 0 < claim["chance"] < 0.5
    said = sum(contribution_caption(layers_of(rows, 0)) is not None for _ in range(500))
    assert said <= 3, "once in a thousand times"


def test_experts_that_add_more_are_said_to_be_missed_more_only_where_losses_bear_it_out():
    rows = np.random.default_rng(0)
    table = layers_of(rows, 0)
    assert missed_sentence(table) is None, "no losses are known"
    own = rows.random(len(table))
    claim = missed_sentence(table.assign(loss_change=0.8 * table["added"] + 0.2 * own))
    assert claim.name == "added_and_missed" and claim["correlation"] > 0.9 and abs(claim["of_choices"]) < 0.5
    assert missed_sentence(table.assign(loss_change=own)) is None
    assert missed_sentence(table.assign(loss_change=-table["added"])) is None


@pytest.mark.parametrize("name", ROUTING)
def test_the_tables_that_ship_are_of_the_routing_that_ships(name):
    shipped, made = expert_table_of(name), expert_table(reference_routing(name))
    for column in ("tokens", "kind", "keeps", "role", "name"):
        assert shipped[column].tolist() == made[column].tolist(), column
    for column in ("share", "times_uniform", "mean_weight", "lift", "q", "spec"):
        assert shipped[column].to_numpy() == pytest.approx(made[column].to_numpy(), abs=10**-DIGITS, nan_ok=True), (
            column
        )
    assert (shipped["added"] > 0).all() and shipped["cosine"].between(-1, 1).all()


def test_many_experts_without_a_token_are_one_sentence():
    trace = sample_trace(layers=2, tokens=4, experts=64)
    table = expert_table(trace)
    dead = int((table["tokens"] == 0).sum())
    said = expert_table_sentences(table)
    (number,) = (claim for claim in said if claim.name == "dead_experts")
    assert dead > 100 and dict(number.values) == {"dead": dead, "experts": 128}
    assert not any(claim.name == "odd_expert" for claim in said) and notes_on_experts(table)[0].name == "expert_note"
