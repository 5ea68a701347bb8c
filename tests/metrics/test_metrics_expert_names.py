"""Names of experts: against a count by hand, on our own models, and with kinds that mean nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import EMBEDDED, reference_routing
from moeviz.errors import MissingField
from moeviz.metrics.expert_names import UNNAMED, expert_name_sentence, expert_names, expert_names_caption, with_names
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

TEXTS, SHUFFLES = 4, 30  # texts of each kind


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


def phi(has: np.ndarray, of: np.ndarray) -> float:
    return float(np.corrcoef(has, of)[0, 1])


def test_a_name_is_the_kinds_that_an_expert_has_and_its_figures_are_of_the_texts_set_aside():
    trace = of_kinds(["law", "code", "verse", "news"], {"law": 2, "code": 2, "verse": 5, "news": 1})
    row = expert_names(trace).set_index("expert").loc[2]
    assert set(row["name"].split(", ")) == {"law", "code"} and row["by"] == "kinds" and row["holds"]
    aside = trace.tokens["sequence"].to_numpy() % 2 == 1
    has = (trace.experts[0] == 2).any(-1)
    of = trace.tokens["label"].isin(["law", "code"]).to_numpy()
    assert row["phi"] == pytest.approx(phi(has[aside], of[aside]))
    assert row["chosen_phi"] == pytest.approx(phi(has[~aside], of[~aside]))
    assert row["precision"] == pytest.approx(of[aside & has].mean())
    assert row["recall"] == pytest.approx(has[aside & of].mean())
    assert row["share"] == pytest.approx(of[aside].mean()) and row["tokens"] == has.sum()


def test_what_does_not_hold_on_the_other_texts_is_no_name():
    trace = of_kinds(["law", "verse", "news"], {"law": 2, "verse": 5, "news": 1})
    aside = trace.tokens["sequence"].to_numpy() % 2 == 1
    rng = np.random.default_rng(1)
    chosen = np.where(aside[:, None], rng.integers(0, 8, (len(aside), 1)), trace.experts[0]).astype(np.int16)
    frame = expert_names(replace(trace, experts=chosen[None]))
    assert (frame["chosen_phi"] > 0.5).any() and not frame["holds"].any() and set(frame["name"]) == {UNNAMED}
    assert expert_name_sentence(frame, trace.model.layers[0], 2).name == "no_name"
    assert expert_names_caption(frame) is None


def test_without_labels_classes_of_tokens_make_names():
    trace = of_kinds(["a", "b"], {"a": 0, "b": 1})
    texts = np.where(np.arange(len(trace.tokens)) % 3 == 0, "7", " word")
    chosen = np.where(texts == "7", 4, 6).astype(np.int16)[None, :, None]
    frame = trace.tokens.drop(columns="label").assign(text=pd.Series(texts, dtype="str"))
    names = expert_names(replace(trace, tokens=frame, experts=chosen)).set_index("expert")
    assert names.loc[4, ["name", "by"]].tolist() == ["digits", "tokens"]
    assert names.loc[6, "name"] == "word, space before" and names.loc[0, "name"] == UNNAMED
    said = expert_name_sentence(names.reset_index(), trace.model.layers[0], 4)
    assert (said["name"], said["by"], said["precision"]) == ("digits", "tokens", 1)
    assert said["share"] == pytest.approx(1 / 3, abs=0.01)


def test_one_text_has_no_half_to_set_aside(trace):
    with pytest.raises(MissingField, match="Trace several texts"):
        expert_names(trace.select(tokens=(trace.tokens["sequence"] == 0).to_numpy()))


def test_an_expert_of_few_tokens_has_no_name():
    trace = of_kinds(["law", "verse"], {"law": 2, "verse": 5}, tokens=4)
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


@pytest.mark.parametrize(("name", "least"), [(EMBEDDED, 47), (NATURAL, 10), (FINE, 116)])
def test_names_of_our_own_models(name, least):
    names = expert_names(reference_routing(name))
    assert names["holds"].sum() == least
    assert (names["by"] == "kinds").all() == (name == EMBEDDED), "token classes name experts of the siblings"


@pytest.mark.parametrize("name", [EMBEDDED, FINE])
def test_where_kinds_are_shuffled_among_the_texts_next_to_none_holds(name):
    """The control: what could be luck is no name."""
    trace, rng, held = reference_routing(name), np.random.default_rng(0), []
    kinds = trace.tokens.groupby("sequence")["label"].first()
    for _ in range(SHUFFLES):
        shuffled = pd.Series(rng.permutation(kinds.to_numpy()), kinds.index)
        labels = trace.tokens["sequence"].map(shuffled).astype(trace.tokens["label"].dtype)
        names = expert_names(replace(trace, tokens=trace.tokens.assign(label=labels)))
        held.append((names["holds"] & (names["by"] == "kinds")).sum())
    assert np.mean(held) <= 2, f"of {len(names)} experts"
