"""Golden routing of tiny models: what an engine does otherwise is named, and what only rounding does is no failure."""

import json
from dataclasses import replace

import numpy as np
import pytest
from engine_traces import OF_IDS, OF_WEIGHTS, bare
from transformers import AutoModelForCausalLM

import moeviz
from moeviz.cli.main import main


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> dict[str, str]:
    """Golden files of a router that takes the highest logits, and of one that adds a bias and chooses in groups."""
    folder, files = tmp_path_factory.mktemp("golden"), {}
    for name in ("mixtral", "deepseek_v3"):
        files[name] = str(folder / f"{name}.npz")
        assert main(["conformance", "write", name, "-o", files[name]]) == 0
    return files


def checked(golden: str, trace: moeviz.RoutingTrace, tmp_path, capsys) -> tuple[int, dict]:
    """Check a trace as an engine's, from a file."""
    moeviz.write_trace(trace, str(tmp_path / "theirs.npz"))
    capsys.readouterr()
    code = main(["conformance", "check", golden, str(tmp_path / "theirs.npz"), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_engine_that_does_the_same_conforms(golden, tmp_path, capsys):
    for file in golden.values():
        trace = moeviz.read_trace(file)
        assert checked(file, trace, tmp_path, capsys)[0] == 0
        code, found = checked(file, bare(trace), tmp_path, capsys)
        assert code == 0 and found["weights"] is None


def test_the_model_of_a_golden_file_is_the_one_that_chose(golden):
    """An engine loads it from the folder: transformers does, and writes the same next tokens from the same ids."""
    trace = moeviz.read_trace(golden["mixtral"])
    model = AutoModelForCausalLM.from_pretrained(golden["mixtral"].removesuffix(".npz"))
    assert model.config.num_local_experts == trace.model.num_experts[0]
    assert len(trace.tokens) == 96 and trace.logits is not None and (trace.tokens["token_id"] >= 3).all()


@pytest.mark.parametrize("name", ["experts", "rows", "layers", "scale", "normalisation", "weights of other slots"])
def test_what_an_engine_does_otherwise_is_named(golden, tmp_path, capsys, name):
    trace = moeviz.read_trace(golden["mixtral"])
    code, found = checked(golden["mixtral"], {**OF_IDS, **OF_WEIGHTS}[name](trace), tmp_path, capsys)
    assert code == 1 and [one["kind"] for one in found["conventions"]] == [name]


def test_an_engine_that_leaves_the_bias_out_is_named(golden, tmp_path, capsys):
    trace = moeviz.read_trace(golden["deepseek_v3"])
    highest = np.argsort(-trace.logits, axis=-1, kind="stable")[..., : trace.model.top_k].astype(np.int16)
    assert (np.sort(highest) != np.sort(trace.experts)).any()
    code, found = checked(golden["deepseek_v3"], replace(trace, experts=highest, weights=None), tmp_path, capsys)
    assert code == 1 and [one["kind"] for one in found["conventions"]] == ["bias"]


def test_other_experts_are_no_failure_where_the_choice_was_nearly_a_tie(golden, tmp_path, capsys):
    trace = moeviz.read_trace(golden["mixtral"])
    for gap, code in ((1e-5, 0), (1.0, 1)):
        order = np.argsort(-trace.logits[0, 5])
        logits, experts = trace.logits.copy(), trace.experts.copy()
        logits[0, 5, order[2]] = logits[0, 5, order[1]] - np.float32(gap)
        moeviz.write_trace(replace(trace, logits=logits), str(tmp_path / "golden.npz"))
        experts[0, 5] = order[[0, 2]]
        theirs = replace(trace, experts=experts, weights=None, logits=None)
        got, found = checked(str(tmp_path / "golden.npz"), theirs, tmp_path, capsys)
        assert (got, found["choices"]["other"]) == (code, 1)


def test_names_and_places_that_cannot_be_are_one_sentence(tmp_path, capsys):
    assert main(["conformance", "write", "mixtrl", "-o", str(tmp_path / "x.npz")]) == 3
    assert "mixtral" in capsys.readouterr().err
    assert main(["conformance", "write", "mixtral", "-o", str(tmp_path / "x.csv")]) == 3
    assert main(["conformance", "check", str(tmp_path / "x.npz")]) == 3


def test_diff_fails_above_a_share(golden, tmp_path, capsys):
    """The control: the same pair passes and fails, by the share alone; a convention fails at any share."""
    trace = moeviz.read_trace(golden["mixtral"])
    experts = trace.experts.copy()
    experts[:, ::10] = np.argsort(trace.logits[:, ::10], axis=-1)[..., :2]
    theirs = {"noise": replace(trace, experts=experts, weights=None, logits=None), "numbers": OF_IDS["experts"](trace)}
    codes = {}
    for name, other in theirs.items():
        moeviz.write_trace(other, str(tmp_path / f"{name}.npz"))
        for share in ("0", "0.5", "1"):
            codes[name, share] = main(["diff", golden["mixtral"], str(tmp_path / f"{name}.npz"), "--fail-above", share])
    assert [codes["noise", share] for share in ("0", "0.5", "1")] == [1, 0, 0]
    assert [codes["numbers", share] for share in ("0", "0.5", "1")] == [1, 1, 1]
    assert main(["diff", golden["mixtral"], str(tmp_path / "noise.npz")]) == 0
