"""Change what routers decide while a model runs: an intervention replaces their decisions.

A router's answer is read as recording reads it, changed, and written back in the router's own form
(`routers/router_adapters.py`). If the experts are given ids and weights, these are compared with that; and every
trace of such a run is checked against the request (`interventions/intervention.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import get_ident

import numpy as np
import torch
from torch import Tensor, nn

from moe_kernels.gating import MAX_TOP_K
from moe_kernels.reference import choose_torch
from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    Intervention,
    LayerRouting,
    RouterLimits,
)
from moeviz.capture.models.patching import eager_mode, patched, patched_attribute
from moeviz.capture.record.hooks import ExpectedRouting, RouterOutputs, exclusive
from moeviz.capture.record.kernel_parity import ProbedRouter, probe_once, router_inputs
from moeviz.capture.record.private_names import own_forward, with_forward
from moeviz.capture.routers.discovery import Router
from moeviz.capture.run.prompts import ModelInput
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

WrittenAnswers = dict[int, tuple[Tensor, Tensor] | None]  # by thread: ids and weights that a router answered with


def probe_routers(run: ModelInput, site: str | None = None) -> tuple[ProbedRouter, ...]:
    """Return the routers of a model, and which of them can choose again: checked on a forward."""
    check_can_change(run)
    with exclusive(run.model), eager_mode(run.model):
        return probe_once(run.model, site).routers


def check_can_change(run: ModelInput) -> None:
    """Raise `CaptureError` for a model that no intervention reaches."""
    if run.model.config.is_encoder_decoder:
        raise CaptureError(
            f"{type(run.model).__name__} has an encoder and a decoder; interventions reach decoder-only models."
        )


@contextmanager
def intervening(
    run: ModelInput, routers: tuple[ProbedRouter, ...], intervention: Intervention | None
) -> Iterator[ExpectedRouting | None]:
    """Let an intervention change the decisions of the routers inside the block.

    Its yield goes into the recording of the run, so that its traces are checked against the request. Begin to record
    inside the block, so that the changed decisions are recorded.

    Raises `CaptureError` if the model does not allow it.
    """
    if intervention is None:
        yield None
        return
    kept = run.batch.attention_mask.flatten() == 1
    limits = {probed.router.layer: router_limits(probed) for probed in routers}
    intervention.check(limits, run.batch.input_ids.flatten()[kept].cpu().numpy())
    own = [RouterOutputs() for _ in routers]
    with ExitStack() as stack:
        for index, probed in enumerate(routers):
            change = RouterChange(intervention, index, limits[probed.router.layer], kept, own[index])
            stack.enter_context(_change_decisions(probed, change))
        yield ExpectedRouting(own, _check(intervention, limits, own))


def router_limits(probed: ProbedRouter) -> RouterLimits:
    """Between what one router can choose. Raises `CaptureError` for one that cannot be made to decide otherwise."""
    router = probed.router
    if router.writer is None:
        raise CaptureError(
            f"moeviz can record what {router.kind} decides, but has no way to make it decide otherwise "
            f"({router.adapter.remark if router.adapter else ''})."
        )
    top_k = probed.sample[2].shape[-1]
    if probed.family is None or probed.trouble:
        return RouterLimits(router.num_experts, top_k, ceiling=MAX_TOP_K)
    gating = probed.family.gating(router.module)
    return RouterLimits(router.num_experts, top_k, gating.groups, gating.groups_kept, MAX_TOP_K)


def _check(intervention: Intervention, limits: dict[int, RouterLimits], own: list[RouterOutputs]) -> Callable:
    def check_held(trace: RoutingTrace, experts: np.ndarray, weights: np.ndarray) -> None:
        precision = max(torch.finfo(heard.weights[0].dtype).eps for heard in own)
        recorded = trace.need("weights", "Holding a change")
        for index, layer in enumerate(trace.model.layers):
            now = LayerRouting(trace.experts[index], recorded[index])
            before = LayerRouting(experts[index], weights[index])
            intervention.check_held(ChangedLayer(intervention, layer, index, limits[layer], now, before, precision))

    return check_held


@dataclass(frozen=True, slots=True)
class RouterChange:
    """The change that an intervention makes of one router's decisions."""

    intervention: Intervention
    index: int  # which of the trace's layers it is
    limits: RouterLimits
    kept: Tensor  # (T,) of the prompts: no padding
    own: RouterOutputs  # gets its own decisions

    def of(self, router: Router, weights: Tensor, experts: Tensor, again: Callable) -> Choice:
        """Return weights and experts (T, K) to use instead of these."""
        self.own.experts.append(experts.to(torch.int16))
        self.own.weights.append((weights if router.factor == 1 else weights * router.factor).detach())
        whole = len(self.kept) == len(weights)  # the prompts, and not what is generated after them
        kept = self.kept.to(weights.device) if whole else weights.new_ones(len(weights)).bool()
        return self.intervention.change(
            Decision(router.layer, self.index, self.limits, weights, experts, kept, whole, router.factor, again)
        )


@contextmanager
def _change_decisions(probed: ProbedRouter, change: RouterChange) -> Iterator[None]:
    """Make the router answer with a changed decision inside the block."""
    router, written = probed.router, WrittenAnswers()
    method = router.adapter.method if router.adapter else ""
    own = getattr(router.block, method) if method else own_forward(router.module)

    def decide(*args: object, **kwargs: object) -> tuple:
        answer = own(*args, **kwargs)
        logits, *decided = (None if p is None else p.reshape(-1, p.shape[-1]) for p in router.decided(args, answer))

        def again(pushed: Tensor | None, top_k: int | None, *, removed: bool = False) -> Choice:
            weights, experts = _choose_again(probed, logits, args, kwargs, pushed, top_k, removed)
            return weights.to(decided[0].dtype), experts.to(decided[1].dtype)

        weights, experts = change.of(router, *decided, again)
        if weights is not decided[0] or experts is not decided[1]:
            answer = _write(router, answer, weights, experts, decided[1].shape[-1])
        written[get_ident()] = _ids_and_weights(answer, experts.numel())
        return answer

    instead = patched_attribute(router.block, method, decide) if method else with_forward(router.module, decide)
    with ExitStack() as stack:
        stack.enter_context(instead)
        if len(router.experts) == 1:
            (experts,) = router.experts.values()
            stack.enter_context(_checking_what_experts_are_given(router, experts, written))
            stack.enter_context(_in_words_what_experts_cannot(router, experts))
        yield


def _write(router: Router, answer: tuple, weights: Tensor, experts: Tensor, top_k: int) -> tuple:
    if router.adapter and router.adapter.keeps_top_k and experts.shape[-1] != top_k:
        raise CaptureError(
            f"{router.kind} gives every token {top_k} experts, in a form of its own that has no place for "
            f"{experts.shape[-1]}."
        )
    return router.writer(router.module, answer, weights, experts)


def _checking_what_experts_are_given(
    router: Router, experts: nn.Module, written: WrittenAnswers
) -> AbstractContextManager[None]:
    def compare(_experts: nn.Module, args: tuple, kwargs: dict) -> None:
        said = written.pop(get_ident(), None)
        given = said and _ids_and_weights((*args, *kwargs.values()), said[0].numel())
        if said and given and not _are_same(given, said, router.num_experts - router.zero_experts):
            raise CaptureError(
                f"The experts of layer {router.layer} were given other ids or weights than {router.kind} was made to "
                "answer with. A trace of this run would not be of the change that you asked for. Please report this "
                "model."
            )

    return patched(lambda: experts.register_forward_pre_hook(compare, with_kwargs=True).remove)


def _in_words_what_experts_cannot(router: Router, experts: nn.Module) -> AbstractContextManager[None]:
    """Turn what the experts' code raises into a `CaptureError`: it may not support another number of experts."""
    own = own_forward(experts)

    def run(*args: object, **kwargs: object) -> object:
        try:
            return own(*args, **kwargs)
        except (ValueError, IndexError, TypeError) as error:
            raise CaptureError(
                f"{type(experts).__name__} in layer {router.layer} cannot run what {router.kind} was made to decide: "
                f"{type(error).__name__} in the model's own code ({error}). Ask for another change."
            ) from error

    return with_forward(experts, run)


def _are_same(given: tuple[Tensor, Tensor], said: tuple[Tensor, Tensor], computing: int) -> bool:
    """Return whether experts were given the ids and weights of an answer.

    Those that compute nothing may stay with the block, which gives others the weight 0 in their place.
    """
    ids, weights = (part.to(beside) for part, beside in zip(said, given, strict=True))
    idle = (ids >= computing) & (given[0] != ids) & (given[1] == 0)
    return bool((idle | (given[0] == ids)).all() and (idle | (given[1] == weights)).all())


def _ids_and_weights(parts: Sequence, size: int) -> tuple[Tensor, Tensor] | None:
    """Return the two of these that are expert ids and weights with this many slots in all; None if that is unknown."""
    tensors = [part.flatten() for part in parts if isinstance(part, Tensor) and part.numel() == size]
    ids = [part for part in tensors if not part.is_floating_point()]
    weights = [part for part in tensors if part.is_floating_point()]
    return (ids[0], weights[0]) if len(ids) == len(weights) == 1 else None


def _choose_again(
    probed: ProbedRouter,
    logits: Tensor,
    args: tuple,
    kwargs: dict,
    pushed: Tensor | None,
    top_k: int | None,
    removed: bool,
) -> Choice:
    if probed.trouble:
        raise CaptureError(
            f"{probed.trouble}, so moeviz cannot let it choose again. Mute with reroute=False, swap experts, or "
            "replay a trace."
        )
    _, own_bias = router_inputs(probed.family, probed.router.module, args, kwargs)
    gating = probed.family.gating(probed.router.module)
    if top_k is not None:
        gating = replace(gating, top_k=top_k)
    if removed:
        logits = logits.masked_fill(pushed == -torch.inf, -torch.inf)
    return choose_torch(logits, gating, own_bias, pushed)
