"""Hold what moeviz records of experts' outputs against outputs worked out from the experts' weights, one by one.

What the experts and their layer are given is heard by hooks of our own; then each chosen expert's matrices are applied
to the token's row. Nothing of moeviz's way of recording is used: no forward of the experts module, no slots.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature

import numpy as np
import torch
from torch import Tensor, nn

from moeviz.capture.routers.discovery import LAYER_INDEX, Router, find_routers, router_sites
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace
from survey.compare import EQUAL, ONE, REFUSED, WRONG
from survey.tiny_models import UNSEEN, random_model, tokenizer

CLOSE = {"rtol": 1e-3, "atol": 1e-6}
LATENT = ("muse_spark",)  # its experts stand between two projections; Nemotron-H's do so by config
HYPER_CONNECTED = ("deepseek_v4",)  # the stream has several copies


def outputs_of(architecture: str) -> dict[str, str]:
    """By site: EQUAL, the sentence of a refusal after REFUSED, or what is WRONG."""
    model = random_model(architecture)
    return {site: _of_site(model, site) for site in router_sites(model) if site != UNSEEN}


@torch.no_grad()
def _of_site(model: nn.Module, site: str) -> str:
    plain = trace(model, ONE, tokenizer=tokenizer(), site=site)
    with _heard(model, site) as calls:
        try:
            made = trace(model, ONE, tokenizer=tokenizer(), site=site, outputs=True)
        except CaptureError as refusal:
            return f"{REFUSED}: {refusal}"
    if not (made.experts == plain.experts).all() or not (made.weights == plain.weights).all():
        return f"{WRONG}: recording outputs changes the routing"
    for layer, call in enumerate(calls[: len(made.experts)]):
        for token in range(len(made.tokens)):
            if trouble := _differs(made, layer, token, *call):
                return f"{WRONG}: layer {layer}, token {token}: {trouble}"
    return EQUAL


Call = tuple[Router, list[Callable[[int], Tensor]], Tensor | None]  # of each token its outputs by expert; the stream


@contextmanager
def _heard(model: nn.Module, site: str) -> Iterator[list[Call]]:
    """Inside the block: what each layer of experts was given, call after call of the first forward."""
    calls: list[Call] = []
    with ExitStack() as stack:
        for router in find_routers(model, site):
            stream: list[Tensor] = []
            found = LAYER_INDEX.search(router.path)

            def entered(_layer, given, named, stream=stream):
                stream[:] = [(given[0] if given else named["hidden_states"]).clone()]

            layer = model.get_submodule(router.path[: found.end(1)])
            stack.callback(layer.register_forward_pre_hook(entered, with_kwargs=True).remove)
            for module, hook in _ears(router, calls, stream):
                stack.callback(module.register_forward_pre_hook(hook).remove)
        yield calls


def _ears(router: Router, calls: list[Call], stream: list[Tensor]) -> Iterator[tuple[nn.Module, Callable]]:
    if len(router.experts) == 1:
        (experts,) = router.experts.values()

        def given_rows(_experts: nn.Module, given: tuple) -> None:
            hidden = given[0].clone().reshape(-1, given[0].shape[-1])
            if type(experts).__name__ == "Llama4TextExperts":  # each row E times, scaled
                hidden = hidden.view(router.num_experts, -1, hidden.shape[-1])
                calls.append((router, [lambda e, x=x: alone(experts, e, x[e]) for x in hidden.unbind(1)], stream[0]))
                return
            calls.append((router, [lambda e, x=x: alone(experts, e, x) for x in hidden], stream[0]))

        yield experts, given_rows
        return
    first, second = router.experts.values()
    if type(first).__name__ != "JetMoeParallelExperts":
        return

    def given_sorted(_linear: nn.Module, given: tuple) -> None:
        rows, sizes = given
        tokens: dict[int, dict[int, Tensor]] = {}
        order = (
            type(router.module).forward(router.module, stream_of_block[0])[1].tolist()
        )  # which token each sorted row is of
        expert = [e for e, size in enumerate(sizes) for _ in range(size)]
        for token, e, row in zip(order, expert, rows.clone(), strict=True):
            tokens.setdefault(token, {})[e] = row @ second.weight[e].T
        calls.append((router, [tokens[token].__getitem__ for token in range(len(tokens))], stream[0]))

    stream_of_block: list[Tensor] = []

    def read(_router: nn.Module, given: tuple) -> None:
        stream_of_block[:] = [given[0].clone()]

    yield router.module, read
    yield second, given_sorted


def alone(experts: nn.Module, expert: int, row: Tensor) -> Tensor:
    """One expert's output (D,) for one row, from its matrices."""
    name = type(experts).__name__
    if isinstance(experts, nn.ModuleDict):
        part = experts[f"expert_{expert}"]
        return part.act(row @ part.wi.weight.T) @ part.wo.weight.T
    if name == "DbrxExperts":
        size, mlp = experts.ffn_hidden_size, experts.mlp
        w1, v1, w2 = (part[expert * size : (expert + 1) * size] for part in (mlp.w1, mlp.v1, mlp.w2))
        return (mlp.activation_fn(w1 @ row) * (v1 @ row)) @ w2
    if name == "ZayaExperts" and expert >= experts.num_experts:
        return torch.zeros_like(row)
    across = getattr(experts, "is_transposed", name == "Llama4TextExperts")

    def times(what: str, x: Tensor) -> Tensor:
        matrix = getattr(experts, what)[expert]
        bias = getattr(experts, f"{what}_bias", None)
        return (x @ matrix if across else matrix @ x) + (0 if bias is None else bias[expert])

    if not hasattr(experts, "gate_up_proj"):
        inner = experts.act_fn(times("up_proj", row))
    else:
        inner = _gated(experts, times("gate_up_proj", row))
    out = times("down_proj", inner)
    if not hasattr(experts, "post_expert_norm"):
        return out
    which = [torch.tensor([expert])] if "expert_ids" in signature(experts.post_expert_norm.forward).parameters else []
    return experts.post_expert_norm(out[None], *which)[0]


def _gated(experts: nn.Module, both: Tensor) -> Tensor:
    """Gate and up combined; a family's own way of it, such as one that clamps, is the family's."""
    own = getattr(type(experts), "_apply_gate", None)
    if own is not None and own.__name__ != "_default_apply_gate":
        return own(experts, both[None])[0]
    gate, up = both.chunk(2)
    return experts.act_fn(gate) * up


def _differs(
    made: RoutingTrace, layer: int, token: int, router: Router, rows: list[Callable[[int], Tensor]], stream: Tensor
) -> str:
    slots = made.experts[layer, token]
    filled = (slots >= 0) & (slots < router.num_experts - router.zero_experts)
    experts = slots[filled].tolist()
    if not experts:
        return ""
    outputs = torch.stack([rows[token](e) for e in experts]).double()
    weights = torch.from_numpy(made.weights[layer, token][filled]).double()
    if type(next(iter(router.experts.values()))).__name__ == "Llama4TextExperts":
        weights = (weights != 0).double()
    whole = (weights[:, None] * outputs).sum(0)
    expected = {"norm": outputs.norm(dim=-1), "greatest": outputs.abs().amax(-1), "cosine": _cosine(outputs, whole)}
    expected["added"] = expected["norm"] * weights.abs()
    if made.outputs.residual is not None:
        expected["residual"] = _cosine(outputs, stream.reshape(-1, stream.shape[-1])[token].double())
    for name, values in expected.items():
        told = getattr(made.outputs, name)[layer, token]
        if not np.allclose(told[filled], values.numpy(), **CLOSE) or told[~filled].any():
            return f"{name} {told.tolist()}, from the weights {values.tolist()}"
    return ""


def _cosine(outputs: Tensor, other: Tensor) -> Tensor:
    return outputs @ other / (outputs.norm(dim=-1) * other.norm()).clamp(min=1e-30)
