"""Route regret: against plain forwards in which one token's route is replaced by a hook of our own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from survey.tiny_models import random_model, tokenizer
from tiny_models import TEMPLATE, tokenizer_with

import moeviz
from moeviz.analyses import routes
from moeviz.analyses.routes import regretting, route_cost, route_regret
from moeviz.capture.record import changed_alone
from moeviz.errors import CaptureError, InvalidPrompt, MissingField

ROUNDING = routes.MOST_ERROR[torch.float32]  # nats, on any processor: one route and the next are 0.1 apart
TEXT = "def add(a, b):\n    return a + b\n\nDer Hund schläft."


@pytest.fixture(scope="module")
def embedded():
    return moeviz.load_model()


@pytest.fixture(scope="module")
def found(embedded):
    return route_regret(embedded, TEXT)


def test_each_route_gives_the_loss_of_a_plain_forward_with_that_token_s_route_replaced(embedded, found):
    ids = embedded.tokenizer(TEXT, return_tensors="pt").input_ids
    rng, worst = np.random.default_rng(1), 0.0
    for _ in range(12):
        cell = int(rng.integers(len(found.cells)))
        row = int(rng.integers(found.losses.shape[1]))
        at, layer = (int(found.cells[name][cell]) for name in ("position", "layer"))
        route = torch.tensor(found.routes[cell, row].astype(int))

        def replace(_gate, _given, answer, at=at, route=route):
            weights, experts = answer[1].clone(), answer[2].clone()
            weights[at], experts[at] = answer[0][at].float()[route].softmax(-1).to(weights), route
            return answer[0], weights, experts

        handle = embedded.model.model.layers[layer].mlp.gate.register_forward_hook(replace)
        with torch.no_grad():
            logits = embedded.model(ids).logits[0, at].float()
        handle.remove()
        loss = torch.nn.functional.cross_entropy(logits[None], ids[0, at + 1 : at + 2])
        worst = max(worst, abs(float(loss) - float(found.losses[cell, row])))
    assert worst < ROUNDING
    assert found.error < ROUNDING
    assert (found.losses.std(axis=1) > 0.01).mean() > 0.5  # or the comparison would show little


def test_the_cells_are_every_token_that_another_follows_at_every_layer(embedded, found):
    tokens = moeviz.trace(embedded, TEXT).tokens
    cells = found.cells
    assert found.every and found.losses.shape == (len(cells), 28)
    assert (cells.groupby("layer")["position"].apply(list) == [[*range(1, len(tokens) - 1)]] * 6).all()
    one = cells[cells["layer"] == 0]
    assert one["text"].tolist() == tokens["text"][1:-1].tolist()
    assert one["next_text"].tolist() == tokens["text"][2:].tolist()
    own = np.sort(moeviz.trace(embedded, TEXT).experts[:, 1:-1], axis=-1).reshape(-1, 2)
    assert (np.sort(found.routes[:, 0], axis=-1) == own).all()


def test_a_token_that_sees_the_changes_of_others_is_refused(embedded, monkeypatch):
    """The control of the exactness: with the changed keys of the tokens before it, a row is of another question."""
    own = changed_alone.attend

    def seeing_all(module, query, key, value, *given, **named):
        text = changed_alone._reading[routes_thread()]
        if text.positions is None:
            return own(module, query, key, value, *given, **named)
        repeats = query.shape[1] // key.shape[1]
        parts = (query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1))
        out = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return out.transpose(1, 2).contiguous(), None

    from threading import get_ident as routes_thread

    monkeypatch.setattr(changed_alone, "attend", seeing_all)
    with pytest.raises(CaptureError):
        route_regret(embedded, TEXT)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3", "qwen3_moe", "granitemoe"])
def test_families_with_sinks_windows_latent_attention_and_groups_agree_with_plain_forwards(architecture):
    result = route_regret(
        random_model(architecture), "To be, or not to be: that is", tokenizer=tokenizer(), positions=5
    )
    assert result.error < ROUNDING and np.nanstd(result.losses, axis=1).max() > 0
    if not result.every:
        own = result.routes[:, :1]
        swapped = result.routes[:, 1:]
        shared = (swapped[..., :, None] == own[..., None, :]).any(-1).sum(-1)
        assert (shared == own.shape[-1] - 1)[swapped[..., 0] >= 0].all()


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ("jamba", "JambaForCausalLM"),  # layers that mix tokens without attention
        ("llama4", "Llama4Router"),  # cannot choose again
        ("switch_transformers", "SwitchTransformers"),  # has an encoder
        ("deepseek_v4", "deepseek_v4"),
    ],
)
def test_models_whose_tokens_cannot_be_changed_alone_are_refused_by_name(architecture, named):
    with pytest.raises(CaptureError, match=named):
        route_regret(random_model(architecture), "To be, or not to be", tokenizer=tokenizer())


def test_layers_whose_routers_cannot_choose_again_are_left_out_and_named(embedded, monkeypatch):
    from dataclasses import replace

    own = routes.probe_routers

    def some_trouble(run):
        return tuple(replace(p, trouble="it looks experts up") if p.router.layer == 2 else p for p in own(run))

    monkeypatch.setattr(routes, "probe_routers", some_trouble)
    result = route_regret(embedded, TEXT, positions=3)
    assert [*result.left_out] == [2] and set(result.cells["layer"]) == {0, 1, 3, 4, 5}


def test_what_cannot_be_judged_is_refused(embedded):
    for text in ("", "a"):
        with pytest.raises(InvalidPrompt):
            route_regret(embedded, text)
    for wrong in ({"layers": [9]}, {"alternatives": "some"}, {"alternatives": 0}):
        with pytest.raises(CaptureError):
            route_regret(embedded, TEXT, **wrong)
    with pytest.raises(CaptureError):
        route_regret(random_model("deepseek_v3"), TEXT, tokenizer=tokenizer(), alternatives="all")
    with pytest.raises(InvalidPrompt):
        route_regret(embedded, [])


def test_a_number_of_alternatives_draws_them_among_all_and_costs_less(embedded, found):
    few = route_regret(embedded, TEXT, alternatives=4, layers=[3])
    assert not few.every and few.losses.shape[1] == 5
    rows = found.cells.index[found.cells["layer"] == 3]
    for cell, row in enumerate(rows):
        drawn = {tuple(sorted(route)): loss for route, loss in zip(few.routes[cell], few.losses[cell], strict=True)}
        every = {tuple(sorted(r)): loss for r, loss in zip(found.routes[row], found.losses[row], strict=True)}
        assert all(abs(every[route] - loss) < ROUNDING for route, loss in drawn.items()) and len(drawn) == 5
    cost = route_cost(embedded)
    assert (cost.routes, cost.heads, cost.forwards) == (28, found.heads, found.forwards) == (28, 169, 99)


def test_a_judge_scores_by_what_it_predicts(embedded, found):
    judged = route_regret(embedded, TEXT, judge=embedded)
    assert judged.losses[:, 0] == pytest.approx(judged.cells["entropy"], abs=ROUNDING)
    assert not np.allclose(judged.losses, found.losses, atol=0.1)


def test_of_chats_the_tokens_of_a_segment_alone_are_judged_in_the_whole_chat(embedded):
    able = replace(embedded, tokenizer=tokenizer_with(TEMPLATE))
    asked = ({"role": "user", "content": "2 + 2 ="},)
    chats = [("alone", asked), ("sums", (*asked, {"role": "assistant", "content": "4, und der Hund schläft."}))]
    found = route_regret(able, chats, layers=[5], segment="answer")
    of_answer = moeviz.trace(able, chats[1][1], chat=True).in_segment("answer")
    assert found.cells["position"].tolist() == np.flatnonzero(of_answer[:-1]).tolist() and of_answer.any()
    assert set(found.cells["label"]) == {"sums"}, "a chat without an answer is left out"
    everything = route_regret(able, chats[1:], layers=[5])
    same = everything.cells[everything.cells["position"].isin(found.cells["position"])]
    assert same["gain"].to_numpy() == pytest.approx(found.cells["gain"].to_numpy(), abs=1e-5)
    with pytest.raises(MissingField, match="tools"):
        route_regret(able, chats, layers=[5], segment="tools")
    with pytest.raises(MissingField, match="chats"):
        route_regret(able, TEXT, layers=[5], segment="answer")


def test_texts_come_one_by_one_so_that_what_is_done_is_kept(embedded):
    steps = regretting(embedded, [("a", "Il fait froid."), ("b", "Es ist kalt.")], positions=2, layers=[5])
    done, total, part = next(steps)
    assert (done, total) == (1, 2) and part.cells["label"].unique().tolist() == ["a"]
    steps.close()
    whole = route_regret(embedded, [("a", "Il fait froid."), ("b", "Es ist kalt.")], positions=2, layers=[5])
    assert whole.cells["sequence"].unique().tolist() == [0, 1]
    assert moeviz.trace(embedded, "Il fait froid.").experts.shape  # the model is as before, and free


def test_at_token_changes_one_token_and_layers_above_decide_anew(embedded):
    plain = moeviz.trace(embedded, TEXT)
    other = [e for e in range(8) if e not in plain.experts[3, 5]][:2]
    changed = moeviz.what_if(embedded, TEXT, moeviz.AtToken(3, 5, other)).changed
    assert set(changed.experts[3, 5]) == set(other)
    same = np.ones(plain.experts.shape[:2], bool)
    same[3, 5] = same[4:, 5:] = False
    assert (changed.experts == plain.experts).all(-1)[same].all()
    assert changed.weights[:, :5] == pytest.approx(plain.weights[:, :5], abs=1e-5)


@pytest.mark.parametrize(
    "change", [(9, 0, (1,)), (3, 400, (1,)), (3, -1, (1,)), (3, 0, (8,)), (3, 0, (1, 2, 3)), (3, 0, ())]
)
def test_at_token_refuses_what_is_not_there(embedded, change):
    with pytest.raises(CaptureError):
        moeviz.what_if(embedded, TEXT, moeviz.AtToken(*change))
