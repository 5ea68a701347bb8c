"""Trace a transformers model with its routers run by our kernels, which write the record as they decide.

The same call as `hf.trace`, and the same trace. A router is replaced only after it was checked: on a first forward our
decision is computed beside the router's own, from the same input, and must be the same. What differs, or is of a family
that has no row in `router_families.py`, keeps its own router and is recorded from what that returns. All is as before
when the block ends.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.replaced import replaced
from moeviz.capture.record import our_experts, routing_ops
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.listen import Heard, Recording, answers, reading
from moeviz.capture.record.locks import alone
from moeviz.capture.record.probe import (
    Swap,
    check,
    own_forward,
    registered_experts,
    router_inputs,
    swap_of,
    with_forward,
)
from moeviz.capture.routers.declared import find_routers
from moeviz.capture.routers.odd_routers import Answer
from moeviz.capture.run.decoding import Decoding, Progress, Sampling, counted, decode, expected_rows
from moeviz.capture.run.prompts import prepare
from moeviz.routing_trace import RoutingTrace

log = logging.getLogger("moeviz.capture")


@dataclass(slots=True)
class Rows:
    """The record of one router, filled from the first row on; the last row is a spare. R rows."""

    swap: Swap
    experts: Tensor  # (R + 1, K) int16
    weights: Tensor  # (R + 1, K), in the router's dtype
    logits: Tensor | None  # (R + 1, E)
    cursor: Tensor  # (1,) int64
    logits_cursor: Tensor  # (1,) int64


def trace(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 0,
    sampling: Sampling | None = None,
    decoding: Decoding | None = None,
    keep_logits: bool = True,
    site: str | None = None,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Run prompts through a model with its routers run by our kernels; arguments, trace and errors as in `hf.trace`.

    Expert ids are those of the model's own routers but for ties at the boundary of the top-k, weights are equal up to
    rounding. `logging` says (INFO, "moeviz.capture") which routers kept their own way, and why.
    """
    sampling, decoding, watch = sampling or Sampling(), decoding or Decoding(), counted(progress, max_new_tokens)
    run = prepare(model, prompts, tokenizer, max_new_tokens, site, decoding.copies)
    read: list[Tensor] = []
    with fused(run.model, expected_rows(run.batch, max_new_tokens, decoding), keep_logits, site) as record:
        with reading(run.model, record[0].swap.router.site, read):
            written = decode(run.model, run.batch, max_new_tokens, sampling, decoding, watch)
        recording = recorded(record, read, keep_logits)
    return assemble(recording, run, written)


@contextmanager
def fused(
    model: PreTrainedModel, tokens: int, keep_logits: bool = True, site: str | None = None
) -> Iterator[tuple[Rows, ...]]:
    """Inside the block the routers of `model` that can be are run by our kernels, and record up to `tokens` tokens.

    Raises `CaptureError` for a model without routers, one whose layers run in a loop, or one that is being recorded
    already.
    """
    swaps = tuple(swap_of(router) for router in find_routers(model, site))
    with ExitStack() as stack:
        stack.enter_context(alone(model))
        experts_trouble = check(model, swaps)
        record = tuple(_rows(swap, tokens, keep_logits) for swap in swaps)
        for rows in record:
            stack.enter_context(_recording(rows))
        if not experts_trouble:
            stack.enter_context(_our_experts(model))
        _tell([*experts_trouble, *(swap.trouble for swap in swaps if swap.trouble)])
        yield record


def _recording(rows: Rows) -> AbstractContextManager[None]:
    """The router decides our way, or its own, and what it decides is kept."""
    router = rows.swap.router
    if rows.swap.trouble and router.odd:
        return answers(router, _keep(rows))
    return with_forward(router.module, _observed(rows) if rows.swap.trouble else _fused(rows))


def _tell(troubles: list[str]) -> None:
    for trouble in dict.fromkeys(troubles):
        log.info("%s, so it keeps its own way.", trouble)


@contextmanager
def _our_experts(model: PreTrainedModel) -> Iterator[None]:
    """Experts in transformers' registry run our way, which on a CPU is faster."""
    configs = {id(experts.config): experts.config for experts in registered_experts(model)}
    with ExitStack() as stack:
        for config in configs.values():
            stack.enter_context(replaced(config, "_experts_implementation_internal", our_experts.NAME))
        yield


def _rows(swap: Swap, tokens: int, keep_logits: bool) -> Rows:
    logits, weights, experts = swap.sample
    device = torch.device("cpu") if weights.device.type == "meta" else weights.device
    keep_logits = keep_logits and logits is not None

    def zeros(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(tokens + 1, like.shape[-1], dtype=dtype or like.dtype, device=device)

    cursors = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    return Rows(swap, zeros(experts, torch.int16), zeros(weights), zeros(logits) if keep_logits else None, *cursors)


def _fused(rows: Rows) -> Callable[..., tuple]:
    """The router's forward with our decision, in one operator."""
    family, router = rows.swap.family, rows.swap.router.module
    gating = family.gating(router)
    numbers = [getattr(gating, name) for name in routing_ops.GATING]

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, bias = router_inputs(family, router, args, kwargs)
        logits = family.logits(router, hidden)
        record = (rows.experts, rows.weights, rows.cursor)
        if torch.compiler.is_compiling():
            weights, experts = torch.ops.moeviz.route(logits, bias, *record, *numbers)
        else:
            weights, experts = routing_ops.decide(logits, bias, *record, gating)
        if rows.logits is not None:
            routing_ops.keep(rows.logits, rows.logits_cursor, logits)
        return logits, weights.to(family.weight_dtype(hidden, logits)), experts

    return forward


def _observed(rows: Rows) -> Callable[..., tuple]:
    """The router's own forward, recorded from what it returns."""
    own, keep = own_forward(rows.swap.router.module), _keep(rows)

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple:
        output = own(*args, **kwargs)
        keep(output)
        return output

    return forward


def _keep(rows: Rows) -> Callable[[Answer], None]:
    def keep(answer: Answer) -> None:
        logits, weights, experts = (None if p is None else p.reshape(-1, p.shape[-1]) for p in answer[:3])
        routing_ops.keep(rows.weights, rows.cursor.clone(), weights)
        routing_ops.keep(rows.experts, rows.cursor, experts)
        if rows.logits is not None:
            routing_ops.keep(rows.logits, rows.logits_cursor, logits)

    return keep


def recorded(record: tuple[Rows, ...], read: list[Tensor], keep_logits: bool) -> Recording:
    """The record by the forwards that read these token ids (B, S): what `recording.listen` gives."""
    sizes = [tokens.numel() for tokens in read]
    heard = []
    for rows in record:
        router, sample = rows.swap.router, rows.swap.sample
        weights = rows.weights if rows.swap.trouble else rows.weights * router.factor
        parts = [_steps(part, rows, sizes) for part in (rows.experts, weights)]
        logits = [] if rows.logits is None else _steps(rows.logits, rows, sizes)
        heard.append(Heard(*parts, logits, router.num_experts, None if sample[0] is None else sample))
    routers = tuple(rows.swap.router for rows in record)
    return Recording(routers, keep_logits, read, heard, [*range(len(routers))] * len(read))


def _steps(part: Tensor, rows: Rows, sizes: list[int]) -> list[Tensor]:
    filled = part[: int(rows.cursor)]
    # Another number of rows than the steps have stays in one piece, and `Recording.check` names it.
    return list(filled.split(sizes if len(filled) == sum(sizes) else [len(filled)]))
