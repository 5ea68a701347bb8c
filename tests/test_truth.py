"""Edges where a trace, or a what-if, was once wrong without a word: twelve points, each with the test that saw it."""
"""The edges where a trace, or a what-if, was once wrong without a word: twelve points, each with its tests."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.errors import MoevizError

# 1. A checkpoint without one of its weights.

WEIGHTS = "model.safetensors"
ROUTER = "model.layers.1.mlp.gate.weight"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The folder of a tiny OLMoE with 2 layers and 16 experts."""
    tiny_model(CONFIGS["olmoe"]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def rewrite(file: Path, change) -> None:
    """The same safetensors file with other tensors."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (ROUTER, ROUTER),
        ("lm_head.weight", "lm_head.weight"),  # the config does not tie it to the embeddings
        (".0.mlp.experts.3.gate_proj", "model.layers.0.mlp.experts.gate_up_proj"),
        (".0.mlp.experts.3.", "model.layers.0.mlp.experts.down_proj"),
        (".0.mlp.experts.", "model.layers.0.mlp.experts.down_proj"),
    ],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(checkpoint, part, named):
    rewrite(checkpoint / WEIGHTS, lambda tensors: [tensors.pop(key) for key in list(tensors) if part in key])
    with pytest.raises(MoevizError) as refused:
        moeviz.trace(str(checkpoint), "To be")
    assert named in str(refused.value)


def test_the_first_few_missing_weights_are_named_and_the_others_counted(checkpoint):
    rewrite(checkpoint / WEIGHTS, lambda tensors: [tensors.pop(key) for key in list(tensors) if key != ROUTER])
    with pytest.raises(MoevizError, match=r"lacks 24 weights of the model \(.*norm.* … and 21 more\).* random numbers"):
        moeviz.load_model(str(checkpoint))


def test_a_router_of_another_shape_is_refused_with_both_shapes(checkpoint):
    rewrite(checkpoint / WEIGHTS, lambda tensors: tensors.update({ROUTER: torch.zeros(12, 32)}))
    with pytest.raises(MoevizError, match=f"{ROUTER} is 12 x 32, not 16 x 32"):
        moeviz.load_model(str(checkpoint))


def test_a_weight_that_the_index_names_and_its_shard_lacks_is_refused_by_its_name(checkpoint):
    (checkpoint / WEIGHTS).unlink()
    tiny_model(CONFIGS["olmoe"]).save_pretrained(checkpoint, max_shard_size="200KB")
    index = json.loads((checkpoint / f"{WEIGHTS}.index.json").read_text())
    rewrite(checkpoint / index["weight_map"][ROUTER], lambda tensors: tensors.pop(ROUTER))
    with pytest.raises(MoevizError, match=f"lacks 1 weight of the model .{ROUTER}."):
        moeviz.load_model(str(checkpoint))


@pytest.mark.parametrize("kernels", [False, True])
def test_weights_for_which_the_model_has_no_place_are_in_the_caution_of_its_traces(checkpoint, kernels):
    rewrite(checkpoint / WEIGHTS, lambda tensors: tensors.update({"model.layers.1.mlp.bias": torch.zeros(16)}))
    caution = moeviz.trace(str(checkpoint), "To be", kernels=kernels).model.caution
    assert caution == "The checkpoint holds 1 weight for which this model has no place: model.layers.1.mlp.bias."


# 2. Answers that are not of this forward: other threads, and hooks of the user's own.

# 3. Interventions on routers that answer in a way of their own.

# 4. Interventions on routers that limit the choice to groups.

# 5. Llama 4 in half precision.

# 6. The checkpoint's own generation settings.

# 7. A token that skips the experts, and a what-if in train mode.

# 8. A table whose rows were sorted.

# 9. A typed U+FFFD, and what is named a share.

# 10. A sentence where a traceback came.


@pytest.mark.parametrize(
    ("file", "data"),
    [
        (WEIGHTS, b""),
        (WEIGHTS, b"\x02\0\0\0\0\0\0\0[]"),
        ("config.json", b"null"),
        ("config.json", b'{"model_type": "olmoe", "hidden_size": -32}'),
        ("config.json", b'{"model_type": "olmoe", "num_experts": "16"}'),
        ("config.json", b'{"model_type": "olmoe", "num_experts": 0}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", b"[]"),
        (f"{WEIGHTS}.index.json", b"[]"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(checkpoint, file, data):
    if "index" in file:
        (checkpoint / WEIGHTS).unlink()
    (checkpoint / file).write_bytes(data)
    with pytest.raises(MoevizError) as refused:
        moeviz.load_model(str(checkpoint))
    assert str(refused.value).endswith(".") and len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", ["a" * 5000, "/a" * 3000, "a\0b", "a\udcff", "a\ud800b", "~nobody-of-that-name/x"])
def test_a_name_that_no_model_can_have_is_one_short_sentence(name, monkeypatch):
    from moeviz.capture.models.load import load_model, model_facts

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for opened in (load_model, model_facts):
        with pytest.raises(MoevizError) as refused:
            opened(name)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_one_short_sentence(name, capsys):
    from moeviz.cli.main import main

    with pytest.raises(MoevizError) as refused:
        moeviz.read_trace(f"{name}.npz")
    assert len(str(refused.value)) < 500
    for command in (["metrics", f"{name}.npz"], ["convert", "x.npz", f"{name}.csv"], ["corpus", name]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert said.startswith("moeviz: ") and len(said) < 500 and said.count("\n") == 1


def test_a_file_name_that_is_not_utf_8_is_no_label(tmp_path, capsys):
    from moeviz.cli.main import main

    file = tmp_path / "fran\udce7ais.txt"
    file.write_text("Il fait froid.")
    assert main(["corpus", str(file)]) == 1
    assert "is not text in UTF-8" in capsys.readouterr().err


# 11. A small table that names a large expert.

# 12. Invisible characters before a formula.
