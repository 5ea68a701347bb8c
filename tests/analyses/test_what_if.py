"""What-if against models that were really changed: other weights, another top-k, experts that are not there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fused_models import FAMILIES
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moe_kernels.gating import Gating
from moe_kernels.reference import choose_torch
from moeviz.analyses import what_if as module
from moeviz.analyses.what_if import ablate, loss_by_set, what_if
from moeviz.capture.interventions.bias import Bias
from moeviz.capture.interventions.force import Force
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.interventions.replay import Replay
from moeviz.capture.interventions.swap import Swap
from moeviz.capture.interventions.top_k import TopK
from moeviz.capture.record import kernel_parity
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest, prompts_of
from moeviz.capture.trace import stream, trace
from moeviz.errors import CaptureError

TEXT = "12 + 7 = 19, und heute ist es kalt"
PROMPTS = ["To be", TEXT]
few_families = pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss", "ernie4_5_moe"])


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def logits_of(model, tokenizer, intervention, prompts=PROMPTS):
    run = prepare(model, CaptureRequest(prompts_of(prompts)), tokenizer)
    return module.read_batch(run, module.probe_routers(run), intervention)[1]


def untyped(kind, *fields):
    """As a user makes it, whose arguments no type checker reads."""
    made = object.__new__(kind)
    for name, value in zip(kind.__dataclass_fields__, fields, strict=True):
        object.__setattr__(made, name, value)
    return made


def routing(trace):
    """(layer, token) -> {expert: weight}, without weights of 0."""
    rows = zip(trace.experts.reshape(-1, trace.model.top_k), trace.weights.reshape(-1, trace.model.top_k), strict=True)
    return [{e: w for e, w in zip(*row, strict=True) if w} for row in rows]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("mixtral", torch.bfloat16), ("deepseek_v3", torch.float32), ("gpt_oss", torch.float32)],
    ids=str,
)
def test_replaying_a_trace_of_the_model_itself_gives_the_same_bits(family, dtype, tokenizer):
    model = tiny_model(FAMILIES[family], dtype)
    own = trace(model, PROMPTS, tokenizer=tokenizer)
    result = what_if(model, PROMPTS, Replay(own), tokenizer=tokenizer)
    assert result.changed.equals(result.plain)
    plain, replayed = (logits_of(model, tokenizer, change) for change in (None, Replay(own)))
    assert torch.equal(plain, replayed)
    assert (result.effect["kl"] == 0).all()


def test_another_trace_s_routing_is_followed(tokenizer):
    model, other = tiny_model(CONFIGS["mixtral"]), tiny_model(CONFIGS["mixtral"])
    with torch.no_grad():
        for layer in other.model.layers:
            layer.mlp.gate.weight.normal_(0, 1)
    foreign = trace(other, PROMPTS, tokenizer=tokenizer)
    result = what_if(model, PROMPTS, Replay(foreign), tokenizer=tokenizer)
    assert routing(result.changed) == routing(foreign) != routing(result.plain)


@pytest.mark.parametrize("amount", [0.0, 0.001, -0.001])
def test_the_nearest_choice_moves_if_a_bias_is_as_large_as_it_is_far_and_not_before(amount, tokenizer):
    model = tiny_model(CONFIGS["mixtral"])

    def moved(bias: float):
        return what_if(model, TEXT, Bias({1: {2: bias}}), tokenizer=tokenizer).moved

    near = moved(amount)["nearest"]
    assert moved(amount)["moved"] == 0 and near.layer == 1 and near.expert == 2
    further = (-1 if near.chosen else 1) * near.logits
    assert moved(amount + 0.99 * further)["moved"] == 0
    assert moved(amount + 1.01 * further)["layers"][0][0] == 1
    muted = what_if(model, TEXT, Mute({1: (2,)}), tokenizer=tokenizer)
    differ = np.sort(muted.plain.experts) != np.sort(muted.changed.experts)
    assert muted.moved["moved"] == differ.any(axis=-1).sum() > 0


@few_families
def test_no_bias_changes_no_bit_and_a_large_one_forces_or_mutes(family, tokenizer):
    model = tiny_model(FAMILIES[family])
    layer = trace(model, TEXT, tokenizer=tokenizer).model.layers[0]
    none = what_if(model, TEXT, Bias({layer: {1: 0.0}}), tokenizer=tokenizer)
    assert none.effect["kl"].max() == 0 and routing(none.changed) == routing(none.plain)
    for amount, same in ((1e6, Force({layer: (6,)})), (-1e6, Mute({layer: (6,)}))):
        result = what_if(model, TEXT, Bias({layer: {6: amount}}), tokenizer=tokenizer)
        assert routing(result.changed) == routing(what_if(model, TEXT, same, tokenizer=tokenizer).changed)


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


def test_losses_of_sets_of_texts_are_those_of_their_second_halves(tokenizer):
    model, change = tiny_model(CONFIGS["mixtral"]), Bias({1: {2: 3.0}})
    sets = {"some": trace(model, PROMPTS, tokenizer=tokenizer), "one": trace(model, TEXT, tokenizer=tokenizer)}
    losses = loss_by_set(model, sets, change, tokenizer=tokenizer).set_index("texts")
    for name, prompts in {"some": PROMPTS, "one": [TEXT]}.items():
        effect = what_if(model, prompts, change, tokenizer=tokenizer).effect
        parts = [of.iloc[-(-len(of) // 2) :] for _, of in effect.groupby("sequence")]
        half = pd.concat(parts).dropna(subset="loss")
        assert losses.loc[name, "tokens"] == len(half)
        for column in ("loss", "loss_changed"):
            assert losses.loc[name, column] == pytest.approx(half[column].mean(), rel=1e-5)
        rise = float((half["loss_changed"] - half["loss"]).mean())
        assert losses.loc[name, "loss_changed"] - losses.loc[name, "loss"] == pytest.approx(rise, abs=abs(rise) / 2)
    assert losses.loc["one", "loss"] != losses.loc["one", "loss_changed"]
    short = loss_by_set(model, {"none": sets["one"].select(tokens=slice(0, 1))}, change, tokenizer=tokenizer).iloc[0]
    assert short["tokens"] == 0 and np.isnan(short["loss"])
    words = sets["one"].tokens.assign(text=sets["one"].tokens["text"].str.upper())
    with pytest.raises(CaptureError, match="tokens"):
        loss_by_set(model, {"strange": replace(sets["one"], tokens=words)}, change, tokenizer=tokenizer)


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


def test_a_model_is_probed_once_and_anew_when_anything_of_it_changes(tokenizer, monkeypatch):
    probed, own = [], kernel_parity.probe
    monkeypatch.setattr(kernel_parity, "probe", lambda *of: probed.append(of) or own(*of))
    model = tiny_model(CONFIGS["mixtral"])
    gate = model.model.layers[1].mlp.gate

    def times() -> int:
        trace(model, TEXT, tokenizer=tokenizer, intervention=Mute({1: (0,)}))
        return len(probed)

    def changed_in_place() -> None:
        with torch.no_grad():
            gate.weight.mul_(2)

    def another_weight() -> None:
        gate.weight = torch.nn.Parameter(gate.weight.detach().clone())

    assert [times(), times()] == [1, 1]
    ways = (changed_in_place, another_weight, lambda: setattr(gate, "top_k", 3), model.bfloat16)
    for number, change in enumerate(ways, 2):
        change()
        assert [times(), times()] == [number, number], change
    model.config.rms_norm_eps = 1e-3
    assert times() == len(ways) + 2


def test_everything_is_as_before_afterwards(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    before = logits_of(model, tokenizer, None)
    moeviz.what_if(model, TEXT, Mute({1: (0,)}), tokenizer=tokenizer)
    assert torch.equal(before, logits_of(model, tokenizer, None))
    assert not any("forward" in vars(part) for part in model.modules())


@pytest.mark.parametrize(
    ("intervention", "says"),
    [
        (Mute({5: (0,)}), "MoE layer 5.*0.*1.*2"),
        (Mute({0: (8,)}), "experts 0 to 7, not 8"),
        (Mute({0: range(7)}), "at most 6 can be muted, not 7"),
        (Force({0: (1, 2, 3)}), "3 cannot be forced"),
        (Bias({0: {9: 1.0}}), "experts 0 to 7, not 9"),
        (Bias({0: {1: float("inf")}}), "2.0.*-0.5"),
        (Bias({}), "Bias names no expert"),
        (untyped(Bias, {0: (1, 2)}), r"\{0.*\(1.*2\)\}"),
        (TopK(9), "1 to 8 experts, not 9"),
        (Swap(0, 1, 9), "experts 0 to 7, not 9"),
        (Swap(0, 1, 1), "cannot be swapped with itself"),
        (untyped(Mute, {0: (True,)}, True, False), "experts 0 to 7, not True"),
        (untyped(Mute, {0: (1.0,)}, True, False), r"experts 0 to 7, not 1\.0"),
        (untyped(Mute, {0: 3}, True, False), r"Mute\(\{3.*\(1,\)\}\).*3"),
        (untyped(Mute, (0, 1), True, False), r"\(0.*1\)"),
        (Mute({0: ()}), "Mute names no expert"),
        (TopK(0), "1 to 8 experts, not 0"),
        (TopK(1, ()), "TopK names no layer"),
    ],
)
def test_a_change_that_cannot_be_says_why(intervention, says, tokenizer):
    with pytest.raises(CaptureError, match=says):
        what_if(tiny_model(CONFIGS["mixtral"]), TEXT, intervention, tokenizer=tokenizer)


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "qwen3_moe"])
def test_experts_are_replayed_and_weighed_by_the_router_itself(family, tokenizer):
    """Its own ids give its own weights; those of another model are followed, with weights of this one's scores."""
    model = tiny_model(CONFIGS[family])
    own = trace(model, TEXT, tokenizer=tokenizer)
    bare = replace(own, weights=None, logits=None)
    again = what_if(model, TEXT, Replay(bare, live_weights=True), tokenizer=tokenizer)
    np.testing.assert_allclose(again.changed.weights, own.weights, atol=1e-6)
    assert np.array_equal(np.sort(again.changed.experts), np.sort(own.experts))
    foreign = replace(bare, experts=np.roll(own.experts, 1, axis=1))
    found = what_if(model, TEXT, Replay(foreign, live_weights=True), tokenizer=tokenizer).changed
    assert np.array_equal(np.sort(found.experts), np.sort(foreign.experts))
    moved = (np.sort(foreign.experts) != np.sort(own.experts)).any(axis=-1)
    assert moved.any() and not np.allclose(found.weights[moved], own.weights[moved])
    with pytest.raises(CaptureError):
        what_if(model, TEXT, Replay(bare), tokenizer=tokenizer)


def test_a_trace_of_something_else_is_not_replayed(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    with pytest.raises(CaptureError, match="tokens"):
        what_if(model, TEXT, Replay(trace(model, "To be", tokenizer=tokenizer)), tokenizer=tokenizer)
    foreign = trace(tiny_model(CONFIGS["olmoe"]), TEXT, tokenizer=tokenizer)
    with pytest.raises(CaptureError, match="olmoe"):
        what_if(model, TEXT, Replay(foreign), tokenizer=tokenizer)


def test_a_router_that_cannot_choose_again_says_what_can_be_done(tokenizer):
    model = random_model("phimoe")
    with pytest.raises(CaptureError, match=r"SparseMixer.*reroute=False"):
        what_if(model, TEXT, Mute({1: (0,)}), tokenizer=tokenizer)
    silent = what_if(model, TEXT, Mute({1: (0,)}, reroute=False), tokenizer=tokenizer)
    assert (silent.effect["kl"] >= 0).all()


def test_ids_may_be_numpy_s_and_named_twice_and_all_may_be_silenced(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    once = what_if(model, TEXT, Mute({0: (1, 4)}), tokenizer=tokenizer).changed
    twice = what_if(
        model, TEXT, untyped(Mute, {np.int32(0): np.array([4, 1, 1])}, True, False), tokenizer=tokenizer
    ).changed
    assert once.equals(twice)
    assert what_if(model, TEXT, untyped(TopK, np.int64(1), None), tokenizer=tokenizer).changed.model.top_k == 1
    silent = what_if(model, TEXT, Mute({0: range(8)}, reroute=False), tokenizer=tokenizer).changed
    assert (silent.weights[0] == 0).all() and (silent.weights[1] > 0).all()


def test_experts_that_cannot_run_another_number_of_them_are_a_sentence(tokenizer, monkeypatch):
    """As LongCat's until transformers 5.24, which took one expert a token for no list of experts."""
    model, says = random_model("mixtral"), r"MixtralExperts in layer 0 cannot run.*ValueError.*another change"
    experts = model.model.layers[0].mlp.experts
    own = experts.forward

    def two_alone(hidden, ids, weights):
        if ids.shape[-1] != 2:
            raise ValueError("not two experts a token")
        return own(hidden, ids, weights)

    monkeypatch.setattr(experts, "forward", two_alone)
    with pytest.raises(CaptureError, match=says):
        what_if(model, TEXT, TopK(1), tokenizer=tokenizer)
    with pytest.raises(CaptureError, match=says):
        trace(model, TEXT, intervention=TopK(1), tokenizer=tokenizer)
    assert what_if(model, TEXT, TopK(2), tokenizer=tokenizer).changed.model.top_k == 2


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: tiny_model(CONFIGS["mixtral"]).model, "MixtralModel predicts no token: it has no language head"),
        (
            lambda: random_model("openai_privacy_filter"),
            r"ForTokenClassification answers with \d+ numbers, and its vocabulary has [\d,]+ tokens: it classifies",
        ),
    ],
)
def test_a_model_that_predicts_no_token_has_no_what_if(model, says, tokenizer):
    model = model()
    for run in (
        lambda: what_if(model, TEXT, Mute({}), tokenizer=tokenizer),
        lambda: ablate(model, TEXT, tokenizer=tokenizer),
    ):
        with pytest.raises(CaptureError, match=says + ".*intervention="):
            run()
    layer = trace(model, TEXT, tokenizer=tokenizer).model.layers[0]
    changed = trace(model, TEXT, tokenizer=tokenizer, intervention=Mute({layer: (0,)}))
    assert not (changed.experts[0] == 0).any(), "what the sentence says can be done"


def test_a_token_whose_groups_have_too_few_experts_left_is_refused(tokenizer):
    """A bias keeps groups 0 and 1 of four, and each has one expert left where a token takes four."""
    model = tiny_model(CONFIGS["deepseek_v3"])
    with torch.no_grad():
        model.model.layers[1].mlp.gate.e_score_correction_bias[:8] += 10
    muted = {1: (0, 1, 2, 4, 5, 6)}
    with pytest.raises(CaptureError, match=r"6 muted.*\d+.*\d+"):
        what_if(model, TEXT, Mute(muted), tokenizer=tokenizer)
    silent = what_if(model, TEXT, Mute(muted, reroute=False), tokenizer=tokenizer)
    assert not silent.changed.weights[0][np.isin(silent.changed.experts[0], muted[1])].any()


def test_a_muted_expert_counts_nothing_in_the_score_of_its_group():
    gating = Gating(8, 2, "sigmoid", groups=2, groups_kept=1, group_score="top2_sum")
    logits = torch.tensor([[9.0, 0.0, -1.0, -2.0, 1.0, 1.0, 0.0, 0.0]])
    assert choose_torch(logits, gating)[1].tolist() == [[0, 1]]
    without_the_best = torch.tensor([-torch.inf, 0, 0, 0, 0, 0, 0, 0])
    assert choose_torch(logits, gating, None, without_the_best)[1].tolist() == [[4, 5]]
    one_left_each = torch.tensor([0.0, *[-torch.inf] * 3, -torch.inf, -torch.inf, -torch.inf, 0])
    assert choose_torch(logits, gating, None, one_left_each)[1][0, 0].item() == 0  # 1 + 0 is more than 0.5 + 0


def disobeying(kind, **does):
    """The same intervention, whose change is another: what the check after the run is for."""
    return type(kind.__name__, (kind,), does)


def left_alone(_self, decision):
    return decision.weights, decision.experts


def halved(_self, decision):
    return decision.weights / 2, decision.experts


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        (Mute, ({0: (0, 1, 2, 3)},), "a muted expert has a slot"),
        (Mute, ({0: (0, 1, 2, 3)}, False), "an expert has another weight"),
        (Force, ({0: (6,)},), "forced expert 6 was not chosen"),
        (TopK, (3,), "another number of slots"),
        (Swap, (0, 0, 1), "an expert has another weight"),
    ],
)
def test_a_run_that_did_not_do_what_was_asked_gives_no_trace(kind, arguments, says, tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    intervention = disobeying(kind, change=left_alone)(*arguments)
    for run in (
        lambda: what_if(model, TEXT, intervention, tokenizer=tokenizer),
        lambda: trace(model, TEXT, tokenizer=tokenizer, intervention=intervention),
        lambda: trace(model, TEXT, tokenizer=tokenizer, intervention=intervention, kernels=True, max_new_tokens=2),
        lambda: list(stream(model, TEXT, tokenizer=tokenizer, intervention=intervention, max_new_tokens=2)),
    ):
        with pytest.raises(CaptureError, match=f"{kind.__name__} .*layer 0.*{says}"):
            run()


def against(_self, decision):
    pushed = decision.weights.new_zeros(8).float()
    pushed[[1, 4]] = torch.tensor([-1e6, 1e6])
    return decision.again(pushed, None)


@pytest.mark.parametrize(
    ("amounts", "says"),
    [({1: 1e3}, "favoured expert 1 is gone"), ({4: -1e3}, "disfavoured expert 4 came in"), ({}, "another weight")],
)
def test_a_choice_that_moved_against_its_bias_gives_no_trace(amounts, says, tokenizer):
    given = disobeying(Bias, change=against)({0: amounts or {2: 0.0}})
    with pytest.raises(CaptureError, match=f"Bias .*layer 0.*{says}"):
        what_if(tiny_model(CONFIGS["mixtral"]), TEXT, given, tokenizer=tokenizer)


def test_a_replay_that_was_not_followed_gives_no_trace(tokenizer):
    model = tiny_model(CONFIGS["mixtral"])
    own = trace(model, TEXT, tokenizer=tokenizer)
    with pytest.raises(CaptureError, match="layer 0"):
        what_if(model, TEXT, disobeying(Replay, change=halved)(own), tokenizer=tokenizer)


def test_experts_that_are_given_something_else_than_the_router_answers_are_noticed(tokenizer):
    """A hook of the user's, behind the router: the trace would say one thing, and the model do another."""
    model = tiny_model(CONFIGS["mixtral"])
    behind = model.model.layers[1].mlp.experts.register_forward_pre_hook(lambda _m, given: (*given[:2], given[2] * 2))
    with pytest.raises(CaptureError, match="layer 1"):
        what_if(model, TEXT, Mute({0: (1,)}), tokenizer=tokenizer)
    behind.remove()
    what_if(model, TEXT, Mute({0: (1,)}), tokenizer=tokenizer)


def test_a_trace_in_train_mode_may_be_changed_and_the_model_stays_in_training(tokenizer):
    """One run is compared with nothing: what is chosen again is chosen from the same jittered logits."""
    model = random_model("dbrx").train()
    own = trace(model, TEXT, tokenizer=tokenizer)
    assert own.model.layers and all(part.training for part in model.modules())
    trace(model, TEXT, tokenizer=tokenizer, intervention=Mute({0: (1,)}, reroute=False))
    assert all(part.training for part in model.modules())
