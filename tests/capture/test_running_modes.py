"""Every way of running twelve families; what cannot go together; streams that end early; compiled models put back."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from survey.compare import EQUAL, NOT_TRIED, ONE, REFUSED, WRONG
from survey.mechanisms import each
from survey.modes import FAMILIES, TWO
from survey.ways import EVERYWHERE, WAYS, outcome, surveyed_ways, tried_on
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.capture.run import generation as module
from moeviz.capture.run.decoding import Decoding, Sampling, sampling_processors
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError, InvalidPrompt


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model(CONFIGS["mixtral"])


# Routers that answer in as many ways as there are: groups and a bias, capacity, a loop, scores of all, a class to skip.
MANY_KINDS = ("mixtral", "deepseek_v3", "switch_transformers", "inkling2_loop", "llama4", "zaya")
SLOW = ("torch.compile, default", "torch.compile, reduce-overhead")
SURVEYED = surveyed_ways().set_index("way")


def check(way, family):
    """A trace that is right, or a sentence of ours; a way that is never refused must not begin to be."""
    cell = outcome(way, family)
    if cell.outcome == NOT_TRIED:
        pytest.skip(cell.says)
    assert cell.outcome in ({EQUAL, REFUSED} if SURVEYED["refused"].get(way, True) else {EQUAL}), cell.says


@pytest.mark.parametrize("way", [way for way in WAYS if way not in EVERYWHERE and way not in SLOW])
@pytest.mark.parametrize("family", each(FAMILIES, keep=["mixtral"]))
@pytest.mark.filterwarnings("ignore")  # of torch's compiler and accelerate, about models as tiny as these
def test_the_trace_is_what_the_experts_receive_of_the_finished_sequence(family, way):
    check(way, family)


@pytest.mark.parametrize("way", EVERYWHERE)
@pytest.mark.parametrize("family", each(MANY_KINDS, keep=["deepseek_v3"]))
@pytest.mark.filterwarnings("ignore")
def test_whatever_else_goes_on_the_trace_is_right_or_refused(family, way):
    check(way, family)


@pytest.mark.survey
@pytest.mark.parametrize("way", SLOW)
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_inductor_compiled_is_traced_as_it_was_written(way):
    check(way, "mixtral")


def test_a_router_that_never_ran_is_refused_for_that_reason():
    cell = outcome("router bypassed", "mixtral")
    assert cell.outcome == REFUSED and "answered 0 times" in cell.says


def test_the_table_of_ways_has_every_way_and_nothing_wrong_in_it():
    assert list(SURVEYED.index) == list(WAYS), "run `python tests/survey --ways --write`"
    assert not SURVEYED[["wrong", "other"]].to_numpy().any()
    assert (SURVEYED.sum(axis=1) == [len(tried_on(way)) for way in WAYS]).all()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks transformers so
def test_lora_on_the_routers_sends_tokens_elsewhere_or_the_survey_would_show_nothing(model, tokenizer):
    from survey.model_variants import lora_on_routers, with_lora
    from survey.tiny_models import random_model

    plain, adapted = random_model("mixtral"), random_model("mixtral")
    one, other = (
        trace(part, ONE, tokenizer=tokenizer) for part in (plain, with_lora(adapted, lora_on_routers(adapted)))
    )
    assert (one.experts != other.experts).mean() > 0.05


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks transformers so
def test_a_model_that_learns_its_prompt_is_refused(tokenizer):
    from peft import PromptTuningConfig, get_peft_model

    learning = get_peft_model(
        tiny_model(CONFIGS["mixtral"]), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(CaptureError, match="PromptTuningConfig"):
        trace(learning, ONE, tokenizer=tokenizer)


def test_sharper_routers_have_larger_logits_or_the_survey_would_show_nothing(tokenizer):
    from survey.model_variants import sharpened
    from survey.tiny_models import random_model

    for family in ("mixtral", "llama4", "zaya", "switch_transformers", "gemma4"):
        one, other = (trace(sharpened(random_model(family), by), ONE, tokenizer=tokenizer).logits[0] for by in (1, 20))
        spread = [(part.max(-1) - part.min(-1)).mean() for part in (one, other)]
        assert spread[1] == pytest.approx(20 * spread[0], rel=0.3), family


def test_the_survey_recognises_a_wrong_trace(monkeypatch):
    from survey import compare

    plain = compare.trace

    def forged(*given, **named):
        made = plain(*given, **named)
        made.experts[0, 0, 0] = (made.experts[0, 0, 0] + 1) % made.model.num_experts[0]
        return made

    monkeypatch.setattr(compare, "trace", forged)
    assert outcome("float64", "mixtral").outcome == WRONG


def test_an_encoder_is_read_once_and_its_decoder_in_beams(tokenizer):
    from survey.tiny_models import random_model

    model = random_model("switch_transformers")
    model.generation_config.eos_token_id = None
    options = {"tokenizer": tokenizer, "max_new_tokens": 5, "decoding": Decoding(num_beams=3, num_return_sequences=2)}
    encoder, decoder = (trace(model, TWO, site=site, **options) for site in ("encoder", "decoder"))
    assert encoder.tokens["sequence"].nunique() == 2 and (encoder.tokens["phase"] == "prompt").all()
    assert decoder.tokens.groupby("sequence").size().tolist() == [5] * 4
    drawn = Decoding(num_return_sequences=2)
    got = trace(model, TWO, tokenizer=tokenizer, max_new_tokens=5, decoding=drawn, sampling=Sampling(1.0))
    assert got.tokens["sequence"].nunique() == 4


def test_the_drafts_and_beams_of_these_tests_are_really_rejected_and_reordered(model, tokenizer, monkeypatch):
    """Otherwise nothing would be told by equal cells: with the rows of beams forgotten, capture refuses the trace."""
    plain = module.generated_tokens

    def no_drafts(plan):
        return replace(plan, decoding=replace(plan.decoding, prompt_lookup_num_tokens=None))

    monkeypatch.setattr(module, "generated_tokens", lambda model, ids, _beams, plan: plain(model, ids, None, plan))
    with pytest.raises(CaptureError, match="token"):
        trace(model, TWO, tokenizer=tokenizer, max_new_tokens=6, decoding=Decoding(num_beams=3))
    monkeypatch.setattr(
        module, "generated_tokens", lambda model, ids, beams, plan: plain(model, ids, beams, no_drafts(plan))
    )
    with pytest.raises(CaptureError, match="token"):
        trace(model, ONE, tokenizer=tokenizer, max_new_tokens=6, decoding=Decoding(prompt_lookup_num_tokens=3))


@pytest.mark.parametrize(
    ("prompts", "decoding", "sampling", "says"),
    [
        (TWO, Decoding(prompt_lookup_num_tokens=2), Sampling(), "one sequence at a time"),
        (ONE, Decoding(prompt_lookup_num_tokens=2, num_beams=2), Sampling(), "one sequence at a time"),
        (ONE, Decoding(num_return_sequences=2), Sampling(), "same every time"),
        (ONE, Decoding(num_beams=2, num_return_sequences=3), Sampling(), "2 beams cannot give 3 sequences"),
        (ONE, Decoding(num_beams=2), Sampling(1.0), "Beam search takes the most likely"),
        (ONE, Decoding(cache_implementation="no such"), Sampling(), "'no such'.*'static'"),
    ],
)
def test_what_cannot_go_together_is_a_sentence(prompts, decoding, sampling, says, model, tokenizer):
    with pytest.raises(CaptureError, match=says):
        trace(model, prompts, tokenizer=tokenizer, max_new_tokens=3, decoding=decoding, sampling=sampling)


def test_a_model_does_not_draft_for_itself(model, tokenizer):
    with pytest.raises(CaptureError, match="draft"):
        trace(model, ONE, tokenizer=tokenizer, max_new_tokens=3, decoding=Decoding(assistant_model=model))


def test_draws_follow_the_probabilities():
    """10,000 draws of Gumbel's trick, against the softmax: each share within four standard errors."""
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    draw = sampling_processors(Sampling(temperature=2.0, seed=5))
    taken = draw(torch.zeros(10_000, 1, dtype=torch.long), scores.repeat(10_000, 1)).argmax(-1)
    shares, expected = torch.bincount(taken, minlength=4) / 10_000, (scores / 2).softmax(-1)
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 10_000).sqrt()).all()


def test_a_draw_is_its_seeds_and_neither_moves_nor_is_moved_by_what_others_draw(model, tokenizer):
    options, before = {"tokenizer": tokenizer, "max_new_tokens": 6}, torch.get_rng_state()
    alone, other = (trace(model, ONE, sampling=Sampling(1.0, seed=seed), **options) for seed in (2, 3))
    assert torch.equal(torch.get_rng_state(), before) and not alone.tokens.equals(other.tokens)
    beside = trace(model, ONE, progress=lambda *_: torch.rand(3), sampling=Sampling(1.0, seed=2), **options)
    assert beside.equals(alone)


OWN = {
    "greedy": {"repetition_penalty": 0.5},
    "drawn": {"do_sample": True, "temperature": 0.9, "top_k": 200, "min_p": 0.0001},
    "drawn with a static cache": {"do_sample": True, "cache_implementation": "static", "use_cache": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 1},
    "drawn beams": {"num_beams": 3, "do_sample": True},
    "3 drawn of each": {"do_sample": True, "num_return_sequences": 3, "max_length": 7},
}


@pytest.mark.parametrize("settings", OWN.values(), ids=OWN)
def test_under_the_checkpoint_s_own_settings_the_text_is_that_of_generate(settings, tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    read = tokenizer(TWO, padding=True, padding_side="left", return_tensors="pt")
    mask = read["attention_mask"]
    torch.manual_seed(5)
    plain = model.generate(read["input_ids"], attention_mask=mask, max_new_tokens=6)
    got = trace(model, TWO, tokenizer=tokenizer, max_new_tokens=6, decoding="checkpoint", sampling=Sampling(seed=5))
    written = [part["token_id"].tolist() for _, part in got.tokens.groupby("sequence")]
    kept = mask.repeat_interleave(len(plain) // 2, dim=0).bool()
    width = mask.shape[1]
    assert written == [
        row[:width][ours].tolist() + row[width:-1].tolist() for row, ours in zip(plain, kept, strict=True)
    ]


def test_a_seed_disturbs_no_one_s_draws_and_no_one_disturbs_it(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    settings = model.generation_config.to_dict()
    options = {"tokenizer": tokenizer, "max_new_tokens": 6, "decoding": "checkpoint"}
    before = torch.get_rng_state()
    first = trace(model, ONE, **options, sampling=Sampling(seed=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert trace(model, ONE, **options, sampling=Sampling(seed=2), progress=lambda *_: torch.rand(3)).equals(first)
    assert not trace(model, ONE, **options, sampling=Sampling(seed=3)).tokens.equals(first.tokens)
    assert model.generation_config.to_dict() == settings


def test_the_trace_says_how_its_tokens_were_generated(model, tokenizer, monkeypatch):
    def says(max_new_tokens=2, **options):
        return trace(model, ONE, tokenizer=tokenizer, max_new_tokens=max_new_tokens, **options).model.decoding

    assert says(0) == says(0, decoding="checkpoint") == "" and says() == "greedy"
    assert says(sampling=Sampling(0.8, top_p=0.9, seed=3)) == "sampled at temperature 0.8, top-p 0.9, seed 3"
    beams = Decoding(num_beams=3, num_return_sequences=2)
    assert says(decoding=beams) == "beam search with 3 beams, 2 sequences of each prompt"
    monkeypatch.setattr(model.generation_config, "min_p", 0.1)
    assert says(decoding="checkpoint") == "the checkpoint's own settings: greedy"
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "suppress_tokens", list(range(100)))
    assert says(decoding="checkpoint", sampling=Sampling(seed=1)) == (
        "the checkpoint's own settings: sampled at temperature 1, top-k 50, seed 1, min p 0.1, suppress tokens of 100 "
        "entries"
    )


def test_with_the_checkpoint_s_own_settings_sampling_gives_a_seed_alone(model, tokenizer):
    with pytest.raises(CaptureError, match="checkpoint"):
        trace(model, ONE, tokenizer=tokenizer, max_new_tokens=3, decoding="checkpoint", sampling=Sampling(0.8))


def test_the_checkpoint_s_beams_are_not_streamed_and_its_draws_are(model, tokenizer, monkeypatch):
    options = {"tokenizer": tokenizer, "max_new_tokens": 4, "decoding": "checkpoint", "sampling": Sampling(seed=1)}
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    assert list(moeviz.stream(model, ONE, **options))[-1].equals(trace(model, ONE, **options))
    monkeypatch.setattr(model.generation_config, "num_beams", 2)
    with pytest.raises(CaptureError, match="beam"):
        moeviz.stream(model, ONE, **options)


def test_whole_numbers_of_other_kinds_are_numbers(model, tokenizer):
    """A temperature of 1, and numpy's: transformers wants a float and an int, and is given them."""
    options = {"tokenizer": tokenizer, "max_new_tokens": 3}
    sampling = Sampling(1.0, top_k=50, seed=1)
    expected = trace(model, ONE, **options, sampling=sampling)
    for name, value in {"temperature": 1, "top_k": np.int64(50), "seed": np.uint32(1)}.items():
        object.__setattr__(sampling, name, value)  # past the types that these tests enforce
    assert trace(model, ONE, **options, sampling=sampling).equals(expected)


def test_what_a_watcher_raises_comes_out_as_it_is(model, tokenizer):
    def stop(*_):
        raise ValueError("enough")

    with pytest.raises(ValueError, match=r"^enough$"):
        trace(model, ONE, tokenizer=tokenizer, max_new_tokens=3, progress=stop, decoding=Decoding(num_beams=2))


def test_a_stream_that_is_left_stops_the_model_before_its_next_token(model, tokenizer):
    forwards = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    for _ in moeviz.stream(model, ONE, tokenizer=tokenizer, max_new_tokens=50):
        if len(forwards) == 3:
            break
    hook.remove()
    assert len(forwards) == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "moeviz-stream"]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert len(trace(model, ONE, tokenizer=tokenizer).tokens)


def test_a_model_without_a_head_streams_its_prompt(tokenizer):
    model = tiny_model(CONFIGS["mixtral"]).model
    (made,) = moeviz.stream(model, ONE, tokenizer=tokenizer, max_new_tokens=0)
    assert made.equals(trace(model, ONE, tokenizer=tokenizer))


def test_a_stream_raises_what_the_model_raises(model, tokenizer):
    with pytest.raises(InvalidPrompt, match="prompt"):
        moeviz.stream(model, "", tokenizer=tokenizer, max_new_tokens=3)
    with pytest.raises(CaptureError, match="beam"):
        moeviz.stream(model, ONE, tokenizer=tokenizer, max_new_tokens=3, decoding=Decoding(num_beams=2))
    hook = model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(moeviz.stream(model, ONE, tokenizer=tokenizer, max_new_tokens=3))
    hook.remove()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_compiled_again_after_its_trace(tokenizer):
    torch._dynamo.reset()
    model, ids = tiny_model(CONFIGS["mixtral"]), torch.tensor([[5, 6, 7]])
    model.compile(backend="eager")
    model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
    before, calls, inner = model(ids).logits, model._compiled_call_impl, dict(vars(model.model.layers[0]))
    compiled, plain = trace(torch.compile(model), ONE, tokenizer=tokenizer), tiny_model(CONFIGS["mixtral"])
    assert compiled.equals(trace(plain, ONE, tokenizer=tokenizer))
    assert model._compiled_call_impl is calls
    assert vars(model.model.layers[0])["forward"] is inner["forward"]
    assert torch.equal(model(ids).logits, before)
