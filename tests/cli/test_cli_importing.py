"""The commands about files of other programs: what they are told, what they print, and their exit codes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from importer_files import FOLDER

from moeviz import RoutingTrace, read_counts, read_trace, write_trace
from moeviz.cli.main import main
from moeviz.cli.options import IMPORT_OPTIONS
from moeviz.errors import InvalidTrace
from moeviz.formats.importers.importer import SAYS, layers_of
from moeviz.testing import sample_trace


@pytest.fixture
def traced(tmp_path) -> str:
    write_trace(sample_trace(tokens=60), tmp_path / "trace.npz")
    return str(tmp_path / "trace.npz")


def test_convert_reads_what_another_program_wrote_and_says_what_it_took_it_for(tmp_path, caplog):
    target = str(tmp_path / "out.npz")
    told = ["--num-layers", "5", "--experts-per-token", "2", "--experts", "8"]
    assert main(["convert", str(FOLDER / "sglang_generate.json"), target, *told]) == 0
    assert read_trace(target).experts.shape == (4, 13, 2)
    said = caplog.text
    assert "read 'sglang_generate.json' as SGLang responses: a trace" in said
    assert "Layers that hold zeros alone in the file are left out: 0." in said


def test_convert_asks_for_what_a_file_does_not_say(tmp_path, capsys):
    assert main(["convert", str(FOLDER / "imatrix.gguf"), str(tmp_path / "out.json")]) == 3
    assert "--experts-per-token on the command line" in capsys.readouterr().err


def test_convert_writes_counts_as_counts(tmp_path, capsys):
    target = str(tmp_path / "out.json")
    assert main(["convert", str(FOLDER / "tensorrt"), target]) == 0
    assert read_counts(target).equals(read_counts(FOLDER / "tensorrt"))
    assert main(["metrics", target, "--topic", "load", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["expert_load"]) == 32
    assert main(["convert", target, str(tmp_path / "out.npz")]) == 3
    assert "Counts are written to .json or .csv" in capsys.readouterr().err


def test_a_folder_is_converted_and_layers_are_named_as_people_write_them(tmp_path, capsys):
    target = str(tmp_path / "out.csv")
    assert main(["convert", str(FOLDER / "lmdeploy_generate.json"), target, "--moe-layers", "1-3,4"]) == 0
    assert read_trace(target).model.layers == (1, 2, 3, 4)
    assert layers_of("1-3,7") == (1, 2, 3, 7)
    for wrong in ("1-", "a", "-3", "1-99999"):
        with pytest.raises(InvalidTrace, match="--moe-layers"):
            layers_of(wrong)


def test_every_option_that_is_asked_for_can_be_typed():
    assert {*IMPORT_OPTIONS, "moe_layers", "first_axis"} == set(SAYS)


def test_an_import_says_what_the_doctor_finds(tmp_path, caplog):
    trace = sample_trace(tokens=60)
    rows = trace.experts.transpose(1, 0, 2).copy()
    rows[:, 2] = rows[:, 1]
    np.save(tmp_path / "spoilt.npy", rows.astype(np.uint8))
    assert main(["convert", str(tmp_path / "spoilt.npy"), str(tmp_path / "out.npz"), "--first-axis", "tokens"]) == 0
    assert "Layers 1 and 2 send every token to the same experts" in caplog.text


def test_doctor_lists_what_it_finds_and_its_exit_code_says_so(traced, tmp_path, capsys):
    trace = read_trace(traced)
    experts = trace.experts.copy()
    experts[1] = 0
    write_trace(RoutingTrace(trace.model, trace.tokens, experts), tmp_path / "spoilt.npz")
    assert main(["check", str(tmp_path / "spoilt.npz")]) == 1
    assert capsys.readouterr().out.startswith("zeros: Layer 1 has zeros for all 60 tokens")
    assert main(["check", str(tmp_path / "spoilt.npz"), "--json", "--tokens", "61"]) == 1
    assert [row["check"] for row in json.loads(capsys.readouterr().out)] == ["zeros", "number"]


def test_doctor_finds_a_lost_row_beside_another_trace(traced, tmp_path, capsys):
    trace = read_trace(traced)
    lost = RoutingTrace(trace.model, trace.tokens.iloc[:-1], trace.experts[:, 1:])
    write_trace(lost, tmp_path / "lost.npz")
    assert main(["check", str(tmp_path / "lost.npz"), "--beside", traced]) == 1
    assert "the first lost a row" in capsys.readouterr().out


def test_doctor_says_what_is_lost_of_a_file_that_was_cut(tmp_path, capsys):
    (tmp_path / "cut.bin").write_bytes((FOLDER / "mbolt.bin").read_bytes()[:-8])
    assert main(["check", str(tmp_path / "cut.bin")]) == 1
    lost = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lost] == [
        "lost: Left out: the last 12 bytes",
        "lost: Left out: 1 of 5 passes",
    ]


def test_doctor_says_why_a_file_cannot_be_opened(capsys):
    assert main(["check", str(FOLDER / "olmoe_counts.pkl")]) == 3
    said = capsys.readouterr()
    assert said.out == "" and "pickle" in said.err


def test_diff_finds_a_planted_shift(traced, tmp_path, capsys):
    trace = read_trace(traced)
    write_trace(RoutingTrace(trace.model, trace.tokens.iloc[:-1], trace.experts[:, 1:]), tmp_path / "lost.npz")
    assert main(["diff", str(tmp_path / "lost.npz"), traced]) == 0
    out = capsys.readouterr().out
    assert "Row t of the first is row t+1 of the second" in out
    assert main(["diff", str(tmp_path / "lost.npz"), traced, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in found["conventions"]] == ["rows"]


def test_diff_compares_texts_where_ids_are_not_known(traced, tmp_path, capsys):
    trace = read_trace(traced)
    other = trace.tokens.assign(token_id=np.int32(-1), text="SELECT")
    write_trace(replace(trace, tokens=other), tmp_path / "other.npz")
    assert main(["diff", traced, str(tmp_path / "other.npz")]) == 3
    assert "different texts: 100% of their tokens differ" in capsys.readouterr().err
    write_trace(replace(trace, tokens=other.assign(text="")), tmp_path / "none.npz")
    assert main(["diff", traced, str(tmp_path / "none.npz")]) == 0
    assert "Whether both are of the same text cannot be checked" in capsys.readouterr().out
    ids = trace.tokens["token_id"].where(trace.tokens.index != 50, 99)
    write_trace(replace(trace, tokens=trace.tokens.assign(token_id=ids)), tmp_path / "one.npz")
    assert main(["diff", traced, str(tmp_path / "one.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == {"tokens": 60, "unknown": 0, "different": 1, "after": 9}
    assert {row["tokens"] for row in found["layers"]} == {59}


def test_diff_says_where_two_traces_part(traced, tmp_path, capsys):
    trace = read_trace(traced)
    experts = trace.experts.copy()
    experts[2, 7, 1] = next(e for e in range(8) if e not in experts[2, 7])
    write_trace(replace(trace, experts=experts, weights=None, logits=None), tmp_path / "other.npz")
    assert main(["diff", traced, str(tmp_path / "other.npz")]) == 0
    out = capsys.readouterr().out
    assert "misaligned" not in out and "sequence 0: at token 7 ' experts', layer 2, after 7 tokens that agree" in out
