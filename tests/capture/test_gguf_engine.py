"""GGUF models in llama.cpp, next to the same weights in transformers in float32: `make test-gguf`."""

import ctypes
import gc
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_models import MODELS, RECORDED, facts, of_transformers, tensors, tokenizer_facts, write_gguf, write_model
from same_outputs import assert_same_outputs
from tiny_models import tiny_tokenizer

import moeviz
from moeviz import CaptureError, InvalidPrompt, Sampling
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.engines.llama_cpp import library as library_file
from moeviz.capture.engines.llama_cpp.context import Context, Vocabulary
from moeviz.capture.engines.llama_cpp.library import library, path_of_library
from moeviz.capture.engines.llama_cpp.recording import TOPK, CallbackRecording
from moeviz.cli.main import main
from moeviz.embedded import embedded_path
from moeviz.errors import ModelNotFound
from moeviz.formats.dataset.convert import trace_of
from moeviz.metrics.comparison import set_changes

pytest.importorskip("llama_cpp_py_sync", reason="needs llama.cpp: make test-gguf installs it")
pytestmark = pytest.mark.gguf
PROMPT = "Il fait froid à Paris. def f(x): return x + 12"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
NAMES = ("embedded", *MODELS)
TEXTS = (
    "it's they're WE'LL don't",
    "日本語のテキスト 12345",
    "a\n\n\tb   c  \r\n  d",
    "🙂👩‍👩‍👧 é é ñ",
    "<s>hi</s> <pad>",
    "def f(x):\n    return x**2 + 1_000\n",
    "Ελληνικά и русский العربية",
    "   leading and trailing   ",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def file_of(folder: Path, name: str, kind: str = "F32") -> str:
    path = folder / f"{name}-{kind}.gguf"
    return str(path if path.exists() else write_model(of_transformers(name), path, kind))


@pytest.fixture(scope="module")
def embedded(folder):
    """The model that ships, from a GGUF file."""
    return moeviz.load_model(file_of(folder, "embedded"))


@pytest.fixture(scope="module")
def long_text() -> str:
    lines = (embedded_path() / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(json.loads(line)["text"] for line in lines)[:2600]


def assert_same(trace, expected, weights: float = 1e-4, logits: float = 1e-3) -> None:
    """The same tokens, every id in its slot, and numbers that differ by rounding alone."""
    columns = ["sequence", "position", "token_id", "phase"]
    assert trace.tokens[columns].equals(expected.tokens[columns])
    assert (trace.experts == expected.experts).sum() == expected.experts.size
    assert np.abs(trace.weights - expected.weights).max() < weights
    assert np.abs(trace.logits - expected.logits).max() < logits


@pytest.mark.parametrize("name", NAMES)
def test_ids_weights_logits_and_outputs_of_prompt_and_generated_tokens_are_those_of_transformers(name, folder):
    model = of_transformers(name)
    trace = moeviz.trace(moeviz.load_model(file_of(folder, name)), PROMPT, max_new_tokens=8, outputs=True)
    expected = moeviz.trace(model, PROMPT, tokenizer=tiny_tokenizer(), max_new_tokens=8, outputs=True)
    assert_same(trace, expected)
    assert_same_outputs(trace.outputs, expected.outputs, rounding=1e-4)
    assert (trace.tokens["phase"] == "generated").sum() == 7
    assert trace.model.score_function == expected.model.score_function != "unknown"
    assert trace.model.parameters == expected.model.parameters
    assert trace.model.decoding == "greedy" and trace.model.dtype == "float32"


@pytest.mark.parametrize("micro_batch", [1024, 256, 100, 33, 1])
def test_a_prompt_in_any_number_of_micro_batches_has_the_same_routing(micro_batch, folder, long_text):
    model = moeviz.load_model(file_of(folder, "embedded"), micro_batch=micro_batch)
    expected = moeviz.trace(of_transformers("embedded"), long_text, tokenizer=tiny_tokenizer(), max_new_tokens=4)
    assert len(expected.tokens) > 700
    assert_same(moeviz.trace(model, long_text, max_new_tokens=4), expected)


def test_quantised_weights_route_most_tokens_as_before_and_not_all(folder, long_text):
    exact = moeviz.trace(of_transformers("embedded"), long_text, tokenizer=tiny_tokenizer())
    overlap = {}
    for kind in ("F16", "Q8_0", "Q4_K"):
        trace = moeviz.trace(moeviz.load_model(file_of(folder, "embedded", kind)), long_text)
        overlap[kind] = set_changes(exact, trace)["overlap"].mean()
        assert trace.model.dtype == {"F16": "float16"}.get(kind, kind)
    assert 1 >= overlap["F16"] > overlap["Q8_0"] > overlap["Q4_K"] > 0.9


@pytest.mark.parametrize("sampling", [Sampling(0.8, seed=3), Sampling(1.3, top_k=20, top_p=0.9, seed=7)])
def test_the_same_seed_draws_what_transformers_draws_for_one_prompt_and_for_several(sampling, embedded):
    prompts = ["Il fait froid.", "def f(x):", "12 + 30"]
    for given in (prompts[0], prompts):
        asked = {"max_new_tokens": 12, "sampling": sampling}
        assert_same(moeviz.trace(embedded, given, **asked), moeviz.trace("embedded", given, **asked))


def test_a_stream_grows_token_by_token_and_ends_with_the_trace(embedded):
    grown = list(moeviz.stream(embedded, PROMPT, max_new_tokens=6))
    whole = moeviz.trace(embedded, PROMPT, max_new_tokens=6)
    assert [int((trace.tokens["phase"] == "generated").sum()) for trace in grown] == [0, 0, 1, 2, 3, 4, 5]
    assert grown[-1].equals(whole)


def test_two_streams_and_a_trace_take_turns_and_give_what_each_gives_alone(embedded):
    alone = {prompt: moeviz.trace(embedded, prompt, max_new_tokens=5) for prompt in ("Il fait", "def f")}
    streams = {prompt: moeviz.stream(embedded, prompt, max_new_tokens=5) for prompt in alone}
    for _ in range(6):
        last = {prompt: next(stream) for prompt, stream in streams.items()}
        moeviz.trace(embedded, "between")
    assert all(last[prompt].equals(alone[prompt]) for prompt in alone)


def test_a_stream_that_is_left_stops_before_its_next_token_and_frees_its_context(embedded, monkeypatch):
    read, closed = [], []
    reads, closes = Context.read, Context.close
    monkeypatch.setattr(Context, "read", lambda self, *given: read.append(given) or reads(self, *given))
    monkeypatch.setattr(Context, "close", lambda self: closed.append(self) or closes(self))
    for number, _ in enumerate(moeviz.stream(embedded, "Il fait", max_new_tokens=50)):
        if number == 3:
            break
    gc.collect()
    assert len(read) == 3 and len(closed) == 1  # the prompt, and two tokens


def test_an_end_of_text_ends_the_sequence_and_is_not_in_the_trace(embedded, monkeypatch):
    whole = moeviz.trace(embedded, PROMPT, max_new_tokens=9)
    fourth = int(whole.tokens["token_id"].iloc[-5])
    monkeypatch.setattr(Vocabulary, "ends", lambda self, token: token == fourth)
    trace = moeviz.trace(embedded, PROMPT, max_new_tokens=9)
    first = whole.tokens["token_id"].tolist().index(fourth, len(moeviz.trace(embedded, PROMPT).tokens))
    assert trace.tokens["token_id"].tolist() == whole.tokens["token_id"].tolist()[:first]
    after = int((trace.tokens["phase"] == "generated").sum())
    assert trace.model.decoding == f"greedy; ended after {after} of 9 tokens: the model wrote its end-of-text token"


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_their_texts_are_those_of_the_tokenizer_and_join_to_the_text(text, embedded):
    trace, expected = moeviz.trace(embedded, text), moeviz.trace("embedded", text)
    assert trace.tokens.equals(expected.tokens)
    _, vocabulary = embedded.opened()
    assert b"".join(map(vocabulary.piece, trace.tokens["token_id"].iloc[1:])).decode() == text
    starts = [start for start, _ in embedded.token_spans(text)]
    spans = tiny_tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert embedded.token_spans(text) == spans and starts == sorted(starts)


def test_a_chat_is_written_by_the_template_of_the_file(folder):
    model, tokenizer = of_transformers("embedded"), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    loaded = moeviz.load_model(str(write_model(model, folder / "chat.gguf", **{"tokenizer.chat_template": TEMPLATE})))
    asked = {"chat": True, "system": "Be brief.", "max_new_tokens": 3}
    trace = moeviz.trace(loaded, "Il fait froid.", **asked)
    whole = "<s>[system] Be brief.\n[user] Il fait froid.\n[answer]"
    assert loaded.chats and "".join(trace.tokens["text"]).startswith(whole)
    assert_same(trace, moeviz.trace(model, "Il fait froid.", tokenizer=tokenizer, **asked))
    assert "Il fait froid." in "".join(trace.tokens["text"][trace.in_segment("user")])


def test_a_file_without_a_template_says_so(embedded):
    assert not embedded.chats
    with pytest.raises(CaptureError, match="template"):
        moeviz.trace(embedded, "hi", chat=True)


def test_texts_longer_than_the_context_are_cut_and_nothing_is_lost(embedded, long_text):
    trace = trace_corpus(embedded, [("long", long_text * 2), ("short", "12")])
    expected = trace_corpus("embedded", [("long", long_text * 2), ("short", "12")])
    assert trace.tokens.equals(expected.tokens) and trace.tokens["sequence"].max() >= 2
    assert trace.experts.tolist() == expected.experts.tolist() and trace.logits is None


def test_a_corpus_in_a_folder_is_the_trace_of_its_texts(embedded, folder, tmp_path):
    texts = [(f"label {n % 2}", text) for n, text in enumerate(TEXTS)]
    lines = (json.dumps({"label": label, "text": text}) for label, text in texts)
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ["corpus", str(tmp_path / "texts.jsonl"), "--model", file_of(folder, "embedded"), "--weights", "exact"]
    assert main([*words, "-o", str(tmp_path / "out"), "--shard-bytes", "60"]) == 0
    dataset = moeviz.read_dataset(tmp_path / "out")
    found, alone = trace_of(dataset), trace_corpus(embedded, texts)
    assert len(dataset.shards) > 1 and found.tokens.equals(alone.tokens)
    assert found.experts.tolist() == alone.experts.tolist() and np.array_equal(found.weights, alone.weights)
    expected = trace_corpus("embedded", texts)
    assert found.tokens["token_id"].equals(expected.tokens["token_id"])
    assert found.experts.tolist() == expected.experts.tolist(), "transformers has the same ids"


@pytest.mark.parametrize(
    ("prompts", "new", "why"),
    [
        ("", 1, "The prompt is empty"),
        ("a \ud800 b", 1, "half a character"),
        ("word " * 2000, 0, "1,024.*1,024 tokens"),
        (["a"] * 257, 1, "257 prompts.*llama.cpp.*256"),
    ],
)
def test_prompts_that_cannot_be_run_are_refused_before_they_are(prompts, new, why, embedded):
    with pytest.raises(InvalidPrompt, match=why):
        moeviz.trace(embedded, prompts, max_new_tokens=new)


def test_logits_are_left_out_where_they_are_not_wanted(embedded):
    trace = moeviz.trace(embedded, PROMPT, keep_logits=False)
    assert trace.logits is None and trace.model.score_function == "softmax"
    assert trace.experts.tolist() == moeviz.trace(embedded, PROMPT).experts.tolist()


def test_a_closed_model_says_so_and_a_run_that_goes_on_ends_well(folder):
    model = moeviz.load_model(file_of(folder, "embedded"))
    stream = moeviz.stream(model, PROMPT, max_new_tokens=4)
    next(stream)
    model.close()
    model.close()
    assert len(list(stream)) == 4
    with pytest.raises(CaptureError, match="closed"):
        moeviz.trace(model, PROMPT)


def test_outputs_of_several_prompts_in_small_micro_batches_are_those_of_transformers(folder):
    model = moeviz.load_model(file_of(folder, "embedded"), micro_batch=5)
    how = {"max_new_tokens": 3, "outputs": True}
    expected = moeviz.trace(of_transformers("embedded"), [PROMPT, "12 + 7"], tokenizer=tiny_tokenizer(), **how)
    assert_same_outputs(moeviz.trace(model, [PROMPT, "12 + 7"], **how).outputs, expected.outputs, rounding=1e-4)


def test_an_error_in_the_callback_is_raised_and_not_lost(embedded, monkeypatch):
    monkeypatch.setattr(CallbackRecording, "_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        moeviz.trace(embedded, PROMPT)


def test_rows_that_the_last_layer_leaves_out_are_noticed(embedded):
    """The control of the count: without outputs for all tokens, the last layer routes the last one alone."""
    weights, vocabulary = embedded.opened()
    recording = CallbackRecording(weights.library, keep_logits=True)
    ids = vocabulary.ids(PROMPT)
    with closing(Context(weights, recording, embedded.how, 1, 64, all_outputs=False)) as context:
        context.read(0, 0, ids)
    with pytest.raises(CaptureError, match=f"1 .*layer 5.* {len(ids)} "):
        recording.check(len(ids))


@pytest.mark.parametrize(
    ("struct", "why"),
    [("llama_context_params", "its context parameters"), ("llama_model_params", "its model parameters")],
)
def test_a_library_with_another_layout_is_refused_before_anything_is_read(struct, why, monkeypatch):
    found = library()

    class Other:
        def __getattr__(self, name):
            return getattr(found.ffi, name)

        def sizeof(self, kind):
            return found.ffi.sizeof(kind) + 8 * (kind == f"struct {struct}")

    monkeypatch.setattr(library_file, "_listen_to_log", lambda found: None)
    other = library_file.Library(Other(), found.llama, found.ggml_ffi, found.ggml, found.ggml_path, "0.0")
    with pytest.raises(CaptureError, match=why):
        library_file._check_parameters(other, ctypes.CDLL(str(path_of_library())))


def test_a_tensor_with_another_layout_is_refused(monkeypatch):
    found = library()
    ffi = type(found.ggml_ffi)()
    ffi.cdef(library_file.TENSOR.replace("src[10]", "src[8]"))
    other = library_file.Library(found.ffi, found.llama, ffi, ffi.dlopen(str(found.ggml_path)), found.ggml_path, "0.0")
    with pytest.raises(CaptureError, match="tensors"):
        library_file._check_tensor(other)


def test_a_file_that_llama_cpp_does_not_load_is_one_sentence_without_a_path(folder):
    model = of_transformers("embedded")
    said = facts(model) | tokenizer_facts() | {"tokenizer.ggml.pre": "no such splitting"}
    path = write_gguf(folder / "pre.gguf", said, {name: (values, "F32") for name, values in tensors(model)})
    with pytest.raises(ModelNotFound, match=r"'pre.gguf'") as refused:
        moeviz.load_model(str(path))
    assert str(folder) not in str(refused.value)


def test_a_model_in_parts_runs_as_the_whole_does(folder, embedded):
    model = of_transformers("embedded")
    arrays = [(name, (values, "F32")) for name, values in tensors(model)]
    for part, some in enumerate((arrays[:20], arrays[20:])):
        said = (facts(model) | tokenizer_facts() if part == 0 else {}) | {
            "split.no": np.uint16(part),
            "split.count": np.uint16(2),
            "split.tensors.count": np.int32(len(arrays)),
        }
        write_gguf(folder / f"p-0000{part + 1}-of-00002.gguf", said, dict(some))
    trace = moeviz.trace(moeviz.load_model(str(folder / "p-00001-of-00002.gguf")), PROMPT)
    assert trace.experts.tolist() == moeviz.trace(embedded, PROMPT).experts.tolist()


def test_the_command_line_compares_two_quantisations(folder, capsys):
    files = [file_of(folder, "embedded", kind) for kind in ("F16", "Q4_K")]
    assert main(["precision", PROMPT, "--model", files[0], "--beside", files[1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in found["layers"]] == list(range(6))
    shares = [row["equal_sets"] for row in found["layers"]]
    assert min(shares) < 1 and np.mean(shares) > 0.8 and found["shift"] == 0
    assert main(["precision", PROMPT, "--model", files[0]]) == 3
    assert "Give the same model in another one beside it: --beside MODEL." in capsys.readouterr().err


def test_the_command_line_traces_and_counts_a_gguf_file(folder, capsys, tmp_path):
    path = file_of(folder, "embedded", "Q8_0")
    asked = ["--max-new-tokens", "3", "-o", str(tmp_path / "t.npz"), "--json"]
    assert main(["trace", PROMPT, "--model", path, *asked]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"]["generated"] == 2 and said["recorded_by"].startswith("eval callback")
    assert moeviz.read_trace(tmp_path / "t.npz").model.dtype == "Q8_0"
    assert main(["params", path]) == 0
    assert "In llama.cpp, as it is stored (Q8_0), it needs" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["embedded", "deepseek-v3", "gpt-oss"])
def test_the_recorded_names_and_shapes_are_those_that_llama_cpp_shows(name, folder, request):
    """What tests/capture/test_gguf.py reads without llama.cpp. With --update-golden it is written anew."""
    model = moeviz.load_model(file_of(folder, name), micro_batch=3)
    weights, vocabulary = model.opened()
    recording, ids = CallbackRecording(weights.library, keep_logits=True), vocabulary.ids("Il fait froid.")
    with closing(Context(weights, recording, model.how, 1, 64)) as context:
        context.read(0, 0, ids)
    expected = moeviz.trace(of_transformers(name), "Il fait froid.", tokenizer=tiny_tokenizer())
    heard = {
        f"{name}/heard/{stem.decode()}/{layer}/{number}": part
        for (stem, layer), parts in recording.pieces.items()
        for number, part in enumerate(parts)
    }
    before = dict(np.load(RECORDED)) if RECORDED.exists() else {}
    if request.config.getoption("--update-golden"):
        fields = {f"{name}/{field}": getattr(expected, field) for field in ("experts", "weights", "logits")}
        np.savez_compressed(RECORDED, **before | heard | fields)
        return
    assert {key: part.shape for key, part in before.items() if key.startswith(f"{name}/heard/")} == {
        key: part.shape for key, part in heard.items()
    }
    assert (TOPK, expected.model.layers[0]) in recording.pieces
