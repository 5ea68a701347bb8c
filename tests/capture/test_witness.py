"""A model is held against what its experts receive before its first trace, and its batches against single texts."""

import json

import numpy as np
import pytest
from survey.tiny_models import random_model, tokenizer

import moeviz
import moeviz.capture.trace as capture_trace
from moeviz.capture.routers.router_adapters import ROUTER_ADAPTERS, RouterAdapter
from moeviz.charts.balance import balance_map
from moeviz.cli.main import main
from moeviz.errors import CaptureError
from moeviz.metrics.balance import hash_sentence, load_beside_luck

TWO = ["To be", "12 + 7 = 19, und heute ist es kalt"]


def traced(model, prompts="Il fait froid", **options):
    return moeviz.trace(model, prompts, tokenizer=tokenizer(), **options)


def test_a_trace_says_that_its_model_was_checked_and_a_model_is_checked_once():
    model, forwards = random_model("mixtral"), []
    model.register_forward_pre_hook(lambda *_given: forwards.append(1))
    first = traced(model)
    assert first.model.witness.startswith("checked on ") and len(forwards) == 2
    assert traced(model).model.witness == first.model.witness and len(forwards) == 3


def test_layers_with_a_hash_router_are_named_where_balance_is_judged(capsys, tmp_path):
    trace = traced(random_model("deepseek_v4"), "12 + 7 = 19, und heute ist es kalt")
    hashed, layers = trace.model.hash_layers, trace.model.layers
    assert hashed and len(hashed) < len(layers)
    assert trace.select(layers=[layers[-1]]).model.hash_layers == ()
    frame = load_beside_luck(trace)
    assert set(frame.loc[frame["by_token_id"], "layer"]) == set(hashed)
    assert [("by token id" in words) for words in _row_names(frame)] == [layer in hashed for layer in layers]
    file = tmp_path / "trace.npz"
    moeviz.write_trace(trace, file)
    for chosen, named in ((hashed[0], True), (layers[-1], False)):
        assert main(["metrics", str(file), "--layers", str(chosen)]) == 0
        assert (hash_sentence(hashed[:1]) in capsys.readouterr().out) is named


def _row_names(frame):
    axis = next(layer["encoding"]["y"]["axis"] for layer in balance_map(frame).to_dict()["layer"])
    return json.loads(axis["labelExpr"].removesuffix("[datum.value]"))


@pytest.mark.parametrize(
    "misread",
    [
        lambda _router, _given, answer: (answer[0], answer[1], (answer[2] + 1) % 8),
        lambda _router, _given, answer: (answer[0], answer[1] * 1.01, answer[2]),
    ],
    ids=["other experts", "other weights"],
)
def test_an_adapter_that_misreads_a_router_is_caught(monkeypatch, misread):
    monkeypatch.setitem(ROUTER_ADAPTERS, "MixtralTopKRouter", RouterAdapter("misread", misread))
    with pytest.raises(CaptureError, match="layer 0, token 0"):
        traced(random_model("mixtral"))


def test_a_model_that_its_caution_names_is_traced_and_not_called_checked():
    made = traced(random_model("nllb_moe"))
    assert made.model.caution and made.model.witness.startswith("not checked")


@pytest.mark.parametrize("new", [0, 6])
def test_a_model_that_reads_padding_reads_its_texts_one_by_one(new):
    model = random_model("deepseek_v4")
    both, alone = traced(model, TWO, max_new_tokens=new), [traced(model, text, max_new_tokens=new) for text in TWO]
    assert "DeepseekV4ForCausalLM" in both.model.recorded_by
    for number, single in enumerate(alone):
        part = both.select(tokens=(both.tokens["sequence"] == number).to_numpy())
        assert part.tokens["text"].tolist() == single.tokens["text"].tolist()
        assert (part.experts == single.experts).all()
    with pytest.raises(CaptureError, match="text"):
        next(iter(moeviz.stream(model, TWO, tokenizer=tokenizer(), max_new_tokens=2)))


def test_in_one_batch_that_model_would_have_been_misread(monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(capture_trace, "reads_others", lambda _run: False)
    model = random_model("deepseek_v4")
    both, alone = traced(model, TWO, max_new_tokens=6), traced(model, TWO[0], max_new_tokens=6)
    part = both.select(tokens=(both.tokens["sequence"] == 0).to_numpy())
    assert not np.array_equal(part.experts, alone.experts)


def test_a_model_that_masks_its_padding_keeps_its_batches():
    assert traced(random_model("mixtral"), TWO).model.recorded_by == "hooks"
