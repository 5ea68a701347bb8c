"""Check on a first forward, before anything is replaced, that we decide and compute what the model does itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_kernels.reference import route_torch
from moeviz.capture.models.replaced import replaced
from moeviz.capture.record import our_experts, routing_ops
from moeviz.capture.record.listen import answers, check_layout, sample_rows
from moeviz.capture.routers.declared import Router
from moeviz.capture.routers.odd_routers import Answer
from moeviz.capture.routers.router_families import FAMILIES, OTHERS, Family
from moeviz.errors import CaptureError

PROBE = 16  # tokens
WEIGHT_ERROR = 1e-5  # relative: float32 sums in another order
EXPERTS_ERROR = 64  # in units of the dtype's precision, of the largest output: sums in another order
TIE = 1e-5  # ranks this close may be taken either way


@dataclass(slots=True)
class Swap:
    """A router, the family it is of, and why it keeps its own way where it does."""

    router: Router
    family: Family | None
    trouble: str | None = None
    sample: tuple[Tensor | None, ...] = ()  # rows of its own logits (where it has any), weights, experts, on the probe
    answered: int = 0  # times, on the probe


def swap_of(router: Router) -> Swap:
    """What we know of a router before it is checked."""
    family = FAMILIES.get(router.kind)
    if family is not None:
        return Swap(router, family)
    return Swap(router, None, f"{router.kind} {OTHERS.get(router.kind, 'is not known to moeviz')}")


def own_place(module: nn.Module) -> str:
    """Where a module's forward stands: accelerate puts its own before it, and keeps the model's."""
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"


def own_forward(module: nn.Module) -> Callable:
    """The forward of the model's own code."""
    return getattr(module, own_place(module))


def with_forward(module: nn.Module, forward: Callable) -> AbstractContextManager[None]:
    """Put another forward in the place of the module's own."""
    return replaced(module, own_place(module), forward)


@torch.no_grad()
def check(model: PreTrainedModel, swaps: tuple[Swap, ...]) -> list[str]:
    """One forward in which all decide and compute twice: their own results go on, ours are compared.

    What is different is noted in the swaps, and returned where it is the experts'.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    ids = torch.arange(PROBE, device=device)[None, :] * 7 % vocabulary
    experts_trouble: list[str] = []
    with ExitStack() as stack:
        for swap in swaps:
            stack.enter_context(answers(swap.router, _sampling(swap)))
            if swap.trouble is None:
                stack.enter_context(with_forward(swap.router.module, _checking(swap)))
        for experts in registered_experts(model):
            stack.enter_context(with_forward(experts, _checking_experts(experts, experts_trouble)))
        start = {"decoder_input_ids": ids[:, :1]} if model.config.is_encoder_decoder else {}
        model(input_ids=ids, use_cache=False, **start)
    for swap in swaps:
        if swap.answered != 1:
            raise CaptureError(
                f"{swap.router.kind} at {swap.router.path} answered {swap.answered} times when the model ran once, "
                "which moeviz's kernels cannot record. Trace it without them."
            )
    return experts_trouble


def registered_experts(model: PreTrainedModel) -> list[nn.Module]:
    """The experts that look their implementation up in transformers' registry."""
    return [module for module in model.modules() if hasattr(module, "_is_expert_parallel")]


def _sampling(swap: Swap) -> Callable[[Answer], None]:
    def note(answer: Answer) -> None:
        check_layout(swap.router, answer)
        swap.sample, swap.answered = sample_rows(answer), swap.answered + 1

    return note


def _checking(swap: Swap) -> Callable[..., tuple]:
    router = swap.router.module
    own = own_forward(router)

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple:
        output = own(*args, **kwargs)
        swap.trouble = _difference(swap.family, router, args, kwargs, output)
        return output

    return forward


def _checking_experts(experts: nn.Module, troubles: list[str]) -> Callable[..., Tensor]:
    own = own_forward(experts)

    def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
        output, given = own(*args, **kwargs), (*args, *kwargs.values())
        ours = our_experts.experts_forward(experts, *given)
        first = our_experts.experts_forward(experts, *(part[:1] for part in given))
        error = max((ours - output).abs().max(), (first - output[:1]).abs().max()) / output.abs().max()
        if not error <= EXPERTS_ERROR * torch.finfo(output.dtype).eps:
            troubles.append(f"{type(experts).__name__} computes otherwise than moeviz expects")
        return output

    return forward


def _difference(family: Family, router: nn.Module, args: tuple, kwargs: dict, output: tuple) -> str | None:
    """What is different in our decision; None where it is the same."""
    name = type(router).__name__
    hidden, bias = router_inputs(family, router, args, kwargs)
    logits = family.logits(router, hidden)
    try:
        gating = family.gating(router)
    except ValueError as error:  # more experts or slots than the kernels have room for
        return f"{name}: {error}"
    if family.rounds_scores and logits.dtype != torch.float32:
        return f"{name} rounds its scores to {logits.dtype}"
    if not torch.equal(logits, output[0].view_as(logits)):
        return f"{name} makes other logits than moeviz expects"
    theirs, weights = output[2].reshape(len(logits), -1), output[1].reshape(len(logits), -1)
    ours, experts = routing_ops.decide(logits, bias, *_scratch(theirs), gating)
    ours, weights = _by_expert(ours, experts), _by_expert(weights, theirs)
    same = (experts.sort(dim=-1).values == theirs.sort(dim=-1).values).all(dim=-1)
    tied = route_torch(logits, gating, bias).margin <= TIE
    if not (same | tied).all():
        return f"{name} chooses other experts than moeviz expects"
    precision = max(WEIGHT_ERROR, torch.finfo(weights.dtype).eps)
    if not torch.allclose(ours[same], weights[same].float(), rtol=precision, atol=precision):
        return f"{name} weighs experts otherwise than moeviz expects"
    return None


def _scratch(experts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A record that nobody reads, for as many tokens and slots as `experts` (T, K) has."""
    rows = experts.new_zeros(len(experts) + 1, experts.shape[1], dtype=torch.int16)
    return rows, rows.float(), experts.new_zeros(1, dtype=torch.int64)


def _by_expert(weights: Tensor, experts: Tensor) -> Tensor:
    return weights.gather(-1, experts.argsort(dim=-1))


def router_inputs(family: Family, router: nn.Module, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
    """The hidden states (T, D), and the selection bias: the router's own, or what its block passes along."""
    given = [*args, *kwargs.values()]
    hidden = given[0].reshape(-1, given[0].shape[-1])
    return hidden, given[1] if len(given) > 1 else family.bias(router)
