"""Golden routing of tiny models: what an engine does otherwise is named, and what only rounding does is no failure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_traces import OF_IDS, OF_WEIGHTS, bare
from gguf_models import write_model
from mlx_models import write_folder
from survey.golden import golden_routing
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_server import write_mixtral

import moeviz
from moeviz.capture.engines.decoding_loop import prompt_ids
from moeviz.cli.main import main
from moeviz.formats.importers.arrays import from_base64, from_npy

RECORDED = Path(__file__).parents[1] / "data" / "served"


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


def read_by_ids(monkeypatch, engine: str) -> None:
    """Let the engine read the numbers in a text as token ids: a golden file's tokens are drawn, and have no text."""
    if engine == "llama.cpp":
        from moeviz.capture.engines.llama_cpp.context import Vocabulary

        monkeypatch.setattr(Vocabulary, "ids", lambda _self, text, **_how: [*map(int, text.split())])
    else:
        from moeviz.capture.engines.mlx import model

        def of_numbers(tokenizer, request, name, limit, _ids_of):
            return prompt_ids(tokenizer, request, name, limit, lambda text: [*map(int, text.split())])

        monkeypatch.setattr(model, "prompt_ids", of_numbers)


GGUF = pytest.param("llama.cpp", marks=pytest.mark.gguf)
MLX = pytest.param("mlx", marks=pytest.mark.mlx)
# What an engine does otherwise: mlx-lm and llama.cpp read the whole text where Mixtral's config has a window of 16, and
# llama.cpp chooses DeepSeek-V2's experts from all groups.
DIFFERS = {("mixtral", "llama.cpp"): [], ("mixtral", "mlx"): [], ("deepseek_v2", "llama.cpp"): ["bias"]}


@pytest.mark.parametrize("engine", [GGUF, MLX])
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "deepseek_v2"])
def test_golden_files_are_checked_against_another_engine(name, engine, tmp_path, monkeypatch, capsys):
    pytest.importorskip("llama_cpp_py_sync" if engine == "llama.cpp" else "mlx_lm", reason="make test-gguf, test-mlx")
    golden = str(tmp_path / f"{name}.npz")
    assert main(["conformance", "write", name, "-o", golden]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="float32")
    read_by_ids(monkeypatch, engine)
    if engine == "llama.cpp":
        opened = moeviz.load_model(str(write_model(model, tmp_path / f"{name}.gguf")))
    else:
        opened = moeviz.load_model(str(write_folder(tmp_path / "mlx", model)), backend="mlx")
    wanted = moeviz.read_trace(golden)
    texts = [" ".join(map(str, part["token_id"])) for _, part in wanted.tokens.groupby("sequence")]
    theirs = moeviz.trace(opened, texts)
    assert theirs.tokens["token_id"].tolist() == wanted.tokens["token_id"].tolist()
    code, found = checked(golden, theirs, tmp_path, capsys)
    assert [one["kind"] for one in found["conventions"]] == DIFFERS.get((name, engine), [])
    assert code == ((name, engine) in DIFFERS) and found["choices"]["cells"] == len(wanted.model.layers) * 96
    if name == "mixtral":
        assert model.config.sliding_window == 16 <= found["choices"]["first"]
    if code == 0:
        assert found["choices"]["other"] == 0 and found["left"]["weights"] < 1e-5


@pytest.mark.parametrize("name", ["completion", "chat"])
def test_golden_routing_is_checked_against_the_recorded_answer_of_vllm(name, tmp_path, capsys):
    """The control: with two experts under each other's numbers the same answer does not conform."""
    body = json.loads((RECORDED / f"{name}.json").read_text())
    choice = body["choices"][0]
    ids = ((choice.get("prompt_token_ids") or body["prompt_token_ids"]) + choice["token_ids"])[:-1]
    folder = write_mixtral(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    golden = golden_routing(model, AutoTokenizer.from_pretrained(folder), torch.tensor([ids]), "mixtral")
    moeviz.write_trace(golden, str(tmp_path / "golden.npz"))
    sent = from_npy(from_base64(choice["routed_experts"])).transpose(1, 0, 2).astype(np.int16)
    for experts, code in ((sent, 0), (np.array([1, 0, *range(2, 8)], np.int16)[sent], 1)):
        theirs = replace(bare(golden), experts=experts, model=replace(golden.model, slot_order="unknown"))
        got, found = checked(str(tmp_path / "golden.npz"), theirs, tmp_path, capsys)
        assert got == code and found["weights"] is None, found["conventions"]


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
