"""What moeviz refuses to run in MLX, each in one sentence that says what to do. Most of it needs no MLX."""

import json
import pickle
from importlib.util import find_spec

import pytest
from mlx_models import change_config, model_of, write_folder, write_quantised
from tiny_models import DENSE, tiny_model

import moeviz
from moeviz.capture.engine_table import engine_of
from moeviz.capture.engines.mlx.folder import is_of_mlx, read_folder
from moeviz.embedded import EMBEDDED, embedded_path
from moeviz.errors import CaptureError, ModelNotFound

with_mlx = [
    pytest.mark.mlx,
    pytest.mark.skipif(find_spec("mlx") is None or find_spec("mlx_lm") is None, reason="MLX is not installed"),
]
SENTENCES = (".", "?", "…")  # a complaint of somebody else's may be cut


def refused(place, match: str, kind: type[CaptureError] = CaptureError, **how) -> str:
    with pytest.raises(kind, match=match) as caught:
        moeviz.load_model(str(place), backend="mlx", **how)
    said = str(caught.value)
    assert said.endswith(SENTENCES)
    assert "\n" not in said
    return said


@pytest.fixture
def folder(tmp_path):
    """A config and weights, as far as they are looked at before MLX is."""
    (tmp_path / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_folder_is_read(folder):
    assert read_folder(str(folder)).model_type == "mixtral"
    assert read_folder(f"mlx:{folder}").path == folder


def test_what_is_not_a_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "There is no folder", ModelNotFound)
    refused("a\0b", "has a NUL character", ModelNotFound)
    refused("mlx-community/OLMoE-1B-7B-4bit", "hf download", ModelNotFound)
    refused(tmp_path, "contains no config.json", ModelNotFound)


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"{", b'{"model_type": 3}', b"\xff\xfe", b"[" * 100_000, b'{"model_type": "../../os"}']
)
def test_a_file_that_is_not_a_config_is_refused(folder, config):
    (folder / "config.json").write_bytes(config)
    refused(folder, "is not one that mlx-lm reads", ModelNotFound)


def test_code_that_comes_with_weights_is_never_run(folder):
    ran = folder / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')")
    change_config(folder, {"model_file": "code.py"})
    refused(folder, "names a model_file, 'code.py': code that came with the weights", ModelNotFound)
    assert not ran.exists()


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.npz", "model.pt", "model.gguf"])
def test_weights_that_are_no_safetensors_are_not_opened(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload()))
    refused(folder, "holds no weights that mlx-lm reads", ModelNotFound)


def test_links_that_lead_out_of_the_folder_are_refused(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("else") / "secret.json"
    secret.write_text("{}")
    (folder / "generation_config.json").symlink_to(secret)
    refused(folder, "has a link that leads out of it", ModelNotFound)


def test_what_only_transformers_takes_is_refused(folder):
    refused(folder, "it takes no device_map", device_map="cpu")
    refused(folder, "dtype is 'int7'", dtype="int7")


@pytest.mark.skipif(find_spec("mlx") is not None, reason="MLX is installed")
def test_without_mlx_a_sentence_says_what_to_install(folder):
    refused(folder, r"needs the packages mlx and mlx-lm.*pip install 'moeviz\[mlx\]'")


def test_only_a_name_that_says_so_or_a_config_of_packed_weights_is_mlx_s(folder):
    assert not is_of_mlx(str(folder))
    assert is_of_mlx(f"mlx:{folder}")
    change_config(folder, {"quantization": {"group_size": 64, "bits": 4}})
    assert is_of_mlx(str(folder))
    assert engine_of(str(folder)).name == "mlx"
    assert engine_of(str(folder), "transformers") is None
    for other in (EMBEDDED, str(embedded_path()), "allenai/OLMoE-1B-7B-0924", "a\0b", "", "x" * 10_000):
        assert not is_of_mlx(other)


@pytest.fixture
def mixtral(tmp_path):
    return write_folder(tmp_path, model_of("mixtral"))


class TestWithMlx:
    """What mlx-lm itself has to say something about."""

    pytestmark = with_mlx

    @pytest.mark.parametrize(
        ("family", "said"),
        [
            (EMBEDDED, 'rope_theta = 10000.0 in rope_parameters.*Add "rope_theta": 10000.0 to config.json'),
            ("qwen3_moe", 'does not say num_experts, rope_theta.*Add "num_experts": 8, "rope_theta": 10000.0'),
            ("glm4_moe", 'does not say rope_theta, rope_scaling, partial_rotary_factor.*"rope_scaling": null'),
        ],
    )
    def test_a_config_that_mlx_lm_would_take_for_another_model_names_the_field(self, tmp_path, family, said):
        folder = write_folder(tmp_path, model_of(family), as_mlx_reads=False)
        refused(folder, said)

    def test_what_the_sentence_says_to_add_is_enough(self, tmp_path):
        """As somebody would do it, from sentence to sentence."""
        folder = write_folder(tmp_path, model_of("glm4_moe"), as_mlx_reads=False)
        said = refused(folder, "Add ")
        change_config(folder, json.loads("{" + said.partition("Add ")[2].removesuffix(" to config.json.") + "}"))
        moeviz.load_model(str(folder), backend="mlx")

    def test_scaling_of_positions_that_mlx_lm_does_not_see_or_that_each_kind_of_layer_has_is_refused(self, mixtral):
        rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e6}
        change_config(mixtral, {"rope_parameters": rope})
        refused(mixtral, "has 'yarn' in rope_parameters, where mlx-lm's mixtral does not look")
        change_config(mixtral, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})
        refused(mixtral, "rope_parameters of their own")

    def test_a_field_that_both_fill_in_differently_is_refused(self, tmp_path):
        folder = write_folder(tmp_path, model_of("deepseek_v3"))
        change_config(folder, {}, without=("rms_norm_eps",))
        moeviz.load_model(str(folder), backend="mlx")  # both take the same
        change_config(folder, {}, without=("routed_scaling_factor",))
        refused(folder, 'takes 1.0, and transformers 2.5.*Add "routed_scaling_factor": 2.5 to config.json')

    def test_a_dense_model_is_refused(self, tmp_path):
        folder = write_folder(tmp_path, tiny_model(DENSE))
        refused(folder, "no layer of it has experts.*Is it a dense model?")

    def test_experts_that_are_run_otherwise_are_refused(self, tmp_path, monkeypatch):
        from moeviz.capture.engines.mlx import blocks

        folder = write_folder(tmp_path, model_of("mixtral"))
        monkeypatch.setattr(blocks, "EXPERTS", ())
        refused(folder, "says num_local_experts = 8, but mlx-lm's mixtral runs its experts in a way")

    def test_what_a_block_is_refused_for_is_said_as_it_is(self, mixtral, monkeypatch):
        from moeviz.capture.engines.mlx import hooks

        # as if no experts had been heard
        monkeypatch.setattr(hooks, "_experts_call", lambda block, now: lambda own: own)
        assert refused(mixtral, "ran its experts not once").startswith("The MoE block of layer 0")

    def test_an_architecture_that_mlx_lm_lacks_is_named(self, mixtral):
        change_config(mixtral, {"model_type": "no_such_moe"})
        refused(mixtral, "Model type no_such_moe not supported", ModelNotFound)

    @pytest.mark.parametrize("left", [0, 7, 100, 5000, -10])
    def test_damaged_weights_are_refused(self, mixtral, left):
        weights = mixtral / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:left])
        refused(mixtral, "does not load|cannot be read", ModelNotFound)

    def test_weights_of_another_shape_are_refused(self, mixtral):
        change_config(mixtral, {"hidden_size": 64})
        refused(mixtral, "mlx-lm does not load", ModelNotFound)

    def test_a_folder_without_a_tokenizer_is_refused(self, mixtral):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (mixtral / name).unlink()
        refused(mixtral, "tokenizer", ModelNotFound)

    def test_a_model_that_does_not_fit_is_refused_before_it_is_read(self, mixtral, monkeypatch):
        from moeviz.capture.models import memory

        monkeypatch.setattr(memory, "_free_memory", lambda: 1000)
        refused(mixtral, "are free here")
        moeviz.load_model(str(mixtral), backend="mlx", check_memory=False)

    def test_a_yarn_that_mlx_lm_rounds_is_a_caution(self, mixtral):
        from moeviz.capture.engines.mlx.folder import caution_of

        assert caution_of(read_folder(str(mixtral))) == ""
        change_config(mixtral, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}})
        assert "truncate = false" in caution_of(read_folder(str(mixtral)))

    def test_a_packed_model_opens_by_its_folder_alone(self, mixtral, tmp_path):
        quantised = write_quantised(mixtral, tmp_path / "q", 8, group_size=32)
        assert moeviz.load_model(str(quantised)).info.backend == "mlx"
        assert moeviz.load_model(f"mlx:{mixtral}").info.name == f"mlx:{mixtral}"
