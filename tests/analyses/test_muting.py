"""What texts lose without an expert, added up by label; texts put together from a trace; and the rows of routers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.analyses.muting import muted_by_label, texts_of_trace
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.routers.geometry import router_geometry
from moeviz.errors import CaptureError, InvalidPrompt

PAIRS = [("French", "Il fait froid à Paris."), ("sums", "12 + 30 = 42"), ("French", "Bonjour. 你好, été.")]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A random Qwen3-MoE; its MoE layers are 0 and 2."""
    made = tiny_model(CONFIGS["qwen3_moe"])
    return LoadedModel(made, tiny_tokenizer(), describe(made, "tiny", None))


def test_only_the_experts_asked_for_are_muted(model):
    text = PAIRS[0][1]
    whole = moeviz.ablate(model, text).set_index(["layer", "expert"])
    some = moeviz.ablate(model, text, experts=[(2, 1), (0, 3)]).set_index(["layer", "expert"])
    assert set(some.index) == {(2, 1), (0, 3)}
    assert some["loss_change"].to_dict() == whole.loc[some.index, "loss_change"].to_dict()
    with pytest.raises(CaptureError, match=r"expert 8.*layer 0"):
        moeviz.ablate(model, text, experts=[(0, 8)])


def test_losses_of_texts_add_up_by_label_every_token_counting_the_same(model):
    found = muted_by_label(model, PAIRS, experts=[(0, 3)]).set_index("label")
    effects = [moeviz.what_if(model, text, moeviz.Mute({0: (3,)})).effect for _, text in PAIRS]
    changes = [(effect["loss_changed"] - effect["loss"]).dropna() for effect in effects]
    french = np.concatenate([changes[0], changes[2]])
    assert found.loc["French", ["texts", "tokens"]].tolist() == [2, len(french)]
    assert found.loc["French", "loss_change"] == pytest.approx(french.mean(), abs=1e-6)
    assert found.loc["sums", "loss_change"] == pytest.approx(changes[1].mean(), abs=1e-6)
    assert found.loc["sums", "kl"] == pytest.approx(effects[1]["kl"].mean(), abs=1e-6)


def test_progress_is_told_and_no_text_is_refused(model):
    seen = []
    muted_by_label(model, PAIRS[:2], experts=[(0, 3)], progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(InvalidPrompt, match="text"):
        muted_by_label(model, [])


def test_a_trace_gives_its_texts_back_where_the_tokenizer_reads_them_the_same(model):
    trace = trace_corpus(model, PAIRS)
    assert texts_of_trace(model, trace) == PAIRS
    unlabelled = replace(trace, tokens=trace.tokens.drop(columns="label"))
    assert texts_of_trace(model, unlabelled) == [("", text) for _, text in PAIRS]
    ids = trace.tokens["token_id"].to_numpy().copy()
    ids[1:3] = [ord("I") + 3, ord("l") + 3]
    for wrong in (ids, np.full(len(ids), -1)):
        other = replace(trace, tokens=trace.tokens.assign(token_id=wrong.astype(np.int32)))
        with pytest.raises(CaptureError, match=r"[Tt]race"):
            texts_of_trace(model, other)


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3"])
def test_router_rows_are_what_the_logits_are_products_with(name):
    model = tiny_model(CONFIGS[name])
    router, seen = find_routers(model)[-1], []
    hook = router.module.register_forward_hook(lambda _module, given, answer: seen.append((given[0], answer)))
    with torch.no_grad():
        model(torch.arange(10)[None])
    hook.remove()
    (state, answer), geometry = seen[0], router_geometry(model, [router.layer])
    logits = answer[0] if isinstance(answer, tuple) else answer
    states = state.reshape(-1, state.shape[-1]).double()
    weight = next(values for values in router.module.parameters() if values.ndim == 2).detach().double()
    assert torch.allclose(states @ weight.T, logits.double(), atol=1e-4)
    norms = geometry[geometry["expert"] == 0].set_index("other")["norm"]
    assert norms.to_numpy() == pytest.approx(weight.norm(dim=1).numpy())
    (cosine,) = geometry.loc[(geometry["expert"] == 2) & (geometry["other"] == 5), "cosine"]
    assert cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(weight[2], weight[5], dim=0)))


def test_a_router_without_a_row_for_each_expert_is_refused_with_a_sentence():
    with pytest.raises(CaptureError, match="16"):
        router_geometry(random_model("doge"))
    with pytest.raises(CaptureError, match="layer 9"):
        router_geometry(tiny_model(CONFIGS["mixtral"]), [9])
