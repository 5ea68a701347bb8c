"""Routers run one layer early: exact where nothing is added to the stream, and refused where they read no norm."""

import numpy as np
import pytest
import torch
from cut_models import TEXTS, loaded, strong
from routed_trace import routed
from survey.tiny_models import random_model
from tiny_models import CONFIGS, tiny_model

from moeviz.analyses.ahead import trace_ahead
from moeviz.capture.routers.discovery import find_routers
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.serving.prefetch import prefetch_recall

PLAIN = [text for _, text in TEXTS]
WRITES = ("o_proj", "down_proj", "shared_experts")  # what a layer adds to the stream comes out of these


def without_updates(model):
    with torch.no_grad():
        for name, values in model.named_parameters():
            if any(word in name for word in WRITES):
                values.zero_()
    return model


@pytest.mark.parametrize("name", list(CONFIGS))
def test_where_nothing_is_added_to_the_stream_each_router_is_known_one_layer_early(name):
    model = strong(CONFIGS[name])
    with torch.no_grad():
        for part, values in model.named_parameters():
            if "layernorm" in part:
                values.normal_(1, 0.3)  # so that another layer's norm would be noticed
    k, E = find_routers(model)[0].top_k, find_routers(model)[0].num_experts
    trace, (ahead,) = trace_ahead(loaded(model), PLAIN)
    assert ahead.shape == (*trace.experts.shape[:2], E) and (ahead[0] == -1).all()
    assert (np.sort(ahead[1:], axis=-1) == np.arange(E)).all(), "every expert is named once"
    found = prefetch_recall(trace, ahead=ahead)
    of_k = found[(found["m"] == k) & found["next_router"].notna()]
    assert (of_k["next_router"] < 1).any(), "what the layers add moves some choices"
    named = found.dropna(subset="next_router").groupby("layer")["next_router"]
    assert named.apply(lambda recall: recall.is_monotonic_increasing).all()
    still, (early,) = trace_ahead(loaded(without_updates(model)), PLAIN)
    exact = prefetch_recall(still, ahead=early)
    of_k = exact[exact["m"] == k].set_index("layer")["next_router"]
    assert of_k.iloc[1:].tolist() == [1.0] * (len(of_k) - 1) and np.isnan(of_k.iloc[0])
    pieces, (of_pieces,) = trace_ahead(loaded(model), PLAIN[:1], tokens=3)
    assert of_pieces.shape[1] == len(pieces.tokens) == 3


def test_recall_of_an_order_is_counted_by_hand():
    trace = routed([[[0, 1], [2, 1], [3, 0], [2, 3]]], 4)  # judged on the last two
    ahead = np.array([[[0, 1, 2, 3]] * 2 + [[3, 1, 0, 2], [0, 2, 1, 3]]], np.int16)
    assert prefetch_recall(trace, ahead=ahead)["next_router"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert "next_router" not in prefetch_recall(trace)


def test_layers_that_look_experts_up_by_token_are_known_exactly():
    model = random_model("deepseek_v4")
    routers = find_routers(model)
    hashed = [row for row, router in enumerate(routers) if router.kind == "DeepseekV4HashRouter"]
    assert len(hashed) > 1
    trace, (ahead,) = trace_ahead(loaded(model), PLAIN[:2])
    found = prefetch_recall(trace, ahead=ahead)
    of_k = found[found["m"] == routers[0].top_k]["next_router"].to_numpy()
    assert (of_k[hashed[1:]] == 1).all()


@pytest.mark.parametrize(
    ("name", "why"),
    [("dbrx", "the block around DbrxRouter decides"), ("gemma4", "does not read a norm of the residual")],
)
def test_a_family_that_does_not_allow_it_is_refused_in_one_sentence(name, why):
    with pytest.raises(CaptureError, match=why):
        trace_ahead(loaded(random_model(name)), PLAIN[:1])


def test_no_texts_are_refused():
    with pytest.raises(InvalidPrompt, match="text"):
        trace_ahead(loaded(tiny_model(CONFIGS["mixtral"])), [])
