"""What-if against models that were really changed: other weights, another top-k, experts that are not there."""

import copy

import numpy as np
import pytest
import torch
from fused_models import FAMILIES
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.capture.change import what_if as module
from moeviz.capture.change.kinds import Exchange, Force, Mute, Replay, TopK
from moeviz.capture.change.what_if import ablate, what_if
from moeviz.capture.run.prompts import prepare
from moeviz.capture.survey.survey import random_model
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError

TEXT = "12 + 7 = 19, und heute ist es kalt"
PROMPTS = ["To be", TEXT]
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def logits_of(model, tokenizer, intervention, prompts=PROMPTS):
    run = prepare(model, prompts, tokenizer, 0)
    return module._read(run, module.ready(run), intervention)[1]


def routing(trace):
    """(layer, token) -> {expert: weight}, without weights of 0."""
    rows = zip(trace.experts.reshape(-1, trace.model.top_k), trace.weights.reshape(-1, trace.model.top_k), strict=True)
    return [{e: w for e, w in zip(*row, strict=True) if w} for row in rows]


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replaying_a_trace_of_the_model_itself_gives_the_same_bits(family, dtype, tokenizer):
    model = tiny_model(FAMILIES[family], dtype)
    own = trace(model, PROMPTS, tokenizer=tokenizer)
    result = what_if(model, PROMPTS, Replay(own), tokenizer=tokenizer)
    assert result.changed.equals(result.plain)
    plain, replayed = (logits_of(model, tokenizer, change) for change in (None, Replay(own)))
    assert torch.equal(plain, replayed)
    assert (result.effect["kl"] == 0).all()


@pytest.mark.parametrize("architecture", ["beam", "phimoe", "inkling", "cohere2_moe"])
def test_replay_needs_no_kernel_and_knows_what_the_block_does(architecture, tokenizer):
    model = random_model(architecture)
    own = trace(model, TEXT, tokenizer=tokenizer)
    assert torch.equal(*(logits_of(model, tokenizer, change, TEXT) for change in (None, Replay(own))))


def test_another_trace_s_routing_is_followed(tokenizer):
    model, other = tiny_model(CONFIGS["mixtral"]), tiny_model(CONFIGS["mixtral"])
    with torch.no_grad():
        for layer in other.model.layers:
            layer.mlp.gate.weight.normal_(0, 1)
    foreign = trace(other, PROMPTS, tokenizer=tokenizer)
    result = what_if(model, PROMPTS, Replay(foreign), tokenizer=tokenizer)
    assert routing(result.changed) == routing(foreign) != routing(result.plain)


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v3", "gpt_oss", "ernie4_5_moe"])
def test_another_top_k_is_that_of_a_model_with_that_top_k(family, tokenizer):
    model, other = tiny_model(FAMILIES[family]), tiny_model(FAMILIES[family])
    for part in other.modules():
        if hasattr(part, "top_k"):
            part.top_k = 3
    result = what_if(model, PROMPTS, TopK(3), tokenizer=tokenizer)
    expected = trace(other, PROMPTS, tokenizer=tokenizer)
    np.testing.assert_array_equal(np.sort(result.changed.experts), np.sort(expected.experts))
    np.testing.assert_allclose(result.changed.weights, expected.weights, atol=1e-5)
    assert result.changed.model.top_k == 3


def test_exchanged_experts_are_those_of_a_model_whose_experts_change_places(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weights in other.model.layers[1].mlp.experts.parameters():
            weights[[2, 5]] = weights[[5, 2]]
    torch.testing.assert_close(
        logits_of(model, tokenizer, Exchange(1, 2, 5)), logits_of(other, tokenizer, None), atol=1e-5, rtol=1e-5
    )


def test_a_muted_expert_without_rerouting_is_one_that_gives_nothing(tokenizer):
    model = tiny_model(CONFIGS["deepseek_v3"])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.experts.down_proj[[3, 7]] = 0
    muted = Mute({1: (3, 7)}, reroute=False)
    torch.testing.assert_close(
        logits_of(model, tokenizer, muted), logits_of(other, tokenizer, None), atol=1e-5, rtol=1e-5
    )


@every_family
def test_a_muted_expert_is_replaced_by_the_router_s_next_best(family, tokenizer):
    """Muting an expert that no token of a layer has changes nothing; one that has tokens gets none."""
    model = tiny_model(FAMILIES[family])
    own = trace(model, PROMPTS, tokenizer=tokenizer)
    layer, index = own.model.layers[-1], len(own.model.layers) - 1
    busiest = int(np.bincount(own.experts[index].ravel()).argmax())
    got = what_if(model, PROMPTS, Mute({layer: (busiest,)}), tokenizer=tokenizer).changed
    assert not (got.experts[index] == busiest).any()
    np.testing.assert_array_equal(got.experts[:index], own.experts[:index])
    untouched = ~(own.experts[index] == busiest).any(axis=-1)
    if FAMILIES[family].model_type not in {"deepseek_v2", "deepseek_v3"}:  # there other groups may be kept
        for had, has in zip(own.experts[index], got.experts[index], strict=True):
            assert set(had) - {busiest} <= set(has)
    np.testing.assert_array_equal(np.sort(got.experts[index][untouched]), np.sort(own.experts[index][untouched]))


def test_a_muted_softmax_router_weighs_as_if_the_expert_were_not_there(tokenizer):
    own = trace(tiny_model(CONFIGS["mixtral"]), TEXT, tokenizer=tokenizer)
    got = what_if(tiny_model(CONFIGS["mixtral"]), TEXT, Mute({0: (1, 4)}), tokenizer=tokenizer).changed
    logits = own.logits[0].copy()
    logits[:, [1, 4]] = -np.inf
    best = np.sort(logits, axis=-1)[:, :-3:-1]
    expected = np.exp(best) / np.exp(best).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got.weights[0], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v3", "lfm2_moe"])
def test_forced_experts_get_every_token_and_the_rest_stays_the_router_s(family, tokenizer):
    model = tiny_model(FAMILIES[family])
    layer = trace(model, TEXT, tokenizer=tokenizer).model.layers[0]
    result = what_if(model, TEXT, Force({layer: (6,)}), tokenizer=tokenizer)
    assert (result.changed.experts[0] == 6).any(axis=-1).all()
    assert not (result.plain.experts[0] == 6).any(axis=-1).all()


def test_the_effect_is_what_the_logits_say(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    result = what_if(model, PROMPTS, TopK(1), tokenizer=tokenizer)
    effect, second = result.effect, result.effect["sequence"] == 1
    assert effect["loss"].isna().sum() == 2 and (effect["kl"] > 0).all()
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0].double()
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none").numpy()
    np.testing.assert_allclose(effect.loc[second, "loss"].to_numpy()[1:], loss, atol=1e-5)
    assert effect.loc[second, "next_token"].tolist() == logits.argmax(-1).tolist()
    np.testing.assert_allclose(effect.loc[second, "probability"], logits.softmax(-1).amax(-1).numpy(), atol=1e-6)
    changed = logits_of(model, tokenizer, TopK(1)).double()
    plain = logits_of(model, tokenizer, None).double()
    kl = torch.nn.functional.kl_div(changed.log_softmax(-1), plain.log_softmax(-1), reduction="none", log_target=True)
    np.testing.assert_allclose(effect["kl"], kl.sum(-1).numpy(), atol=1e-9)


def test_ablation_ranks_experts_by_their_effect_and_leaves_unused_ones_at_nothing(tokenizer):
    model, seen = tiny_model(CONFIGS["mixtral"]), []
    ranking = ablate(model, "To be", tokenizer=tokenizer, layers=[0, 2], progress=lambda *at: seen.append(at))
    assert len(ranking) == 16 and seen[-1] == (16, 16)
    assert ranking["kl"].is_monotonic_decreasing and set(ranking["layer"]) == {0, 2}
    assert (ranking.loc[ranking["load"] == 0, ["kl", "loss_change"]] == 0).all(axis=None)
    first = ranking.iloc[0]
    alone = what_if(model, "To be", Mute({int(first["layer"]): (int(first["expert"]),)}), tokenizer=tokenizer).effect
    assert first["kl"] == pytest.approx(alone["kl"].mean())
    assert first["loss_change"] == pytest.approx((alone["loss_changed"] - alone["loss"]).mean())


def test_everything_is_as_before_afterwards(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    before = logits_of(model, tokenizer, None)
    moeviz.what_if(model, TEXT, Mute({1: (0,)}), tokenizer=tokenizer)
    assert torch.equal(before, logits_of(model, tokenizer, None))
    assert not any("forward" in vars(part) for part in model.modules())


@pytest.mark.parametrize(
    ("intervention", "says"),
    [
        (Mute({5: (0,)}), r"no MoE layer 5; it has \(0, 1, 2\)"),
        (Mute({0: (8,)}), "experts 0 to 7, not 8"),
        (Mute({0: range(7)}), "at most 6 can be muted, not 7"),
        (Force({0: (1, 2, 3)}), "3 cannot be forced"),
        (TopK(9), "1 to 8 experts, not 9"),
        (TopK(1, (4,)), "no MoE layer 4"),
        (Exchange(0, 1, 9), "experts 0 to 7, not 9"),
    ],
)
def test_a_change_that_cannot_be_says_why(intervention, says, tokenizer):
    with pytest.raises(CaptureError, match=says):
        what_if(tiny_model(CONFIGS["mixtral"]), TEXT, intervention, tokenizer=tokenizer)


def test_a_trace_of_something_else_is_not_replayed(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    with pytest.raises(CaptureError, match="other tokens"):
        what_if(model, TEXT, Replay(trace(model, "To be", tokenizer=tokenizer)), tokenizer=tokenizer)
    foreign = trace(tiny_model(CONFIGS["olmoe"]), TEXT, tokenizer=tokenizer)
    with pytest.raises(CaptureError, match="needs weights, and the same layers"):
        what_if(model, TEXT, Replay(foreign), tokenizer=tokenizer)


def test_a_router_that_cannot_choose_again_says_what_can_be_done(tokenizer):
    model = random_model("phimoe")
    with pytest.raises(CaptureError, match=r"SparseMixer.*reroute=False"):
        what_if(model, TEXT, Mute({1: (0,)}), tokenizer=tokenizer)
    silent = what_if(model, TEXT, Mute({1: (0,)}, reroute=False), tokenizer=tokenizer)
    assert (silent.effect["kl"] >= 0).all()
