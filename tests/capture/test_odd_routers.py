"""Models with several kinds of routers, loops, drops and experts that compute nothing, from prompt to trace."""

import numpy as np
import pytest
import torch
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from torch import nn

import moeviz
from moeviz.capture.record.witness import witnessed
from moeviz.capture.routers.discovery import find_routers, router_sites
from moeviz.cli.main import main
from moeviz.errors import CaptureError
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import NO_EXPERT

TEXT = "To be, or not to be: that is the question."


def traced(architecture, model=None, **options):
    model = model or random_model(architecture)
    model.generation_config.eos_token_id = None
    moeviz.trace(model, TEXT, tokenizer=tiny_tokenizer(), site=options.get("site"))  # the check before a first trace
    with witnessed(model) as testimony:
        trace = moeviz.trace(model, TEXT, tokenizer=tiny_tokenizer(), **options)
    return trace, testimony


def received(testimony, place):
    """What the experts at `place` received, token after token, over all calls."""
    path = next(path for path in testimony if place in path)
    return [used(row) for call in testimony[path] for row in call]


def used(row):
    """Experts that add something to the token."""
    return {expert for expert, weight in row.items() if weight != 0}


def chosen(trace, layer):
    """Experts of each token, without empty slots and weights of 0."""
    filled = (trace.experts[layer] != NO_EXPERT) & (trace.weights[layer] != 0)
    return [set(ids[used].tolist()) for ids, used in zip(trace.experts[layer], filled, strict=True)]


def test_an_encoder_reads_the_prompt_and_its_decoder_what_it_generates():
    encoder, testimony = traced("switch_transformers", max_new_tokens=5)
    assert encoder.model.site == "encoder"
    assert (encoder.tokens["phase"] == "prompt").all()
    assert chosen(encoder, 0) == received(testimony, "encoder.block.1.")
    decoder, testimony = traced("switch_transformers", max_new_tokens=5, site="decoder")
    assert decoder.model.site == "decoder" and decoder.model.layers == (1, 3)
    assert decoder.tokens["phase"].tolist() == ["prompt"] + ["generated"] * 4
    assert chosen(decoder, 1) == received(testimony, "decoder.block.3.")


@pytest.mark.parametrize(("architecture", "other"), [("switch_transformers", "decoder"), ("jetmoe", "attention")])
def test_a_model_with_several_sites_opens_by_its_path_and_is_counted_whole(architecture, other, tmp_path, capsys):
    random_model(architecture).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    target = str(tmp_path / "trace.npz")
    assert main(["trace", TEXT, "--model", str(tmp_path), "--site", other, "--max-new-tokens", "3", "-o", target]) == 0
    assert moeviz.read_trace(target).model.site == other
    total = sum(p.numel() for p in random_model(architecture).parameters())
    assert main(["params", str(tmp_path)]) == 0
    assert f"{total:,}" in capsys.readouterr().out


def test_dropped_tokens_have_an_empty_slot():
    trace, _ = traced("switch_transformers")
    dropped = (trace.experts == NO_EXPERT).sum()
    assert 0 < dropped < trace.experts.size
    assert expert_load(trace)["load"].sum() == pytest.approx(len(trace.model.layers))


def test_padding_takes_no_places_of_an_expert_with_a_capacity():
    model, tokenizer = random_model("switch_transformers"), tiny_tokenizer()
    both = moeviz.trace(model, [TEXT, TEXT[:20]], tokenizer=tokenizer)
    alone = moeviz.trace(model, TEXT[:20], tokenizer=tokenizer)
    second = both.select(tokens=(both.tokens["sequence"] == 1).to_numpy())
    np.testing.assert_array_equal(second.experts, alone.experts)


def test_two_routers_in_a_layer_are_two_sites():
    assert set(router_sites(random_model("jetmoe"))) == {"attention", "feed-forward"}
    forward, testimony = traced("jetmoe", max_new_tokens=3)
    assert forward.model.site == "feed-forward"
    assert chosen(forward, 2) == received(testimony, "layers.2.mlp")
    attention, testimony = traced("jetmoe", max_new_tokens=3, site="attention")
    assert chosen(attention, 2) == received(testimony, "layers.2.self_attention.experts")


def test_layers_that_run_in_a_loop_are_unrolled():
    trace, testimony = traced("inkling2_loop", max_new_tokens=3)
    assert trace.model.layers == tuple(range(8)) and trace.model.layer_kind == "unrolled layer"
    calls = testimony["model.layers.1.mlp.experts"]  # three passes in each of three forwards
    assert len(calls) == 9
    for depth, first in ((1, 0), (3, 1), (5, 2)):
        assert chosen(trace, depth) == [used(row) for call in calls[first::3] for row in call]


def test_each_pass_of_a_loop_has_the_logits_that_its_router_made_in_that_pass():
    """Held against the router's own product of weights and what it reads, heard by another hook."""
    model, made = random_model("inkling2_loop"), []
    router = next(one for one in find_routers(model) if one.path.startswith("model.layers.1."))

    def hear(module, given, _answer):
        hidden = given[0].reshape(-1, given[0].shape[-1])
        made.append(torch.nn.functional.linear(hidden.float(), module.weight.float()))

    hook = router.module.register_forward_hook(hear)
    trace, _ = traced("inkling2_loop", model)
    hook.remove()
    passes = made[-3:]
    assert len(made) % 3 == 0 and not torch.allclose(passes[0], passes[1]), "the passes are different ones"
    for depth, logits in zip((1, 3, 5), passes, strict=True):
        np.testing.assert_allclose(trace.logits[depth], logits.numpy(), rtol=1e-4, atol=1e-5)


def test_experts_that_compute_nothing_keep_their_ids_and_touch_no_parameters():
    trace, testimony = traced("longcat_flash")
    assert trace.model.zero_experts == 2 and trace.model.num_experts == (10, 10)
    assert (trace.experts >= 8).any()
    assert chosen(trace, 1) != received(testimony, "layers.1."), "its block keeps those that compute nothing"
    zaya = random_model("zaya")
    zaya.model.layers[1].mlp.gate.balancing_biases[-1] = 0.8
    trace, testimony = traced("zaya", zaya)
    assert trace.model.zero_experts == 1 and trace.model.num_experts == (9,) * 4
    skipped = trace.experts[..., 0] == 8
    assert 0 < skipped[1].mean() < 1 and (trace.weights[..., 0][skipped] == 0).all()
    assert chosen(trace, 1) == received(testimony, "layers.1.")


@torch.no_grad()
def test_what_a_block_adds_to_its_experts_is_what_it_read_times_the_recorded_weight_of_those_that_compute_nothing():
    model, heard = random_model("longcat_flash"), {}
    router = find_routers(model)[1]
    (experts,) = router.experts.values()
    hooks = [
        router.block.register_forward_hook(lambda _block, given, out: heard.update(read=given[0], block=out)),
        experts.register_forward_hook(lambda _experts, _given, out: heard.update(experts=out)),
    ]
    trace, _ = traced("longcat_flash", model)
    for hook in hooks:
        hook.remove()
    added = (heard["block"].reshape(heard["experts"].shape) - heard["experts"]).numpy()
    idle = np.where(trace.experts[1] >= 8, trace.weights[1], 0).sum(-1, keepdims=True)
    assert 0 < (idle > 0).mean() < 1
    np.testing.assert_allclose(added, idle * heard["read"].reshape(added.shape).numpy(), rtol=1e-3, atol=1e-5)


def test_a_block_that_decides_is_recorded_and_left_as_it_was():
    trace, testimony = traced("dbrx", max_new_tokens=3)
    assert chosen(trace, 3) == received(testimony, "blocks.3.")
    model = random_model("dbrx")
    moeviz.trace(model, TEXT, tokenizer=tiny_tokenizer())
    assert all("route_tokens_to_experts" not in vars(router.block) for router in find_routers(model))


def test_a_caution_is_logged_and_stays_with_the_trace(caplog, tmp_path):
    trace, _ = traced("nllb_moe")
    assert "experts 0 and 1 run whatever the router decides" in caplog.text
    assert trace.model.caution in caplog.text and trace.model.caution
    moeviz.write_trace(trace, tmp_path / "nllb.npz")
    assert moeviz.read_trace(tmp_path / "nllb.npz").equals(trace)


def test_a_site_that_a_model_does_not_have_is_named_with_those_that_it_has():
    with pytest.raises(CaptureError, match="'decoder'"):
        traced("jetmoe", site="decoder")
    with pytest.raises(CaptureError, match="'decoder'"):
        traced("mixtral", site="decoder")


def test_experts_without_a_router_are_an_error_not_half_a_trace():
    model = tiny_model(CONFIGS["mixtral"])
    model.model.layers[1].mlp.gate = nn.Identity()
    with pytest.raises(CaptureError, match=r"model\.layers\.1\.mlp\.experts"):
        find_routers(model)


def test_a_model_without_a_head_is_traced_but_does_not_generate():
    model = tiny_model(CONFIGS["mixtral"]).model
    assert len(moeviz.trace(model, TEXT, tokenizer=tiny_tokenizer()).tokens)
    with pytest.raises(CaptureError, match="MixtralModel"):
        moeviz.trace(model, TEXT, tokenizer=tiny_tokenizer(), max_new_tokens=2)
