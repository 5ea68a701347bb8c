"""Check on a first forward, before anything is replaced, that our kernels decide and compute what the model does."""

from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_kernels.reference import route_torch
from moeviz.capture.models.patching import eval_mode
from moeviz.capture.record import experts_implementation, routing_ops
from moeviz.capture.record.hooks import answer_hook, check_layout, sample_rows
from moeviz.capture.record.private_names import offloading_hooks, own_forward, registered_experts, with_forward
from moeviz.capture.routers.discovery import Router, find_routers
from moeviz.capture.routers.kernel_families import FAMILIES, OTHERS, Family
from moeviz.capture.routers.router_adapters import Answer
from moeviz.errors import CaptureError
from moeviz.text import cut

PROBE = 16  # tokens
WEIGHT_ERROR = 1e-5  # relative: float32 sums in another order
# Relative to the norm of a token's output. In 16 bits another order of sums changes 1 %; an expert left out, a third.
EXPERTS_ERROR = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
EXPERTS_ERROR_IN_FULL = 1e-4
TINY = torch.finfo(torch.float32).tiny
GONE = ("illegal memory access", "device-side assert", "unspecified launch failure")  # after these a process has no GPU
TIE = 1e-5  # ranks this close may be taken either way


@dataclass(frozen=True, slots=True)
class ProbedRouter:
    """A router with the findings of the probe."""

    router: Router
    family: Family | None  # how our kernels run it
    trouble: str | None  # why they cannot; None if they can
    sample: tuple[Tensor | None, ...]  # rows of its own logits (if it has any), weights, experts
    logits_stay: bool  # whether its logits were still the same once the model had finished, and no part of more


@dataclass(frozen=True, slots=True)
class ProbedModel:
    """The findings of a first forward: of each router, and of the experts."""

    routers: tuple[ProbedRouter, ...]
    experts_trouble: tuple[str, ...]  # why we do not compute what the model's experts do

    @property
    def troubles(self) -> list[str]:
        """Why routers and experts are not replaced."""
        of_routers = [probed.trouble for probed in self.routers if probed.trouble]
        return list(dict.fromkeys([*self.experts_trouble, *of_routers]))


_known: WeakKeyDictionary[nn.Module, dict[str | None, "_Known"]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Known:
    """The result for a model, and all that it depends on."""

    found: ProbedModel
    settings: Hashable
    tensors: tuple[ref[Tensor], ...]


def probe_once(model: PreTrainedModel, site: str | None = None) -> ProbedModel:
    """Return what `probe` found, as long as nothing that it depends on has changed. Raises what `probe` raises."""
    routers = find_routers(model, site)
    parts = [part for router in routers for part in (router.module, router.block)]
    parts += registered_experts(model)
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    if any(tensor.is_inference() for tensor in tensors):  # nobody counts how often these change
        return probe(model, site)
    tensors = [tensor for tensor in tensors if not tensor.is_meta]  # in their place others stand after every forward
    settings = (
        repr(vars(model.config)),  # and of configs inside; as JSON it takes half a millisecond
        tuple(map(offloading_hooks, parts)),
        tuple(FAMILIES.get(router.kind) for router in routers),
        tuple(map(_settings, parts)),
        tuple((tensor._version, tensor.dtype, tensor.device) for tensor in tensors),
    )
    by_site = _known.setdefault(model, {})
    known = by_site.get(site)
    same = known is not None and known.settings == settings and len(known.tensors) == len(tensors)
    if not same or any(tensor is not old() for tensor, old in zip(tensors, known.tensors, strict=True)):
        known = by_site[site] = _Known(probe(model, site), settings, tuple(map(ref, tensors)))
    return known.found


def _settings(module: nn.Module) -> Hashable:
    """Return what determines a module's answer in addition to its tensors: its code, numbers and strings."""
    values = vars(module)
    plain = ((name, value) for name, value in values.items() if isinstance(value, bool | int | float | str))
    return id(module), type(module), id(values.get("forward")), tuple(plain)


@torch.no_grad()
def probe(model: PreTrainedModel, site: str | None = None) -> ProbedModel:
    """Run one forward in which everything is decided and computed twice: the model's results go on, ours are compared.

    Raises `CaptureError` for a model without routers, or one whose layers run in a loop.
    """
    routers, samples = find_routers(model, site), {}
    families = {router.path: FAMILIES.get(router.kind) for router in routers}
    troubles: dict[str, str | None] = {
        router.path: f"{router.kind} {OTHERS.get(router.kind, 'is not known to moeviz')}"
        for router in routers
        if families[router.path] is None
    }
    experts_trouble: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))  # jitter would be drawn anew for each of the two
        for router in routers:
            stack.enter_context(answer_hook(router, _take_sample(router, samples)))
            if family := families[router.path]:
                stack.enter_context(with_forward(router.module, _compare_router(router, family, troubles)))
        for experts in registered_experts(model):
            stack.enter_context(with_forward(experts, _compare_experts(experts, experts_trouble)))
        _read_a_few(model)
    for router in routers:
        _check_answered_once(router, len(samples.get(router.path, ())))
    found = (
        ProbedRouter(r, families[r.path], troubles.get(r.path), *_check_logits(*samples[r.path][0])) for r in routers
    )
    return ProbedModel(tuple(found), tuple(experts_trouble))


def _read_a_few(model: PreTrainedModel) -> None:
    vocabulary = model.get_input_embeddings().num_embeddings
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    ids = torch.arange(PROBE, device=device)[None, :] * 7 % vocabulary
    start = {"decoder_input_ids": ids[:, :1]} if model.config.is_encoder_decoder else {}
    model(input_ids=ids, use_cache=False, **start)


def _check_answered_once(router: Router, times: int) -> None:
    if times != 1:
        raise CaptureError(
            f"{router.kind} at {router.path} answered {times} times when the model ran once, and moeviz's kernels and "
            "interventions are for routers that answer once. Trace the model as it is (kernels=False), without forward "
            "hooks that run a part of it again."
        )


def _take_sample(router: Router, samples: dict[str, list]) -> Callable[[Answer], None]:
    def note(answer: Answer) -> None:
        check_layout(router, answer)
        samples.setdefault(router.path, []).append((sample_rows(answer), answer[0]))

    return note


def _check_logits(sample: tuple[Tensor | None, ...], logits: Tensor | None) -> tuple[tuple[Tensor | None, ...], bool]:
    """Return a sample, and whether the logits that it was taken from are unchanged, in memory of their own."""
    if logits is None or logits.untyped_storage().nbytes() > logits.nbytes:
        return sample, False
    return sample, torch.equal(logits.reshape(-1, logits.shape[-1]), sample[0])


def _compare_router(router: Router, family: Family, troubles: dict[str, str | None]) -> Callable[..., tuple]:
    own = own_forward(router.module)

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple:
        output = own(*args, **kwargs)
        try:
            troubles[router.path] = mismatch(family, router.module, args, kwargs, output)
        except Exception as error:  # whatever a kernel may raise on a GPU that we have not seen
            troubles[router.path] = f"{router.kind} {failure(error)}"
        return output

    return forward


def _compare_experts(experts: nn.Module, troubles: list[str]) -> Callable[..., Tensor]:
    own = own_forward(experts)

    def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
        output, given = own(*args, **kwargs), (*args, *kwargs.values())
        if output.is_cuda and (why_not := experts_implementation.why_not_in_kernels(experts)):
            troubles.append(why_not)
            return output
        try:
            ours = experts_implementation.experts_forward(experts, *given)
            first = experts_implementation.experts_forward(experts, *(part[:1] for part in given))
        except Exception as error:  # whatever a kernel may raise on a GPU that we have not seen
            troubles.append(f"{type(experts).__name__} {failure(error)}")
            return output
        most = EXPERTS_ERROR.get(output.dtype, EXPERTS_ERROR_IN_FULL)
        if not (_error(ours, output) <= most and _error(first, output[:1]) <= most):
            troubles.append(f"{type(experts).__name__} computes otherwise than moeviz expects")
        return output

    return forward


def _error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest error of a token, relative to the norm of its output."""
    ours, theirs = ours.float(), theirs.float()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=TINY)).max())


def failure(error: Exception) -> str:
    """Say that a kernel raised, as a clause without its subject: the kind of the error, and its message's first line.

    Raises `CaptureError` if the process can no longer use its GPU.
    """
    first = str(error).partition("\n")[0]
    if any(words in first for words in GONE):
        raise CaptureError(
            f"A kernel of moeviz broke this process's connection to the GPU ({cut(first)}). Start anew, trace with "
            "kernels=False, and report it, please."
        ) from error
    return f"failed in moeviz's kernels with {type(error).__name__} ({cut(first) or 'no message'})"


class KernelMismatch(Exception):
    """A router does not decide as our kernels do: how, in a sentence."""


def check_first_rows(probed: ProbedRouter, own: Callable[..., tuple], args: tuple, kwargs: dict) -> None:
    """Compare the first rows of what a router is given in a run with what its own forward answers.

    Raises `KernelMismatch`.
    """
    name, hidden = next(iter(kwargs.items())) if not args else (None, args[0])
    first = hidden.reshape(-1, hidden.shape[-1])[:PROBE]
    first = first.view(*[1] * (hidden.dim() - 2), *first.shape)
    args, kwargs = ((), kwargs | {name: first}) if name else ((first, *args[1:]), kwargs)
    trouble = mismatch(probed.family, probed.router.module, args, kwargs, own(*args, **kwargs))
    if trouble:
        raise KernelMismatch(f"On this text {trouble}.")


def mismatch(family: Family, router: nn.Module, args: tuple, kwargs: dict, output: tuple) -> str | None:
    """Say how our decision differs from the router's; None if it is the same."""
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
    ours, experts = routing_ops.choose(logits, bias, gating)
    same = slice(None)
    if not torch.equal(experts, theirs):  # in another order, or other experts where ranks tie
        ours, weights = _by_expert(ours, experts), _by_expert(weights, theirs)
        same = (experts.sort(dim=-1).values == theirs.sort(dim=-1).values).all(dim=-1)
        if not (same | (route_torch(logits, gating, bias).margin <= TIE)).all():
            return f"{name} chooses other experts than moeviz expects"
    precision = max(WEIGHT_ERROR, torch.finfo(weights.dtype).eps)
    if not torch.allclose(ours[same], weights[same].float(), rtol=precision, atol=precision):
        return f"{name} weighs experts otherwise than moeviz expects"
    return None


def _by_expert(weights: Tensor, experts: Tensor) -> Tensor:
    return weights.gather(-1, experts.argsort(dim=-1))


def router_inputs(family: Family, router: nn.Module, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
    """Return the hidden states (T, D), and the selection bias: the router's own, or what its block passes along."""
    given = [*args, *kwargs.values()]
    hidden = given[0].reshape(-1, given[0].shape[-1])
    return hidden, given[1] if len(given) > 1 else family.bias(router)
