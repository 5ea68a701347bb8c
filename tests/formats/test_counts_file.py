"""Counts as files, and counts that others published."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labels import labelled

from moeviz import ExpertCounts, InvalidTrace, ModelInfo, published_counts, read_counts, read_trace, write_counts
from moeviz.formats.importers.importer import ImportOptions
from moeviz.metrics.load import balance
from moeviz.published import KINDS, MODELS
from moeviz.testing import sample_trace

DATA = Path(__file__).parents[1] / "data"


def steps() -> ExpertCounts:
    model = ModelInfo("by step", "test", (1, 4), (3, 2), 2)
    return ExpertCounts(
        model, np.array([[[1, 2, 1], [2, 2, 0]], [[1, 1, 2], [1, 1, 0]]]), np.array([[2, 2], [2, 1]]), (10, 20), "step"
    )


@pytest.mark.parametrize(
    "counts",
    [sample_trace().counts(), labelled(sample_trace()).counts_by_label(), steps()],
    ids=["all", "label", "step"],
)
def test_counts_in_json_are_read_back_to_the_last_fact(counts, tmp_path):
    write_counts(counts, tmp_path / "counts.json")
    assert read_counts(tmp_path / "counts.json").equals(counts)


@pytest.mark.parametrize(
    "counts", [sample_trace().counts(), labelled(sample_trace()).counts_by_label()], ids=["all", "label"]
)
def test_counts_in_csv_keep_the_numbers_and_top_k_is_told(counts, tmp_path):
    write_counts(counts, tmp_path / "counts.csv")
    back = read_counts(tmp_path / "counts.csv", options=ImportOptions(top_k=2))
    assert np.array_equal(back.assignments, counts.assignments) and np.array_equal(back.tokens, counts.tokens)
    assert back.groups == counts.groups and back.model.layers == counts.model.layers


def test_steps_in_csv_are_numbers(tmp_path):
    write_counts(steps(), tmp_path / "counts.csv")
    assert 'layer,expert,count,step\n1,0,1,"10"\n' in (tmp_path / "counts.csv").read_text()
    assert read_counts(tmp_path / "counts.csv", options=ImportOptions(top_k=2)).groups == (10, 20)


def test_counts_are_not_written_to_files_of_tokens(tmp_path):
    with pytest.raises(InvalidTrace, match=r"\.json or \.csv"):
        write_counts(steps(), tmp_path / "counts.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", [[1]]),
        ("assignments", [[[1]]]),
        ("groups", [None, 2]),
        ("group_kind", "day"),
        ("model", {"name": "x"}),
    ],
)
def test_a_file_of_counts_that_makes_no_sense_is_refused(name, value, tmp_path):
    write_counts(steps(), tmp_path / "counts.json")
    content = json.loads((tmp_path / "counts.json").read_text())
    (tmp_path / "counts.json").write_text(json.dumps(content | {name: value}))
    with pytest.raises(InvalidTrace):
        read_counts(tmp_path / "counts.json")


def test_counts_are_no_trace(tmp_path):
    write_counts(steps(), tmp_path / "counts.json")
    with pytest.raises(InvalidTrace, match="token"):
        read_trace(tmp_path / "counts.json")


@pytest.mark.parametrize("model", MODELS)
def test_published_counts_are_those_of_the_source(model):
    """The balance of each domain, beside what was computed from the same counts without moeviz."""
    counts = published_counts(model)
    wanted = pd.read_csv(DATA / "expert_counts_metrics.csv").query("model == @model").set_index(["domain", "layer"])
    assert counts.groups == tuple(KINDS.values()) and counts.model.layers == (0, 7, 15)
    assert (counts.tokens == 208_896).all()
    for at, domain in enumerate(KINDS):
        one = ExpertCounts(counts.model, counts.assignments[at : at + 1], counts.tokens[at : at + 1])
        table = balance(one).set_index("layer")
        for layer in (0, 7, 15):
            assert table.loc[layer, "max_violation"] == pytest.approx(
                wanted.loc[(domain, layer), "max_violation"], abs=1e-5
            )


def test_published_counts_are_drawn_like_any():
    assert published_counts().plot.load().to_dict()["vconcat"]


def test_other_models_have_no_published_counts():
    with pytest.raises(InvalidTrace, match=r"Mixtral-8x7B.*OLMoE-1B-7B"):
        published_counts("GPT-4")


def test_top_k_that_is_too_large_shows_in_a_csv(tmp_path):
    write_counts(steps(), tmp_path / "counts.csv")
    with pytest.raises(InvalidTrace, match=r"\b6\b"):
        read_counts(tmp_path / "counts.csv", options=ImportOptions(top_k=6))
