"""Paths, tokens routed alike, and the map of experts: planted structure is found, and shuffled structure not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.charts.routes import MAP
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics.expert_names import kind_codes, plain_tokens
from moeviz.metrics.paths import expert_map, path_table, shared_by_chance, similar_tokens, tokens_of_path
from moeviz.testing import sample_trace


def planted(bound: float) -> object:
    """40 texts of 50 tokens; with this probability a token takes the same expert, of eight, at all three layers."""
    rng = np.random.default_rng(0)
    trace = sample_trace(layers=3, tokens=2000, experts=8, top_k=1)
    first = rng.integers(8, size=(3, 2000))
    first[:, rng.random(2000) < bound] = first[:, :1]
    texts = np.arange(2000) // 50
    frame = pd.DataFrame(
        {
            **trace.tokens.assign(sequence=texts.astype(np.int32), position=(np.arange(2000) % 50).astype(np.int32)),
            "text": pd.array([" a", "b"] * 1000, "str"),
            "label": pd.array(np.where(texts % 4 < 2, "one", "two").astype(object), "str"),
        }
    )
    return replace(trace, tokens=frame, experts=first[..., None].astype(np.int16))


def test_independent_layers_have_as_many_paths_as_shuffled_ones_and_none_that_holds():
    found = path_table(planted(0))
    assert found.distinct == pytest.approx(found.shuffled, rel=0.05)
    assert not found.paths["holds"].any() and found.by_chance == 0


def test_a_path_that_tokens_share_holds_on_the_texts_set_aside():
    trace = planted(0.2)
    found = path_table(trace)
    best = found.paths.iloc[0]
    path = tuple(trace.experts[:, 0, 0].tolist())
    assert best["path"] == path and best["holds"]
    on_path = (path == trace.experts[..., 0].T).all(1)
    aside = (trace.tokens["sequence"] % 2 == 1).to_numpy()  # of each kind
    assert (best["tokens"], best["tokens_aside"]) == (on_path[~aside].sum(), on_path[aside].sum())
    claims = {claim.name: claim for claim in found.sentences()}
    assert claims["path_that_holds"]["path"] == path
    assert claims["paths_beyond"]["holding"] == found.paths["holds"].sum()
    assert path_table(trace, most=1).sentences() == found.sentences()
    assert best["examples"].count("[") == 3


def test_the_figures_of_the_models_that_ship():
    trace = reference_routing()
    found = path_table(trace)
    plain = plain_tokens(trace)
    assert found.distinct == len(np.unique(plain.experts[..., 0], axis=1).T)
    assert found.distinct < 0.6 * found.shuffled and found.by_chance <= 1 and found.paths["holds"].sum() >= 5


def test_tokens_that_share_all_choices_come_first():
    trace = planted(0.2)
    row = int(np.flatnonzero((trace.experts == trace.experts[:, :1]).all((0, 2)))[1])
    found = similar_tokens(trace, row, 5)
    assert (found["shared"] == 1).all() and (found["sequence"] != trace.tokens["sequence"][row]).all()
    assert (trace.experts[:, found["row"]] == trace.experts[:, [row]]).all()
    assert similar_tokens(trace, "a").equals(similar_tokens(trace, 0))
    one, other = np.random.default_rng(0).integers(len(trace.tokens), size=(2, 4000))
    both = (trace.experts[:, one][..., None] == trace.experts[:, other][:, :, None]).any(-1)
    assert shared_by_chance(trace) == pytest.approx(both.mean(), abs=0.02)
    for missing in (2000, -1, "nowhere"):
        with pytest.raises(InvalidTrace):
            similar_tokens(trace, missing)


def test_experts_that_take_the_same_contexts_are_neighbours_and_chance_is_near_none():
    trace = planted(0)
    kind = kind_codes(trace)
    experts = trace.experts.copy()
    experts[:, :, 0] = 4 * kind + np.random.default_rng(0).integers(4, size=experts.shape[:2])  # 0-3 and 4-7 by kind
    found = expert_map(replace(trace, experts=experts))
    lines = found.nearest
    assert ((lines["expert"] < 4) == (lines["other_expert"] < 4)).all() and len(lines) == 3 * 24
    assert (found.experts["kind"] == np.where(found.experts["expert"] < 4, "one", "two")).all()
    assert found.halves > 0.6 > found.renamed and found.sentence()["kept"] == found.kept
    assert abs(expert_map(trace).halves) < 0.3  # experts at random have no likeness that lasts
    drawn = MAP.measure(found)
    assert drawn["what"].value_counts().to_dict() == {"resample": 12 * 24, "neighbour": 3 * 24}
    near = drawn[drawn["what"] == "neighbour"].groupby(["layer", "expert"])["other"].agg(set)
    first = lines[(lines["layer"] == 0) & (lines["expert"] == 0)]
    assert near[0, 0] == {
        f"{at}·{expert}" for at, expert in zip(first["other_layer"], first["other_expert"], strict=True)
    }
    assert len(MAP.draw(drawn).to_dict()["layer"]) == 4 and found.sentence()["chance"] == pytest.approx(3 / 23)
    assert found.clouds.shape == (12, 24, 2) and found.sentence().name == "map_of_experts"


def test_the_tokens_of_a_path_are_those_whose_first_choices_it_is():
    trace = planted(0.8)
    pair = tuple(trace.experts[1:3, 7, 0].tolist())
    found = tokens_of_path(trace, trace.model.layers[1], pair, most=10_000)
    by_hand = np.flatnonzero((trace.experts[1, :, 0] == pair[0]) & (trace.experts[2, :, 0] == pair[1]))
    assert found["row"].tolist() == by_hand.tolist() and 7 in by_hand
    for layer, path in ((99, (1,)), (trace.model.layers[2], (1, 2)), (trace.model.layers[0], ())):
        with pytest.raises(InvalidTrace):
            tokens_of_path(trace, layer, path)


def test_what_has_no_paths_is_refused():
    with pytest.raises(InvalidTrace):
        path_table(planted(0).select(layers=[0]))
    with pytest.raises(MissingField):
        path_table(sample_trace(tokens=20))


def test_a_trace_of_experts_alone_has_paths_and_no_map_and_its_tokens_are_named_by_where_they_are():
    trace = planted(0.2)
    bare = replace(trace, tokens=trace.tokens.drop(columns="label").assign(text=pd.array([""] * 2000, "str")))
    assert path_table(bare).paths.iloc[0]["examples"].startswith("text 0, position 0 · ")
    assert similar_tokens(bare, 0)["context"].str.match(r"^text \d+, position \d+$").all()
    with pytest.raises(MissingField, match="labels"):
        expert_map(bare)
    by_kind = bare.tokens.assign(label=trace.tokens["label"])
    assert expert_map(replace(bare, tokens=by_kind)).nearest["distance"].max() > 0
