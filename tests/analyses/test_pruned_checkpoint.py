"""A checkpoint without experts is the muted model, in plain transformers; and nothing half-written is left anywhere."""

import json
import shutil

import numpy as np
import pytest
import torch
from cut_models import TEXTS, loaded, logits_of, strong
from fused_models import FAMILIES as TINY
from safetensors import safe_open
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM

import moeviz
from moeviz.analyses.pruning import checkpoint
from moeviz.analyses.pruning.checkpoint import ABOUT, FAMILIES, Checkpoint
from moeviz.analyses.pruning.curve import pruning_curve
from moeviz.analyses.what_if import read_batch
from moeviz.capture.models.folder import MODEL_INDEX
from moeviz.capture.record.intervening import probe_routers
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.metrics.pruning import cost_of_cuts


def saved(family, folder, **how):
    """A tiny model of the family in a folder, and in memory."""
    model = strong(TINY[family])
    model.save_pretrained(folder, **how)
    tiny_tokenizer().save_pretrained(folder)
    return model


def cut_of(folder, count):
    """Some experts of each layer and group, others in each layer."""
    found = Checkpoint.of(str(folder))
    size = found.limits.experts // found.limits.groups
    each = count // found.limits.groups
    rng = np.random.default_rng(0)
    return {
        layer: [int(group * size + one) for group in range(found.limits.groups) for one in rng.permutation(size)[:each]]
        for layer in found.layers
    }


def muted_logits(model, text, cut):
    run = prepare(loaded(model), CaptureRequest((text,)))
    with torch.no_grad():
        return run.batch.input_ids, read_batch(run, probe_routers(run), moeviz.Mute(cut, removed=True))[1]


CASES = [(family, 4, {}) for family in FAMILIES] + [
    ("mixtral", 1, {"save_original_format": False}),
    ("qwen3_moe", 3, {"save_original_format": False}),
    ("olmoe", 8, {"max_shard_size": "100KB"}),
]


@pytest.mark.parametrize(("family", "count", "how"), CASES, ids=[f"{f}-{c}-{[*h]}" for f, c, h in CASES])
def test_it_opens_in_plain_transformers_and_is_the_model_with_the_experts_muted(family, count, how, tmp_path):
    model = saved(family, tmp_path / "whole", **how)
    cut = cut_of(tmp_path / "whole", count)
    found = Checkpoint.of(str(tmp_path / "whole"))
    written = found.write(tmp_path / "smaller", cut)
    assert written.experts == (found.limits.experts, found.limits.experts - count)
    assert written.size[1] == found.size_without(count) < written.size[0]
    opened, told = AutoModelForCausalLM.from_pretrained(tmp_path / "smaller", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.num_parameters() < model.num_parameters()
    for _, text in TEXTS[:2]:
        ids, muted = muted_logits(model, text, cut)
        logits = logits_of(opened.eval(), ids)[0]
        assert torch.allclose(logits, muted, atol=1e-4)
        assert not torch.allclose(logits, logits_of(model, ids)[0], atol=0.1)
        losses = [torch.nn.functional.cross_entropy(part[:-1], ids[0, 1:]) for part in (logits, muted)]
        assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-5)


def test_files_beside_the_weights_come_along_and_say_what_the_cut_rests_on(tmp_path):
    saved("olmoe", tmp_path / "whole", max_shard_size="100KB")
    for name in ("modeling_own.py", "pytorch_model.bin", "LICENSE", "chat_template.jinja"):
        (tmp_path / "whole" / name).write_text("x")
    config = tmp_path / "whole" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoConfig": "modeling_own.C"}}))
    cut = cut_of(tmp_path / "whole", 2)
    seen = []
    found = Checkpoint.of(str(tmp_path / "whole"))
    found.write(tmp_path / "smaller", cut, {"criterion": "reap"}, progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1
    files = {path.name for path in (tmp_path / "smaller").iterdir()}
    assert {"tokenizer.json", "LICENSE", "chat_template.jinja", "generation_config.json", MODEL_INDEX, ABOUT} <= files
    assert not files & {"modeling_own.py", "pytorch_model.bin"} and [p.name for p in tmp_path.glob(".*")] == []
    told = json.loads((tmp_path / "smaller" / "config.json").read_text())
    assert told["num_experts"] == 14 and "auto_map" not in told
    about = json.loads((tmp_path / "smaller" / ABOUT).read_text())
    assert about["criterion"] == "reap"
    assert {int(layer): sorted({*range(16)} - {*kept}) for layer, kept in about["kept"].items()} == {
        layer: sorted(experts) for layer, experts in cut.items()
    }
    index = json.loads((tmp_path / "smaller" / MODEL_INDEX).read_text())
    for shard in {*index["weight_map"].values()}:
        with safe_open(tmp_path / "smaller" / shard, "pt") as file:
            assert {*file.keys()} == {name for name, where in index["weight_map"].items() if where == shard}
    assert index["metadata"]["total_size"] == found.size_without(2)


def test_layers_that_only_predict_further_are_left_out(tmp_path):
    """DeepSeek numbers them after the last; transformers does not run them, so nothing is known of their experts."""
    from safetensors.torch import load_file, save_file

    saved("deepseek_v3", tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    last = {name: part for name, part in weights.items() if "layers.2." in name}
    further = {name.replace("layers.2.", "layers.3."): part.clone() for name, part in last.items()}
    save_file(weights | further, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    config = tmp_path / "whole" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_nextn_predict_layers": 1}))
    found = Checkpoint.of(str(tmp_path / "whole"))
    assert found.layers == (1, 2)
    found.write(tmp_path / "smaller", cut_of(tmp_path / "whole", 4))
    assert not any("layers.3." in name for name in load_file(tmp_path / "smaller" / "model.safetensors"))
    assert json.loads((tmp_path / "smaller" / "config.json").read_text())["num_nextn_predict_layers"] == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    saved("mixtral", folder)
    return folder


def test_what_stops_half_way_leaves_nothing(whole, tmp_path):
    def stop(done, total):
        assert [path.name.startswith(".smaller.") for path in tmp_path.iterdir()] == [True]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Checkpoint.of(str(whole)).write(tmp_path / "smaller", cut_of(whole, 2), progress=stop)
    assert not [*tmp_path.iterdir()]


def test_no_more_than_a_piece_is_in_memory(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "AT_ONCE", 1000)
    read = []
    own = checkpoint._pieces

    def pieces(source, size):
        for piece in own(source, size):
            read.append(len(piece))
            yield piece

    monkeypatch.setattr(checkpoint, "_pieces", pieces)
    written = Checkpoint.of(str(whole)).write(tmp_path / "smaller", cut_of(whole, 2))
    assert max(read) == 1000 and sum(read) == written.size[1]


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ({0: [1], 1: [1]}, r"layers \(0.*1.*2\).*\[0.*1\]"),
        ({0: [1], 1: [1], 2: [1, 2]}, "not 1 of one and 2 of another"),
        ({0: [1], 1: [1], 2: [8]}, "2.*experts 0.*7.*8"),
        (dict.fromkeys(range(3), range(7)), "7 experts"),
    ],
)
def test_a_cut_that_the_config_cannot_say_is_refused(whole, tmp_path, cut, says):
    with pytest.raises(CaptureError, match=says):
        Checkpoint.of(str(whole)).write(tmp_path / "smaller", cut)
    assert not [*tmp_path.iterdir()]


def test_groups_must_stay_of_one_size(tmp_path):
    saved("deepseek_v3", tmp_path / "whole")
    with pytest.raises(CaptureError, match=r"4 groups.*layer 1"):
        Checkpoint.of(str(tmp_path / "whole")).write(tmp_path / "smaller", dict.fromkeys((1, 2), (0, 1, 2, 4)))


def test_nothing_is_written_over_or_past_the_disk(whole, tmp_path, monkeypatch):
    found, cut = Checkpoint.of(str(whole)), cut_of(whole, 2)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(CaptureError, match="written over"):
            found.write(tmp_path / name, cut)
    with pytest.raises(CaptureError, match="folder"):
        found.write(tmp_path / "none" / "smaller", cut)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CaptureError, match=r"0\.00 GB"):
        found.write(tmp_path / "smaller", cut)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


def broken(how, folder):
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if how == "family":
        config["model_type"] = "jamba"
    elif how == "quantised":
        config["quantization_config"] = {"quant_method": "fp8"}
    elif how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif how == "counts":
        config["num_experts"] = 9
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif how == "header":
        weights.write_bytes(b"\xff" * 100)
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "index":
        (folder / MODEL_INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    elif how == "router":
        weights.write_bytes(weights.read_bytes().replace(b"moe.gate.weight", b"moe.gone.weight"))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("family", CaptureError, "'jamba'"),
        ("quantised", CaptureError, "are quantised"),
        ("adapter", CaptureError, "is an adapter"),
        ("counts", ModelNotFound, "does not say plainly how many layers, experts and groups"),
        ("truncated", ModelNotFound, "cannot be read as safetensors"),
        ("header", ModelNotFound, "cannot be read as safetensors"),
        ("pickle", ModelNotFound, "no weights in safetensors"),
        ("index", ModelNotFound, "leads out of it|names no files beside it"),
        ("router", ModelNotFound, "layer 0"),
    ],
)
def test_what_moeviz_cannot_cut_is_refused_by_name(whole, tmp_path, how, kind, says):
    shutil.copytree(whole, tmp_path / "broken")
    broken(how, tmp_path / "broken")
    with pytest.raises(kind, match=says):
        Checkpoint.of(str(tmp_path / "broken"))


def test_the_loss_of_the_file_is_the_one_that_was_measured(whole, tmp_path):
    """The figure in the table, and the model's own loss once it is loaded from the files."""
    model = moeviz.load_model(str(whole))
    curve = pruning_curve(model, TEXTS, cuts=(2,), criteria=("reap",))
    Checkpoint.of(str(whole)).write(tmp_path / "smaller", curve.cut("reap", 2))
    smaller = moeviz.load_model(str(tmp_path / "smaller"))
    again = pruning_curve(smaller, TEXTS, cuts=(1,), criteria=("reap",))
    assert again.judged == curve.judged
    assert again.loss == pytest.approx(cost_of_cuts(curve.losses)["loss"].item(), abs=1e-5)
