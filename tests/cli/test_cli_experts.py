"""`moeviz experts`: a row an expert, from a model, a trace or a dataset; what cannot be is one sentence."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from moeviz.cli.main import main
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace

TEXTS = [("sums", "12 + 7 = 19\n45 - 6 = 39"), ("prose", "It is cold, and the people of the land went out.")]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"label": label, "text": text}) for label, text in TEXTS * 2))
    return str(path)


def test_a_model_has_a_row_an_expert_and_the_loss_where_it_is_asked_for(texts, tmp_path, capsys):
    target = tmp_path / "experts.csv"
    asked = ["experts", "embedded", texts, "--layers", "3", "--mute", "--json", "-o", str(target)]
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out)["experts"]
    assert [(row["layer"], row["expert"]) for row in rows] == [(3, expert) for expert in range(8)]
    had = [row for row in rows if row["tokens"]]
    assert all(row["added"] > 0 and abs(row["cosine"]) <= 1 and row["loss_change"] is not None for row in had)
    assert any(row["loss_change"] > 0 for row in had) and all(row["cosine_of_weights"] < 0.5 for row in rows)
    with target.open(newline="", encoding="utf-8") as file:
        assert [int(row["expert"]) for row in csv.DictReader(file)] == list(range(8))


def test_where_sums_would_fill_the_memory_the_rest_is_told(texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("moeviz.analyses.expert_vectors.MOST_BYTES", 2**20)
    output = tmp_path / "experts.csv"
    assert main(["experts", "embedded", str(texts), "-o", str(output)]) == 0
    assert "are kept. All else is known without it." in capsys.readouterr().err
    found = pd.read_csv(output)
    assert len(found) == 48 and "writes" not in found and (found["twin_by_outputs"] == -1).all()
    assert (found["twin_by_weights"] >= 0).all()


def test_a_trace_and_a_dataset_have_what_they_keep(tmp_path, capsys):
    trace = reference_routing()
    write_trace(trace, tmp_path / "trace.npz")
    write_dataset(trace, tmp_path / "folder")
    found = {}
    for name in ("trace.npz", "folder"):
        assert main(["experts", str(tmp_path / name), "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)["experts"]
    for one, other in zip(found["trace.npz"], found["folder"], strict=True):
        assert one["share"] == pytest.approx(other["share"]) and one["added"] is other["added"] is None
        assert one["lift"] == pytest.approx(other["lift"]) and other["q"] is None
    assert main(["experts", str(tmp_path / "trace.npz"), "--layers", "5"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-9].split()[:3] == ["layer", "expert", "share"] and "4 are narrow" in out


def test_labels_of_others_stand_beside_ours_and_ours_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = reference_routing()
    write_trace(trace, "trace.npz")
    write_dataset(trace, "folder")
    assert main(["experts", "trace.npz", "--write-labels", "ours.json", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["experts"]
    (tmp_path / "X_L5_interp.json").write_text(json.dumps({"2": {"hypothesis": "<b>\x1b[2J", "metrics": {}}}))
    for source in ("trace.npz", "folder"):
        assert main(["experts", source, "--labels", "X_L5_interp.json", "ours.json", "--json"]) == 0
        out = capsys.readouterr().out
        rows = json.loads(out)["experts"]
        special = [row for row, own in zip(rows, ours, strict=True) if own["role"] == "specialist"]
        assert "with a lift of 2 or more there" in out and len(special) > 5
        told = [row for row in special if (row["layer"], row["expert"]) != (5, 2)]
        assert all(row["label_lift"] == pytest.approx(row["lift"]) for row in told)
        (theirs,) = (row for row in rows if (row["layer"], row["expert"]) == (5, 2))
        assert theirs["label"].startswith("<b>") and theirs["label_score"] is theirs["label_lift"] is None
    assert main(["experts", "trace.npz", "--labels", "X_L5_interp.json"]) == 0
    out = capsys.readouterr().out
    assert "cannot be checked" in out and "\x1b" not in out and "<b>" in out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["trace.npz", "--mute"], "is recorded, and losses without experts need"),
        (["trace.npz", "text.txt"], "is recorded, and texts need a model to read them"),
        (["trace.npz", "-o", "experts.xlsx"], "written as .csv or .json"),
        (["trace.npz", "--layers", "99"], "has no MoE layer 99"),
        (["some/model"], "needs texts to read"),
        (["trace.npz", "--labels", "trace.npz"], "has no labels of experts"),
        (["trace.npz", "--labels", "absent.json"], "absent.json"),
        (["trace.npz", "--write-labels", "labels.csv"], "Labels are written as .json"),
    ],
)
def test_what_cannot_be_is_one_sentence(asked, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_trace(reference_routing(), "trace.npz")
    assert main(["experts", *asked]) == 3
    assert says in capsys.readouterr().err


def test_labels_are_not_written_where_there_are_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_trace(sample_trace(), "trace.npz")
    assert main(["experts", "trace.npz", "--write-labels", "none.json", "--json"]) == 0
    said = capsys.readouterr().err
    assert "none.json was not written" in said and "wrote" not in said and not Path("none.json").exists()


def test_a_dataset_can_be_contrasted_as_its_trace_can(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = reference_routing()
    write_trace(trace, "trace.npz")
    write_dataset(trace, "folder")
    out = []
    for source in ("trace.npz", "folder"):
        assert main(["contrast", source, "--kinds", "French", "Python", "--json"]) == 0
        out.append(json.loads(capsys.readouterr().out))
    assert out[0]["experts"] == out[1]["experts"] and len(out[0]["experts"]) == 48
