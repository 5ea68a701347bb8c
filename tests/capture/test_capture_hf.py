"""What the trace says is what the experts received, in every family, for prompts and generated tokens."""

import threading
import types

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from waiting import SECONDS

from moeviz.capture.record.hooks import listen
from moeviz.capture.trace import stream, trace
from moeviz.cli.main import main
from moeviz.errors import CaptureError, InvalidPrompt

PROMPTS = ["To be", "12 + 7 = 19, und heute ist es kalt"]
every_family = pytest.mark.parametrize("family", CONFIGS)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


class Oracle:
    """Independent of moeviz: what every experts module was called with, (ids, weights) a call, in module order."""

    def __init__(self, model):
        self.calls, self.hooks = {}, []
        for path, part in model.named_modules():
            if path.endswith(".experts"):
                self.hooks.append(part.register_forward_pre_hook(self._note(path), with_kwargs=True))

    def _note(self, path):
        def note(_module, args, kwargs):
            tensors = [*args, *kwargs.values()]
            ids = next(t for t in tensors if not t.is_floating_point())
            weights = next(t for t in tensors if t.is_floating_point() and t.shape == ids.shape)
            self.calls.setdefault(path, []).append((ids.clone(), weights.float().clone()))

        return note

    def close(self):
        for hook in self.hooks:
            hook.remove()

    def routing(self, lengths):
        """{expert: weight} of each real token, [layer][token], sequence after sequence, for left-padded prompts."""
        width = max(lengths)
        table = []
        for calls in self.calls.values():
            rows = []
            for sequence, length in enumerate(lengths):
                prompt = range(sequence * width + width - length, (sequence + 1) * width)
                where = [(calls[0], row) for row in prompt] + [(call, sequence) for call in calls[1:]]
                rows += [dict(zip(i[r].tolist(), w[r].tolist(), strict=True)) for (i, w), r in where]
            table.append(rows)
        return table


def as_dicts(trace):
    return [
        [dict(zip(e.tolist(), w.tolist(), strict=True)) for e, w in zip(*layer, strict=True)]
        for layer in zip(trace.experts, trace.weights, strict=True)
    ]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("mixtral", torch.float32),
        ("mixtral", torch.bfloat16),
        ("deepseek_v3", torch.float32),
        ("gpt_oss", torch.float32),
    ],
)
def test_the_trace_is_what_the_experts_received(family, dtype, tokenizer):
    """Of left-padded prompts and what is generated after them; one prompt alone is the survey's."""
    check_against_the_experts(tiny_model(CONFIGS[family], dtype), 5, tokenizer)


@pytest.mark.gpu
@every_family
def test_on_a_gpu_the_trace_is_what_the_experts_received(family, tokenizer):
    check_against_the_experts(tiny_model(CONFIGS[family], torch.bfloat16).to("cuda"), 5, tokenizer)


def check_against_the_experts(model, max_new_tokens, tokenizer):
    model.generation_config.eos_token_id = None  # so that both sequences have the same number of generated tokens
    trace(model, PROMPTS, tokenizer=tokenizer)  # the checks before a first trace read tokens of their own
    oracle = Oracle(model)
    got = trace(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=max_new_tokens)
    oracle.close()
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert lengths[0] != lengths[1]
    assert as_dicts(got) == oracle.routing(lengths)
    generated = max(max_new_tokens - 1, 0)
    assert got.tokens.groupby("sequence").size().tolist() == [length + generated for length in lengths]
    assert (got.tokens["phase"] == "generated").sum() == 2 * generated


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_a_padded_sequence_gets_the_trace_that_it_gets_alone(family, tokenizer):
    model = tiny_model(CONFIGS[family])
    batch = trace(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=4)
    for sequence, prompt in enumerate(PROMPTS):
        alone = trace(model, prompt, tokenizer=tokenizer, max_new_tokens=4)
        row = batch.select(tokens=(batch.tokens["sequence"] == sequence).to_numpy())
        assert row.tokens["token_id"].tolist() == alone.tokens["token_id"].tolist()
        np.testing.assert_array_equal(row.experts, alone.experts)
        np.testing.assert_allclose(row.weights, alone.weights, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_listening_does_not_change_a_bit_of_the_output(family, tokenizer):
    model = tiny_model(CONFIGS[family])
    ids = tokenizer(PROMPTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(ids).logits
        with listen(model):
            during = model(ids).logits
    assert torch.equal(before, during)


@pytest.mark.parametrize(
    ("family", "layers", "num_experts", "score"),
    [("qwen3_moe", (0, 2), 8, "softmax"), ("deepseek_v3", (1, 2), 16, "sigmoid")],
)
def test_facts_about_the_model_are_its_own(family, layers, num_experts, score, tokenizer):
    got = trace(tiny_model(CONFIGS[family]), "To be or not to be", tokenizer=tokenizer)
    assert got.model.layers == layers
    assert got.model.num_experts == (num_experts,) * len(layers)
    assert got.model.score_function == score
    assert got.model.dtype == "float32"
    assert got.model.parameters.total == sum(p.numel() for p in tiny_model(CONFIGS[family]).parameters())


def test_logits_can_be_left_out_without_losing_the_rest(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    full, thin = (trace(model, PROMPTS, tokenizer=tokenizer, keep_logits=keep) for keep in (True, False))
    assert thin.logits is None
    np.testing.assert_array_equal(thin.experts, full.experts)
    assert thin.model == full.model


def test_a_sequence_ends_before_its_end_token(tokenizer):
    """Greedy tokens are known from a first run; the third one then becomes the end token."""
    model = tiny_model(CONFIGS["mixtral"])
    model.generation_config.eos_token_id = None
    free = trace(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=6)
    new = free.tokens.query("phase == 'generated'")
    first, second = (new[new["sequence"] == s]["token_id"].tolist() for s in (0, 1))
    model.generation_config.eos_token_id = first[2]
    both = trace(model, PROMPTS, tokenizer=tokenizer, max_new_tokens=6)
    got = both.tokens.query("phase == 'generated'")
    cut = second.index(first[2]) if first[2] in second else len(second)
    assert got[got["sequence"] == 0]["token_id"].tolist() == first[: first.index(first[2])]
    assert got[got["sequence"] == 1]["token_id"].tolist() == second[:cut]
    lengths = sorted({first.index(first[2]), *([cut] if first[2] in second else [])})
    ended = f"{1 + (first[2] in second)} of 2 sequences ended after {' to '.join(map(str, lengths))} of 6 tokens"
    assert both.model.decoding == f"greedy; {ended}: the model wrote its end-of-text token"


def test_a_run_that_ends_early_says_why_and_another_says_nothing(tokenizer, tmp_path, capsys):
    model = tiny_model(CONFIGS["mixtral"])
    model.generation_config.eos_token_id = None
    asked = {"tokenizer": tokenizer, "max_new_tokens": 6}
    free = trace(model, "To be", **asked)
    new = free.tokens.loc[free.tokens["phase"] == "generated", "token_id"].tolist()
    assert free.model.decoding == "greedy"
    model.generation_config.eos_token_id = new[3]
    early, says = (
        trace(model, "To be", **asked),
        f"greedy; ended after {new.index(new[3])} of 6 tokens: the model wrote",
    )
    assert early.model.decoding.startswith(says)
    *_, last = grown = list(stream(model, "To be", **asked))
    assert last.equals(early) and [one.model.decoding == "greedy" for one in grown].index(False) == len(grown) - 1
    tokenizer.save_pretrained(tmp_path), model.save_pretrained(tmp_path)
    assert main(["trace", "To be", "--model", str(tmp_path), "--max-new-tokens", "6"]) == 0
    assert f"decoding   {says}" in capsys.readouterr().out


def test_progress_counts_tokens_and_raising_in_it_stops_cleanly(tokenizer):
    model, seen = tiny_model(CONFIGS["mixtral"]), []

    def stop_at_two(done, total):
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(model, "To be", tokenizer=tokenizer, max_new_tokens=5, progress=stop_at_two)
    assert seen == [(1, 5), (2, 5)]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert len(trace(model, "To be", tokenizer=tokenizer).tokens)


def test_a_router_that_is_bypassed_is_an_error_not_an_empty_trace(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    block = model.model.layers[1].mlp
    block.forward = types.MethodType(lambda self, hidden_states: hidden_states, block)
    with pytest.raises(CaptureError, match=r"model\.layers\.1\.mlp\.gate.* answered 0 times"):
        trace(model, "To be", tokenizer=tokenizer)


def test_a_router_that_answers_in_another_form_is_refused(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    gate = model.model.layers[0].mlp.gate
    plain = gate.forward
    gate.forward = types.MethodType(lambda self, hidden_states: plain(hidden_states)[:2], gate)
    with pytest.raises(CaptureError, match="MixtralTopKRouter"):
        trace(model, "To be", tokenizer=tokenizer)


def test_one_recording_at_a_time_in_one_thread():
    model = tiny_model(CONFIGS["mixtral"])
    with listen(model), pytest.raises(CaptureError, match="recorded"), listen(model):
        pass


def test_threads_wait_for_each_other_and_get_their_own_trace(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    expected = [trace(model, prompt, tokenizer=tokenizer, max_new_tokens=4) for prompt in PROMPTS]
    got = [None, None]

    def run(i):
        got[i] = trace(model, PROMPTS[i], tokenizer=tokenizer, max_new_tokens=4)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert all(one.equals(other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "says"),
    [
        ("", 0, "prompt is empty"),
        ([], 0, "prompt is empty"),
        (["To be", ""], 0, "prompt is empty"),
        ("To be", -1, "Cannot generate -1"),
        ("a " * 300, 0, "128.*128 tokens"),
        ("To be", 127, "127 more.*1 tokens"),
    ],
)
def test_prompts_that_cannot_run_say_why(prompt, max_new_tokens, says, tokenizer):
    with pytest.raises(InvalidPrompt, match=says):
        trace(tiny_model(CONFIGS["mixtral"]), prompt, tokenizer=tokenizer, max_new_tokens=max_new_tokens)


def test_a_bare_model_asks_for_its_tokenizer():
    with pytest.raises(CaptureError, match="tokenizer"):
        trace(tiny_model(CONFIGS["mixtral"]), "To be")
