"""The ways of routing that `benchmarks/kernels.py` times. Each gives (weights, expert ids) of logits."""

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_kernels.buffers import Record
from moe_kernels.gating import Gating
from moe_kernels.router import route

Arm = Callable[[Tensor], tuple[Tensor, Tensor]]


def arms(gating: Gating, bias: Tensor | None, rows: int, device: str) -> dict[str, Arm]:
    """Every way that knows this gating, by name; the traced ones write to a record of their own."""
    record = new_record(gating, rows, device)
    copies = new_record(gating, rows, device)
    found: dict[str, Arm] = {
        "plain": partial(route, gating=gating, bias=bias),
        "traced": partial(route, gating=gating, bias=bias, record=record),
        "plain + copies": partial(route_then_copy, gating=gating, bias=bias, record=copies),
        "transformers": partial(transformers_router, gating=gating, bias=bias),
    }
    if gating.is_softmax_over_winners and gating.groups == 1 and bias is None:
        found["public structure"] = partial(public_route, top_k=gating.top_k)
    return found


def new_record(gating: Gating, rows: int, device: str) -> Record:
    """What capture keeps: ids and weights."""
    ids = torch.uint8 if gating.experts <= 256 else torch.int16
    return Record(
        experts=torch.empty(rows, gating.top_k, dtype=ids, device=device),
        weights=torch.empty(rows, gating.top_k, dtype=torch.float16, device=device),
        cursor=torch.zeros(1, dtype=torch.int64, device=device),
    )


def route_then_copy(logits: Tensor, gating: Gating, bias: Tensor | None, record: Record) -> tuple[Tensor, Tensor]:
    """The router, and its decision copied afterwards: what engines do."""
    weights, experts = route(logits, gating, bias)
    record.experts[: len(experts)].copy_(experts)
    record.weights[: len(weights)].copy_(weights)
    return weights, experts


def transformers_router(logits: Tensor, gating: Gating, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What Mixtral's and DeepSeek-V3's routers do in transformers 5.24, after their logits."""
    if gating.score == "softmax":
        weights, experts = torch.topk(logits.float().softmax(dim=-1), gating.top_k, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), experts
    scores = logits.float().sigmoid()
    choice = scores + bias
    groups = choice.view(len(choice), gating.groups, gating.group_size).topk(2, dim=-1)[0].sum(dim=-1)
    best = torch.topk(groups, k=gating.groups_kept, dim=-1, sorted=False)[1]
    mask = torch.zeros_like(groups).scatter_(1, best, 1).repeat_interleave(gating.group_size, dim=1)
    experts = torch.topk(choice.masked_fill(mask == 0, float("-inf")), gating.top_k, dim=-1, sorted=False)[1]
    weights = scores.gather(1, experts)
    return weights / (weights.sum(dim=-1, keepdim=True) + gating.added) * gating.scale, experts


@triton.jit
def _public_kernel(
    x_ptr, stride_x, T, weight_ptr, expert_ptr,
    E: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rounds of float maximum, lowest lane, float gather: the structure of public Triton routers, written anew."""
    token, lane = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_E)[None, :]
    slot, inside = tl.arange(0, BLOCK_K)[None, :], (token < T)[:, None] & (lane < E)
    x = tl.load(x_ptr + token[:, None] * stride_x + lane, mask=inside, other=0.0).to(tl.float32)
    left = tl.where(lane < E, x, float("-inf"))
    exponentials = tl.where(lane < E, tl.exp(left - tl.max(left, axis=1)[:, None]), 0.0)
    scores = exponentials / tl.sum(exponentials, axis=1)[:, None]
    weights = tl.zeros([BLOCK_M, BLOCK_K], dtype=tl.float32)
    experts = tl.zeros([BLOCK_M, BLOCK_K], dtype=tl.int32)
    for j in tl.static_range(K):
        best = tl.max(left, axis=1)[:, None]
        winner = tl.min(tl.where(left == best, lane, E + 1), axis=1)[:, None]
        weights = tl.where(slot == j, tl.sum(tl.where(lane == winner, scores, 0.0), axis=1)[:, None], weights)
        experts = tl.where(slot == j, winner, experts)
        left = tl.where(lane == winner, float("-inf"), left)
    weights /= tl.sum(tl.where(slot < K, weights, 0.0), axis=1)[:, None]
    out, chosen = token[:, None] * K + slot, (token < T)[:, None] & (slot < K)
    tl.store(weight_ptr + out, weights, mask=chosen)
    tl.store(expert_ptr + out, experts, mask=chosen)


def public_route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax, top-k and renormalise in the structure of public Triton routers."""
    tokens, experts = logits.shape
    weights = logits.new_empty(tokens, top_k, dtype=torch.float32)
    chosen = logits.new_empty(tokens, top_k, dtype=torch.int32)
    block_e = triton.next_power_of_2(experts)
    block_m = max(1, min(4, 256 // block_e))
    _public_kernel[(triton.cdiv(tokens, block_m),)](
        logits, logits.stride(0), tokens, weights, chosen, E=experts, K=top_k, BLOCK_M=block_m, BLOCK_E=block_e,
        BLOCK_K=triton.next_power_of_2(top_k), num_warps=1,
    )  # fmt: skip
    return weights, chosen
