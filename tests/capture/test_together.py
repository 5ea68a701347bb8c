"""Streams that decode in one batch: each gives what it gives alone, comes and goes as it likes, and fails by itself."""

import gc
import random
from contextlib import closing, contextmanager

import pytest
import torch
from forks import FAMILIES, asked_at_random, compared, found_alike, opened
from survey.mechanisms import each
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from transformers import LogitsProcessor, LogitsProcessorList

import moeviz
from moeviz import Mute, Sampling
from moeviz.capture import together
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.capture.run.decoding import Decoding
from moeviz.capture.together import share_decoding, shared_decoding
from moeviz.capture.trace import stream, trace

TEXTS = ["To be", "Il fait froid, und heute ist es kalt", "12 + 7 ="]


@pytest.fixture(scope="module")
def models():
    return {family: opened(family) for family in FAMILIES}


@pytest.fixture
def model():
    return opened("mixtral")


@contextmanager
def hooked(model, before):
    """Inside the block a function is given the token ids of each forward before it."""
    hook = model.model.register_forward_pre_hook(lambda _m, _a, how: before(how["input_ids"]), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def rows(model):
    """The number of rows of each forward of the model, which is checked before."""
    seen = []
    trace(model, TEXTS[0])
    with hooked(model, lambda ids: seen.append(len(ids))):
        yield seen


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_that_come_and_go_give_what_they_give_alone(models, family):
    model, chance = models[family], random.Random(f"{family} 0")
    found = list(found_alike(model, [asked_at_random(chance) for _ in range(12)], chance))
    assert len(found) > 6 and [one for one in found if not one.holds] == []
    assert sum(one.token is None for one in found) > len(found) / 2
    assert shared_decoding(model.model).bytes_held == 0


def check_alike(model, alone, made):
    assert compared(model, {"sampling": Sampling()}, alone, made).holds


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_without_company_gives_bit_for_bit_what_trace_gives(models, family):
    model = models[family]
    for how in ({}, {"sampling": Sampling(1.0, seed=3), "next_tokens": True, "keep_logits": False}):
        alone = trace(model, TEXTS[1], max_new_tokens=20, **how)
        grown = list(stream(model, TEXTS[1], max_new_tokens=20, **how))
        assert grown[-1].equals(alone) and len(grown) == 20
        assert [len(part.tokens) for part in grown] == list(range(len(alone.tokens) - 19, len(alone.tokens) + 1))


def test_each_forward_reads_a_token_of_every_stream_that_goes_on(model, rows):
    streams = [stream(model, text, max_new_tokens=4) for text in TEXTS]
    assert [len(next(one).tokens) for one in streams] and rows == [1, 1, 1]
    assert len(list(streams[0])) == 3 and rows[3:] == [3, 3, 3]
    assert [len(list(one)) for one in streams[1:]] == [1, 1] and len(rows) == 6, "their tokens are there already"


def test_a_stream_that_joins_late_is_read_alone_and_the_others_go_on(model, rows):
    first = stream(model, TEXTS[0], max_new_tokens=6)
    next(first), next(first)
    late = stream(model, TEXTS[1], max_new_tokens=2)
    next(late), list(first)
    assert rows == [1, 1, 1, 2, 1, 1, 1] and len(list(late)) == 1


def test_a_stream_ends_at_its_own_stop_token_as_it_does_alone(model, rows):
    drawn = trace(model, TEXTS[1], max_new_tokens=6).tokens["token_id"].tolist()[-5:]
    model.model.generation_config.eos_token_id = [drawn[3]]
    alone = [trace(model, text, max_new_tokens=6) for text in TEXTS]
    lengths = [int((one.tokens["phase"] == "generated").sum()) for one in alone]
    assert lengths[1] < max(lengths) == 5
    del rows[:]
    streams = [stream(model, text, max_new_tokens=6) for text in TEXTS]
    assert all(next(one) for one in streams)
    made = [[*one][-1] for one in streams]
    assert rows == 3 * [1] + [sum(length > step for length in lengths) for step in range(5)]
    for one, other in zip(alone, made, strict=True):
        assert one.model == other.model
        check_alike(model, one, other)


def test_nothing_is_kept_of_a_stream_that_ended_or_was_left(model):
    shared, long, short = shared_decoding(model.model), "a " * 40, "To be"
    with closing(stream(model, short, max_new_tokens=50)) as stays:
        next(stays)
        alone = shared.bytes_held
        left = stream(model, long, max_new_tokens=50)
        next(left)
        assert shared.bytes_held > 4 * alone, "the short row is padded"
        left.close()
        assert shared.bytes_held == alone
        ends = stream(model, long, max_new_tokens=2)
        next(ends)
        next(stays)
        assert shared.bytes_held < 2 * alone and len(list(ends)) == 1
    assert shared.bytes_held == 0


def test_a_stream_that_waits_holds_no_logits(model):
    def logits() -> dict[int, tuple[int, ...]]:  # by type alone: `isinstance` asks objects, of which some are lazy
        gc.collect()
        tensors = [held for held in gc.get_objects() if issubclass(type(held), torch.Tensor)]
        return {id(held): tuple(held.shape) for held in tensors if held.shape[-1:] == (vocabulary,)}

    vocabulary = model.model.config.vocab_size
    before = logits()  # other tests may hold some
    with closing(stream(model, "a " * 40, max_new_tokens=5, next_tokens=True)) as waits:
        next(waits)
        assert logits().items() <= before.items()


def test_a_stream_for_which_a_batch_has_no_room_goes_on_by_itself(model, rows):
    share_decoding(model, most_bytes=1)
    del rows[:]
    alone = [trace(model, text, max_new_tokens=4) for text in TEXTS]
    streams = [stream(model, text, max_new_tokens=4) for text in TEXTS]
    assert all(next(one) for one in streams)
    last = [[*one][-1] for one in streams]
    assert all(map(moeviz.RoutingTrace.equals, last, alone)) and set(rows) == {1}


def test_a_batch_that_fails_is_parted_and_its_rows_go_on_alone(model, rows, caplog):
    alone = [trace(model, text, max_new_tokens=5) for text in TEXTS]

    def no_memory(ids):
        if len(ids) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    streams = [stream(model, text, max_new_tokens=5) for text in TEXTS]
    assert all(next(one) for one in streams) and next(streams[1])
    with hooked(model, no_memory):
        last = [[*one][-1] for one in streams]
    for one, made in zip(alone, last, strict=True):
        check_alike(model, one, made)
    assert "each goes on by itself" in caplog.text


def test_an_error_of_one_stream_is_raised_in_that_stream_alone(model):
    alone = [trace(model, text, max_new_tokens=5) for text in TEXTS]
    bad = int(alone[1].tokens["token_id"].iloc[-1])
    assert all(bad not in one.tokens["token_id"].tolist() for one in (alone[0], alone[2]))

    def fails(ids):
        if bad in ids and ids.shape[1] == 1:
            raise ZeroDivisionError("of one")

    with hooked(model, fails):
        streams = [stream(model, text, max_new_tokens=5) for text in TEXTS]
        assert all(next(one) for one in streams)
        for place in (0, 2):
            check_alike(model, alone[place], [*streams[place]][-1])
        with pytest.raises(ZeroDivisionError, match="of one"):
            list(streams[1])
    assert shared_decoding(model.model).bytes_held == 0


def test_what_fails_while_a_token_is_drawn_fails_for_its_own_stream(model, monkeypatch):
    drawn, own = [], together.sampling_processors

    class Fails(LogitsProcessor):
        def __call__(self, ids, scores):
            drawn.append(scores)
            return scores if len(drawn) < 3 else 1 / 0

    monkeypatch.setattr(
        together, "sampling_processors", lambda how: LogitsProcessorList([Fails()]) if how.seed else own(how)
    )
    streams = [stream(model, TEXTS[0], max_new_tokens=5, sampling=Sampling(1.0, seed=seed)) for seed in (1, 0)]
    assert [next(one) for one in streams]
    assert len(list(streams[1])) == 4
    with pytest.raises(ZeroDivisionError):
        list(streams[0])


OWN_TURNS = {
    "interventions": {"intervention": Mute({1: (0, 1)})},
    "kernels": {"kernels": True},
    "decoding": {"decoding": "checkpoint"},
    "chunks": {"decoding": Decoding(prefill_chunk_size=2)},
}


@pytest.mark.parametrize("way", OWN_TURNS)
def test_other_ways_to_generate_keep_their_own_turns(model, rows, way):
    how = OWN_TURNS[way] | {"max_new_tokens": 3}
    alone = [trace(model, text, **how) for text in TEXTS]
    del rows[:]
    streams = [stream(model, text, **how) for text in TEXTS]
    assert all(next(one) for one in streams)
    last = [[*one][-1] for one in streams]
    assert all(map(moeviz.RoutingTrace.equals, last, alone)) and set(rows) == {1}


def test_several_texts_and_autocast_keep_their_own_turns(model, rows):
    both = stream(model, TEXTS[:2], max_new_tokens=3)
    one = stream(model, TEXTS[2], max_new_tokens=3)
    with torch.autocast("cpu", torch.bfloat16):
        other = stream(model, TEXTS[0], max_new_tokens=3)
    next(both), next(one), next(other)
    del rows[:]
    list(one)
    assert rows == [1, 1]


REFUSED = {
    "jamba": "keeps other things of a text than keys and values",
    "switch_transformers": "has an encoder",
    "phimoe": "prepares what it reads in its own way",
    "mixtral in bfloat16": "is in bfloat16 on cpu",
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_of_other_kinds_keep_their_own_turns(name):
    model = random_model(name) if " " not in name else tiny_model(CONFIGS["mixtral"], torch.bfloat16)
    assert REFUSED[name] in share_decoding(LoadedModel(model, tiny_tokenizer(), describe(model, name)))
    assert shared_decoding(model) is None


# The families above, which mix, are not repeated here; these route, cache or loop in other ways.
OTHER_WAYS = ("deepseek_v4", "dbrx", "llama4", "jetmoe", "inkling2_loop", "zaya", "doge", "gemma4", "nllb_moe")


@pytest.mark.parametrize("architecture", each(keep=OTHER_WAYS))
def test_every_architecture_gives_the_same_with_others_and_by_itself_or_takes_turns(architecture):
    model, chance = random_model(architecture), random.Random(architecture)
    loaded = LoadedModel(model, tiny_tokenizer(), describe(model, architecture))
    if why_not := share_decoding(loaded):
        assert why_not.endswith(".")
    else:
        found = list(found_alike(loaded, [asked_at_random(chance) for _ in range(4)], chance))
        assert found and [one for one in found if not one.holds] == []


def test_a_model_whose_experts_drop_what_is_too_much_keeps_its_own_turns():
    """As with a capacity: of equal rows, the third finds its expert full."""
    model = tiny_model(CONFIGS["mixtral"])

    class Full(type(model.model.layers[1].mlp.gate)):
        def forward(self, hidden):
            logits, weights, experts = super().forward(hidden)
            is_full = (experts[:, :1] == experts[:, 0]).tril().sum(1) > 2
            return logits, weights.masked_fill(is_full[:, None], 0.0), experts

    model.model.layers[1].mlp.gate.__class__ = Full
    assert "differently in a batch" in share_decoding(LoadedModel(model, tiny_tokenizer(), describe(model, "full")))
