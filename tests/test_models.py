"""Opening models: by name, by folder, and the sentence where that cannot work."""

import json

import pytest
from tiny_models import CONFIGS, DENSE, tiny_model, tiny_tokenizer

import moeviz
from moeviz.capture.models.load import load_model, model_facts
from moeviz.errors import CaptureError, ModelNotFound


@pytest.fixture
def offline(monkeypatch):
    """The hub is out of reach, and says so at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_embedded_model_opens_and_knows_its_limits():
    loaded = load_model()
    assert loaded.info.layers == (0, 1, 2, 3, 4, 5)
    assert loaded.info.num_experts == (8,) * 6
    assert loaded.max_tokens == 1024
    assert loaded.count_tokens("Il fait froid.") == len(moeviz.trace(loaded, "Il fait froid.").tokens)


def test_a_folder_opens_and_its_trace_is_that_of_the_model_in_memory(tmp_path):
    model, tokenizer = tiny_model(CONFIGS["olmoe"]), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.name == str(tmp_path)
    one, other = moeviz.trace(loaded, "To be"), moeviz.trace(model, "To be", tokenizer=tokenizer)
    assert one.experts.tolist() == other.experts.tolist()
    assert one.weights.tolist() == other.weights.tolist()


@pytest.mark.parametrize("name", ["/no/such/model", "./nowhere", "~/nowhere", "a/b/c", "..\\x", " "])
def test_a_path_that_does_not_exist_is_named(name):
    with pytest.raises(ModelNotFound, match="There is no model at"):
        load_model(name)


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match=r"contains no config\.json"):
        load_model(str(tmp_path))


def test_an_unreachable_hub_id_is_named(offline):
    with pytest.raises(ModelNotFound, match="'nobody/nothing' is neither a local folder"):
        load_model("nobody/nothing")


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelNotFound, match="is neither a local folder with a transformers model"):
        load_model(str(tmp_path))


def test_a_config_without_weights_says_what_is_missing(tmp_path):
    CONFIGS["mixtral"].save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match=r"did not load: .*safetensors"):
        load_model(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path):
    CONFIGS["mixtral"].save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelNotFound, match="did not load"):
        load_model(str(tmp_path))


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
        )
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelNotFound):
        load_model(str(tmp_path))


def test_a_dense_model_is_refused_before_its_weights_are_read(tmp_path):
    DENSE.save_pretrained(tmp_path)  # no weights there at all
    with pytest.raises(CaptureError, match="LlamaForCausalLM declares no router"):
        load_model(str(tmp_path))


def test_a_model_that_writes_no_text_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CaptureError, match="is a vit model"):
        load_model(str(tmp_path))


def test_facts_need_no_weights(tmp_path):
    CONFIGS["qwen3_moe"].save_pretrained(tmp_path)
    facts = model_facts(str(tmp_path))
    assert facts.layers == (0, 2)
    assert facts.num_layers == 3
