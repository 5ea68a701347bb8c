"""The same prompt in other precisions: what is rounded, what is a tie, and what is left as it was."""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import disk_offload
from cut_models import loaded
from fused_models import FAMILIES
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.analyses.precisions import in_precision, in_precisions
from moeviz.analyses.what_if import loss_by_precision, what_if
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.interventions.precision import NAMES, Precision
from moeviz.capture.interventions.replay import Replay
from moeviz.capture.interventions.top_k import TopK
from moeviz.capture.routers.discovery import find_routers
from moeviz.checks import precision_table
from moeviz.cli.main import main
from moeviz.errors import CaptureError
from moeviz.metrics.comparison import set_changes

PROMPTS = ["To be", "12 + 7 = 19, und heute ist es kalt"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_int8_rounds_linear_layers_and_experts_and_nothing_else():
    model = tiny_model(FAMILIES["deepseek_v3"])
    before = {name: values.clone() for name, values in model.named_parameters()}
    rounded = dict(in_precision(model, "int8").named_parameters())
    routers = [router.path for router in find_routers(model)]
    for name, values in before.items():
        kept = "norm" in name or "embed" in name or "lm_head" in name or any(name.startswith(path) for path in routers)
        assert torch.equal(rounded[name], values) == kept, name
        step = values.abs().amax(-1, keepdim=True) / 127
        assert ((rounded[name] - values).abs() <= step * 0.5001).all()
        assert kept or len(rounded[name].flatten(0, -2)[0].unique()) <= 255
    assert all(torch.equal(values, before[name]) for name, values in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_precision_is_what_a_model_in_it_records(family, tokenizer):
    model = tiny_model(FAMILIES[family])
    found = in_precisions(model, PROMPTS, tokenizer=tokenizer)
    assert list(found) == list(NAMES)
    plain = moeviz.trace(model, PROMPTS, tokenizer=tokenizer)
    assert found["float32"].trace.equals(plain)
    for name, dtype in {"bfloat16": torch.bfloat16, "float16": torch.float16}.items():
        other = moeviz.trace(tiny_model(FAMILIES[family]).to(dtype), PROMPTS, tokenizer=tokenizer)
        np.testing.assert_array_equal(found[name].trace.experts, other.experts)
        assert found[name].trace.model.dtype == name
        assert found[name].tied.shape == plain.experts.shape[:2]
    assert not found["int8"].tied.any()
    assert found["int8"].trace.model.dtype == "int8"


def test_a_choice_is_tied_where_rounding_the_logits_alone_changes_it(tokenizer):
    """By hand on a router without bias: the trace's own logits, rounded, ranked again."""
    model = tiny_model(FAMILIES["mixtral"])
    with torch.no_grad():
        for router in find_routers(model):  # experts nearly alike: many ties
            router.module.weight.mul_(2e-3).add_(torch.linspace(-1, 1, 32))
    found = in_precisions(model, PROMPTS, ["bfloat16"], tokenizer=tokenizer)
    logits = torch.from_numpy(found["float32"].trace.logits)
    exact, rounded = (part.sort(dim=-1, descending=True, stable=True) for part in (logits, logits.bfloat16().float()))
    sets = (exact.indices[..., :2].sort(-1).values != rounded.indices[..., :2].sort(-1).values).any(-1)
    boundary = rounded.values[..., 1] == rounded.values[..., 2]
    np.testing.assert_array_equal(found["bfloat16"].tied, (sets | boundary).numpy())
    assert 0 < found["bfloat16"].tied.mean() < 1
    changes = set_changes(found["float32"].trace, found["bfloat16"].trace, found["bfloat16"].tied)
    assert changes["tied"].sum() > 0
    assert (changes["tied"] + changes["flipped"]).to_numpy() == pytest.approx(changes["changed"].to_numpy())


def test_ties_of_a_router_that_ranks_in_its_own_way_are_not_guessed(tokenizer):
    found = in_precisions(random_model("llama4"), PROMPTS, ["bfloat16"], tokenizer=tokenizer)
    assert not any(found["bfloat16"].known)
    table = precision_table(found)
    assert table["tied"].isna().all() and table["flipped"].isna().all() and table["changed"].notna().all()


def test_a_model_that_lies_on_disk_and_a_precision_that_is_none_are_refused(tokenizer, tmp_path):
    model = tiny_model(FAMILIES["mixtral"])
    with pytest.raises(CaptureError, match="'int3'"):
        in_precision(model, "int3")
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    with pytest.raises(CaptureError, match="disk"):
        in_precisions(model, PROMPTS, tokenizer=tokenizer)


def test_loss_over_texts_is_that_of_each_text_read_in_that_precision(tokenizer, capsys, tmp_path):
    model, texts = loaded(tiny_model(CONFIGS["mixtral"])), ["Il fait froid à Paris.", "12 + 30 = 42"]
    found = loss_by_precision(model, texts, ("int8",)).set_index("precision")
    each = [what_if(model, text, Precision("int8")) for text in texts]
    effect = pd.concat([one.effect for one in each])
    assert found.index.tolist() == ["float32", "int8"] and found["tokens"].tolist() == [effect["loss"].count()] * 2
    assert found.loc["float32", "loss"] == pytest.approx(effect["loss"].mean())
    assert found.loc["int8", "loss"] == pytest.approx(effect["loss_changed"].mean())
    assert found.loc["int8", "loss_increase"] == pytest.approx(found["loss"].diff().iloc[1])
    moved = [(np.sort(one.plain.experts) != np.sort(one.changed.experts)).any(-1) for one in each]
    assert found["moved"].tolist() == [0, pytest.approx(np.concatenate([one.ravel() for one in moved]).mean())]
    file = tmp_path / "one.txt"
    file.write_text("12 + 30 = 42")
    assert main(["precision", "--texts", str(file)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(NAMES)
    for wrong, said in (([], "--messages or --texts"), (["a", "--texts", str(file)], "--texts")):
        with pytest.raises(SystemExit, match=r"\b2\b"):
            main(["precision", *wrong])
        assert said in capsys.readouterr().err
    assert main(["precision", "--texts", str(file), "--beside", "b.gguf"]) == 3
    assert "A model beside it reads a prompt." in capsys.readouterr().err


def test_another_precision_is_a_what_if(tokenizer):
    model = tiny_model(FAMILIES["mixtral"])
    result = moeviz.what_if(model, PROMPTS, Precision("float32"), tokenizer=tokenizer)
    assert result.changed.equals(result.plain) and (result.effect["kl"] == 0).all()
    result = moeviz.what_if(model, PROMPTS, Precision("bfloat16"), tokenizer=tokenizer)
    other = moeviz.trace(model.to(torch.bfloat16), PROMPTS, tokenizer=tokenizer)
    np.testing.assert_array_equal(result.changed.experts, other.experts)
    assert (result.effect["kl"] > 0).any()


def test_an_intervention_holds_while_a_text_is_generated(tokenizer):
    model = tiny_model(FAMILIES["mixtral"])
    options = {"tokenizer": tokenizer, "max_new_tokens": 5}
    muted = moeviz.trace(model, PROMPTS, intervention=Mute({1: (0, 3)}), **options)
    assert (muted.tokens["phase"] == "generated").any()
    assert not np.isin(muted.experts[1], (0, 3)).any()
    assert np.isin(moeviz.trace(model, PROMPTS, **options).experts[1], (0, 3)).any()
    assert moeviz.trace(model, PROMPTS, intervention=TopK(1), **options).experts.shape[2] == 1
    with pytest.raises(CaptureError, match="generate"):
        moeviz.trace(model, PROMPTS[0], intervention=Replay(muted), **options)
