"""Opening models: by name, by folder, and the sentence where that cannot work."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from survey.tiny_models import text_model, tiny_config
from tiny_models import CONFIGS, DENSE, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer, MixtralConfig, NllbMoeConfig

import moeviz
from moeviz.capture.models.checkpoint import explained
from moeviz.capture.models.load import load_model, model_facts
from moeviz.cli.main import main
from moeviz.errors import CaptureError, ModelNotFound, MoevizError


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
    with pytest.raises(ModelNotFound, match="no model"):
        load_model(name)


def test_an_unreachable_hub_id_is_named(offline):
    with pytest.raises(ModelNotFound, match="'nobody/nothing'"):
        load_model("nobody/nothing")


def test_a_dense_model_is_refused_before_its_weights_are_read(tmp_path):
    DENSE.save_pretrained(tmp_path)  # no weights there at all
    with pytest.raises(CaptureError, match="LlamaForCausalLM"):
        load_model(str(tmp_path))


def test_a_model_without_routers_that_reads_images_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CaptureError, match="ViTModel"):
        load_model(str(tmp_path))


def test_facts_need_no_weights(tmp_path):
    CONFIGS["qwen3_moe"].save_pretrained(tmp_path)
    facts = model_facts(str(tmp_path))
    assert facts.layers == (0, 2)
    assert facts.num_layers == 3


# Damaged checkpoints

Damage = Callable[[Path], object]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """The folder of a tiny OLMoE."""
    return saved(tiny_model(CONFIGS["olmoe"]), tmp_path_factory.mktemp("intact"))


def saved(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(intact, tmp_path) -> Path:
    for file in intact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def written(file: str, data: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(data)


def removed(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def cut_to(size: int) -> Damage:
    return lambda folder: os.truncate(folder / WEIGHTS, size)


def said(**facts: object) -> Damage:
    """The same config with other facts; None takes one out."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | facts
        kept = {name: value for name, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def sharded(then: Damage) -> Damage:
    def split(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        tiny_model(CONFIGS["olmoe"]).save_pretrained(folder, max_shard_size="200KB")
        then(folder)

    return split


def as_folder(file: str) -> Damage:
    return lambda folder: ((folder / file).unlink(), (folder / file).mkdir())


def in_pickle_alone(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


DAMAGED: dict[str, tuple[Damage, str]] = {
    "weights of no bytes": (written(WEIGHTS, b""), "did not load: .*header too small"),
    "weights cut short": (cut_to(100_000), "did not load: .*not fully covered"),
    "no weights": (removed(WEIGHTS), r"no file named model\.safetensors"),
    "weights in pickle alone": (in_pickle_alone, r"no file named model\.safetensors"),
    "a config that is no JSON": (written("config.json", b"{not"), "not a valid JSON file"),
    "a config that is a list": (written("config.json", b"[1]"), "Should have a `model_type` key"),
    "a config that is a folder": (as_folder("config.json"), r"contains no config\.json"),
    "a config without end": (written("config.json", b"[" * 100_000), "maximum recursion depth"),
    "an unknown kind of model": (said(model_type="nosuch"), "model type `nosuch`"),
    "a negative width": (said(hidden_size=-32), "builds no model from its config: .*negative dimension"),
    "no experts": (said(num_experts=0), "to choose 4 of 0 experts"),
    "experts as text": (said(num_experts="16"), "Field 'num_experts' expected int, got str"),
    "more chosen than there are": (said(num_experts_per_tok=17), "to choose 17 of 16 experts"),
    "numbers of an unknown dtype": (said(dtype="float99"), "'torch' has no attribute 'float99'"),
    "another number of experts": (said(num_experts=8), "6 weights of another shape .*is 16 x 32 x 48, not 8 x 32 x 48"),
    "more layers": (said(num_hidden_layers=3), "lacks 11 weights of the model"),
    "no tokenizer": (without_tokenizer, "comes without a tokenizer"),
    "half a tokenizer": (removed("tokenizer.json"), "The tokenizer of .* did not load: Couldn't instantiate"),
    "a tokenizer that is empty": (written("tokenizer.json", b"{}"), "The tokenizer of .* did not load: KeyError"),
    "a shard missing": (
        sharded(lambda folder: sorted(folder.glob("model-*.safetensors"))[1].unlink()),
        "No such file or directory: .*model-00002-of",
    ),
    "an index that is no JSON": (sharded(written(INDEX, b"{")), "did not load"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_refused_in_one_short_sentence(copy, damage, capsys):
    spoil, sentence = DAMAGED[damage]
    spoil(copy)
    with pytest.raises(CaptureError, match=sentence) as refused:
        load_model(str(copy))
    said = str(refused.value)
    assert said.endswith((".", "…")) and len(said) < 800 and said.isprintable()
    try:
        model_facts(str(copy))
    except MoevizError as error:
        assert str(error) == said  # facts need the config alone, and most is wrong elsewhere
    assert main(["trace", "To be", "--model", str(copy)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(f"moeviz: {said}\n")


def test_what_is_not_damaged_is_not_refused(copy):
    assert load_model(str(copy)).info.caution == ""


def test_files_that_may_not_be_read_are_refused_in_one_sentence(copy, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(copy / WEIGHTS))

    monkeypatch.setattr("transformers.modeling_utils.safe_open", refuse)
    with pytest.raises(ModelNotFound, match="Permission denied"):
        load_model(str(copy))
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelNotFound, match="Permission denied"):
        load_model(str(copy))


def test_an_error_of_ours_stays_loud(copy, monkeypatch):
    """The control: only what transformers raises becomes a sentence."""

    def broken(*args):
        raise KeyError("ours")

    monkeypatch.setattr("moeviz.capture.models.load.check_weights", broken)
    with pytest.raises(KeyError, match="ours"):
        load_model(str(copy))
    monkeypatch.setattr("moeviz.capture.models.parameters.count_parameters", broken)
    with pytest.raises(KeyError, match="ours"):
        model_facts(str(copy))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("No such file"), "It failed: No such file."),
        (ValueError("first\nsecond"), "It failed: first."),
        (ValueError("one of:\n(1) this\n(2) that"), "It failed: one of: (1) this (2) that."),
        (Exception("x" * 10_000), f"It failed: Exception: {'x' * 300}…"),
        (ValueError("a\x1b[31m\u202eb"), r"It failed: a\x1b[31m\u202eb."),
        (KeyError("metadata"), "It failed: KeyError: 'metadata'."),
    ],
)
def test_a_librarys_complaint_becomes_the_end_of_a_sentence(error, says):
    with pytest.raises(ModelNotFound) as refused, explained("It failed"):
        raise error
    assert str(refused.value) == says and refused.value.__cause__ is error


# What a checkpoint lacks, and what it has too much of

ONE_OF_EACH_KIND = [
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "qwen3_next",
    "jamba",
    "dbrx",
    "jetmoe",
    "phimoe",
    "nllb_moe",
    "switch_transformers",
    "llama4",
    "granitemoehybrid",
]


@pytest.mark.parametrize(
    ("architecture", "device_map"), [("mixtral", "auto"), *((name, None) for name in ONE_OF_EACH_KIND)]
)
def test_what_save_pretrained_wrote_loads_without_a_caution(architecture, device_map, tmp_path):
    torch.manual_seed(0)
    saved(text_model(architecture)(tiny_config(architecture)), tmp_path)
    assert load_model(str(tmp_path), device_map=device_map).info.caution == ""


def test_a_head_tied_to_the_embeddings_is_not_missing(tmp_path):
    config = MixtralConfig(**CONFIGS["mixtral"].to_dict() | {"tie_word_embeddings": True})
    saved(tiny_model(config), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    model = load_model(str(tmp_path)).model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_model_on_disk_is_checked_like_one_in_memory(tmp_path):
    saved(tiny_model(CONFIGS["mixtral"]), tmp_path)
    places = {"model": "cpu", "lm_head": "disk"}  # transformers would first have to save the joined experts anew
    assert load_model(str(tmp_path), device_map=places).info.caution == ""
    tensors = load_file(tmp_path / WEIGHTS)
    lost = next(key for key in tensors if "layers.1" in key and "gate.weight" in key)
    del tensors[lost]
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match="lacks 1"):
        load_model(str(tmp_path), device_map=places)


@pytest.mark.parametrize("layer", [3, 61])
def test_layers_that_predict_further_tokens_are_no_reason_for_a_caution(layer, tmp_path):
    """Layer 61 is DeepSeek-V3's own, which transformers knows; others have theirs after their last."""
    config = CONFIGS["deepseek_v3"]
    saved(tiny_model(config), tmp_path)
    said(num_nextn_predict_layers=1)(tmp_path)
    extra = {
        f"model.layers.{layer}.eh_proj.weight": torch.zeros(2),
        "model.layers.0.rotary_emb.inv_freq": torch.zeros(2),
    }
    save_file(load_file(tmp_path / WEIGHTS) | extra, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert load_model(str(tmp_path)).info.caution == ""


def test_the_cautions_of_a_checkpoint_and_of_its_routers_are_joined(tmp_path, caplog, capsys):
    torch.manual_seed(0)
    saved(text_model("nllb_moe")(tiny_config("nllb_moe")), tmp_path)
    assert isinstance(load_model(str(tmp_path)).model.config, NllbMoeConfig)
    spoilt = load_file(tmp_path / WEIGHTS) | {f"extra.{n:02}\x1b": torch.zeros(1) for n in range(15)}
    save_file(spoilt, tmp_path / WEIGHTS, metadata={"format": "pt"})
    of_checkpoint = (
        r"The checkpoint holds 15 weights for which this model has no place: extra.00\x1b, extra.01\x1b, extra.02\x1b "
        "… and 12 more."
    )
    loaded = load_model(str(tmp_path))
    assert loaded.info.caution == of_checkpoint and of_checkpoint in caplog.text
    for site in (None, "decoder"):
        caution = moeviz.trace(loaded, "To be", site=site, max_new_tokens=2).model.caution
        assert caution.startswith(f"{of_checkpoint} ") and "run whatever the router decides" in caution
    assert main(["trace", "To be", "--model", str(tmp_path)]) == 0
    assert "caution    The checkpoint holds 15 weights" in capsys.readouterr().out


def test_the_tokenizers_that_transformers_makes_of_nothing_are_refused_and_one_of_bytes_is_not(copy):
    without_tokenizer(copy)
    assert len(AutoTokenizer.from_pretrained(copy)) == 2  # no error: two special tokens, and none for any text
    with pytest.raises(ModelNotFound, match="tokenizer"):
        load_model(str(copy))
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(ModelNotFound, match="tokenizer"):  # it reads every word as unknown
        load_model(str(copy))
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert load_model(str(copy)).count_tokens("abc") == 4
