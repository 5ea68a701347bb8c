"""Next tokens and the logit lens: against the model's own forward, and hooks of our own on its layers."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from survey.mechanisms import each
from survey.tiny_models import random_model
from tiny_models import CONFIGS, every_decoding, tiny_model, tiny_tokenizer

import moeviz
from moeviz.analyses.what_if import what_if
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.record import next_tokens as module
from moeviz.capture.run.decoding import Sampling
from moeviz.capture.run.token_texts import token_texts
from moeviz.capture.trace import stream, trace
from moeviz.errors import CaptureError
from moeviz.next_tokens import NEXT

PROMPTS = ["To be", "12 + 7 = 19, und heute ist es kalt"]
FAMILIES = ("embedded", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss")
KERNELS = {"kernels": True, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def models():
    made = {name: tiny_model(CONFIGS[name]) for name in FAMILIES[1:]}
    for model in made.values():
        torch.nn.init.normal_(model.lm_head.weight)  # else all tokens are nearly alike
    return made | {"embedded": moeviz.load_model("embedded").model}


@torch.no_grad()
def by_hand(model, routed):
    """Softmax of the model's own forward (T, V) for each sequence, and of norm and head on each layer's output."""
    outputs, handles = {}, []
    for at, layer in enumerate(model.model.layers):
        handles.append(layer.register_forward_hook(lambda _m, _a, out, at=at: outputs.update({at: out})))
    whole, lens = [], []
    for _, tokens in routed.tokens.groupby("sequence"):
        logits = model(input_ids=torch.tensor([tokens["token_id"].tolist()]), use_cache=False).logits
        hidden = [
            outputs[layer][0] if isinstance(outputs[layer], tuple) else outputs[layer] for layer in routed.model.layers
        ]
        whole.append(logits[0].float().softmax(-1))
        lens.append(torch.stack([model.lm_head(model.model.norm(part))[0].float().softmax(-1) for part in hidden]))
    for handle in handles:
        handle.remove()
    return torch.cat(whole), torch.cat(lens, dim=1)


def check(found, expected, texts, tokenizer, near=1e-5):
    """The ids name tokens whose own probability is the one that is told, and no other token has more."""
    ids, p = found
    own, best = expected.topk(NEXT)
    np.testing.assert_allclose(p, own.numpy(), atol=near)
    gaps = -np.diff(np.concatenate([own.numpy(), expected.topk(NEXT + 1).values[..., -1:].numpy()], axis=-1)) > near
    clear = gaps & np.roll(gaps, 1, axis=-1) | (gaps & (np.arange(NEXT) == 0))
    named = np.array(token_texts_alone(tokenizer, best.reshape(-1).tolist())).reshape(best.shape)
    assert (np.array(texts)[ids] == named)[clear].all() and clear.mean() > 0.5


def token_texts_alone(tokenizer, ids):
    known = {one: token_texts(tokenizer, [one])[0] for one in set(ids)}
    return [known[one] for one in ids]


@pytest.mark.parametrize(
    ("family", "how"), [*((name, {"max_new_tokens": 5}) for name in FAMILIES), ("mixtral", KERNELS)]
)
def test_next_tokens_and_lens_are_those_of_the_model_itself_and_the_routing_stays(family, how, models, tokenizer):
    model = models[family]
    plain = trace(model, PROMPTS, tokenizer=tokenizer, **how)
    found = trace(model, PROMPTS, tokenizer=tokenizer, next_tokens=True, **how)
    assert replace(found, next_tokens=None).equals(plain) and plain.next_tokens is None
    whole, lens = by_hand(model, found)
    got = found.next_tokens
    check((got.rows, got.p), whole, got.texts, tokenizer)
    check((got.lens_rows, got.lens_p), lens, got.texts, tokenizer)
    assert len(set(got.texts)) > 20


@every_decoding
def test_each_row_is_that_of_its_token_however_it_was_generated(decoding, models, tokenizer):
    model = models["mixtral"]
    found = trace(model, PROMPTS[1], tokenizer=tokenizer, max_new_tokens=6, decoding=decoding, next_tokens=True)
    whole, lens = by_hand(model, found)
    check((found.next_tokens.rows, found.next_tokens.p), whole, found.next_tokens.texts, tokenizer)
    check((found.next_tokens.lens_rows, found.next_tokens.lens_p), lens, found.next_tokens.texts, tokenizer)


def test_a_stream_ends_with_what_trace_gives_and_the_likeliest_token_is_what_is_written(models, tokenizer):
    how = {"tokenizer": tokenizer, "max_new_tokens": 4, "sampling": Sampling(), "next_tokens": True}
    whole = trace(models["mixtral"], PROMPTS[0], **how)
    *_, last = stream(models["mixtral"], PROMPTS[0], **how)
    assert last.equals(whole)
    written = whole.tokens["text"][whole.tokens["phase"] == "generated"].tolist()
    first = int((whole.tokens["phase"] == "prompt").sum()) - 1
    assert [whole.next_tokens.after(first + n)[0][0] for n in range(len(written))] == written


def test_logits_of_a_long_text_are_never_there_at_once(models, tokenizer, monkeypatch):
    """Of no more rows than fit, however long the text is; and the result is the same."""
    model, rows = models["mixtral"], []
    whole = trace(model, PROMPTS[1], tokenizer=tokenizer, next_tokens=True)
    monkeypatch.setattr(module, "MOST_LOGITS", 3 * model.config.vocab_size)
    handle = model.lm_head.register_forward_hook(lambda _m, _a, out: rows.append(out.shape[:-1].numel()))
    parts = trace(model, PROMPTS[1], tokenizer=tokenizer, next_tokens=True)
    handle.remove()
    assert max(rows) == 3 < len(whole.tokens)
    np.testing.assert_allclose(parts.next_tokens.lens_p, whole.next_tokens.lens_p, atol=1e-5)
    assert (parts.next_tokens.rows == whole.next_tokens.rows).mean() > 0.99


@pytest.mark.parametrize("architecture", ["granitemoe", "cohere2_moe"])
def test_what_a_family_does_to_its_logits_is_done(architecture, tokenizer):
    model = random_model(architecture)
    torch.nn.init.normal_(model.lm_head.weight, std=3)
    model.config.logits_scaling = 3.0  # of granitemoe
    found = trace(model, PROMPTS[1], tokenizer=tokenizer, next_tokens=True)
    whole, lens = by_hand(model, found)
    check((found.next_tokens.rows, found.next_tokens.p), whole, found.next_tokens.texts, tokenizer)
    plain = lens.topk(NEXT).values.numpy()
    assert np.abs(found.next_tokens.lens_p - plain).max() > 1e-4, "the head alone has no such scale"


def test_under_an_intervention_next_tokens_are_those_of_what_if_and_there_is_no_lens(models, tokenizer):
    model, change = models["mixtral"], Mute({1: (3,), 2: (0, 5)})
    found = trace(model, PROMPTS[1], tokenizer=tokenizer, intervention=change, next_tokens=True)
    other = what_if(model, PROMPTS[1], change, tokenizer=tokenizer)
    assert (found.experts == other.changed.experts).all() and found.next_tokens.lens_rows is None
    likeliest = token_texts_alone(tokenizer, other.effect["next_token_changed"].tolist())
    assert [found.next_tokens.after(row)[0][0] for row in range(len(likeliest))] == likeliest
    same = (other.effect["next_token"] == other.effect["next_token_changed"]).to_numpy()
    p = other.effect["probability_changed"].to_numpy()
    np.testing.assert_allclose(found.next_tokens.p[same, 0], p[same], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tiny_model(CONFIGS["mixtral"]).model, "predicts no token"),
        (lambda: random_model("switch_transformers"), "an encoder and a decoder"),
    ],
    ids=["no head", "encoder and decoder"],
)
def test_a_model_without_next_tokens_says_so_and_auto_goes_without(make, says, tokenizer):
    model = make()
    with pytest.raises(CaptureError, match=says):
        trace(model, "To be", tokenizer=tokenizer, next_tokens=True)
    assert trace(model, "To be", tokenizer=tokenizer, next_tokens="auto").next_tokens is None


def test_a_forward_that_answers_otherwise_than_the_head_is_refused(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])

    def louder(_model, _given, output):
        output.logits = output.logits * 2
        return output

    model.register_forward_hook(louder)
    with pytest.raises(CaptureError, match="forward"):
        trace(model, "To be", tokenizer=tokenizer, next_tokens=True)
    assert trace(model, "To be", tokenizer=tokenizer, next_tokens="auto").next_tokens is None


def test_a_stack_that_does_not_end_in_its_norm_has_no_lens(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    own = model.model.forward

    def louder(*given, **how):
        output = own(*given, **how)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    model.model.forward = louder
    found = trace(model, "To be", tokenizer=tokenizer, next_tokens=True)
    assert found.next_tokens.lens_rows is None and len(found.next_tokens.rows) == len(found.tokens)


def test_a_costly_lens_is_left_out_unless_it_is_asked_for(models, tokenizer, monkeypatch):
    of_a_run = 3 * 3 * 8192 * 32  # layers, tokens, vocabulary, hidden
    for most, has in ((of_a_run, True), (of_a_run - 1, False)):
        monkeypatch.setattr(module, "LENS_BY_ITSELF", most)
        found = trace(models["mixtral"], "To be", tokenizer=tokenizer, next_tokens="auto").next_tokens
        assert (found.lens_rows is not None) == has
    for asked, has in (("auto", False), (True, True)):
        found = trace(models["mixtral"], "To be", tokenizer=tokenizer, next_tokens=asked).next_tokens
        assert (found.lens_rows is not None) == has


@pytest.mark.parametrize("architecture", each())
def test_every_architecture_has_next_tokens_as_its_own_forward_or_says_why_not(architecture, tokenizer):
    model = random_model(architecture)
    try:
        found = trace(model, PROMPTS[1], tokenizer=tokenizer, next_tokens=True)
    except CaptureError as why:
        assert re.search("predicts no token|an encoder and a decoder", str(why))
        assert model.config.is_encoder_decoder or not hasattr(model, "lm_head")
        return
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([found.tokens["token_id"].tolist()]), use_cache=False).logits
    np.testing.assert_allclose(found.next_tokens.p, logits[0].float().softmax(-1).topk(NEXT).values.numpy(), atol=1e-5)
    assert replace(found, next_tokens=None).equals(trace(model, PROMPTS[1], tokenizer=tokenizer))


@pytest.mark.parametrize("vocabulary", [64 * 5, 64 * 4, 1000, 7])
def test_the_largest_found_in_parts_are_the_largest(vocabulary):
    p = torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).softmax(-1)
    p[0, :10] = p[1].max()  # several are equally large
    found, ids = module._largest(p)
    assert torch.equal(found, p.topk(5).values) and torch.equal(p.gather(1, ids), found)
    assert all(len(set(row)) == 5 for row in ids.tolist())
