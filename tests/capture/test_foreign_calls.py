"""Whatever runs beside a trace, it is the quiet one, or a sentence; and what others get is what the model gives."""

from contextlib import ExitStack

import pytest
import torch
from foreign import calling, elsewhere, here
from fused_models import FAMILIES
from hypothesis import Phase, given, settings
from hypothesis import strategies as some
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

from moeviz import Mute, Swap, what_if
from moeviz.capture.record.hooks import listen
from moeviz.capture.routers.discovery import LOOPED, find_routers, order_of
from moeviz.capture.trace import stream, trace
from moeviz.errors import CaptureError, MoevizError

PROMPTS = ["To be", "12 + 7 = 19, und heute"]
IDS = torch.tensor([[5, 6, 7, 8, 9]])
TOKENIZER = tiny_tokenizer()
MODEL, OTHER = tiny_model(CONFIGS["mixtral"]), tiny_model(CONFIGS["mixtral"])  # of one configuration
INTERVENTIONS = {"none": None, "mute": Mute({1: (0, 1)}), "exchange": Swap(0, 1, 2)}
PLACES = ["", "model", "model.layers.0", "model.layers.2", "model.layers.1.mlp", "model.layers.1.mlp.gate"]


def traced(model=MODEL, **options):
    return trace(model, PROMPTS, tokenizer=TOKENIZER, **options)


def acts(length):
    """Ways to call the model, or a part of it."""
    ids = torch.arange(length)[None] * 3 + 5
    hidden = torch.linspace(-1, 1, length * 32).view(1, length, 32)
    return {
        "model": lambda: MODEL(ids).logits,
        "model without a cache": lambda: MODEL(ids, use_cache=False).logits,
        "stack": lambda: MODEL.model(ids).last_hidden_state,
        "generate": lambda: MODEL.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0),
        "embeddings": lambda: MODEL(inputs_embeds=hidden).logits,
        "block": lambda: MODEL.model.layers[1].mlp(hidden),
        "router": lambda: MODEL.model.layers[1].mlp.gate(hidden)[1],
        "experts": lambda: MODEL.model.layers[0].mlp.experts(
            hidden[0], torch.tensor([[0, 1]] * length), hidden[0, :, :2]
        ),
    }


QUIET = {}


def quiet(key, make):
    if key not in QUIET:
        QUIET[key] = make()
    return QUIET[key]


EVENTS = some.tuples(
    some.sampled_from(PLACES),
    some.booleans(),  # before or after
    some.sets(some.integers(0, 3), min_size=1),  # at which of its calls
    some.sampled_from(list(acts(1))),
    some.integers(1, 12),  # tokens
)


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    kernels=some.booleans(),
    new=some.integers(0, 2),
    change=some.sampled_from(list(INTERVENTIONS)),
    events=some.lists(some.tuples(some.sampled_from([elsewhere, here]), EVENTS), min_size=1, max_size=3),
)
def test_any_interleaving_with_foreign_calls_gives_the_quiet_trace_or_a_sentence(kernels, new, change, events):
    """Calls of other threads change nothing, and get what they get quietly; hooks of one's own may be refused."""
    options = {"kernels": kernels, "max_new_tokens": new, "intervention": INTERVENTIONS[change]}
    expected = quiet((kernels, new, change), lambda: traced(**options))
    results = []
    with ExitStack() as stack:
        hooked = kernels and any(after and place.endswith("gate") for _, (place, after, *_) in events)
        expected = [expected, *([quiet((False, new, change), lambda: traced(**options | {"kernels": False}))] * hooked)]
        for who, (place, after, times, what, length) in events:
            call = calling(MODEL.get_submodule(place), acts(length)[what], who, after, times)
            results.append((who, what, length, stack.enter_context(call)))
        try:
            got = traced(**options)
            assert any(got.equals(one) for one in expected)
        except MoevizError:
            assert any(who is here for who, *_ in results)
    for who, what, length, gave in results:
        alone = quiet((what, length), lambda what=what, length=length: here(acts(length)[what]))
        assert who is here or all(torch.equal(one, alone) for one in gave)
    assert not any("forward" in vars(part) or part._forward_pre_hooks for part in MODEL.modules())


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_oss"])
def test_a_thread_that_generates_meanwhile_gets_its_text_and_the_trace_is_its_own(family, kernels):
    model = tiny_model(FAMILIES[family])
    options = {"max_new_tokens": 2, "kernels": kernels, "intervention": Mute({1: (0, 1)}, reroute=False)}
    expected = traced(model, **options)

    def generate():
        return model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0, return_dict_in_generate=True,
                              output_logits=True).logits  # fmt: skip

    alone = here(generate)
    with calling(model.model.layers[1], generate) as gave:
        assert traced(model, **options).equals(expected)
    assert len(gave) >= 2
    assert all(torch.equal(one, other) for got in gave for one, other in zip(got, alone, strict=True))


@pytest.mark.parametrize("architecture", ["dbrx", "jetmoe", "llama4", "inkling2_loop", "switch_transformers"])
def test_routers_that_answer_in_their_own_way_answer_this_thread_alone(architecture):
    model = random_model(architecture)
    inside = model.get_submodule(find_routers(model)[0].block_path)
    start = {"decoder_input_ids": IDS[:, :2]} if model.config.is_encoder_decoder else {}
    expected = traced(model)
    with calling(inside, lambda: model(input_ids=IDS, **start)) as gave:
        assert traced(model).equals(expected)
    assert gave


def test_two_models_of_one_configuration_are_traced_side_by_side():
    """One by kernels, the other by listening: the experts of the other run as they are."""
    expected = traced(kernels=True), traced(OTHER, kernels=False, max_new_tokens=2)
    with calling(MODEL.model.layers[1], lambda: traced(OTHER, kernels=False, max_new_tokens=2)) as gave:
        assert traced(kernels=True).equals(expected[0])
    assert gave and all(got.equals(expected[1]) for got in gave)


def test_a_stream_records_its_own_thread_alone():
    expected = traced(max_new_tokens=3)
    grown = []
    for part in stream(MODEL, PROMPTS, tokenizer=TOKENIZER, max_new_tokens=3):
        here(lambda: (MODEL(IDS), MODEL.model(IDS)))
        grown.append(part)
    assert len(grown) == 3 and grown[-1].equals(expected)


def test_a_progress_callback_that_runs_the_model_is_refused():
    with pytest.raises(CaptureError, match="sequences"):
        traced(max_new_tokens=3, progress=lambda done, total: here(lambda: MODEL(IDS)))


def test_what_runs_between_forwards_is_not_recorded():
    """Gradient checkpointing calls every router again while gradients are worked out."""
    model = tiny_model(CONFIGS["mixtral"]).train()

    def recorded(checkpointing):
        if checkpointing:  # transformers renamed it
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        with listen(model) as recording:
            for _ in range(2):
                model(IDS, labels=IDS, use_cache=False).loss.backward()
            here(lambda: model.model(IDS))
        recording.check()
        return recording

    plain, again = recorded(False), recorded(True)
    assert all((a == b).all() for a, b in zip(plain.rows("experts"), again.rows("experts"), strict=True))
    assert all((a == b).all() for a, b in zip(plain.rows("weights"), again.rows("weights"), strict=True))


@pytest.mark.parametrize("kernels", [False, True])
def test_a_hook_of_ones_own_on_a_router_is_recorded_with_what_it_makes_of_the_answer(kernels, caplog):
    """It was there before, so the block uses what it returns; the kernels would record too early, and say so."""
    model = tiny_model(CONFIGS["mixtral"])
    gate, swapped = model.model.layers[1].mlp.gate, []

    def swap(_gate, _given, answer):
        swapped.append(answer[2].flip(-1) * 0 + torch.tensor([6, 3]))
        return *answer[:2], swapped[-1]

    gate.register_forward_hook(swap)
    got = traced(model, kernels=kernels)
    assert set(got.experts[1].flatten().tolist()) == {3, 6} and got.model.recorded_by.startswith("hooks")
    assert all(
        ("after moeviz has recorded its answer" in said) == kernels for said in (caplog.text, got.model.recorded_by)
    )


def test_a_hook_that_is_registered_on_a_router_meanwhile_is_refused_unless_it_is_transformers_own():
    model = tiny_model(CONFIGS["mixtral"])
    with listen(model) as recording:
        model(IDS, output_router_logits=True)  # transformers sets hooks of its own, which stay
    recording.check()
    with listen(model):
        model.model.layers[1].mlp.gate.register_forward_hook(lambda _gate, _given, answer: (*answer[:2], answer[2] * 0))
        with pytest.raises(CaptureError, match="MixtralTopKRouter"):
            model(IDS)


def test_hooks_on_the_model_see_and_change_what_is_read():
    """One that changes the ids; one that runs the model before, and one after, which are no forwards of their own."""
    model = tiny_model(CONFIGS["mixtral"])
    with listen(model) as recording:
        handle = model.register_forward_pre_hook(lambda _model, args: (args[0] + 1,))
        model(IDS)
        handle.remove()
    recording.check()
    assert torch.equal(recording.read[0], IDS + 1)
    for after in (False, True):
        with calling(model, lambda: model(IDS), here, after), listen(model) as recording:
            model(IDS)
        with pytest.raises(CaptureError, match="twice"):
            recording.check()


def test_a_layer_that_is_left_out_and_one_that_runs_twice_do_not_make_up_for_each_other():
    model = tiny_model(CONFIGS["mixtral"])
    first, last = model.model.layers[0], model.model.layers[2]
    for kernels in (False, True):
        for blocks in ((first, last), (last, first), (first, first)):
            left_out = blocks[1].mlp
            with calling(blocks[0].mlp, lambda: blocks[0].mlp(torch.ones(1, 1, 32)), here, times={2}):  # noqa: B023
                own, calls = type(left_out).forward, []

                def skip(hidden, own=own, calls=calls, block=left_out):
                    calls.append(1)
                    return hidden if len(calls) == 4 else own(block, hidden)

                left_out.forward = skip
                with pytest.raises(CaptureError, match=r"order of its layers|instead of|for 33 tokens"):
                    traced(model, max_new_tokens=4, kernels=kernels)
                del left_out.forward


def test_a_model_that_does_not_run_or_reads_embeddings_is_a_sentence():
    with listen(MODEL) as recording:
        elsewhere(lambda: MODEL(IDS))
    with pytest.raises(CaptureError, match="thread"):
        recording.check()
    with listen(MODEL), pytest.raises(CaptureError, match="input_ids"):
        MODEL(inputs_embeds=torch.zeros(1, 2, 32))


def test_only_models_known_to_loop_are_unrolled():
    model = tiny_model(CONFIGS["mixtral"])
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(CaptureError, match=r"model\.layers\.1\.mlp\.gate"):
        traced(model)
    looped = random_model("inkling2_loop")
    assert looped.config.model_type in LOOPED
    looped.config.loop_num_passes = 2
    assert order_of(looped, find_routers(looped)) == (0, 1, 2, 1, 2, 3)
    assert traced(looped).model.layers == (0, 1, 2, 3, 4, 5)


def test_a_what_if_during_foreign_calls_is_the_same_as_without():
    expected = what_if(MODEL, PROMPTS, Mute({1: (0, 1)}), tokenizer=TOKENIZER)
    with calling(MODEL.model.layers[1], lambda: MODEL.model(IDS)):
        got = what_if(MODEL, PROMPTS, Mute({1: (0, 1)}), tokenizer=TOKENIZER)
    assert got.changed.equals(expected.changed) and got.effect.equals(expected.effect)
