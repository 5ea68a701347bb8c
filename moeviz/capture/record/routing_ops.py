"""torch operators around the kernels: opaque to torch.compile, so a model that uses them stays one graph.

`moeviz::route` decides and records; `moeviz::record` records what another router decided; `moeviz::experts` runs
SwiGLU experts. CUDA runs the Triton kernels, anything else plain torch. Rows of a record are written from its cursor
on, and the cursor moves on. The last row is a spare: rows that do not fit are written there, or not at all.
"""

from functools import lru_cache

import torch
from torch import Tensor

from moe_kernels.gating import Gating
from moe_kernels.reference import choose_torch, run_experts_torch

GATING = tuple(Gating.__dataclass_fields__)
_gating = lru_cache(Gating)


@torch.library.custom_op("moeviz::route", mutates_args=("experts_rows", "weights_rows", "cursor"))
def route(
    logits: Tensor,
    bias: Tensor | None,
    experts_rows: Tensor,
    weights_rows: Tensor,
    cursor: Tensor,
    experts: int,
    top_k: int,
    score: str,
    renormalise: bool,
    scale: float,
    added: float,
    floor: float,
    groups: int,
    groups_kept: int,
    group_score: str,
) -> tuple[Tensor, Tensor]:
    """Decide and record: weights (T, K) float32 and experts (T, K) int64 of logits (T, E); see `Gating`."""
    numbers = (experts, top_k, score, renormalise, scale, added, floor, groups, groups_kept, group_score)
    decision = decide(logits, bias, experts_rows, weights_rows, cursor, _gating(*numbers))
    return decision[0].contiguous(), decision[1].contiguous()


def decide(
    logits: Tensor, bias: Tensor | None, experts_rows: Tensor, weights_rows: Tensor, cursor: Tensor, gating: Gating
) -> tuple[Tensor, Tensor]:
    """Decide and record like `route`, without the cost of calling an operator."""
    if logits.is_cuda:
        from moe_kernels.buffers import Record  # Triton is not there on every system
        from moe_kernels.router import route as route_and_record

        rows = Record(experts_rows, weights_rows, cursor)
        weights, experts = route_and_record(logits, gating, bias, rows)
        rows.advance(len(logits))
        return weights, experts.long()
    weights, experts = choose(logits, bias, gating)
    _write(experts_rows, cursor, experts)
    _write(weights_rows, cursor, weights)
    cursor += len(logits)
    return weights, experts


def choose(logits: Tensor, bias: Tensor | None, gating: Gating) -> tuple[Tensor, Tensor]:
    """Return the decision without a record: weights (T, K) and experts (T, K)."""
    if not logits.is_cuda:
        return choose_torch(logits, gating, bias)
    from moe_kernels.router import route as route_alone  # Triton is not there on every system

    weights, experts = route_alone(logits, gating, bias)
    return weights, experts.long()


@torch.library.custom_op("moeviz::record", mutates_args=("rows", "cursor"))
def record(rows: Tensor, cursor: Tensor, values: Tensor) -> None:
    """Keep values (T, n) in the rows from the cursor on, and move the cursor."""
    _write(rows, cursor, values)
    cursor += len(values)


def keep(rows: Tensor, cursor: Tensor, values: Tensor) -> None:
    """Record like `record`; outside a graph without an operator, whose call would cost more than the work."""
    if torch.compiler.is_compiling():
        torch.ops.moeviz.record(rows, cursor, values)
    else:
        _write(rows, cursor, values)
        cursor += len(values)


def _write(rows: Tensor, cursor: Tensor, values: Tensor) -> None:
    if not rows.is_cuda:
        first = int(cursor)
        free = rows[first : first + len(values)]
        free.copy_(values[: len(free)])
    else:  # nothing may wait for the device to report the cursor; what does not fit goes to the spare row
        at = (cursor + torch.arange(len(values), device=rows.device)).clamp(max=len(rows) - 1)
        rows.index_copy_(0, at, values.to(rows.dtype))


@torch.library.custom_op("moeviz::experts", mutates_args=())
def experts(hidden: Tensor, gate_up: Tensor, down: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Sum the weighted outputs of each token's experts: hidden (T, D), gate_up (E, 2 W, D), down (E, D, W)."""
    if not hidden.is_cuda:
        return run_experts_torch(hidden, gate_up, down, ids, weights).to(hidden.dtype)
    return run_in_kernels(hidden, gate_up, down, ids, weights)


def run_in_kernels(hidden: Tensor, gate_up: Tensor, down: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Run experts like `experts` on CUDA, without the cost of calling an operator."""
    from moe_kernels.dispatch import plan_dispatch  # Triton is not there on every system
    from moe_kernels.experts import run_experts
    from moe_kernels.tiles import device_of, experts_tile

    tile = experts_tile(ids.numel(), len(down), device_of(hidden.device.index))
    plan = plan_dispatch(ids.int(), len(down), tile.rows)
    return run_experts(hidden.contiguous(), gate_up, down, weights.float().contiguous(), plan, tile)


@experts.register_fake
def _(hidden: Tensor, _gate_up: Tensor, _down: Tensor, _ids: Tensor, _weights: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape)


@route.register_fake
def _(logits: Tensor, _bias: Tensor | None, _experts: Tensor, _weights: Tensor, _cursor: Tensor, *gating: object):
    shape = (logits.shape[0], gating[1])  # tokens and top_k
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.int64)


@record.register_fake
def _(_rows: Tensor, _cursor: Tensor, _values: Tensor) -> None:
    return None
