"""The edges where a trace, or a what-if, was once wrong without a word: twelve points, each with the test that saw it."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import moeviz

TEXT = "12 + 7 = 19, und heute ist es kalt"

# 1. A checkpoint without one of its weights.

# 2. Answers that are not of this forward: other threads, and hooks of the user's own.

# 3. Interventions on routers that answer in a way of their own.


def a_model(architecture):
    from moeviz.capture.survey.survey import random_model, tokenizer

    return random_model(architecture), tokenizer()


def busiest(trace, layer, apart_from=()):
    ids = trace.experts[trace.model.layers.index(layer)]
    load = np.bincount(ids[ids >= 0], minlength=max(trace.model.num_experts))
    load[list(apart_from)] = -1
    return int(load.argmax())


@contextmanager
def experts_that_give_nothing(model, architecture, layer, expert):
    """The same by other means: the last weights of an expert are 0."""
    block = model.transformer.blocks[layer] if architecture == "dbrx" else model.model.layers[layer]
    weights = {
        "jetmoe": lambda: block.mlp.output_linear.weight,
        "llama4": lambda: block.feed_forward.experts.down_proj,
        "dbrx": lambda: block.ffn.experts.mlp.w2.unflatten(0, (8, -1)),
        "gemma4": lambda: block.experts.down_proj,
    }
    with torch.no_grad():
        part = weights[architecture]()
        before = part[expert].clone()
        part[expert] = 0
        yield
        part[expert] = before


@pytest.mark.parametrize("architecture", ["jetmoe", "llama4", "dbrx", "gemma4"])
def test_silencing_an_expert_does_what_taking_its_weights_away_does(architecture):
    model, tokenizer = a_model(architecture)
    plain = moeviz.trace(model, TEXT, tokenizer=tokenizer)
    layer = plain.model.layers[-1]
    expert = busiest(plain, layer)
    ids = torch.tensor([plain.tokens["token_id"].tolist()])
    with torch.no_grad():
        before = model(ids).logits[0].double()
        with experts_that_give_nothing(model, architecture, layer, expert):
            after = model(ids).logits[0].double()
    kl = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).numpy()
    silent = moeviz.Mute({layer: (expert,)}, reroute=False)
    found = outcome_of(lambda: moeviz.what_if(model, TEXT, silent, tokenizer=tokenizer))
    assert isinstance(found, moeviz.WhatIf), found
    assert kl.mean() > 0
    np.testing.assert_allclose(found.effect["kl"], kl, rtol=1e-3, atol=1e-12)


def outcome_of(work):
    """What it gives, or how it fails: a wrong exception is a wrong result."""
    try:
        return work()
    except Exception as error:
        return error


@pytest.mark.parametrize("architecture", ["jetmoe", "llama4", "dbrx", "zaya"])
def test_exchanged_experts_get_each_other_s_tokens_in_every_form_of_answer(architecture):
    model, tokenizer = a_model(architecture)
    plain = moeviz.trace(model, TEXT, tokenizer=tokenizer)
    layer = plain.model.layers[-1]
    one = busiest(plain, layer)
    other = busiest(plain, layer, apart_from=[one, *range(8, max(plain.model.num_experts))])
    change = moeviz.Exchange(layer, one, other)
    changed = outcome_of(lambda: moeviz.trace(model, TEXT, tokenizer=tokenizer, intervention=change))
    assert isinstance(changed, moeviz.RoutingTrace), changed
    expected = np.select([plain.experts[-1] == one, plain.experts[-1] == other], [other, one], plain.experts[-1])
    np.testing.assert_array_equal(changed.experts[-1], expected)
    np.testing.assert_array_equal(changed.weights[-1], plain.weights[-1])
    assert not np.array_equal(changed.experts, plain.experts)


def test_a_router_that_cannot_be_changed_is_refused_by_name():
    model, tokenizer = a_model("doge")
    for change in (moeviz.Mute({1: (0,)}, reroute=False), moeviz.Exchange(1, 0, 5)):
        failed = outcome_of(lambda change=change: moeviz.what_if(model, TEXT, change, tokenizer=tokenizer))
        assert isinstance(failed, moeviz.CaptureError) and "DogeCDMoE" in str(failed), failed


# 4. Interventions on routers that limit the choice to groups.


def grouped_model():
    """16 experts in 4 groups, of which 2 are kept; top-4."""
    from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

    return tiny_model(CONFIGS["deepseek_v3"]), tiny_tokenizer()


def test_experts_that_are_forced_are_chosen_or_refused_where_their_groups_are_too_many():
    model, tokenizer = grouped_model()
    for forced in ((0, 5), (0, 1, 2, 15), (0, 5, 10), (0, 5, 10, 15)):
        change = moeviz.Force({1: forced})
        changed = outcome_of(lambda change=change: moeviz.trace(model, TEXT, tokenizer=tokenizer, intervention=change))
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
    changed = outcome_of(lambda: moeviz.trace(model, TEXT, tokenizer=tokenizer, intervention=change))
    if left == 1:
        assert isinstance(changed, moeviz.CaptureError) and "at most 2 are left" in str(changed), changed
    else:
        assert not np.isin(changed.experts[0], muted).any() and (changed.experts[0] >= 0).all()


def test_more_experts_than_a_token_can_have_are_refused_before_the_model_runs():
    from tiny_models import SHAPE, tiny_model
    from transformers import MixtralConfig

    grouped, tokenizer = grouped_model()
    wide = tiny_model(MixtralConfig(**SHAPE, num_hidden_layers=1, num_local_experts=32, num_experts_per_tok=2))
    for model, top_k, says in ((grouped, 9, "1 to 8 experts, not 9"), (wide, 20, "1 to 16 experts, not 20")):
        change = moeviz.TopK(top_k)
        failed = outcome_of(lambda m=model, c=change: moeviz.trace(m, TEXT, tokenizer=tokenizer, intervention=c))
        assert isinstance(failed, moeviz.CaptureError) and says in str(failed), failed


# 5. Llama 4 in half precision.

# 6. The checkpoint's own generation settings.

# 7. A token that skips the experts, and a what-if in train mode.


def test_a_muted_expert_of_zaya_is_not_shown_as_skipping():
    model, tokenizer = a_model("zaya")
    plain = moeviz.trace(model, TEXT, tokenizer=tokenizer)
    layer, index = plain.model.layers[0], 0
    expert = busiest(plain, layer, apart_from=(0, 8))
    silent = moeviz.Mute({layer: (expert,)}, reroute=False)
    changed = moeviz.trace(model, TEXT, tokenizer=tokenizer, intervention=silent)
    np.testing.assert_array_equal(changed.experts[index], plain.experts[index])
    assert (changed.weights[index][changed.experts[index] == expert] == 0).all()
    assert (plain.weights[index][plain.experts[index] == expert] > 0).any()


@pytest.mark.parametrize("family", ["mixtral", "dbrx"])
def test_a_change_that_changes_nothing_has_no_effect_in_train_mode(family):
    if family == "mixtral":
        from tiny_models import SHAPE, tiny_model, tiny_tokenizer
        from transformers import MixtralConfig

        config = MixtralConfig(
            **SHAPE, num_hidden_layers=2, num_local_experts=8, num_experts_per_tok=2, router_jitter_noise=0.3
        )
        model, tokenizer = tiny_model(config), tiny_tokenizer()
    else:
        model, tokenizer = a_model("dbrx")
        for block in model.transformer.blocks:
            block.ffn.router.moe_jitter_eps = 0.3
    own = moeviz.trace(model, TEXT, tokenizer=tokenizer)
    model.train()
    found = outcome_of(lambda: moeviz.what_if(model, TEXT, moeviz.Replay(own), tokenizer=tokenizer))
    assert isinstance(found, moeviz.WhatIf), found
    assert (found.effect["kl"] == 0).all()
    assert all(part.training for part in model.modules())


# 8. A table whose rows were sorted.

# 9. A typed U+FFFD, and what is named a share.

# 10. A sentence where a traceback came.

# 11. A small table that names a large expert.

# 12. Invisible characters before a formula.
