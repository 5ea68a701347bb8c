"""Streams that take turns on one model: each gives what it gives alone, and between turns nothing of ours is on it."""

import random
import threading
from contextlib import closing

import pytest
import torch
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

from moeviz import Force, Mute, Sampling, what_if
from moeviz.analyses.precisions import in_precisions
from moeviz.capture.trace import stream, trace

TOKENIZER = tiny_tokenizer()
TEXTS = ["To be", "12 + 7 = 19, und heute", ["a", "Il fait froid"]]
WAYS = {
    "listening": {"kernels": False},
    "kernels": {"kernels": True},
    "drawn": {"sampling": Sampling(1.0, seed=3)},
    "as the checkpoint draws": {"decoding": "checkpoint", "sampling": Sampling(seed=5)},
    "muted": {"intervention": Mute({1: (0, 1)})},
    "forced by kernels": {"kernels": True, "intervention": Force({0: (2,)})},
}


@pytest.fixture
def model():
    made = tiny_model(CONFIGS["mixtral"])
    made.generation_config.do_sample = True  # for the checkpoint's own settings; others do not follow them
    return made


def is_untouched(model):
    return not any("forward" in vars(p) or p._forward_hooks or p._forward_pre_hooks for p in model.modules())


def taking_turns(streams, seed):
    """The last trace of each stream, stepped in an order of chance."""
    order, last = random.Random(seed), {}
    left = dict(streams)
    while left:
        name = order.choice(list(left))
        if (grown := next(left[name], None)) is None:
            del left[name]
        else:
            last[name] = grown
    return last


@pytest.mark.parametrize("seed", range(2))
def test_streams_of_every_kind_on_one_model_give_in_any_order_what_they_give_alone(model, seed):
    asked = {(way, i): (text, WAYS[way] | {"max_new_tokens": 4 + i}) for way in WAYS for i, text in enumerate(TEXTS)}
    alone = {name: trace(model, text, tokenizer=TOKENIZER, **how) for name, (text, how) in asked.items()}
    streams = {name: stream(model, text, tokenizer=TOKENIZER, **how) for name, (text, how) in asked.items()}
    last = taking_turns(streams, seed)
    assert all(last[name].equals(expected) for name, expected in alone.items())
    assert is_untouched(model)


@pytest.mark.parametrize("architecture", ["dbrx", "jetmoe", "llama4", "inkling2_loop"])
def test_routers_that_answer_in_their_own_way_take_turns_too(architecture):
    model = random_model(architecture)
    alone = [trace(model, text, tokenizer=TOKENIZER, max_new_tokens=4) for text in TEXTS]
    streams = {i: stream(model, text, tokenizer=TOKENIZER, max_new_tokens=4) for i, text in enumerate(TEXTS)}
    last = taking_turns(streams, 0)
    assert all(last[i].equals(expected) for i, expected in enumerate(alone))


@pytest.mark.parametrize("way", ["listening", "kernels", "forced by kernels"])
def test_between_turns_the_model_is_as_it_was_and_whoever_uses_it_gets_what_it_gives(model, way):
    ids = torch.tensor([[5, 6, 7]])
    logits, quiet = model(ids).logits, trace(model, TEXTS[0], tokenizer=TOKENIZER)
    changed = what_if(model, TEXTS[0], Mute({0: (1,)}), tokenizer=TOKENIZER)
    rounded = in_precisions(model, TEXTS[0], ["bfloat16"], tokenizer=TOKENIZER)["bfloat16"].trace
    expected = trace(model, TEXTS[1], tokenizer=TOKENIZER, max_new_tokens=3, **WAYS[way])
    grown = []
    for part in stream(model, TEXTS[1], tokenizer=TOKENIZER, max_new_tokens=3, **WAYS[way]):
        assert is_untouched(model)
        assert torch.equal(model(ids).logits, logits)
        assert trace(model, TEXTS[0], tokenizer=TOKENIZER).equals(quiet)
        assert what_if(model, TEXTS[0], Mute({0: (1,)}), tokenizer=TOKENIZER).effect.equals(changed.effect)
        again = in_precisions(model, TEXTS[0], ["bfloat16"], tokenizer=TOKENIZER)["bfloat16"]
        assert again.trace.equals(rounded)
        grown.append(part)
    assert grown[-1].equals(expected)


def test_a_stream_that_is_left_between_others_takes_nothing_of_theirs_away(model):
    alone = trace(model, TEXTS[1], tokenizer=TOKENIZER, max_new_tokens=5, kernels=True)
    left = stream(model, TEXTS[0], tokenizer=TOKENIZER, max_new_tokens=50, kernels=True)
    next(left)
    with closing(stream(model, TEXTS[1], tokenizer=TOKENIZER, max_new_tokens=5, kernels=True)) as other:
        first = next(other)
        next(left)
        left.close()
        assert is_untouched(model)
        assert [first, *other][-1].equals(alone)
    assert not [thread for thread in threading.enumerate() if thread.name == "moeviz-stream"]


def test_a_trace_that_is_seldom_assembled_ends_as_the_whole_one(model):
    def streamed(seconds):
        return list(stream(model, "To be", tokenizer=TOKENIZER, max_new_tokens=5, seconds_between=seconds))

    each, now_and_then = streamed(0.0), streamed(1000.0)
    assert len({id(grown) for grown in each}) == len(each)
    assert all(grown is now_and_then[0] for grown in now_and_then[:-1]) and len(now_and_then) > 2
    assert now_and_then[-1].equals(each[-1]) and not now_and_then[0].equals(each[-1])
    assert now_and_then[-1].equals(trace(model, "To be", tokenizer=TOKENIZER, max_new_tokens=5))
