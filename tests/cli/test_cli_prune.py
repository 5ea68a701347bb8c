"""`moeviz prune` and `moeviz tune-targets`: rows for programs, sentences for people, files; and refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cut_models import TEXTS
from tiny_models import TEMPLATE, tokenizer_with

import moeviz
from moeviz.analyses.pruning import rankings
from moeviz.analyses.pruning.bits import bits_study
from moeviz.analyses.pruning.result import split
from moeviz.cli import tune_targets
from moeviz.cli.main import main
from moeviz.cli.options import conversations_at
from moeviz.cli.prune import CRITERIA, FORMS
from moeviz.embedded import embedded_path
from moeviz.examples import OF_A_MODEL
from moeviz.metrics import pruning as criteria
from moeviz.metrics.tune_targets import SCORES

FRENCH = [text for label, text in TEXTS if label == "French"] * 3


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"label": label, "text": text}) for label, text in TEXTS))
    return str(path)


def test_criteria_and_forms_are_those_of_the_library():
    assert (tuple(criteria.CRITERIA), tuple(rankings.FORMS)) == (CRITERIA, FORMS)


def test_rows_have_criterion_cut_loss_and_the_deviation_of_chance(texts, capsys):
    asked = ["prune", "embedded", texts, "--cut", "1", "3", "--criteria", "reap", "random", "--json"]
    assert main([*asked, "--draws", "3", "--by-kind", "frequency"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["losses"]
    whole = [row for row in rows if row["chosen_on"] == row["judged_on"] == "all texts"]
    assert [(row["criterion"], row["cut"]) for row in whole] == [("reap", 1), ("reap", 3), ("random", 1), ("random", 3)]
    assert [row["sd"] is not None for row in whole] == [False, False, True, True]
    assert all(isinstance(row["loss_increase"], float) for row in rows) and whole[1]["share"] == 3 / 8
    assert {row["criterion"] for row in rows if row["chosen_on"] != "all texts"} == {"frequency"}
    assert f"{whole[0]['loss_increase']:.3f}" in out and "tokens of each" not in err


def test_a_choice_is_judged_on_other_texts_and_counts_differ_per_layer(texts, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"label": "x", "text": f"{text} {text}"}) for _, text in TEXTS))
    asked = ["prune", "embedded", texts, "--cut-total", "6", "--criteria", "frequency", "--tokens", "16", "--draws=2"]
    assert main([*asked, "--judged-on", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (spread, *_) = [row for row in found["in_all"] if row["criterion"] == "frequency"]
    assert spread["cut"] == 6 == sum(map(int, spread["per_layer"].split()))
    assert {row["chosen_on"] for row in found["losses"]} == {"all texts", "texts like those that judge"}
    assert sum("of the first recording" in says for says in found["findings"]) == 2
    assert main([*asked, "-o", str(tmp_path / "smaller")]) == 3 and capsys.readouterr().err.count("\n") == 1


def test_texts_that_ship_are_read_in_part_and_a_table_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("moeviz.labelled_texts.texts_that_ship", lambda: TEXTS)
    assert main(["prune", "embedded", "--cut", "1", "--criteria", "greatest", "--tokens", "16"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-2].split()[:3] == ["criterion", "cut", "share"] and "3 texts" in out.splitlines()[0]
    assert "the first 16 tokens" in err


def test_rankings_are_written_in_three_forms_and_say_what_they_rest_on_where_they_can(texts, tmp_path, capsys):
    found = {}
    for form in FORMS:
        target = tmp_path / form
        asked = ["prune", "embedded", texts, "--cut", "2", "--criteria", "random", "--by", "frequency"]
        asked += ["--tokens", "16", "--draws", "2"]
        assert main([*asked, "--ranking", str(target), "--form", form]) == 0
        found[form] = [json.loads(line) for line in target.read_text().splitlines()]
    about, *layers = found["moeviz"]
    assert about["criterion"] == "frequency" and about["chosen_on"]["texts"] == about["judged_on"]["texts"] == 3
    assert about["chosen_on"]["sha256"] != about["judged_on"]["sha256"] and "Il fait" not in json.dumps(about)
    assert [row["criterion"] for row in about["losses"]] == ["random", "frequency"] and about["losses"][0]["sd"] > 0
    assert [row["layer"] for row in layers] == [*range(6)]
    for row in layers:
        assert sorted(row["experts"]) == [*range(8)] and row["scores"] == sorted(row["scores"], reverse=True)
    assert found["vllm-ascend"] == [{str(row["layer"]): row["experts"]} for row in layers]
    (kept,) = found["llm-compressor"]
    assert kept == {f"model.layers.{row['layer']}.mlp": sorted(row["experts"][:6]) for row in layers}
    assert "2 of 8 experts" in capsys.readouterr().out


def test_a_checkpoint_without_the_experts_is_written_and_told(texts, tmp_path, capsys):
    target = tmp_path / "smaller"
    asked = ["prune", "embedded", texts, "--cut", "1", "--criteria", "reap", "--draws", "2"]
    assert main([*asked, "-o", str(target), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "7 of 8 experts per layer, 23.1 MB" in err
    about = json.loads((target / "moeviz_pruning.json").read_text())
    assert about["model"] == "embedded" and about["criterion"] == "reap" and about["cut"] == 1
    assert {row["criterion"] for row in json.loads(out)["losses"]} == {"reap", "random"}, (
        "a file is compared with chance"
    )
    assert moeviz.load_model(str(target)).info.num_experts == (7,) * 6


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["some/model"], "'some/model'"),
        (["embedded", "--cut", "7"], "7 experts"),
        (["embedded", "--ranking", "r.json", "--form", "llm-compressor"], "--cut N"),
        (["embedded", "-o", "smaller", "--cut", "1", "2"], "--cut N"),
        (["embedded", "--ranking", "no/such/r.jsonl"], "'no/such/r.jsonl'"),
        (["embedded", "-o", ".", "--cut", "1"], "is there already, and nothing is written over"),
        (["embedded", "-o", "no/such/folder", "--cut", "1"], "There is no folder"),
        (["embedded", "-o", "smaller", "--cut", "7"], "7 experts"),
    ],
)
def test_what_cannot_be_is_one_sentence(asked, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", *asked]) == 3
    assert says in capsys.readouterr().err


def test_tune_targets_writes_the_experts_that_the_texts_use_more_than_others(texts, tmp_path, capsys):
    assert (tune_targets.SCORES, *tune_targets.FORMS) == (SCORES, "esft", "peft")
    french, sums = (tmp_path / f"{name}.jsonl" for name in ("french", "sums"))
    french.write_text(
        "\n".join(json.dumps({"label": "French", "text": f"{text} {n}"}) for n, text in enumerate(FRENCH))
    )
    sums.write_text("\n".join(json.dumps({"label": "sums", "text": f"{n} + 1 = {n + 1}\n" * 4}) for n in range(10, 16)))
    given = ["tune-targets", "embedded", str(french), "--base", str(sums)]
    assert main([*given, "-o", str(tmp_path / "esft.json"), "--json"]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out)["experts"]
    assert len(rows) == 48 and f"{sum(row['target'] for row in rows)} of them" in out
    written = json.loads((tmp_path / "esft.json").read_text())["experts"]
    assert written == {
        str(layer): [row["expert"] for row in rows if row["layer"] == layer and row["target"]] for layer in range(6)
    }
    assert main([*given, "--form", "peft", "-o", str(tmp_path / "lora.json")]) == 0
    assert json.loads((tmp_path / "lora.json").read_text())["target_parameters"][0].endswith("mlp.experts.gate_up_proj")
    assert main(["tune-targets", "embedded", texts, "--base", texts]) == 3
    assert "6 of the texts are among those that they are compared with" in capsys.readouterr().err


@pytest.fixture
def chats(tmp_path):
    """Return a checkpoint whose tokenizer shows where each part of a chat ends, and a writer of files of chats."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in OF_A_MODEL:
        shutil.copyfile(embedded_path() / name, folder / name)
    tokenizer_with(TEMPLATE).save_pretrained(folder)

    def written(name, pairs):
        path = tmp_path / f"{name}.jsonl"
        said = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
        path.write_text("\n".join(map(json.dumps, said)))
        return str(path)

    return str(folder), written


def test_a_segment_of_chats_ranks_alone(chats, capsys):
    model, written = chats
    french, sums = (
        [f"{text} {n}" for n, (kind, text) in enumerate(TEXTS * 3) if kind == of] for of in ("French", "sums")
    )
    one, other = written("one", zip(french, sums, strict=True)), written("other", zip(sums, french, strict=True))

    def scores(command, *asked):
        assert main([command, model, *asked, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    asked = ["--draws", "2", "--units", "layers"]
    of = {name: scores("bits", one, *asked, "--segment", name) for name in ("answer", "user")}
    needs = {name: [row["kl_few"] for row in found["units"]] for name, found in of.items()}
    assert needs["answer"] != needs["user"] and of["answer"]["units"][0]["tokens"] != of["user"]["units"][0]["tokens"]
    experts = {name: scores("tune-targets", one, "--base", other, "--segment", name) for name in of}
    task, base = ([row[key] for row in experts["answer"]["experts"]] for key in ("score", "base_score"))
    assert task != base and task != [row["score"] for row in experts["user"]["experts"]]

    ranked = {}
    for name in of:
        target = Path(one).with_name(f"{name}.rank")
        scores(
            "prune",
            one,
            "--cut",
            "1",
            "--criteria",
            "frequency",
            "--by",
            "frequency",
            "--draws",
            "2",
            "--segment",
            name,
            "--ranking",
            str(target),
        )
        ranked[name], *layers = map(json.loads, target.read_text().splitlines())
        ranked[name] = ranked[name], [layer["scores"] for layer in layers]
    assert ranked["answer"][0]["segment"] == "answer" and ranked["answer"][1] != ranked["user"][1]
    chose = [chat for _, chat in split(("one", conversation) for conversation in conversations_at(one))[0]]
    loaded = moeviz.load_model(model)
    answers = [moeviz.trace(loaded, chat, chat=True).in_segment("answer").sum() for chat in chose]
    assert {sum(layer) for layer in ranked["answer"][1]} == {2 * sum(answers)}, "two experts a token, of answers alone"


@pytest.mark.parametrize("command", ["prune", "bits", "tune-targets"])
def test_a_segment_that_is_not_there_is_refused(command, chats, texts, capsys):
    model, written = chats
    path = written("chats", [(f"{n} + 1 =", f"{n + 1}.") for n in range(10, 18)])
    other = written("others", [(f"{n} + 2 =", f"{n + 2}.") for n in range(10, 18)])
    base = ["--base", other] if command == "tune-targets" else []
    for given, says in (
        (
            [model, path, *base, "--segment", "tools"],
            "No token is of the segment 'tools'. There are answer, turn and user",
        ),
        ([model, texts, *base, "--segment", "answer"], "must be a list of messages"),
        (["embedded", path, *base, "--segment", "answer"], "has no chat template"),
        (["embedded", *([path] if base else []), "--segment", "answer"], "no chats, and have no segments"),
    ):
        assert main([command, *given]) != 0
        assert says in capsys.readouterr().err


def test_bits_on_a_segment_are_those_that_plain_transformers_measures_on_its_tokens(chats):
    model, written = chats
    path = written("chats", [(f"{n} + 1 =", f"{n + 1}. Il fait froid.") for n in range(10, 14)])
    loaded = moeviz.load_model(model, dtype="float32")
    texts = [("sums", chat) for chat in conversations_at(path)]
    study = bits_study(loaded, texts, units="layers", draws=2, segment="answer")
    calibrating, judging = split(texts)
    losses = []
    for _, chat in judging:
        trace = moeviz.trace(loaded, chat, chat=True)
        ids = torch.tensor(trace.tokens["token_id"].to_numpy())[None].long()
        with torch.no_grad():
            each = torch.nn.functional.cross_entropy(loaded.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        losses += each.numpy()[trace.in_segment("answer")[1:]].tolist()
    assert study.loss == pytest.approx(np.mean(losses), abs=1e-4)
    answers = [moeviz.trace(loaded, chat, chat=True).in_segment("answer").sum() for _, chat in calibrating]
    assert set(study.units["tokens"]) == {2 * sum(answers)}, "two experts a token, of answers alone"


def test_what_runs_a_prompt_takes_a_conversation_and_shows_the_effect_on_a_segment(chats, tmp_path, capsys):
    model, _ = chats
    chat = [{"role": "user", "content": "12 + 7 ="}, {"role": "assistant", "content": "19. Il fait froid."}]
    path, written = tmp_path / "chat.json", tmp_path / "changed.npz"
    path.write_text(json.dumps(chat))
    loaded = moeviz.load_model(model)
    whole = moeviz.what_if(loaded, chat, moeviz.Mute({3: (1,)}), chat=True)
    answer = whole.plain.in_segment("answer")

    def said(command, *more):
        assert main([command, "--messages", str(path), "--model", model, "--segment", "answer", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    rows = said("what-if", "--mute", "3:1", "-o", str(written))["effect"]
    assert [row["kl"] for row in rows] == pytest.approx(whole.effect["kl"][answer].tolist(), abs=1e-6)
    assert len(moeviz.read_trace(written).tokens) == len(answer), "the file has the whole chat"
    moved = (np.sort(whole.plain.experts) != np.sort(whole.changed.experts)).any(-1)
    assert 0 < moved[:, answer].sum() < moved.sum()
    assert whole.of_segment("answer").moved["moved"] == moved[:, answer].sum()

    muted = next(row for row in said("ablate") if (row["layer"], row["expert"]) == (3, 1))
    assert muted["kl"] == pytest.approx(whole.effect["kl"][answer].mean(), abs=1e-6)
    assert muted["load"] == pytest.approx((whole.plain.experts[3, answer] == 1).sum() / (2 * answer.sum()))
    everything = moeviz.occlude(loaded, chat, chat=True).deciding()
    of_answer = everything[answer[everything["token"]]]
    assert [row["by_text"] for row in said("occlude")["words"]] == of_answer["by_text"].tolist()
    assert 0 < len(of_answer) < len(everything)
    assert {row["tokens"] for row in said("precision")} == {int(answer.sum())}
    assert main(["precision", "--texts", str(path), "--model", model, "--segment", "answer", "--json"]) == 0
    exact = moeviz.what_if(moeviz.load_model(model, dtype="float32"), chat, moeviz.Mute({3: (1,)}), chat=True).effect
    loss = json.loads(capsys.readouterr().out)[0]["loss"]
    assert loss == pytest.approx(exact["loss"][answer].mean(), abs=1e-4)
    assert main(["attribute", "--messages", str(path), "--model", model, "--json"]) == 0
    capsys.readouterr()

    path.write_text("\n".join([json.dumps({"messages": chat})] * 2))
    for command in ("occlude", "attribute"):
        assert main([command, "--messages", str(path), "--model", model]) != 0
        assert "2" in capsys.readouterr().err
    assert main(["what-if", "12 + 7 =", "--mute", "3:1", "--segment", "answer"]) != 0
    assert "--messages" in capsys.readouterr().err
