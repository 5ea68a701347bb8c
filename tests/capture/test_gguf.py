"""What GGUF files say of their models, and which are refused. None of it needs llama.cpp."""

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf_models import RECORDED, facts, of_transformers, tensors, write_gguf, write_model
from tiny_models import CONFIGS, tiny_model

import moeviz
from moeviz import CaptureError, MoevizError
from moeviz.capture.engines.llama_cpp import library as library_file
from moeviz.capture.engines.llama_cpp import model as model_file
from moeviz.capture.engines.llama_cpp.files import TYPES, open_files
from moeviz.capture.engines.llama_cpp.model import before_opening
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording, ShownOutputs, decisions
from moeviz.capture.models.kv_cache import served_by_config
from moeviz.capture.models.parameters import count_parameters
from moeviz.capture.opening import model_facts, served_model
from moeviz.errors import ModelNotFound
from moeviz.examples.gguf import write_embedded
from moeviz.gguf_file import from_gguf
from moeviz.routing_trace import sort_slots

TINY = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A tiny Mixtral, without a tokenizer."""
    model = tiny_model(CONFIGS["mixtral"])
    arrays = {name: (values, "F32") for name, values in tensors(model)}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", facts(model), arrays)


def with_facts(path: Path, **changed: object) -> Path:
    """A tiny Mixtral whose file says other things; `general__type` is general.type."""
    model = tiny_model(CONFIGS["mixtral"])
    said = facts(model) | {name.replace("__", "."): value for name, value in changed.items()}
    return write_gguf(path, said, {name: (values, "F32") for name, values in tensors(model)})


def test_the_example_holds_the_embedded_model_as_the_files_that_are_compared_with_transformers(tmp_path):
    mine = from_gguf(write_embedded(tmp_path / "mine.gguf", "F16").read_bytes())
    other = from_gguf(write_model(of_transformers("embedded"), tmp_path / "other.gguf", "F16").read_bytes())
    assert mine.facts == other.facts | {"general.file_type": 1}
    assert {name: of[:2] for name, of in mine.tensors.items()} == {name: of[:2] for name, of in other.tensors.items()}
    for name, (kind, shape, start) in mine.tensors.items():
        size = int(np.prod(shape)) * TYPES[kind][2]
        at = other.tensors[name][2]
        assert mine.data[start : start + size] == other.data[at : at + size], name
    small = model_facts(str(write_embedded(tmp_path / "small.gguf", "Q4_0")))
    assert (small.dtype, small.parameters) == ("Q4_0", model_facts(str(tmp_path / "mine.gguf")).parameters)


@pytest.mark.parametrize("name", TINY)
def test_facts_and_parameters_are_those_that_transformers_counts(name, tmp_path):
    model = tiny_model(CONFIGS[name])
    info = model_facts(str(write_model(model, tmp_path / "m.gguf")))
    expected = moeviz.capture.models.parameters.describe(model, "m")
    assert info.parameters == count_parameters(model)
    same = ("layers", "num_experts", "top_k", "num_layers", "dtype")
    assert [getattr(info, field) for field in same] == [getattr(expected, field) for field in same]
    assert info.backend == "llama.cpp"


@pytest.mark.parametrize("name", TINY)
def test_what_serving_takes_is_what_transformers_config_says(name, tmp_path):
    model = tiny_model(CONFIGS[name])
    path = str(write_model(model, tmp_path / "m.gguf"))
    assert before_opening(path).served == served_by_config(model.config, path)


def test_what_layers_keep_is_not_guessed(tmp_path):
    """A window without the layers that it is for; keys and values in one matrix."""
    assert before_opening(str(with_facts(tmp_path / "m.gguf", llama__attention__sliding_window=16))).served is None
    model = tiny_model(CONFIGS["mixtral"])
    fused = {name.replace("attn_k.", "attn_qkv."): (values, "F32") for name, values in tensors(model)}
    path = str(write_gguf(tmp_path / "fused.gguf", facts(model), fused))
    assert before_opening(path).served is None
    with pytest.raises(CaptureError, match=r"llama.cpp"):
        served_model(path)


def test_layers_that_predict_further_tokens_are_not_counted(tmp_path):
    path = with_facts(tmp_path / "m.gguf", llama__nextn_predict_layers=1)
    assert model_facts(str(path)).layers == (0, 1)


def test_the_quantisation_is_what_the_file_says_or_what_most_weights_are(tmp_path, small):
    assert model_facts(str(with_facts(tmp_path / "said.gguf", general__file_type=15))).dtype == "Q4_K_M"
    assert model_facts(str(small)).dtype == "float32"
    assert model_facts(str(write_model(tiny_model(CONFIGS["mixtral"]), tmp_path / "h.gguf", "F16"))).dtype == "float16"


def test_memory_context_and_identity_are_known_before_it_is_opened(tmp_path, small):
    known = before_opening(str(small))
    assert known.memory == int(small.stat().st_size * 1.1) and known.max_tokens == 128
    other = with_facts(tmp_path / "small.gguf", llama__rope__freq_base=3.0)
    assert known.identity == before_opening(str(small)).identity != before_opening(str(other)).identity


def test_a_model_in_parts_is_one_model(tmp_path):
    model = tiny_model(CONFIGS["mixtral"])
    arrays = {name: (values, "F32") for name, values in tensors(model)}
    halves = [dict(list(arrays.items())[:9]), dict(list(arrays.items())[9:])]
    for part, half in enumerate(halves):
        said = (facts(model) if part == 0 else {}) | {"split.no": part, "split.count": 2}
        write_gguf(tmp_path / f"m-0000{part + 1}-of-00002.gguf", said, half)
    first = tmp_path / "m-00001-of-00002.gguf"
    assert model_facts(str(first)).parameters == count_parameters(model)
    with pytest.raises(ModelNotFound, match=r"part 2.*2.*m-00001-of-00002.gguf"):
        model_facts(str(tmp_path / "m-00002-of-00002.gguf"))
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelNotFound, match="2 parts"):
        model_facts(str(renamed))
    renamed.rename(first)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelNotFound, match=r"1.*m-00002-of-00002.gguf"):
        model_facts(str(first))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"general__type": "imatrix"}, "'imatrix'"),
        ({"general__architecture": 3}, "architecture"),
        ({"llama__expert_used_count": 9}, "9.*8 experts"),
        ({"llama__block_count": 0}, "experts"),
        ({"general__alignment": 0}, "0 bytes"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(said, why, tmp_path):
    with pytest.raises(CaptureError, match=why):
        model_facts(str(with_facts(tmp_path / "m.gguf", **said)))


def test_a_dense_model_is_refused(tmp_path):
    arrays = {"token_embd.weight": np.zeros((8, 4), np.float32), "blk.0.ffn_up.weight": np.zeros((8, 4), np.float32)}
    said = {"general.architecture": "llama", "llama.block_count": 1}
    path = write_gguf(tmp_path / "dense.gguf", said, {name: (values, "F32") for name, values in arrays.items()})
    with pytest.raises(CaptureError, match="'llama'"):
        moeviz.load_model(str(path))


def test_an_architecture_that_calls_its_experts_twice_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "grovemoe"}, {})
    with pytest.raises(CaptureError, match="grovemoe"):
        moeviz.load_model(str(path))


def test_a_truncated_file_is_refused_with_what_it_lacks(small, tmp_path):
    whole = small.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelNotFound, match=r"[\d,]+ bytes.* [\d,]+"):
        model_facts(str(cut))
    cut.write_bytes(whole[:300])
    with pytest.raises(ModelNotFound, match="cut off"):
        model_facts(str(cut))
    cut.write_bytes(whole[:-40])  # a tensor's end, without the filler behind it
    with pytest.raises(ModelNotFound, match="was cut off"):
        model_facts(str(cut))


@pytest.mark.parametrize("damage", ["text", "array", "tensors", "axes", "shape", "type"])
def test_claims_of_enormous_sizes_are_held_against_the_file(damage, tmp_path):
    huge = struct.pack("<Q", 2**62)
    key = struct.pack("<Q", 1) + b"a"
    tensor = struct.pack("<Q", 1) + b"t"
    body = {
        "text": struct.pack("<QQ", 0, 1) + key + struct.pack("<I", 8) + huge,
        "array": struct.pack("<QQ", 0, 1) + key + struct.pack("<II", 9, 8) + huge,
        "tensors": huge + struct.pack("<Q", 0),
        "axes": struct.pack("<QQ", 1, 0) + tensor + struct.pack("<I", 2**31),
        "shape": struct.pack("<QQ", 1, 0) + tensor + struct.pack("<I", 1) + huge + struct.pack("<IQ", 0, 0),
        "type": struct.pack("<QQ", 0, 1) + key + struct.pack("<I", 77),
    }[damage]
    path = tmp_path / "evil.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + body + bytes(64))
    with pytest.raises(ModelNotFound):
        model_facts(str(path))


def test_cuts_and_flips_anywhere_end_in_facts_or_in_one_sentence(small, tmp_path):
    whole, numbers = small.read_bytes(), np.random.default_rng(0)
    header = min(start for _, _, start in from_gguf(whole).tensors.values())
    path, read = tmp_path / "damaged.gguf", 0
    for _ in range(300):
        data = bytearray(whole)
        for place in numbers.integers(4, header, 3):
            data[place] = numbers.integers(256)
        path.write_bytes(data)
        try:
            model_facts(str(path))
            read += 1
        except MoevizError as error:
            assert "\n" not in str(error) and str(error).endswith(".")
    assert 0 < read < 300


@pytest.mark.parametrize("name", ["no.gguf", "a\0b.gguf", "x" * 300 + ".gguf", "."])
def test_a_name_that_is_not_a_file_is_refused_in_one_sentence(name):
    with pytest.raises(ModelNotFound, match="GGUF"):
        moeviz.load_model(name, backend="llama.cpp")


def test_a_file_of_another_kind_is_one_sentence(tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelNotFound, match="GGUF"):
        moeviz.load_model(str(tmp_path / "text.gguf"))


def test_without_llama_cpp_one_sentence_says_what_to_install(small, monkeypatch):
    library_file.library.cache_clear()
    monkeypatch.setattr(library_file, "find_spec", lambda name: None)
    with pytest.raises(CaptureError, match=r'pip install "moeviz\[gguf\]"'):
        moeviz.load_model(str(small))
    library_file.library.cache_clear()


def test_options_of_transformers_and_sizes_that_cannot_be_are_refused_before_anything_is_loaded(small):
    with pytest.raises(CaptureError, match="dtype"):
        moeviz.load_model(str(small), dtype="float16")
    with pytest.raises(CaptureError, match=r"micro_batch.*0.*1"):
        moeviz.load_model(str(small), micro_batch=0)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(small, monkeypatch):
    monkeypatch.setattr(model_file, "library", lambda: None)
    monkeypatch.setattr("moeviz.capture.models.memory.bytes_free", lambda device_map: 1000)
    with pytest.raises(CaptureError, match=r"0.0 GB.*0.0 GB"):
        moeviz.load_model(str(small))


def test_what_changes_a_model_says_that_a_gguf_file_is_only_read(small):
    with pytest.raises(ModelNotFound, match=r"GGUF.*llama\.cpp"):
        moeviz.what_if(str(small), "12", moeviz.Mute({0: (1,)}))


def test_the_sizes_of_types_are_those_of_the_gguf_package():
    constants = pytest.importorskip("gguf", reason="needs the package gguf").constants
    sizes = {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {kind: size for kind, (_, *size) in TYPES.items()} == {kind: list(sizes[kind]) for kind in TYPES}


def test_long_lists_are_passed_over_and_short_ones_kept(tmp_path):
    lists = {"a.texts": ["x", "yy"], "a.numbers": [1, 2, 3], "a.long": [0] * 5000}
    path = write_gguf(tmp_path / "lists.gguf", {"general.architecture": "a"} | lists, {})
    assert from_gguf(path.read_bytes()).facts == {"general.architecture": "a", "a.numbers": (1, 2, 3)}
    assert open_files(str(path)).number("numbers") == 3


def recorded(name: str, keep_logits: bool = True) -> tuple[CallbackRecording, dict[str, np.ndarray]]:
    """What llama.cpp showed of a tiny model's routers, and what transformers recorded of the same model and text."""
    nothing = SimpleNamespace(callback=lambda *_: None, typeof=len, cast=None, string=None)
    library = library_file.Library(nothing, nothing, nothing, nothing, Path(), "0")
    recording, expected = CallbackRecording(library, keep_logits), {}
    with np.load(RECORDED) as file:
        for key in file.files:
            model, kind, *place = key.split("/")
            if model == name and kind == "heard":
                stem, layer, _ = place  # and the number of the micro-batch: they lie in that order
                recording.pieces.setdefault((stem.encode(), int(layer)), []).append(file[key])
            elif model == name:
                expected[kind] = file[key]
    return recording, expected


@pytest.mark.parametrize("name", ["embedded", "deepseek-v3", "gpt-oss"])
def test_what_llama_cpp_showed_is_read_as_what_transformers_recorded(name):
    recording, expected = recorded(name)
    rows = expected["experts"].shape[1]
    recording.check(rows)
    ids, weights, logits = decisions(recording, np.arange(rows))
    experts, weights = sort_slots(ids, weights)
    assert experts.tolist() == expected["experts"].tolist()
    assert np.abs(weights - expected["weights"]).max() < 1e-4
    assert np.abs(logits - expected["logits"]).max() < 1e-3


def shown(weights: np.ndarray, **changed: np.ndarray) -> ShownOutputs:
    """Two tokens of which each has two experts, as llama.cpp shows them in a micro-batch: with axes of one."""
    outputs = np.array([[[3.0, 4.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 2.0]]], np.float32)  # (T, K, D)
    values = {"embd": np.ones((2, 2), np.float32), "ffn_moe_down": outputs}
    values |= {"ffn_moe_out": np.einsum("tk,tkd->td", weights, outputs)} | changed
    found, pieces = ShownOutputs(), {(b"ffn_moe_weights", 0): [weights[None]]}
    for stem, part in values.items():
        found.take((stem.encode(), -1 if stem == "embd" else 0), part[None], pieces)
    return found


WEIGHTS = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)


def test_outputs_that_llama_cpp_showed_are_kept_as_figures():
    (figures,) = shown(WEIGHTS).figures[0]
    assert figures[..., 0].tolist() == [[5, 1], [1, 2]] and figures[..., 2].tolist() == [[4, 1], [1, 2]]
    np.testing.assert_allclose(figures[0, :, 4], [7 / (5 * 2**0.5), -(0.5**0.5)], rtol=1e-6)
    assert not shown(WEIGHTS, embd=np.ones((1, 2), np.float32)).stream


@pytest.mark.parametrize(
    "wrong", [{"ffn_moe_out": np.ones((2, 2), np.float32)}, {"ffn_moe_down": np.ones((2, 2, 2), np.float32)}]
)
def test_outputs_that_are_summed_otherwise_are_refused(wrong):
    """Such as those of an architecture that weighs what experts read."""
    right = np.einsum("tk,tkd->td", WEIGHTS, [[[3, 4], [0, -1]], [[1, 0], [0, 2]]]).astype(np.float32)
    with pytest.raises(CaptureError, match=r"layer 0 llama\.cpp.*experts'"):
        shown(WEIGHTS, **{"ffn_moe_out": right} | wrong)


def test_a_layer_that_routes_more_rows_than_were_read_is_refused():
    recording, expected = recorded("embedded")
    with pytest.raises(CaptureError, match=r"routed 7.*layer 0.*read 6"):
        recording.check(expected["experts"].shape[1] - 1)


def test_a_graph_without_routers_is_refused():
    recording, _ = recorded("none of them")
    with pytest.raises(CaptureError, match="router"):
        recording.check(7)
