"""Edges where a trace, or a what-if, was once wrong without a word: each with the test that saw it."""

import copy
import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import python
from refused_settings import MODELS_THAT_ARE_NONE, SETTINGS_THAT_ARE_NONE
from safetensors.torch import load_file, save_file
from survey.tiny_models import random_model
from tiny_models import CONFIGS, SHAPE, tiny_model, tiny_tokenizer
from transformers import CompileConfig, GenerationConfig, MixtralConfig, WatermarkingConfig
from transformers.models.llama4.configuration_llama4 import Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4Router

import moeviz
from moeviz import Decoding, Sampling
from moeviz.capture.models.load import load_model, model_facts
from moeviz.capture.routers.router_adapters import ROUTER_ADAPTERS
from moeviz.cli.main import main
from moeviz.errors import MoevizError
from moeviz.formats.csv_file import to_csv
from moeviz.formats.exports import read_bytes
from moeviz.spreadsheets import escape_formula
from moeviz.testing import sample_trace

NUMBERS_AND_WORDS = "12 + 7 = 19, und heute ist es kalt"

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
    ("part", "named"), [(ROUTER, ROUTER), (".0.mlp.experts.3.gate_proj", "model.layers.0.mlp.experts.gate_up_proj")]
)
def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(checkpoint, part, named):
    rewrite(checkpoint / WEIGHTS, lambda tensors: [tensors.pop(key) for key in list(tensors) if part in key])
    with pytest.raises(MoevizError) as refused:
        moeviz.trace(str(checkpoint), "To be")
    assert named in str(refused.value)


def outcome_of(work):
    """What it gives, or how it fails: a wrong exception is a wrong result."""
    try:
        return work()
    except Exception as error:
        return error


# 4. Interventions on routers that limit the choice to groups.


def grouped_model():
    """16 experts in 4 groups, of which 2 are kept; top-4."""
    return tiny_model(CONFIGS["deepseek_v3"]), tiny_tokenizer()


def test_experts_that_are_forced_are_chosen_or_refused_where_their_groups_are_too_many():
    model, tokenizer = grouped_model()
    for forced in ((0, 5), (0, 1, 2, 15), (0, 5, 10), (0, 5, 10, 15)):
        change = moeviz.Force({1: forced})
        changed = outcome_of(
            lambda change=change: moeviz.trace(model, NUMBERS_AND_WORDS, tokenizer=tokenizer, intervention=change)
        )
        if len({expert // 4 for expert in forced}) > 2:
            assert isinstance(changed, moeviz.CaptureError) and "4 groups" in str(changed), changed
        else:
            assert all(set(forced) <= set(row) for row in changed.experts[0].tolist())


@pytest.mark.parametrize("left", [1, 2, 3])
def test_nothing_goes_to_muted_experts_however_few_each_group_has_left(left):
    """Each group keeps so many: with one, no two groups have four; with more, whatever groups are kept suffice."""
    model, tokenizer = grouped_model()
    muted = tuple(expert for expert in range(16) if expert % 4 >= left)
    change = moeviz.Mute({1: muted})
    changed = outcome_of(lambda: moeviz.trace(model, NUMBERS_AND_WORDS, tokenizer=tokenizer, intervention=change))
    if left == 1:
        assert isinstance(changed, moeviz.CaptureError) and "at most 2 are left" in str(changed), changed
    else:
        assert not np.isin(changed.experts[0], muted).any() and (changed.experts[0] >= 0).all()


def test_more_experts_than_a_token_can_have_are_refused_before_the_model_runs():
    grouped, tokenizer = grouped_model()
    wide = tiny_model(MixtralConfig(**SHAPE, num_hidden_layers=1, num_local_experts=32, num_experts_per_tok=2))
    for model, top_k, says in ((grouped, 9, "1 to 8 experts, not 9"), (wide, 20, "1 to 16 experts, not 20")):
        change = moeviz.TopK(top_k)
        failed = outcome_of(
            lambda m=model, c=change: moeviz.trace(m, NUMBERS_AND_WORDS, tokenizer=tokenizer, intervention=c)
        )
        assert isinstance(failed, moeviz.CaptureError) and says in str(failed), failed


# 5. Llama 4 in half precision.


def test_llama_4_in_half_precision_has_the_experts_of_its_block_where_scores_are_rounded_to_nothing():
    """Logits of -30 and less: the sigmoid scores of the chosen, and of all others, are 0 in float16."""
    router = Llama4Router(Llama4TextConfig(hidden_size=8, num_local_experts=8, num_experts_per_tok=2))
    logits = torch.tensor([[-60.0, -50.0, -45.0, -70.0, -25.0, -55.0, -8.0, -65.0], [-32.0, -31.0, *[-40.0] * 6]])
    router.weight = torch.nn.Parameter(torch.diag(torch.ones(8)))
    router, hidden = router.half(), logits.half()
    chosen = {}

    def topk(values, *arguments, **named):
        chosen["ids"] = real(values, *arguments, **named).indices
        return real(values, *arguments, **named)

    real, torch.topk = torch.topk, topk
    try:
        answer = router(hidden)
    finally:
        torch.topk = real
    _logits, weights, experts = ROUTER_ADAPTERS["Llama4Router"].read(router, (hidden,), answer)[:3]
    assert (answer[0] == 0).sum(-1).tolist() == [7, 8]  # or nothing would be rounded away
    assert experts.tolist() == chosen["ids"].tolist() == [[6, 4], [1, 0]]
    assert torch.equal(weights, answer[0].gather(-1, experts))


def test_a_hook_that_changes_the_scores_of_llama_4_is_what_its_experts_receive():
    model = random_model("llama4")
    router = model.model.layers[0].feed_forward.router
    router.register_forward_hook(lambda _router, _given, answer: (answer[0].flip(-1), answer[1]))
    received = []
    router.register_forward_hook(lambda _router, _given, answer: received.append(answer[0]))
    trace = moeviz.trace(model, "To be, or not to be", tokenizer=tiny_tokenizer())
    assert [set(row) for row in trace.experts[0].tolist()] == [
        set(torch.nonzero(row).flatten().tolist()) for row in received[-1]
    ]


def test_a_token_of_zaya_that_expert_0_has_with_a_weight_rounded_to_nothing_does_not_skip():
    router = torch.nn.Module()
    router.balancing_biases = torch.tensor([2.0, 0.0, 0.0, 0.5])  # the last class skips
    logits = torch.tensor([[-90.0, 0.0, -90.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).half()
    read = ROUTER_ADAPTERS["ZayaRouter"].read
    chosen = logits.softmax(-1).float() + router.balancing_biases
    weights = logits.softmax(-1).gather(-1, chosen.argmax(-1, keepdim=True))
    assert weights[0] == 0  # or nothing would be rounded away
    assert read(router, (), (logits, weights, torch.tensor([[0], [0]]), None))[2].tolist() == [[0], [0]]
    router.balancing_biases = torch.tensor([-1.0, 5.0, 0.0, -1.0])
    rounded = torch.tensor([[0.0, -90.0, -90.0, -90.0]]).half()  # expert 1, chosen by its bias alone
    assert read(router, (), (rounded, torch.zeros(1, 1).half(), torch.tensor([[1]]), None))[2].tolist() == [[1]]
    router.balancing_biases = torch.tensor([-1.0, -1.0, -1.0, 5.0])
    assert read(router, (), (rounded, torch.zeros(1, 1).half(), torch.tensor([[0]]), None))[2].tolist() == [[3]]


def test_a_probability_of_gemma_4_that_is_rounded_to_0_is_not_a_missing_expert():
    """-inf in the logits of a trace says that a layer has no such expert."""
    probabilities = torch.tensor([[0.0, 300.0, 0.0]]).softmax(-1)
    answer = (probabilities, torch.tensor([[1.0]]), torch.tensor([[1]]))
    logits = ROUTER_ADAPTERS["Gemma4TextRouter"].read(torch.nn.Module(), (), answer)[0]
    assert (probabilities == 0).sum() == 2 and logits.isfinite().all()
    assert logits.softmax(-1).argmax() == 1


def test_a_stream_takes_the_autocast_of_its_caller_over():
    model, seen = tiny_model(CONFIGS["mixtral"]), []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        list(moeviz.stream(model, "To be", tokenizer=tiny_tokenizer(), max_new_tokens=2))
    assert seen and all(seen)


# 6. The checkpoint's own generation settings.

PROMPT = "Il fait froid"
ITS_TOKENS = {"bos_token_id", "eos_token_id", "decoder_start_token_id"}  # what starts and ends a text is its own
WAYS = {
    "greedy": {},
    "drawn": {"sampling": Sampling(1.0, top_k=500, seed=3)},
    "beams": {"decoding": Decoding(num_beams=3, num_return_sequences=2)},
}
HOSTILE = {  # a value of each field that would change the text, or stop it, where it has any effect
    "max_length": 5,
    "max_new_tokens": 2,
    "min_length": 100,
    "min_new_tokens": 50,
    "early_stopping": "never",
    "max_time": 1e-9,
    "stop_strings": ["e"],
    "do_sample": True,
    "num_beams": 3,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "quantized",
    "cache_config": {"backend": "none"},
    "max_cache_len": 3,
    "temperature": 9.0,
    "top_k": 1,
    "top_p": 0.01,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 0.001,
    "encoder_repetition_penalty": 50.0,
    "length_penalty": -9.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": lambda written: [[token] for token in written],
    "renormalize_logits": True,
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 9.0),
    "suppress_tokens": lambda written: written,
    "begin_suppress_tokens": lambda written: written,
    "sequence_bias": lambda written: {(token,): -100.0 for token in written},
    "token_healing": True,
    "guidance_scale": 9.0,
    "watermarking_config": WatermarkingConfig(bias=50.0),
    "num_return_sequences": 3,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": False,
    "pad_token_id": 7,
    "encoder_no_repeat_ngram_size": 1,
    "is_assistant": True,
    "num_assistant_tokens": 1,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.99,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 9,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 1,
    "target_lookbehind": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "compile_config": CompileConfig(),
    "disable_compile": False,
    "continuous_batching_config": None,  # deprecated: any value warns
    "low_memory": True,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "diversity_penalty": 9.0,
    "num_beam_groups": 3,
    "constraints": ["x"],
    "force_words_ids": [[7]],
    "prefill_chunk_size": 1,
    "transformers_version": "0.0.1",
    "_from_model_config": True,
}


@pytest.fixture(scope="module")
def writer():
    """A model, and a function that traces it in each of the ways under given settings of its checkpoint."""
    model, tokenizer = tiny_model(CONFIGS["mixtral"]), tiny_tokenizer()
    options = {"tokenizer": tokenizer, "max_new_tokens": 6}
    model.generation_config.eos_token_id = 6823  # the fourth token that it writes, so that a length can be forced
    plain = model.generation_config

    def write(**settings):
        model.generation_config = copy.deepcopy(plain)
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        try:
            return {way: moeviz.trace(model, PROMPT, **options, **WAYS[way]) for way in WAYS}
        finally:
            model.generation_config = plain

    return write


@pytest.fixture(scope="module")
def clean(writer):
    return writer()


def test_every_field_of_a_generation_config_has_a_hostile_value():
    assert set(vars(GenerationConfig())) == set(HOSTILE) | ITS_TOKENS


@pytest.mark.parametrize("first", range(8))
def test_what_sampling_and_decoding_say_is_done_whatever_the_checkpoint_says(first, writer, clean):
    """Eight fields at a time: what one of them does alone, it does beside the others."""
    written = sorted({int(token) for trace in clean.values() for token in trace.tokens["token_id"]})
    hostile = writer(
        **{name: HOSTILE[name](written) if callable(HOSTILE[name]) else HOSTILE[name] for name in [*HOSTILE][first::8]}
    )
    for way, trace in clean.items():
        assert hostile[way].equals(trace), way


# 7. A token that skips the experts, and a what-if in train mode.


def test_a_muted_expert_of_zaya_is_not_shown_as_skipping():
    model, tokenizer = random_model("zaya"), tiny_tokenizer()
    plain = moeviz.trace(model, NUMBERS_AND_WORDS, tokenizer=tokenizer)
    layer, index = plain.model.layers[0], 0
    expert = np.bincount(plain.experts[index].ravel(), minlength=9)[1:8].argmax().item() + 1  # 8 skips
    silent = moeviz.Mute({layer: (expert,)}, reroute=False)
    changed = moeviz.trace(model, NUMBERS_AND_WORDS, tokenizer=tokenizer, intervention=silent)
    np.testing.assert_array_equal(changed.experts[index], plain.experts[index])
    assert (changed.weights[index][changed.experts[index] == expert] == 0).all()
    assert (plain.weights[index][plain.experts[index] == expert] > 0).any()


@pytest.mark.parametrize("family", ["mixtral", "dbrx"])
def test_a_change_that_changes_nothing_has_no_effect_in_train_mode(family):
    if family == "mixtral":
        config = MixtralConfig(
            **SHAPE, num_hidden_layers=2, num_local_experts=8, num_experts_per_tok=2, router_jitter_noise=0.3
        )
        model, tokenizer = tiny_model(config), tiny_tokenizer()
    else:
        model, tokenizer = random_model("dbrx"), tiny_tokenizer()
        for block in model.transformer.blocks:
            block.ffn.router.moe_jitter_eps = 0.3
    own = moeviz.trace(model, NUMBERS_AND_WORDS, tokenizer=tokenizer)
    model.train()
    found = outcome_of(lambda: moeviz.what_if(model, NUMBERS_AND_WORDS, moeviz.Replay(own), tokenizer=tokenizer))
    assert isinstance(found, moeviz.WhatIf), found
    assert (found.effect["kl"] == 0).all()
    assert all(part.training for part in model.modules())


# 10. A sentence where a traceback came.


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a\ud800b", "~nobody-of-that-name/x"])
def test_a_name_that_no_model_can_have_is_one_short_sentence(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for opened in (load_model, model_facts):
        with pytest.raises(MoevizError) as refused:
            opened(name)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_one_short_sentence(name, capsys):
    with pytest.raises(MoevizError) as refused:
        moeviz.read_trace(f"{name}.npz")
    assert len(str(refused.value)) < 500
    for command in (["metrics", f"{name}.npz"], ["convert", "x.npz", f"{name}.csv"], ["corpus", name]):
        assert main(command) == 3
        said = capsys.readouterr().err
        assert said.startswith("moeviz: ") and len(said) < 500 and said.count("\n") == 1


def test_a_file_name_that_is_not_utf_8_is_not_a_label(tmp_path, capsys):
    file = tmp_path / "fran\udce7ais.txt"
    file.write_text("Il fait froid.")
    assert main(["corpus", str(file)]) == 3
    assert "is not text in UTF-8" in capsys.readouterr().err


TRY_THEM = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import json
from dataclasses import fields
from refused_settings import MODELS_THAT_ARE_NONE, SETTINGS_THAT_ARE_NONE
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
import moeviz
from moeviz import Decoding, Sampling

model, tokenizer, forwards, found = tiny_model(CONFIGS["mixtral"]), tiny_tokenizer(), [], []
model.register_forward_pre_hook(lambda *_: forwards.append(1))

def options(name, value):
    given = {"max_new_tokens": 2}
    if name in {field.name for field in fields(Sampling)}:
        return given | {"sampling": Sampling(**{"temperature": 1.0} | {name: value})}
    if name in {field.name for field in fields(Decoding)}:
        return given | {"decoding": Decoding(**{name: value})}
    return given | {name: value}

def says(run):
    forwards.clear()
    try:
        run()
    except Exception as error:
        return [type(error).__name__, str(error), len(forwards)]
    return ["nothing", "", len(forwards)]

for name, values in SETTINGS_THAT_ARE_NONE.items():
    for number, value in enumerate(values):
        given = options(name, value)
        prompt = given.pop("prompts", "Il fait")
        ways = {
            "trace": lambda: moeviz.trace(model, prompt, tokenizer=tokenizer, **given),
            "stream": lambda: list(moeviz.stream(model, prompt, tokenizer=tokenizer, **given)),
            "nowhere": lambda: moeviz.trace("/no/such/folder", prompt, **given),
        }
        found += [[name, number, way, *says(run)] for way, run in ways.items()]
for number, value in enumerate(MODELS_THAT_ARE_NONE):
    found.append(["model", number, "trace", *says(lambda: moeviz.trace(value, "Il fait"))])
print(json.dumps(found))
"""


def test_impossible_settings_are_refused_by_a_sentence_before_any_model_is_opened_or_runs():
    """In a process of its own: the types that these tests enforce would be in the way of the sentences."""
    found = json.loads(python("-c", TRY_THEM, str(Path(__file__).parents[1] / "support"), check=True).stdout)
    assert len(found) == 3 * sum(map(len, SETTINGS_THAT_ARE_NONE.values())) + len(MODELS_THAT_ARE_NONE)
    wrong = [
        row for row in found if row[3] not in ("CaptureError", "InvalidPrompt") or row[5] or " must be " not in row[4]
    ]
    assert [row for row in wrong if "Cannot generate" not in row[4]] == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop_strings": ["e"]}, "stop_strings, which moeviz cannot record: it ends a text by its characters"),
        ({"token_healing": True}, "token_healing, which moeviz cannot record: it changes the prompt"),
        ({"num_beams": 0}, "The checkpoint's own num_beams is 0; it must be a whole number from 1"),
        ({"do_sample": True, "temperature": -1.0}, "own temperature is -1.0; it must be 0, or a number from"),
        (
            {"do_sample": True, "top_p": -1.0},
            "cannot generate as this checkpoint's own settings say: `top_p` has to be",
        ),
        ({"penalty_alpha": 0.9, "top_k": 4}, "ask for contrastive search, which moeviz cannot record"),
        ({"early_stopping": "soon"}, "do not hold"),
    ],
)
def test_settings_of_a_checkpoint_that_cannot_be_followed_are_a_sentence(settings, says):
    model, forwards = tiny_model(CONFIGS["mixtral"]), []
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    with pytest.raises(moeviz.CaptureError) as refusal:
        moeviz.trace(model, PROMPT, tokenizer=tiny_tokenizer(), max_new_tokens=3, decoding="checkpoint")
    by_transformers = "cannot generate" in says  # once it begins, and that is after moeviz has checked the model
    assert says in str(refusal.value) and len(forwards) == by_transformers


# 11. A small table that names a large expert.

ABOVE_IDLE = """
import contextlib, io, resource, sys
from benchmarks.harness import peak_mb
from moeviz.cli.main import main
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace

resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
said = io.StringIO()

def peak(path):
    with contextlib.redirect_stdout(said):
        main(["metrics", path, "--topic", sys.argv[2], "--json"])
    return int(peak_mb())

write_trace(sample_trace(), sys.argv[1] + ".npz")
idle = peak(sys.argv[1] + ".npz")
said.truncate(said.seek(0))
print(peak(sys.argv[1]) - idle)
print(said.getvalue())
"""


@pytest.mark.parametrize(
    ("rows", "topic", "says"),
    [
        (["0,0,0", "0,0,32766"], "co-activation", '"expert":32766,"partner":0'),
        (["0,0,32766", "0,1,32766"], "flow", '"from_expert":32766,"to_expert":32766'),
        ([f"0,{layer},32766" for layer in range(3_000)], "load", "32,767 experts"),
    ],
)
def test_a_small_table_that_names_a_large_expert_takes_little_memory(rows, topic, says, tmp_path):
    """At most 300 MB more than the sample trace, and the numbers or one sentence."""
    path = tmp_path / "small.csv"
    path.write_text("\n".join(["position,layer,expert", *rows]))
    done = python("-c", ABOVE_IDLE, str(path), topic)
    assert "Traceback" not in done.stderr, done.stderr.splitlines()[-1]
    assert says in done.stdout.replace(" ", "") + done.stderr
    assert int(done.stdout.splitlines()[0]) < 300


# 12. Invisible characters before a formula.

KINDS_UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")
FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫")


def test_nothing_invisible_before_a_formula_lets_a_spreadsheet_run_it_and_no_text_is_lost():
    unseen = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) in KINDS_UNSEEN]
    assert len(unseen) > 200
    texts = [f"{one}{start}1" for one in unseen for start in FORMULAS]
    assert [text for text in texts if escape_formula(text) != f"'{text}"] == []
    trace = replace(sample_trace(tokens=len(texts), layers=1, top_k=1), logits=None)
    trace = replace(trace, tokens=trace.tokens.assign(text=pd.Series(texts, dtype="str")))
    assert read_bytes(to_csv(trace), "x.csv").equals(trace), "and they come back as they were"
