"""Run the routers of a transformers model by our kernels, which write the record as they decide.

A router is replaced only after it was checked: on a first forward (`probe.py`), and again on the first rows of every
run, our decision is computed beside the router's own, from the same input, and must be the same. What differs on the
first forward, or is of a family that has no row in `router_families.py`, keeps its own router and is recorded from what
that returns. All is as before when the block ends.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moeviz.capture.record import our_experts, routing_ops
from moeviz.capture.record.listen import Heard, Recording, answers
from moeviz.capture.record.locks import alone
from moeviz.capture.record.private_names import own_forward, registered_experts, with_experts, with_forward
from moeviz.capture.record.probe import Probe, Probed, check_first_rows, probe, router_inputs
from moeviz.capture.routers.odd_routers import Answer

log = logging.getLogger("moeviz.capture")


@dataclass(slots=True)
class Rows:
    """The record of one router, filled from the first row on; the last row is a spare. R rows."""

    probed: Probed
    experts: Tensor  # (R + 1, K) int16
    weights: Tensor  # (R + 1, K), in the router's dtype
    logits: Tensor | None  # (R + 1, E)
    cursor: Tensor  # (1,) int64
    logits_cursor: Tensor  # (1,) int64


@contextmanager
def fused(
    model: PreTrainedModel, tokens: int, keep_logits: bool = True, site: str | None = None
) -> Iterator[tuple[Rows, ...]]:
    """Inside the block the routers of `model` that can be are run by our kernels, and record up to `tokens` tokens.

    Raises `CaptureError` for a model without routers, one whose layers run in a loop, or one that is being recorded
    already.
    """
    with alone(model):
        found = probe(model, site)
        tell(found)
        with fusing(model, found, tokens, keep_logits) as record:
            yield record


@contextmanager
def fusing(model: PreTrainedModel, found: Probe, tokens: int, keep_logits: bool = True) -> Iterator[tuple[Rows, ...]]:
    """The same for who has probed the model, and sees to it that nobody else records it.

    Inside the block a router whose first rows are not decided as it decides raises `Differs`.
    """
    record = tuple(_rows(probed, tokens, keep_logits) for probed in found.routers)
    with ExitStack() as stack:
        for rows in record:
            stack.enter_context(_recording(rows))
        stack.enter_context(_our_experts(model, found))
        yield record


@contextmanager
def deciding(model: PreTrainedModel, found: Probe) -> Iterator[None]:
    """Inside the block our kernels decide and record nothing: for interventions, whose decisions hooks record."""
    with ExitStack() as stack:
        for probed in found.routers:
            if probed.trouble is None:
                stack.enter_context(with_forward(probed.router.module, _routing(probed)))
        stack.enter_context(_our_experts(model, found))
        yield


def how(model: PreTrainedModel, found: Probe) -> str:
    """How the routers run inside `fusing`, in the words of `ModelInfo.recorded_by`."""
    kind = "Triton" if model.device.type == "cuda" else "plain torch"
    ours, routers = sum(probed.trouble is None for probed in found.routers), len(found.routers)
    return f"kernels ({kind})" if ours == routers else f"kernels ({kind}, {ours} of {routers} routers)"


def tell(found: Probe) -> None:
    """Announce what keeps its own way."""
    for trouble in found.troubles:
        log.info("%s, so it keeps its own way.", trouble)


def _recording(rows: Rows) -> AbstractContextManager[None]:
    """The router decides our way, or its own, and what it decides is kept."""
    router = rows.probed.router
    if rows.probed.trouble and router.odd:
        return answers(router, _keep(rows))
    own_way = rows.probed.trouble is not None
    return with_forward(router.module, _observed(rows) if own_way else _routing(rows.probed, rows))


@contextmanager
def _our_experts(model: PreTrainedModel, found: Probe) -> Iterator[None]:
    """Experts in transformers' registry run our way, which on a CPU is faster; their own where that is another."""
    same = not found.experts_trouble
    configs = {id(experts.config): experts.config for experts in registered_experts(model) if same}
    with ExitStack() as stack:
        for config in configs.values():
            stack.enter_context(with_experts(config, our_experts.NAME))
        yield


def _rows(probed: Probed, tokens: int, keep_logits: bool) -> Rows:
    logits, weights, experts = probed.sample
    device = torch.device("cpu") if weights.device.type == "meta" else weights.device
    keep_logits = keep_logits and logits is not None

    def zeros(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(tokens + 1, like.shape[-1], dtype=dtype or like.dtype, device=device)

    cursors = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    return Rows(probed, zeros(experts, torch.int16), zeros(weights), zeros(logits) if keep_logits else None, *cursors)


def _routing(probed: Probed, rows: Rows | None = None) -> Callable[..., tuple]:
    """The router's forward with our decision, recorded in the same operator where there are rows for it."""
    family, router = probed.family, probed.router.module
    own, gating, unchecked = own_forward(router), family.gating(router), [True]
    numbers = [getattr(gating, name) for name in routing_ops.GATING]

    def forward(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.compiler.is_compiling() and unchecked:
            unchecked.clear()
            check_first_rows(probed, own, args, kwargs)
        hidden, bias = router_inputs(family, router, args, kwargs)
        logits = family.logits(router, hidden)
        if rows is None:
            weights, experts = routing_ops.choose(logits, bias, gating)
        elif torch.compiler.is_compiling():
            weights, experts = torch.ops.moeviz.route(logits, bias, rows.experts, rows.weights, rows.cursor, *numbers)
        else:
            weights, experts = routing_ops.decide(logits, bias, rows.experts, rows.weights, rows.cursor, gating)
        if rows is not None and rows.logits is not None:
            routing_ops.keep(rows.logits, rows.logits_cursor, logits)
        return logits, weights.to(family.weight_dtype(hidden, logits)), experts

    return forward


def _observed(rows: Rows) -> Callable[..., tuple]:
    """The router's own forward, recorded from what it returns."""
    own, keep = own_forward(rows.probed.router.module), _keep(rows)

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


def recorded(record: tuple[Rows, ...], read: list[Tensor], keep_logits: bool, by: str = "kernels") -> Recording:
    """The record by the forwards that read these token ids (B, S): what `listen` gives."""
    sizes = [tokens.numel() for tokens in read]
    heard = []
    for rows in record:
        router, sample = rows.probed.router, rows.probed.sample
        weights = rows.weights if rows.probed.trouble else rows.weights * router.factor
        parts = [_steps(part, rows, sizes) for part in (rows.experts, weights)]
        logits = [] if rows.logits is None else _steps(rows.logits, rows, sizes)
        heard.append(Heard(*parts, logits, router.num_experts, None if sample[0] is None else sample))
    routers = tuple(rows.probed.router for rows in record)
    return Recording(routers, keep_logits, read, heard, [*range(len(routers))] * len(read), by)


def _steps(part: Tensor, rows: Rows, sizes: list[int]) -> list[Tensor]:
    filled = part[: int(rows.cursor)]
    # Another number of rows than the steps have stays in one piece, and `Recording.check` names it.
    return list(filled.split(sizes if len(filled) == sum(sizes) else [len(filled)]))
