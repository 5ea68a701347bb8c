"""Models on servers of vLLM and SGLang: a stub plays both, and each of its answers is known."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from time import time

import numpy as np
import pytest
from served_stub import EXPERTS, LAYERS, Stub, npy, raw, read, routed, serving
from transformers import MixtralConfig
from waiting import SECONDS

import moeviz
from moeviz import CaptureError, InvalidPrompt, ModelNotFound, MoevizError, Sampling
from moeviz.capture.engines.served import connection
from moeviz.capture.engines.served.name import server_name
from moeviz.cli.main import main
from moeviz.formats.importers.arrays import from_base64, from_npy
from moeviz.routing_trace import NOT_RECORDED

RECORDED = Path(__file__).parents[1] / "data" / "served"
ENGINES = {"vllm": f"?experts={EXPERTS}", "sglang": f"?experts={EXPERTS}&hidden_layers={LAYERS}&top_k=2"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("MOEVIZ_API_KEY", "VLLM_API_KEY", "SGLANG_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub():
    with serving(Stub()) as running:
        yield running


@pytest.fixture
def soon(monkeypatch):
    """Nobody waits for a busy server."""
    paused = []
    monkeypatch.setattr(connection, "pause", lambda after, tried: paused.append((after, tried)) or 0.0)
    return paused


def name_of(stub, engine="vllm", told=None):
    return f"{engine}+{stub.url}{ENGINES[engine] if told is None else told}"


def opened(stub, engine="vllm", **told):
    return moeviz.load_model(name_of(stub, engine), **told)


def always(answer):
    return lambda body: answer


def check(trace, ids, prompt, position=0, layers=range(LAYERS)):
    """The trace is of these tokens, and says of each where it went."""
    tokens = trace.tokens
    assert tokens["token_id"].tolist() == ids and tokens["position"].tolist() == list(
        range(position, position + len(ids))
    )
    assert (tokens["phase"] == "generated").tolist() == [at >= prompt for at in range(position, position + len(ids))]
    assert np.array_equal(trace.experts, routed(ids).transpose(1, 0, 2)[list(layers)])
    assert trace.weights is None and trace.logits is None and trace.model.slot_order == "unknown"


# What comes back.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_alone_and_what_is_generated_after_it_are_aligned_by_the_servers_own_ids(stub, engine):
    model = opened(stub, engine)
    assert (model.info.backend, model.info.layers, model.info.top_k, model.max_tokens) == (engine, (0, 1, 2, 3), 2, 256)
    trace = moeviz.trace(model, "Hé!", max_new_tokens=3)
    check(trace, [*read("Hé!"), *read("bb")], prompt=4)
    assert trace.tokens["text"].tolist() == ["H", "⟨é 1/2⟩", "⟨é 2/2⟩", "!", "b", "b"]
    assert trace.model.decoding == "greedy" and model.count_tokens("Hé!") == 4
    check(moeviz.trace(model, "Hello"), read("Hello"), prompt=5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chat_has_the_tokens_that_the_servers_template_made(stub, engine):
    model = opened(stub, engine)
    trace = moeviz.trace(model, "Hi", max_new_tokens=2, chat=True, system="Be brief.")
    prompt = read("system: Be brief.\nuser: Hi\n")
    check(trace, [*prompt, *read("b")], prompt=len(prompt))
    assert model.chats


def test_a_server_without_a_chat_template_does_not_chat(stub):
    stub.routes["/v1/chat/completions"] = lambda body: (400, {}, b'{"error": {"message": "no chat template"}}')
    model = opened(stub)
    assert not model.chats
    with pytest.raises(InvalidPrompt, match="“no chat template”"):
        moeviz.trace(model, "Hi", chat=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_known_prefix_can_be_left_out(stub, engine):
    trace = moeviz.trace(opened(stub, engine, start=2), "Hello", max_new_tokens=2)
    check(trace, read("llo") + read("b"), prompt=5, position=2)


def test_nested_lists_of_vllm_0_21(stub):
    def complete(body):
        answer = stub.complete(body, read(body["prompt"]))
        ids, choice = read(body["prompt"]), answer["choices"][0]
        rows = routed([*ids, *choice["token_ids"]][:-1]).tolist()
        choice["routed_experts"] = rows[len(ids) :]
        return answer | {"prompt_routed_experts": rows[: len(ids)]}

    stub.routes["/v1/completions"] = complete
    check(moeviz.trace(name_of(stub), "Hello", max_new_tokens=4), read("Hello") + read("bbb"), prompt=5)
    check(moeviz.trace(name_of(stub), "Hello"), read("Hello"), prompt=5)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_prompts_are_several_sequences(stub, engine):
    trace = moeviz.trace(name_of(stub, engine), ["one", "three"], max_new_tokens=2)
    assert trace.tokens["sequence"].tolist() == [0] * 4 + [1] * 6
    assert np.array_equal(trace.experts[:, 4:], routed(read("threeb")).transpose(1, 0, 2))


def test_recorded_answers_of_a_real_server(stub):
    """vLLM 0.30.0 on a CPU: what it sent is in the trace, number for number."""
    real = {path.stem: path.read_bytes() for path in RECORDED.glob("*.json")}
    stub.routes |= {"/v1/models": lambda body: real["models"], "/v1/chat/completions": lambda body: real["chat"]}
    stub.routes["/v1/completions"] = lambda body: real[
        "completion_from_5" if "routed_experts_prompt_start" in body else "completion"
    ]
    stub.routes["/detokenize"] = lambda body: {"prompt": "?"}
    for how in ({}, {"start": 5}, {"chat": True}):
        chat = how.pop("chat", False)
        body = json.loads(real["chat" if chat else "completion_from_5" if how else "completion"])
        choice = body["choices"][0]
        ids = (choice.get("prompt_token_ids") or body["prompt_token_ids"]) + choice["token_ids"]
        prompt = ids[: -len(choice["token_ids"])]
        stub.routes["/tokenize"] = lambda body, prompt=prompt: {"tokens": prompt}
        sent = from_npy(from_base64(choice["routed_experts"]))
        stub.routes["/v1/completions"], kept = lambda body: real["completion"], stub.routes["/v1/completions"]
        model = opened(stub, **how)
        stub.routes["/v1/completions"] = kept
        trace = moeviz.trace(model, "Hello routing", max_new_tokens=4, chat=chat)
        assert np.array_equal(trace.experts, sent.transpose(1, 0, 2))
        assert trace.tokens["token_id"].tolist() == ids[how.get("start", 0) : -1]
        assert (trace.tokens["phase"] == "generated").sum() == 3


@pytest.mark.parametrize(("file", "status"), [("too_long", 400), ("no_such_model", 404)])
def test_recorded_refusals_of_a_real_server_are_passed_on(stub, file, status):
    model = opened(stub)
    words = (RECORDED / f"{file}.json").read_bytes()
    stub.routes["/v1/completions"] = lambda body: (status, {}, words)
    with pytest.raises(CaptureError, match=json.loads(words)["error"]["message"].split(" ")[0]) as refused:
        moeviz.trace(model, "Hello")
    assert isinstance(refused.value, InvalidPrompt) == (status == 400)


# What is known of the model.


def test_how_many_experts_there_are_is_asked_for_and_never_guessed(stub):
    with pytest.raises(CaptureError, match=r"'some/model'.*facts="):
        moeviz.load_model(name_of(stub, told=""))
    with pytest.raises(CaptureError, match="hidden_layers"):
        moeviz.load_model(name_of(stub, "sglang", told="?experts=8"))
    assert moeviz.load_model(name_of(stub, told=""), experts=8).info.num_experts == (8,) * 4


@pytest.fixture
def config(tmp_path):
    """The config of the stub's model."""
    MixtralConfig(num_hidden_layers=LAYERS, num_local_experts=EXPERTS, num_experts_per_tok=2).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_config_says_what_the_server_does_not(stub, engine, config):
    for model in (
        moeviz.load_model(name_of(stub, engine, told=""), facts=str(config)),
        moeviz.load_model(name_of(stub, engine, told=f"?facts={config}")),
    ):
        assert model.info.num_experts == (8,) * 4 and model.info.parameters is not None
        check(moeviz.trace(model, "Hello"), read("Hello"), prompt=5)


def test_a_well_known_model_needs_no_options(stub):
    """The server names Mixtral-8x7B, whose config moeviz has; but it answers with four layers."""
    stub.routes["/v1/models"] = lambda body: {"data": [{"id": "tiny", "root": "mistralai/Mixtral-8x7B-v0.1"}]}
    with pytest.raises(CaptureError, match=r"4 layers.*2 experts.*32 layers.*2"):
        moeviz.load_model(name_of(stub, told=""))


def test_the_config_of_another_model_is_noticed(stub, config):
    with pytest.raises(CaptureError, match="6 layers of 2"):
        moeviz.load_model(name_of(stub, told="?facts=embedded"))
    stub.dense = (0,)
    with pytest.raises(CaptureError, match=r"layer 0.*0"):
        moeviz.load_model(name_of(stub, told=f"?facts={config}"))


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_leading_layers_are_left_out(engine):
    with serving(Stub(dense=(0, 1))) as stub:
        model = opened(stub, engine)
        assert model.info.layers == (2, 3) and "left out: 0 and 1." in model.info.caution
        check(moeviz.trace(model, "Hello"), read("Hello"), prompt=5, layers=(2, 3))
        assert moeviz.load_model(name_of(stub, engine) + "&moe_layers=2-3").info.caution == ""


def test_one_of_several_models_is_named(stub):
    stub.routes["/v1/models"] = lambda body: {"data": [{"id": "a"}, {"id": "org/b"}]}
    with pytest.raises(CaptureError, match=r"2 models.*'a'.*'org/b'"):
        opened(stub)
    with pytest.raises(CaptureError, match="no model 'c'"):
        moeviz.load_model(name_of(stub) + "#c")
    moeviz.trace(moeviz.load_model(name_of(stub) + "#org/b"), "Hello")
    assert {body["model"] for _, body, _ in stub.asked if "model" in body} == {"org/b"}


# What is no routing.


def spoilt(stub, change, engine="vllm"):
    """The sentence for an answer in which something was changed."""
    model = opened(stub, engine)
    route = "/generate" if engine == "sglang" else "/v1/completions"
    good = stub.routes[route]
    stub.routes[route] = lambda body: change(good(body))
    with pytest.raises(CaptureError) as refused:
        moeviz.trace(model, "Hello", max_new_tokens=2)
    assert "Traceback" not in str(refused.value) and len(str(refused.value)) < 600
    return str(refused.value)


def with_rows(change):
    """An answer of vLLM with other rows."""

    def changed(answer):
        rows = from_npy(from_base64(answer["choices"][0]["routed_experts"])).copy()
        answer["choices"][0]["routed_experts"] = npy(change(rows))
        return answer

    return changed


def in_place(place, value):
    def change(rows):
        rows[place] = value
        return rows

    return with_rows(change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_rows(lambda rows: rows * 0), "0: a fused kernel bypasses what records the routing"),
        (in_place((slice(None), 2), 0), "layer 2"),
        (in_place((3, 1), 5), "24 rows"),
        (in_place((3, 1, 0), 8), "names expert 8"),
        (with_rows(lambda rows: rows[1:]), "2 generated"),
        (with_rows(lambda rows: np.concatenate([rows, rows[:1]])), "7 rows of routing"),
        (with_rows(lambda rows: rows[:, :3]), "2 experts"),
        (with_rows(lambda rows: rows[0]), "not a full table"),
        (lambda answer: {"choices": []}, "0 choices"),
        (lambda answer: {"choices": [answer["choices"][0] | {"routed_experts": "%%%"}]}, "not base64"),
        (lambda answer: {"choices": [answer["choices"][0] | {"routed_experts": None}]}, "--enable-return-routed-exp"),
        (lambda answer: {"choices": [answer["choices"][0] | {"prompt_token_ids": None}]}, "does not say which tokens"),
        (lambda answer: {"choices": [answer["choices"][0] | {"token_ids": [-1, 101]}]}, "token id is negative"),
        (lambda answer: {"choices": [answer["choices"][0] | {"token_ids": ["a", "b"]}]}, "not the routing"),
        (lambda answer: [1], "not JSON"),
        (lambda answer: b'{"a": ' + b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_not_routing_is_refused_with_its_reason(stub, change, says):
    assert says in spoilt(stub, change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda answer: {**answer, "meta_info": answer["meta_info"] | {"routed_experts": raw(routed([1]))}},
            "8 expert",
        ),
        (
            lambda answer: {**answer, "meta_info": {"prompt_tokens": 5, "completion_tokens": 2}},
            "--enable-return-routed",
        ),
        (
            lambda answer: {**answer, "output_ids": [101]},
            "counts 5",
        ),
        (lambda answer: {**answer, "output_ids": "bb"}, "not a list of whole numbers"),
        (lambda answer: {**answer, "meta_info": None}, "without routed experts"),
    ],
)
def test_the_same_of_sglang(stub, change, says):
    assert says in spoilt(stub, change, "sglang")


def test_more_tokens_than_were_asked_for_are_refused(stub):
    model = opened(stub)
    stub.routes["/v1/completions"] = lambda body: stub.complete(body | {"max_tokens": 9}, read(body["prompt"]))
    with pytest.raises(CaptureError, match="2 tokens"):
        moeviz.trace(model, "Hello", max_new_tokens=2)


def test_rows_of_zeros_are_not_recorded(stub):
    """As of prompt tokens that came from a cache whose routing nobody kept."""
    model = opened(stub)
    stub.routes["/v1/completions"] = lambda body: in_place(slice(0, 2), 0)(stub.complete(body, read(body["prompt"])))
    trace = moeviz.trace(model, "Hello")
    assert (trace.experts[:, :2] == NOT_RECORDED).all() and trace.recorded[:, 2:].all()
    assert trace.model.caution.startswith("2 of 5 tokens have zeros instead of experts")
    assert "They count as not recorded." in trace.model.caution


# What is asked, and what is answered.

FOX = "The quick brown fox"  # 19 tokens


def answering(stub, engine="vllm", chat=False, prompt=None, **more):
    """The server reads another prompt than it is given, or says more than it was made to say."""
    route = "/v1/chat/completions" if chat else "/v1/completions"
    good = stub.chat if chat else lambda body: stub.complete(body, read(body["prompt"]))

    def answer(body):
        if prompt is not None:
            body = body | ({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt})
        return good(body) | more

    stub.routes[route] = answer


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prompt": FOX[-5:]}, "19 tokens"),
        ({"prompt": FOX[:4]}, "19 tokens"),
        ({"prompt": FOX.replace("fox", "cow")}, "19 tokens"),
        ({"prompt": FOX + " jumps"}, "19 tokens"),
        ({"model": "other"}, "'other'"),
    ],
)
@pytest.mark.parametrize("start", [None, 2])
def test_an_answer_for_another_text_or_of_another_model_is_refused(stub, given, says, start):
    model = opened(stub, start=start)
    answering(stub, **given)
    with pytest.raises(CaptureError) as refused:
        moeviz.trace(model, FOX, max_new_tokens=2)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["tiny", "some/model", "also tiny"])
def test_a_model_may_be_called_by_any_of_its_names(stub, name):
    """As vLLM does, which gives the first of its --served-model-name, whichever was asked for."""
    cards = [{"id": one, "root": "some/model"} for one in ("tiny", "also tiny")] + [{"id": "other", "root": "other"}]
    stub.routes["/v1/models"] = lambda body: {"data": cards}
    answering(stub, model=name)
    assert moeviz.trace(moeviz.load_model(f"{name_of(stub)}#tiny"), FOX).model.caution == ""
    answering(stub, model="other")
    with pytest.raises(CaptureError, match=r"'other'.*'tiny'"):
        moeviz.load_model(f"{name_of(stub)}#tiny")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("prompt", "says"), [(None, ""), (FOX[-5:], "The 12 tokens that the server read do not contain")]
)
def test_a_chat_in_which_the_text_is_not_found_has_a_caution(stub, engine, prompt, says):
    """Its tokens are those of the server's template, which nobody else knows."""
    model = opened(stub, engine)
    answering(stub, engine, chat=True, prompt=prompt)
    caution = moeviz.trace(model, FOX, chat=True).model.caution
    assert caution.startswith(says) and bool(caution) == bool(says)
    assert not says or "the prompt's 19 characters" in caution


@pytest.mark.parametrize(
    ("routes", "prompt", "says"),
    [
        (["/tokenize"], None, ""),
        (["/tokenize"], FOX[-5:], "The 5 tokens that the server read do not contain the prompt's 19 characters"),
        (["/tokenize", "/detokenize"], None, "Whether the server read this prompt is not known"),
    ],
)
def test_a_server_that_says_no_tokens_of_a_text_is_held_against_its_text(stub, routes, prompt, says, capsys, caplog):
    for route in routes:
        del stub.routes[route]
    answering(stub, prompt=prompt)
    assert main(["trace", FOX, "--model", name_of(stub), "--json"]) == 0
    caution = json.loads(capsys.readouterr().out)["caution"]
    assert caution.startswith(says) and bool(caution) == bool(says) and caution in caplog.text


@pytest.mark.parametrize(("rows", "says"), [(0, ""), (3, "The first 3 of 19 tokens have expert 0 at all 4 layers")])
def test_a_prefix_of_zeros_of_a_top_1_model_has_a_caution(stub, rows, says):
    """Expert 0 may be what a router chose: but at every layer, from the first token on?"""
    one = with_rows(lambda ids: ids[:, :, :1])
    stub.routes["/v1/completions"] = lambda body: one(stub.complete(body, read(body["prompt"])))
    model = moeviz.load_model(f"{name_of(stub)}&moe_layers=0-3")
    stub.routes["/v1/completions"] = lambda body: in_place(slice(0, rows), 0)(one(stub.complete(body, read(FOX))))
    trace = moeviz.trace(model, FOX)
    assert trace.model.caution.startswith(says) and bool(trace.model.caution) == bool(says)
    assert (trace.experts[:, :rows] == 0).all() and trace.recorded.all()


def test_what_answers_are_cautioned_of_is_the_caution_of_a_corpus(stub, tmp_path):
    model, texts = opened(stub), [("a", FOX), ("b", "Hello")]
    says = ["2 of 19 tokens have zeros", "2 of 5 tokens have zeros"]
    stub.routes["/v1/completions"] = lambda body: in_place(slice(0, 2 if len(body["prompt"]) > 2 else 0), 0)(
        stub.complete(body, read(body["prompt"]))
    )
    whole = moeviz.trace_corpus(model, texts)
    assert all(one in whole.model.caution for one in says)
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"label": a, "text": b}) for a, b in texts))
    dataset = moeviz.write_corpus(model, [str(tmp_path / "texts.jsonl")], tmp_path / "out")
    assert all(one in dataset.model.caution for one in says) and dataset.tokens == 24


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("stop", "the model wrote its end-of-text token"),
        ("length", "the server's own limit of tokens was reached, as where its context is full"),
        ("<b>tired</b>", "the server's reason is '<b>tired</b>'"),
        (None, "the server gives no reason"),
    ],
)
def test_fewer_tokens_than_asked_for_have_their_reason(stub, engine, reason, says):
    model = opened(stub, engine)
    stub.writes, stub.reason = 3, reason
    assert moeviz.trace(model, "Hi", max_new_tokens=3).model.decoding == "greedy"
    assert moeviz.trace(model, "Hi", max_new_tokens=8).model.decoding == f"greedy; ended after 3 of 8 tokens: {says}"
    both = moeviz.trace(model, ["Hi", "Hello"], max_new_tokens=8, sampling=Sampling(0.5)).model.decoding
    assert both == f"sampled at temperature 0.5, seed 0; 2 of 2 sequences ended after 3 of 8 tokens: {says}"


def test_a_server_that_decodes_nothing_gives_tokens_without_texts(stub, caplog):
    del stub.routes["/detokenize"]
    assert moeviz.trace(opened(stub), "Hello").tokens["text"].tolist() == [""] * 5
    assert "The texts of the tokens are not known." in caplog.text


@pytest.mark.parametrize("said", ["\ud800", "x" * 10**6, 7, None, ["a"]])
def test_the_text_of_a_token_is_text_whatever_the_server_says(stub, said):
    times = (lambda body: said * len(body["tokens"])) if isinstance(said, str) else lambda body: said
    stub.routes["/detokenize"] = lambda body: {"prompt": times(body)}
    texts = moeviz.trace(opened(stub), "Hello").tokens["text"]
    assert len(texts) == 5 and max(map(len, texts)) < 3000 and all(text.encode() is not None for text in texts)


# How it is asked.


def test_tokens_are_drawn_as_asked_and_not_as_the_checkpoint_says(stub):
    moeviz.trace(
        opened(stub), "Hello", max_new_tokens=3, sampling=Sampling(temperature=0.5, top_k=7, top_p=0.9, seed=4)
    )
    _, body, _ = [one for one in stub.asked if one[0] == "/v1/completions"][-1]
    asked = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "seed": 4, "min_p": 0.0, "repetition_penalty": 1.0}
    assert body | asked == body and body["max_tokens"] == 3
    moeviz.trace(opened(stub, "sglang"), "Hello", max_new_tokens=3)
    how = [body["sampling_params"] for path, body, _ in stub.asked if path == "/generate"][-1]
    assert (how["temperature"], how["top_k"], how["top_p"]) == (0.0, -1, 1.0) and "sampling_seed" not in how


@pytest.mark.parametrize(
    ("variable", "engine"), [("MOEVIZ_API_KEY", "vllm"), ("VLLM_API_KEY", "vllm"), ("SGLANG_API_KEY", "sglang")]
)
def test_the_key_comes_from_the_environment_and_stands_nowhere(stub, engine, variable, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv(variable, "secret-key")
    trace = moeviz.trace(opened(stub, engine), "Hello")
    assert {headers["authorization"] for _, _, headers in stub.asked} == {"Bearer secret-key"}
    stub.routes["/v1/models"] = lambda body: (500, {}, b'{"error": {"message": "Bearer secret-key broke it"}}')
    with pytest.raises(CaptureError, match="Bearer …") as failed:
        opened(stub, engine)
    assert "secret" not in repr(trace.model) + str(failed.value) + caplog.text + str(stub.asked[0][:2])


def test_a_key_that_is_wanted_or_wrong_is_a_sentence(stub, monkeypatch):
    stub.routes["/v1/models"] = lambda body: (401, {}, b"{}")
    with pytest.raises(CaptureError, match=r"\(HTTP 401\).*MOEVIZ_API_KEY.*VLLM_API_KEY"):
        opened(stub)
    monkeypatch.setenv("MOEVIZ_API_KEY", "wrong")
    with pytest.raises(CaptureError, match="key"):
        opened(stub)
    monkeypatch.setenv("MOEVIZ_API_KEY", "two\nlines")
    with pytest.raises(CaptureError, match="header"):
        opened(stub)


def test_nothing_but_the_key_is_taken_from_the_environment(stub, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    check(moeviz.trace(opened(stub), "Hello"), read("Hello"), prompt=5)


def test_a_busy_server_is_asked_again(stub, soon):
    answers = [(429, {"retry-after": "7"}, b"{}"), (503, {}, b"{}")]
    model = opened(stub)
    good = stub.routes["/v1/completions"]
    stub.routes["/v1/completions"] = lambda body: answers.pop(0) if answers else good(body)
    check(moeviz.trace(model, "Hello"), read("Hello"), prompt=5)
    assert soon == [("7", 0), (None, 1)]
    stub.routes["/v1/completions"] = lambda body: (429, {}, b'{"message": "too many"}')
    with pytest.raises(CaptureError, match=r"\(HTTP 429\).*asked 6"):
        moeviz.trace(model, "Hello")


def test_a_pause_is_as_long_as_the_server_says_within_reason():
    assert connection.pause("3", 0) == 3 and connection.pause("9999", 0) == connection.LONGEST_PAUSE
    assert 5 < connection.pause(formatdate(time() + 10, usegmt=True), 0) <= 10
    assert connection.pause(formatdate(0, usegmt=True), 4) == 0
    assert (
        [connection.pause(None, tried) for tried in range(3)]
        == [0.5, 1.0, 2.0]
        == [connection.pause("soon", tried) for tried in range(3)]
    )


def test_a_redirect_is_not_followed(stub):
    with serving(Stub()) as other:
        stub.routes["/v1/models"] = lambda body: (307, {"location": f"{other.url}/v1/models"}, b"")
        with pytest.raises(CaptureError, match="HTTP 307"):
            opened(stub)
        assert other.asked == []


def test_an_answer_is_counted_while_it_comes(stub, monkeypatch):
    model = opened(stub)
    monkeypatch.setattr(connection, "LARGE", 2**20)
    stub.routes["/v1/completions"] = lambda body: b" " * 2**24
    with pytest.raises(CaptureError, match="1,048,576 bytes"):
        moeviz.trace(model, "Hello")


def test_a_packed_answer_is_refused(stub):
    """It might unpack to anything."""
    stub.routes["/v1/models"] = lambda body: (200, {"content-encoding": "gzip"}, b"\x1f\x8b")
    with pytest.raises(CaptureError, match="compress"):
        opened(stub)


@pytest.mark.parametrize("length", ["5000", "3"])
def test_a_length_that_is_a_lie(stub, length):
    model = opened(stub)
    stub.routes["/v1/completions"] = lambda body: (200, {"content-length": length}, b'{"choices": []}')
    with pytest.raises(CaptureError, match=r"whole|JSON"):
        moeviz.trace(model, "Hello")


def test_a_server_that_never_answers_is_given_up(stub):
    forever = threading.Event()
    model = opened(stub, seconds=0.3)
    stub.routes["/v1/completions"] = lambda body: forever.wait(SECONDS) and {}
    with pytest.raises(CaptureError, match="time"):
        moeviz.trace(model, "Hello")
    forever.set()


def test_a_server_that_drips_is_given_up(stub):
    """Each byte comes soon, and the answer never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            with listening.accept()[0] as connection, pytest.raises(OSError):  # when the client hangs up
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                for _ in range(100_000):
                    connection.sendall(b" ")
                    hung_up.wait(0.02)

        hung_up = threading.Event()
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(CaptureError, match="time"):
            moeviz.load_model(f"vllm+http://127.0.0.1:{listening.getsockname()[1]}", seconds=0.4)
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_nobody_there_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(CaptureError, match=f"http://127.0.0.1:{port}"):
        moeviz.load_model(f"vllm+http://127.0.0.1:{port}")


def test_another_server_is_a_sentence(stub):
    stub.routes = {}
    with pytest.raises(CaptureError, match=r"/v1/models \(HTTP 404\).*vllm\?"):
        opened(stub)


def test_whoever_stops_hangs_up(stub):
    """Progress is told while an answer is awaited, and the connection is closed as soon as it raises."""
    forever, model = threading.Event(), opened(stub)
    stub.routes["/v1/completions"] = lambda body: forever.wait(SECONDS) and b" " * 2**25
    told = []

    def stop(done, total):
        told.append((done, total))
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moeviz.trace(model, "Hello", max_new_tokens=4, progress=stop)
    assert told == [(0, 4)] * 2
    forever.set()
    assert stub.left.wait(SECONDS)
    stub.routes["/v1/completions"] = lambda body: stub.complete(body, read(body["prompt"]))
    check(moeviz.trace(model, "Hello"), read("Hello"), prompt=5)  # nothing is lost


def test_a_stream_is_one_trace_since_the_server_answers_at_once(stub):
    [trace] = moeviz.stream(opened(stub), "Hello", max_new_tokens=3)
    check(trace, read("Hello") + read("bb"), prompt=5)


def test_threads_may_ask_one_model_at_once(stub):
    model = opened(stub)
    texts = ["x" * n for n in range(1, 30)]
    with ThreadPoolExecutor(8) as pool:
        for text, trace in zip(texts, pool.map(lambda text: moeviz.trace(model, text), texts), strict=True):
            check(trace, read(text), prompt=len(text))


# Its name.


@pytest.mark.parametrize(
    "name",
    [
        "vllm+ftp://localhost",
        "vllm+http://",
        "vllm+http://host:99999",
        "vllm+http://a host",
        "vllm+",
        "vllm+http://host?hidden=3",
        "vllm+http://host?experts=many",
        "vllm+http://host?moe_layers=1-99999999999",
        "vllm+http://" + "a" * 5000,
        "vllm+http://\ud800",
    ],
)
def test_a_name_that_is_not_an_address_is_refused(name):
    with pytest.raises(ModelNotFound) as refused:
        moeviz.load_model(name)
    assert len(str(refused.value)) < 700


def test_a_key_in_the_name_is_refused_and_not_repeated():
    with pytest.raises(ModelNotFound, match="MOEVIZ_API_KEY") as refused:
        moeviz.load_model("vllm+http://user:s3cret@localhost:8000")
    assert "s3cret" not in str(refused.value)


def test_a_name_is_taken_apart():
    where = server_name("sglang", "sglang+https://host:30000/llm/v1/?facts=a/b&experts=8&moe_layers=1-3,5#org/model")
    assert (where.url, where.model, where.facts) == ("https://host:30000/llm", "org/model", "a/b")
    assert (where.told.experts, where.told.moe_layers) == (8, (1, 2, 3, 5))
    assert server_name("vllm", "http://h:1").url == "http://h:1"  # with backend="vllm"


def test_an_error_is_one_of_ours(stub):
    """Whatever a server answers, one sentence comes of it. The control: a good answer makes a trace."""
    model, rng = opened(stub), np.random.default_rng(0)
    good = json.dumps(stub.complete({"max_tokens": 2}, read("Hello"))).encode()
    outcomes = []
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(32, 127)
        stub.routes["/v1/completions"] = always(bytes(data[: rng.integers(len(good) // 2, len(good) + 1)]))
        try:
            outcomes.append(moeviz.trace(model, "Hello", max_new_tokens=2) is not None)
        except MoevizError:
            outcomes.append(False)
    assert not all(outcomes)
    stub.routes["/v1/completions"] = lambda body: good
    check(moeviz.trace(model, "Hello", max_new_tokens=2), read("Hello") + read("b"), prompt=5)
