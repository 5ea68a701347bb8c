"""A router's logits in parts: against the residual stream and the norm, worked out by other means, family by family."""

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from survey.tiny_models import random_model, tokenizer

import moeviz
from moeviz.analyses import direct_attribution as module
from moeviz.analyses.direct_attribution import CLOSE, attributed, direct_attribution
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt

TEXT = "Ich komme mit. 12 + 30"
TOKEN = 4
FIGURES = ("logit", "above_mean")
# Families that add up, each with what its norm does: "mean" takes the mean away, "one" adds one to its weights.
ADD_UP = {
    "mixtral": "",
    "olmoe": "",
    "qwen2_moe": "",
    "qwen3_moe": "",
    "qwen3_next": "one",
    "deepseek_v3": "",
    "dots1": "",
    "ernie4_5_moe": "",
    "glm4_moe": "",
    "granitemoe": "",  # adds what a layer puts out times a factor
    "gpt_oss": "",
    "minimax_m2": "",
    "phimoe": "mean",
}
REFUSED = {
    "flex_olmo": "what layer 0 adds is not what its attention and experts put out",  # a norm after each
    "gemma4": "what layer 0 adds",
    "minimax": "what layer 0 adds",  # the stream is scaled
    "deepseek_v4": "layer 0 does not read and pass on one residual stream",  # hyper-connections
    "axk2": "the router of layer 1 does not read a norm of the residual stream",
    "doge": "its routers give no logits",
    "inkling2_loop": "its layers run several times",
    "switch_transformers": "not all in the layers of one decoder",
}


def prepared(family: str):
    """A random model whose norms and biases are not the ones they begin with."""
    model = random_model(family)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name:
                values.normal_(0.1 if ADD_UP.get(family) == "one" else 1, 0.2)
            if name.endswith("norm.bias") or name.endswith(("gate.bias", "router.bias")):
                values.normal_(0, 0.3)
    if family == "granitemoe":
        model.config.residual_multiplier = 0.22  # as published
        for layer in model.model.layers:
            layer.residual_multiplier = 0.22
    return model


def by_hand(model, ids: list[int], kind: str) -> dict[int, dict[tuple[str, int], np.ndarray]]:
    """Of each router the parts of its logits at the token, from what the stream grew by and the norm's formula."""
    layers = model.get_submodule("model.layers")
    before, middle, handles = {}, {}, []

    def keep(rows: dict, index: int):
        return lambda _, given: rows.update({index: given[0][0, TOKEN].double()})

    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(keep(before, index)))
        handles.append(layer.post_attention_layernorm.register_forward_pre_hook(keep(middle, index)))
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    parts, found = {("embedding", -1): before[0]}, {}
    for index, layer in enumerate(layers):
        parts["attention", index] = middle[index] - before[index]
        block = getattr(layer, "block_sparse_moe", None) or layer.mlp
        router = getattr(block, "gate", None) or getattr(block, "router", None)
        if router is not None:
            norm = layer.post_attention_layernorm
            scale = norm.weight.detach().double() + (kind == "one")
            stream = sum(parts.values())
            eps = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
            centred = (lambda row: row - row.mean()) if kind == "mean" else (lambda row: row)
            over = (centred(stream).square().mean() + eps).sqrt()
            weight = next(values for values in router.parameters() if values.dim() == 2).detach().double()
            found[index] = {name: (weight @ (scale * centred(row) / over)).numpy() for name, row in parts.items()}
            fixed = torch.zeros(len(weight), dtype=torch.float64)
            if getattr(norm, "bias", None) is not None:
                fixed = fixed + weight @ norm.bias.detach().double()
            if getattr(router, "bias", None) is not None:
                fixed = fixed + router.bias.detach().double()
            if fixed.any():
                found[index]["bias", -1] = fixed.numpy()
        if index + 1 < len(layers):
            parts["MLP" if router is None else "experts", index] = before[index + 1] - middle[index]
    return found


@pytest.mark.parametrize("family", ADD_UP)
def test_parts_are_what_the_stream_grew_by_and_add_up_to_the_logits(family):
    model = prepared(family)
    trace, found = attributed(model, CaptureRequest((TEXT,)), TOKEN, tokenizer=tokenizer())
    expected = by_hand(model, trace.tokens["token_id"].tolist(), ADD_UP[family])
    assert list(expected) == list(trace.model.layers) and len(expected) > 1
    for at, (layer, parts) in enumerate(expected.items()):
        own = found[found["layer"] == layer]
        order = own[["part", "part_layer"]].drop_duplicates()
        assert [*order.itertuples(index=False, name=None)] == list(parts), "in the order of the stream"
        table, above = (own.pivot(index=["part", "part_layer"], columns="expert", values=what) for what in FIGURES)
        logits = trace.logits[at, TOKEN]
        assert np.abs(table.to_numpy().sum(axis=0) - logits).max() <= CLOSE * np.abs(logits).max()
        most = np.abs(np.stack([*parts.values()])).max()
        for name, values in parts.items():
            np.testing.assert_allclose(table.loc[name], values, atol=1e-5 * most, rtol=0)
        np.testing.assert_allclose(above, table.sub(table.mean(axis=1), axis=0), atol=1e-9)
        slots = own.drop_duplicates("expert").set_index("expert")["slot"]
        assert slots[trace.experts[at, TOKEN]].tolist() == list(range(trace.experts.shape[-1]))
        assert (slots >= 0).sum() == trace.experts.shape[-1]
    has_bias = any(("bias", -1) in parts for parts in expected.values())
    assert has_bias == (family in ("gpt_oss", "phimoe")), "the biases of a norm and of a router"


def test_a_router_beside_the_attention_reads_nothing_of_it():
    found = direct_attribution(random_model("cohere2_moe"), TEXT, TOKEN, tokenizer=tokenizer())
    assert (found["part_layer"] < found["layer"]).all() and (found["part"] == "attention").any()


@pytest.mark.parametrize(("family", "why"), REFUSED.items(), ids=[*REFUSED])
def test_what_does_not_add_up_is_refused_by_name(family, why, recwarn):
    model = random_model(family)
    with pytest.raises(CaptureError, match=why) as refused:
        direct_attribution(model, TEXT, TOKEN, tokenizer=tokenizer())
    assert type(model).__name__ in str(refused.value)
    recwarn.clear()


@pytest.fixture(scope="module")
def embedded():
    return moeviz.load_model()


def scaled(answer):
    """By a thousandth, as a factor on what a layer passes on."""
    return (scaled(answer[0]), *answer[1:]) if isinstance(answer, tuple) else answer * 1.001


@contextmanager
def changed(model, where: str):
    """One thing that the split rests on is another one, by a thousandth."""
    layers = model.model.model.layers
    put = {
        "layer": lambda: layers[2].register_forward_hook(lambda _, __, answer: scaled(answer)),
        "between": lambda: layers[2].register_forward_pre_hook(lambda _, given: scaled(given)),
        "norm": lambda: layers[2].mlp.gate.register_forward_pre_hook(lambda _, given: scaled(given)),
    }[where]()
    try:
        yield
    finally:
        put.remove()


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("layer", "layer 2"),
        ("between", "layer 2"),
        ("norm", "layer 2"),
    ],
)
def test_a_thousandth_too_much_is_noticed(embedded, where, why):
    with changed(embedded, where), pytest.raises(CaptureError, match=why):
        direct_attribution(embedded, TEXT, TOKEN)


def test_a_part_that_is_left_out_or_wrong_is_noticed_in_the_sum(embedded, monkeypatch):
    """The last check by itself: the additions are taken on trust, and one is wrong; then a router's rows are."""
    with monkeypatch.context() as trusting:
        trusting.setattr(module, "_is_sum", lambda *_: True)
        with changed(embedded, "layer"), pytest.raises(CaptureError, match="layer 3"):
            direct_attribution(embedded, TEXT, TOKEN, layers=[3])
    own = module.router_rows
    monkeypatch.setattr(module, "router_rows", lambda router: (1.001 * own(router)[0], own(router)[1]))
    with pytest.raises(CaptureError, match=r"layer 0.*0\.001"):
        direct_attribution(embedded, TEXT, TOKEN)


def test_half_precision_adds_up_with_what_was_rounded(embedded):
    model = prepared("mixtral").to(torch.bfloat16)
    trace, found = attributed(model, CaptureRequest((TEXT,)), TOKEN, tokenizer=tokenizer())
    sums = found.groupby(["layer", "expert"])["logit"].sum().unstack().to_numpy()
    assert sums == pytest.approx(trace.logits[:, TOKEN], abs=1e-9)
    rounding = found[found["part"] == "rounding"]
    assert rounding["layer"].nunique() == len(trace.model.layers) and rounding["logit"].abs().max() > 0
    assert "rounding" not in set(direct_attribution(embedded, TEXT, TOKEN)["part"])


def test_one_token_and_the_layers_that_were_asked_for(embedded):
    whole, last = (direct_attribution(embedded, TEXT, token) for token in (TOKEN, -1))
    some = direct_attribution(embedded, TEXT, TOKEN, layers=[4, 1])
    assert some["layer"].unique().tolist() == [1, 4] and not whole["logit"].equals(last["logit"])
    pd.testing.assert_frame_equal(some, whole[whole["layer"].isin([1, 4])].reset_index(drop=True))
    with pytest.raises(InvalidPrompt, match="token 99"):
        direct_attribution(embedded, TEXT, 99)
    with pytest.raises(CaptureError, match="layer 9"):
        direct_attribution(embedded, TEXT, layers=[9])


def test_it_costs_one_forward_and_leaves_no_hook(embedded):
    forwards = []
    handle = embedded.model.register_forward_hook(lambda *_: forwards.append(1))
    before = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in embedded.model.modules()]
    direct_attribution(embedded, TEXT)
    after = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in embedded.model.modules()]
    handle.remove()
    assert forwards == [1] and before == after


def test_the_command_prints_the_parts_of_the_chosen_experts(embedded, capsys):
    from moeviz.cli.main import main
    from moeviz.metrics.direct_attribution import direct_caption, direct_parts

    found = direct_attribution(embedded, TEXT, TOKEN, layers=[3])
    assert main(["attribute", TEXT, "--token", str(TOKEN), "--layer", "3"]) == 0
    out = capsys.readouterr().out
    parts = direct_parts(found, 3)
    assert direct_caption(parts) in out and len(out.splitlines()) == len(parts) + 3  # findings, limit and heading
    assert main(["attribute", TEXT, "--token", str(TOKEN), "--layer", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["parts"]) == len(found)
