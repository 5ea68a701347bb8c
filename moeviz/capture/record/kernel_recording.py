"""Run the routers of a transformers model in our kernels, which write the record as they decide.

A router is replaced only after a check: on a first forward (`kernel_parity.py`), and again on the first rows of every
run, our decision is computed next to the router's own, from the same input, and must be the same. A router that differs
on the first forward, or whose family has no row in `kernel_families.py`, is not replaced, and its answers are recorded.
The model is as before when the block ends.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moeviz.capture.record import experts_implementation, routing_ops
from moeviz.capture.record.forwards import ForwardLog, check_nobody_is_later, forwards_logged
from moeviz.capture.record.hooks import Recording, RouterOutputs, answer_hook, exclusive
from moeviz.capture.record.kernel_parity import (
    KernelMismatch,
    ProbedModel,
    ProbedRouter,
    check_first_rows,
    failure,
    probe,
    router_inputs,
)
from moeviz.capture.record.private_names import own_forward, registered_experts, running_device, with_forward
from moeviz.capture.routers.router_adapters import Answer
from moeviz.errors import CaptureError

log = logging.getLogger("moeviz.capture")


@dataclass(slots=True)
class RouterRecord:
    """The record of one router, filled from the first row on; the last row is a spare. R rows."""

    probed: ProbedRouter
    index: int  # of the router
    forwards: ForwardLog  # of the model, the same for all routers
    experts: Tensor  # (R + 1, K) int16
    weights: Tensor  # (R + 1, K), in the router's dtype
    logits: Tensor | None  # (R + 1, E): copies
    kept: list[tuple[Tensor, int | None]] | None  # instead: the logits of each call, and how often they were written to
    cursor: Tensor  # (1,) int64
    logits_cursor: Tensor  # (1,) int64
    given: list[int] = field(default_factory=list)  # the rows of each call; calls in a compiled graph are left out

    def begins(self) -> bool:
        """True if a call is of a forward that is recorded; one that a graph is being made of is."""
        return torch.compiler.is_compiling() or self.forwards.running()

    def keep(self, logits: Tensor) -> None:
        """Keep the logits of one call, if they are wanted."""
        if self.logits is not None:
            routing_ops.keep(self.logits, self.logits_cursor, logits)
        elif self.kept is not None:
            nobody_counts = logits.is_inference()
            kept = logits.clone() if nobody_counts else logits.detach() if logits.requires_grad else logits
            self.kept.append((kept, None if nobody_counts else logits._version))

    def logits_by_call(self) -> list[Tensor]:
        """Return the logits of each call. Raises `CaptureError` if something wrote into them after the decision."""
        if self.logits is not None:
            return _steps(self.logits, self)
        for logits, version in self.kept or []:
            if version is not None and logits._version != version:
                raise CaptureError(
                    f"Something wrote into the logits of {self.probed.router.path} after it had decided, so they are "
                    "not the router's any more. Trace with keep_logits=False."
                )
        return [logits for logits, _ in self.kept or []]

    def ended(self, rows: int) -> None:
        """Note a call that was recorded."""
        if not torch.compiler.is_compiling():
            self.forwards.calls.append(self.index)
            self.given.append(rows)


@contextmanager
def kernels_recording(
    model: PreTrainedModel, tokens: int, keep_logits: bool = True, site: str | None = None
) -> Iterator[tuple[RouterRecord, ...]]:
    """Inside the block the routers of `model` that can be are run by our kernels, and record up to `tokens` tokens.

    Other threads may run the model meanwhile: they get its usual answers, and none of them is recorded. A graph that
    torch.compile makes inside the block records whichever thread runs it, so run it in one thread.

    Raises `CaptureError` for a model without routers, one whose layers run in a loop, or one that is being recorded
    already.
    """
    with exclusive(model):
        found = probe(model, site)
        log_troubles(found)
        with kernels_recording_probed(model, found, tokens, keep_logits) as record:
            yield record


@contextmanager
def kernels_recording_probed(
    model: PreTrainedModel, found: ProbedModel, tokens: int, keep_logits: bool = True, by_reference: bool = False
) -> Iterator[tuple[RouterRecord, ...]]:
    """Record like `kernels_recording` a model that was probed and that nobody else records.

    `by_reference`, for a model that runs neither compiled nor in a CUDA graph, keeps the model's own logits instead of
    copies, for routers whose logits were unchanged when the model had finished its probe.

    Inside the block a router raises `KernelMismatch` if the kernels decide its first rows differently, or if somebody
    else has a forward hook on it: that runs after the record is written, and may change the decision.
    """
    forwards = ForwardLog()
    record = tuple(
        _rows(probed, i, forwards, tokens, keep_logits, by_reference) for i, probed in enumerate(found.routers)
    )
    one_graph = all(probed.trouble is None for probed in found.routers)  # hooks on routers break it
    with ExitStack() as stack:
        stack.enter_context(forwards_logged(model, found.routers[0].router.site, forwards, one_graph))
        for rows in record:
            stack.enter_context(_record_router(rows))
        stack.enter_context(_our_experts(model, found))
        yield record


@contextmanager
def kernels_deciding(model: PreTrainedModel, found: ProbedModel) -> Iterator[None]:
    """Inside the block our kernels decide and record nothing: for interventions, whose decisions hooks record."""
    with ExitStack() as stack:
        for probed in found.routers:
            if probed.trouble is None:
                stack.enter_context(with_forward(probed.router.module, _routing(probed)))
        stack.enter_context(_our_experts(model, found))
        yield


def recorded_by(model: PreTrainedModel, found: ProbedModel) -> str:
    """Say how the routers run inside `kernels_recording_probed`, for `ModelInfo.recorded_by`."""
    kind = "Triton" if running_device(model).type == "cuda" else "plain torch"
    ours, routers = sum(probed.trouble is None for probed in found.routers), len(found.routers)
    return f"kernels ({kind})" if ours == routers else f"kernels ({kind}, {ours} of {routers} routers)"


def log_troubles(found: ProbedModel) -> None:
    """Log what is not replaced, and why."""
    for trouble in found.troubles:
        log.info("%s, so it keeps its own way.", trouble)


def _record_router(rows: RouterRecord) -> AbstractContextManager[None]:
    router = rows.probed.router
    if rows.probed.trouble:
        return answer_hook(router, _keep(rows))
    return with_forward(router.module, _routing(rows.probed, rows))


@contextmanager
def _our_experts(model: PreTrainedModel, found: ProbedModel) -> Iterator[None]:
    """Run experts of transformers' registry by our implementation, which is faster on a CPU, unless theirs differs."""
    with ExitStack() as stack:
        for experts in [] if found.experts_trouble else registered_experts(model):
            ours = partial(_or_mismatch, type(experts).__name__, experts_implementation.experts_forward, experts)
            stack.enter_context(with_forward(experts, ours))
        yield


def _rows(
    probed: ProbedRouter, index: int, forwards: ForwardLog, tokens: int, keep_logits: bool, by_reference: bool
) -> RouterRecord:
    logits, weights, experts = probed.sample
    device = torch.device("cpu") if weights.device.type == "meta" else weights.device
    keep_logits = keep_logits and logits is not None
    by_reference = by_reference and probed.logits_stay

    def zeros(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(tokens + 1, like.shape[-1], dtype=dtype or like.dtype, device=device)

    cursors = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    copies = zeros(logits) if keep_logits and not by_reference else None
    kept: list | None = [] if keep_logits and by_reference else None
    return RouterRecord(probed, index, forwards, zeros(experts, torch.int16), zeros(weights), copies, kept, *cursors)


def _routing(probed: ProbedRouter, rows: RouterRecord | None = None) -> Callable[..., tuple]:
    """Return a forward of the router with our decision, recorded in the same operator if there are rows for it."""
    family, router = probed.family, probed.router.module
    own, gating, unchecked = own_forward(router), family.gating(router), [True]
    numbers = [getattr(gating, name) for name in routing_ops.GATING]

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if rows is not None and not rows.begins():
            return own(*args, **kwargs)
        if not torch.compiler.is_compiling():
            if rows is not None and router._forward_hooks:
                _check_hooks(router)
            if unchecked:
                unchecked.clear()
                check_first_rows(probed, own, args, kwargs)
        hidden, bias = router_inputs(family, router, args, kwargs)
        logits = family.logits(router, hidden)
        if rows is None:
            weights, experts = _or_mismatch(probed.router.kind, routing_ops.choose, logits, bias, gating)
        elif torch.compiler.is_compiling():
            weights, experts = torch.ops.moeviz.route(logits, bias, rows.experts, rows.weights, rows.cursor, *numbers)
        else:
            places = rows.experts, rows.weights, rows.cursor
            weights, experts = _or_mismatch(probed.router.kind, routing_ops.decide, logits, bias, *places, gating)
        if rows is not None:
            rows.keep(logits)
            rows.ended(len(logits))
        return logits, weights.to(family.weight_dtype(hidden, logits)), experts

    return forward


def _or_mismatch(what: str, run: Callable[..., Any], *args: Any) -> Any:
    """Return what a kernel computes. Raises `KernelMismatch` if it fails in any way: the model can run without it."""
    try:
        return run(*args)
    except Exception as error:
        raise KernelMismatch(f"{what} {failure(error)}.") from error


def _check_hooks(router: nn.Module) -> None:
    try:
        check_nobody_is_later(router)
    except CaptureError as error:
        raise KernelMismatch(str(error)) from error


def _keep(rows: RouterRecord) -> Callable[[Answer], None]:
    def keep(answer: Answer) -> None:
        if not rows.begins():
            return
        logits, weights, experts = (None if p is None else p.reshape(-1, p.shape[-1]) for p in answer[:3])
        routing_ops.keep(rows.weights, rows.cursor.clone(), weights)
        routing_ops.keep(rows.experts, rows.cursor, experts)
        if logits is not None:
            rows.keep(logits)
        rows.ended(len(experts))

    return keep


def recording_of(record: tuple[RouterRecord, ...], keep_logits: bool, by: str = "kernels") -> Recording:
    """Convert the record to what `listen` gives, by forward. For a model that did not run compiled."""
    heard = []
    for rows in record:
        router, sample = rows.probed.router, rows.probed.sample
        weights = rows.weights if rows.probed.trouble else rows.weights * router.factor
        parts = [_steps(part, rows) for part in (rows.experts, weights)]
        heard.append(
            RouterOutputs(*parts, rows.logits_by_call(), router.num_experts, None if sample[0] is None else sample)
        )
    routers = tuple(rows.probed.router for rows in record)
    return Recording(routers, keep_logits, tuple(range(len(routers))), record[0].forwards, heard, by)


def _steps(part: Tensor, rows: RouterRecord) -> list[Tensor]:
    filled = part[: int(rows.cursor)]
    # If rows did not fit and were lost, it stays in one piece, and `Recording.check` reports it.
    return list(filled.split(rows.given if len(filled) == sum(rows.given) else [len(filled)]))
