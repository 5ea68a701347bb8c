"""A model's folder leads nowhere else: no link, no index, no code and no pickle of it."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import moeviz
from moeviz.analyses.expert_files import open_experts
from moeviz.capture.models.folder import tensors_of
from moeviz.capture.models.load import model_source
from moeviz.embedded import embedded_path
from moeviz.errors import ModelNotFound, MoevizError
from moeviz.formats.exports import read_trace

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(tmp_path):
    """A model that loads."""
    model = tmp_path / "model"
    model.mkdir()
    for name in FILES:
        shutil.copy(embedded_path() / name, model)
    return model


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused_before_it_is_followed(folder, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ModelNotFound, match=f"'{name}'"):
        moeviz.load_model(str(folder))


def test_a_link_in_a_folder_below_counts_too(folder, tmp_path):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to("/etc/passwd")
    with pytest.raises(ModelNotFound, match=r"link|leads out"):
        moeviz.load_model(str(folder))


def test_a_link_within_the_folder_and_a_link_to_the_folder_are_let_be(folder, tmp_path):
    (folder / "weights").mkdir()
    shutil.move(folder / "model.safetensors", folder / "weights" / "model.safetensors")
    (folder / "model.safetensors").symlink_to("weights/model.safetensors")
    (tmp_path / "by another name").symlink_to(folder)
    assert moeviz.load_model(str(tmp_path / "by another name")).info.layers


def test_a_snapshot_of_the_hub_s_cache_may_link_to_the_files_of_its_own_model(folder, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "3f2a", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in FILES:
        shutil.copy(folder / name, blobs / f"blob-{name}")
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    assert moeviz.load_model(str(snapshot)).info.layers
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(ModelNotFound, match=r"link|leads out"):
        moeviz.load_model(str(snapshot))


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/../../b.safetensors", "\0"])
def test_an_index_that_names_weights_elsewhere_is_refused(folder, shard):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    with pytest.raises(ModelNotFound, match="index"):
        moeviz.load_model(str(folder))


def test_code_that_comes_with_a_checkpoint_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFound):
        moeviz.load_model(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("fact", "more"),
    [
        ("num_hidden_layers", {"num_hidden_layers": 10**9}),
        ("num_local_experts", {"num_local_experts": 1e12}),
        ("num_experts", {"text_config": {"num_experts": 10**9}}),
    ],
)
def test_a_config_that_declares_more_than_any_model_has_is_refused_before_anything_is_made_of_it(folder, fact, more):
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | more))
    with pytest.raises(ModelNotFound, match=fact):
        model_source(str(folder))


def test_a_config_of_a_gigabyte_is_not_read(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**30)
    with pytest.raises(ModelNotFound, match=f"{2**30:,} bytes"):
        model_source(str(folder))


def test_a_pipe_is_refused_before_it_is_opened(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(folder / "tokenizer.model")
    for opens in (open_experts, model_source, read_trace):
        with pytest.raises(MoevizError, match="pipe"):
            opens(str(tmp_path / "pipe"))
    with pytest.raises(ModelNotFound, match=r"tokenizer\.model"):
        model_source(str(folder))


def write_safetensors(path, shape, count=1):
    """A file of so many tensors whose numbers are holes."""
    size = 4 * int(np.prod(shape))
    header = {
        f"model.layers.0.mlp.experts.{number}.up_proj.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(count)
    }
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + count * size)


@pytest.mark.parametrize(("shape", "count", "says"), [([2**20, 2**14], 1, "holes"), ([1, 2**25], 1, "rows of up to")])
def test_weights_that_are_holes_or_have_endless_rows_are_refused_by_their_header(tmp_path, shape, count, says):
    write_safetensors(tmp_path / "model.safetensors", shape, count)
    with pytest.raises(ModelNotFound, match=says):
        tensors_of(tmp_path / "model.safetensors")


def test_what_transformers_logs_of_a_stranger_s_tensors_reaches_no_terminal(folder, capfd):
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"model.layers.0.\x1b[31mX\u202e.weight": next(iter(weights.values())).flatten()[:2].clone()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    moeviz.load_model(str(folder))
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said and "\u202e" not in said and "REPORT" not in said
