"""Labels of experts in others' JSON: read as they are, refused in a sentence, judged by our texts alone."""

import json

import numpy as np
import pandas as pd
import pytest

from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import InvalidTrace
from moeviz.formats.expert_labels import MOST_LABEL, labels_in, read_labels, to_labels
from moeviz.formats.importers.importer import Source
from moeviz.metrics.expert_table import expert_table, labels_sentence, with_labels

ENTRY = {"layer": 3, "expert": 17, "top_topic": "poetry", "spec": 0.71}


def labels(content, name="labels.json"):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return labels_in(Source(name, {name: data}))


def rows(frame) -> list[tuple]:
    return list(frame.itertuples(index=False, name=None))


def test_the_three_forms_of_colibris_atlas_are_read():
    expected = [(3, 17, "poetry", 0.71, "spec")]
    assert rows(labels({"version": 1, "categories": ["poetry"], "canonical_specialists": [ENTRY]})) == expected
    assert (
        rows(labels({"categories": ["poetry"], "experts": [ENTRY | {"total": 40, "reliability": "3/3"}]})) == expected
    )
    (page,) = rows(labels({"experts": {"3:17": {"top": "poetry", "label": "specialist: poetry", "entropy": 1.2}}}))
    assert page[:3] == expected[0][:3] and np.isnan(page[3]) and page[4] == ""
    paths = ENTRY | {"spec": {"neon": 0.8, "avx2": 0.6}}
    assert rows(labels({"canonical_specialists": [paths]})) == [(3, 17, "poetry", 0.6, "spec")]


def test_hypotheses_of_moe_analysis_are_read_with_the_layer_of_the_file_s_name(tmp_path):
    content = {"0": {"hypothesis": "URLs", "metrics": {"f1_score": 0.5}}, "9": {"hypothesis": "dates", "scores": [1]}}
    file = tmp_path / "OLMoE-1B-7B-0125_L15_auto_interp.json"
    file.write_text(json.dumps(content))
    first, second = rows(read_labels(file))
    assert first == (15, 0, "URLs", 0.5, "F1") and second[:3] == (15, 9, "dates") and np.isnan(second[3])
    with pytest.raises(InvalidTrace, match="name"):
        labels(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no labels of experts"),
        (b"not json", "has no labels of experts"),
        (b"[" * 100_000, "has no labels of experts"),
        ({}, "has no labels of experts"),
        ({"experts": 3}, "has no labels of experts"),
        ({"0": {"hypothesis": "a"}, "1": 2}, "has no labels of experts"),
        ({"canonical_specialists": ["x"]}, "must be an object"),
        ({"canonical_specialists": [ENTRY | {"layer": -1}]}, "-1.*expert 17"),
        ({"canonical_specialists": [ENTRY | {"expert": True}]}, "both must be whole"),
        ({"canonical_specialists": [ENTRY | {"expert": 10**9}]}, "both must be whole"),
        ({"canonical_specialists": [ENTRY | {"top_topic": None}]}, "it must be text"),
        ({"canonical_specialists": [ENTRY | {"top_topic": "\ud800"}]}, "it must be text"),
        ({"experts": {"x": {"top": "a"}}}, "both must be whole"),
        ({"canonical_specialists": [ENTRY] * (2**16 + 1)}, "at most 65,536 are read"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(content, says):
    with pytest.raises(InvalidTrace, match=says):
        labels(content)


def test_a_score_that_is_none_is_none_and_a_long_label_is_cut():
    for spec in ("0.9", None, 2, -1, float("nan"), [1], {"a": 0.5, "b": "x"}, {}):
        ((*_, score, measure),) = rows(labels({"canonical_specialists": [ENTRY | {"spec": spec}]}))
        assert np.isnan(score) and measure == ""
    ((_, _, label, *_),) = rows(labels({"canonical_specialists": [ENTRY | {"top_topic": " <b>" + "x" * 999}]}))
    assert label == ("<b>" + "x" * 999)[:MOST_LABEL]


def test_the_rate_of_a_labelled_kind_is_counted_from_our_texts_and_nothing_else_is_judged():
    trace = reference_routing()
    table = expert_table(trace)
    one = table[table["kind"] != ""].iloc[0]
    theirs = pd.DataFrame(
        {
            "layer": [one.layer, one.layer, 99],
            "expert": [one.expert, (one.expert + 1) % 8, 0],
            "label": [one.kind.upper().replace(" ", "_"), "poetry of no kind", "x"],
            "score": [0.9, 0.8, 0.7],
            "measure": "spec",
        }
    )
    found = with_labels(table, theirs, trace)
    mine = found[found["label"] != ""].set_index("expert")
    has = (trace.experts[trace.model.layers.index(one.layer)] == one.expert).any(-1)
    of = (trace.tokens["label"] == one.kind).to_numpy()
    judged = mine.loc[one.expert]
    assert judged.label_rate == pytest.approx(has[of].mean()) and judged.label_score == 0.9
    assert judged.label_lift == pytest.approx(one.lift) == pytest.approx(has[of].mean() / has[~of].mean(), rel=0.1)
    other = mine.loc[(one.expert + 1) % 8]
    assert np.isnan(other.label_rate) and np.isnan(other.label_lift) and other.label_score == 0.8
    claim = labels_sentence(found, theirs)
    assert (claim.name, [*claim.values.values()]) == ("labels_of_others", [3, 2, 1, 1, 2])
    assert labels_sentence(with_labels(table, theirs.iloc[1:], trace), theirs)["judged"] == 0
    assert len(found) == len(table) and found["label_lift"].notna().sum() == 1


def test_ours_are_written_as_they_are_read():
    table = expert_table(reference_routing())
    found = labels_in(Source("l.json", {"l.json": to_labels(table, "embedded")[0]}))
    labelled = table[(table["role"] == "specialist") | (table["name"] != "")].reset_index(drop=True)
    assert len(found) == len(labelled) > 5
    assert found[["layer", "expert"]].equals(labelled[["layer", "expert"]])
    special = (labelled["role"] == "specialist").to_numpy()
    assert (found["label"] == labelled["kind"].where(special, labelled["name"])).all() and special.any()
    np.testing.assert_allclose(found["score"], labelled["spec"], atol=1e-4)
