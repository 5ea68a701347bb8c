"""What experts put out: against outputs worked out from their weights, in every family, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from survey.compare import EQUAL, REFUSED, block_factor
from survey.mechanisms import each
from survey.outputs import HYPER_CONNECTED, LATENT, outputs_of
from survey.tiny_models import random_model, read, some_tokens
from tiny_models import CONFIGS, every_decoding, tiny_model, tiny_tokenizer

from moeviz.capture.interventions.mute import Mute
from moeviz.capture.record import expert_outputs as module
from moeviz.capture.record.joining import joined
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import capture, stream, trace
from moeviz.errors import CaptureError

PROMPTS = ["To be", "12 + 7 = 19, und heute ist es kalt"]
NOT_TOLD = {"nllb_moe", "doge"}
near = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("architecture", each())
def test_every_family_puts_out_what_its_weights_say_or_is_refused_by_name(architecture):
    told = outputs_of(architecture)
    if architecture in NOT_TOLD:
        assert all(cell.startswith(f"{REFUSED}: The outputs of the experts") for cell in told.values())
    else:
        assert set(told.values()) == {EQUAL}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def models():
    return {name: tiny_model(CONFIGS[name]) for name in ("mixtral", "deepseek_v3")}


def of_sequence(found, sequence):
    return found.select(tokens=(found.tokens["sequence"] == sequence).to_numpy())


def check_read_alone(found, model, tokenizer):
    """Each finished sequence, read by itself, has the same figures."""
    for sequence, tokens in found.tokens.groupby("sequence"):
        part = of_sequence(found, sequence)
        text = replace(part, tokens=tokens.assign(sequence=np.int32(0)).reset_index(drop=True))
        request = CaptureRequest((), outputs=True, token_ids=(tuple(tokens["token_id"]),))
        alone = capture(model, request, tokenizer=tokenizer)
        assert (alone.experts == text.experts).all()
        for name, values in alone.outputs.arrays().items():
            np.testing.assert_allclose(getattr(text.outputs, name), values, err_msg=name, **near)


@pytest.mark.parametrize(
    ("family", "how"),
    [("mixtral", {"max_new_tokens": 5}), ("deepseek_v3", {"max_new_tokens": 5}), ("mixtral", {"kernels": True})],
)
def test_each_token_has_its_own_outputs_however_it_is_read_and_the_routing_stays(family, how, models, tokenizer):
    model = models[family]
    plain = trace(model, PROMPTS, tokenizer=tokenizer, **how)
    found = trace(model, PROMPTS, tokenizer=tokenizer, outputs=True, **how)
    assert replace(found, outputs=None).equals(plain) and plain.outputs is None
    assert (found.outputs.norm > 0).all() and (found.outputs.added > 0).all()
    check_read_alone(found, model, tokenizer)


@every_decoding
def test_each_row_is_that_of_its_token_however_it_was_generated(decoding, models, tokenizer):
    model = models["mixtral"]
    found = trace(model, PROMPTS[1], tokenizer=tokenizer, max_new_tokens=6, decoding=decoding, outputs=True)
    check_read_alone(found, model, tokenizer)


def test_a_stream_ends_with_what_trace_gives_and_joined_traces_keep_their_outputs(models, tokenizer):
    how = {"tokenizer": tokenizer, "max_new_tokens": 4, "outputs": True}
    whole = trace(models["mixtral"], PROMPTS[0], **how)
    *_, last = stream(models["mixtral"], PROMPTS[0], **how)
    assert last.equals(whole)
    both = joined([whole, last])
    assert of_sequence(both, 1).outputs.equals(whole.outputs)
    assert joined([whole, replace(last, outputs=None)]).outputs is None


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_run_twice_only_where_their_outputs_are_not_summed_slot_by_slot(implementation, tokenizer, monkeypatch):
    """And then they run once, but for the first rows; without outputs no row runs again. All tell the same."""
    model, rows = tiny_model(CONFIGS["mixtral"]), []
    whole = trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True).outputs
    model.set_experts_implementation(implementation)
    own = type(model.model.layers[0].mlp.experts).forward

    def counted(self, hidden, ids, weights):
        rows.append(ids.numel())
        return own(self, hidden, ids, weights)

    monkeypatch.setattr(type(model.model.layers[0].mlp.experts), "forward", counted)
    ran = {}
    for outputs in (False, True):
        rows.clear()
        found = trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=outputs)
        ran[outputs] = sum(rows)
    layers, tokens, slots = found.experts.shape
    seen_again = tokens if implementation == "eager" else module.SEEN_AGAIN
    assert ran == {False: layers * tokens * slots, True: layers * (tokens + seen_again) * slots}
    for name, values in whole.arrays().items():
        np.testing.assert_allclose(getattr(found.outputs, name), values, **near)


def test_sums_in_another_order_of_slots_are_not_trusted(models, tokenizer, monkeypatch):
    """What is summed is then not what the experts of these slots give, as the first rows show."""
    whole = trace(models["mixtral"], PROMPTS[1], tokenizer=tokenizer, outputs=True)
    own = module._unweighted
    monkeypatch.setattr(module, "_unweighted", lambda *given: own(*given).flip(1))
    again = trace(models["mixtral"], PROMPTS[1], tokenizer=tokenizer, outputs=True)
    for name, values in whole.outputs.arrays().items():
        np.testing.assert_allclose(getattr(again.outputs, name), values, **near)


def test_outputs_of_a_long_text_are_never_there_at_once(models, tokenizer, monkeypatch):
    model, most = models["mixtral"], []
    whole = trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True)
    monkeypatch.setattr(module, "MOST_NUMBERS", 3 * 2 * model.config.hidden_size)
    figures = module._figures
    monkeypatch.setattr(module, "_figures", lambda *given: most.append(len(given[0])) or figures(*given))
    parts = trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True)
    assert max(most) == 3 < len(whole.tokens)
    for name, values in whole.outputs.arrays().items():
        np.testing.assert_allclose(getattr(parts.outputs, name), values, **near)


def test_experts_that_do_not_add_up_are_refused_by_name(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    experts = model.model.layers[1].mlp.experts
    handle = experts.register_forward_hook(lambda _m, _a, out: out * torch.linspace(1, 1.01, len(out))[:, None])
    with pytest.raises(CaptureError, match=r"MixtralExperts\).*model.layers.1.mlp"):
        trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True)
    handle.remove()
    assert trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True).outputs is not None


def test_experts_that_are_run_by_other_means_are_refused_by_name(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    experts = model.model.layers[1].mlp.experts
    model.model.layers[1].mlp.experts.__class__ = type("Silent", (type(experts),), {"__call__": type(experts).forward})
    with pytest.raises(CaptureError, match=r"2 layers.*3 recorded"):
        trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True)


def test_under_an_intervention_outputs_are_those_of_the_experts_that_ran(models, tokenizer):
    found = trace(models["mixtral"], PROMPTS[1], tokenizer=tokenizer, intervention=Mute({1: (3,)}), outputs=True)
    assert not (found.experts[1] == 3).any()
    np.testing.assert_allclose(found.outputs.added, found.outputs.norm * np.abs(found.weights), **near)
    plain = trace(models["mixtral"], PROMPTS[1], tokenizer=tokenizer, outputs=True)
    assert np.allclose(found.outputs.norm[0], plain.outputs.norm[0], **near)
    assert not np.allclose(found.outputs.norm[1], plain.outputs.norm[1], **near)


def test_half_precision_has_outputs_near_those_of_float32(tokenizer):
    wide = trace(tiny_model(CONFIGS["mixtral"]), PROMPTS[1], tokenizer=tokenizer, outputs=True)
    model = tiny_model(CONFIGS["mixtral"], torch.bfloat16)
    half = trace(model, PROMPTS[1], tokenizer=tokenizer, outputs=True)
    same = (wide.experts == half.experts).all(-1)
    assert same.mean() > 0.8
    np.testing.assert_allclose(half.outputs.norm[same], wide.outputs.norm[same], rtol=0.1)


@pytest.mark.parametrize("architecture", ["mixtral", "granitemoe", "nemotron_h", *LATENT, *HYPER_CONNECTED])
def test_the_residual_stream_is_compared_only_where_outputs_are_of_its_space(architecture, tokenizer):
    """A block that adds its experts' sum to its output, times a number, is of that space; one that projects is not."""
    model = random_model(architecture)
    found = trace(model, PROMPTS[0], tokenizer=tokenizer, outputs=True).outputs
    added = block_factor(model, lambda: read(model, some_tokens())) is not None
    assert (found.residual is not None) == (added and architecture not in HYPER_CONNECTED)
