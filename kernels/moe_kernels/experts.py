"""The experts: grouped SwiGLU over a dispatch plan, in three launches, and no row of padding.

Up: tokens are gathered, times both halves of `gate_up` (E, 2 W, D), and silu(gate) * up is written. Down: times `down`
(E, D, W) and the assignment's weight, written in the order of assignments. Combine: the k rows of a token are added in
the order of its slots, so the sum is the same at every run. Products are accumulated in float32. Shape letters: T
tokens, K slots, N = T K assignments, E experts, D hidden size, W width of an expert.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_kernels.buffers import Plan
from moe_kernels.tiles import LAUNCH, ExpertsTile, combine_block

NO_TILE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _find_tile(tile, end_ptr, start_ptr, count_ptr, E: tl.constexpr, BLOCK_E: tl.constexpr, BM: tl.constexpr):
    """Map the number of a tile to its expert (E if the tile does not exist), its sorted rows, and which exist."""
    lane = tl.arange(0, BLOCK_E)
    ends = tl.load(end_ptr + lane, mask=lane < E, other=NO_TILE)
    expert = tl.sum((ends <= tile).to(tl.int32), axis=0)
    first = tl.max(tl.where(ends <= tile, ends, 0), axis=0)
    real = expert < E
    row = (tile - first) * BM + tl.arange(0, BM)
    exists = row < tl.load(count_ptr + expert, mask=real, other=0)
    return expert, row + tl.load(start_ptr + expert, mask=real, other=0), exists


@triton.jit
def _product(a, b, total, IN_FLOAT32: tl.constexpr):
    """Return total + a @ b. The interpreter has no bfloat16 arithmetic; IN_FLOAT32 is for it."""
    if IN_FLOAT32:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _up_kernel(
    x_ptr, gate_up_ptr, h_ptr, order_ptr, end_ptr, start_ptr, count_ptr,
    D: tl.constexpr, W: tl.constexpr, K: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr,
    IN_FLOAT32: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """h[row] = silu(x[token] @ gate.T) * (x[token] @ up.T); one program is BM rows by BN of the W columns."""
    COLUMNS: tl.constexpr = (W + BN - 1) // BN
    expert, rows, exists = _find_tile(tl.program_id(0) // COLUMNS, end_ptr, start_ptr, count_ptr, E, BLOCK_E, BM)
    if expert >= E:
        return
    token = (tl.load(order_ptr + rows, mask=exists, other=0) // K).to(tl.int64)
    column, inner = tl.program_id(0) % COLUMNS * BN + tl.arange(0, BN), tl.arange(0, BK)
    a_ptr = x_ptr + token[:, None] * D + inner[None, :]
    b_ptr = gate_up_ptr + expert.to(tl.int64) * (2 * W * D) + column[None, :] * D + inner[:, None]
    gate = tl.zeros([BM, BN], dtype=tl.float32)
    up = tl.zeros([BM, BN], dtype=tl.float32)
    for k in range(0, D, BK):
        a = tl.load(a_ptr + k, mask=exists[:, None] & (k + inner < D)[None, :], other=0.0)
        in_b = (column < W)[None, :] & (k + inner < D)[:, None]
        gate = _product(a, tl.load(b_ptr + k, mask=in_b, other=0.0), gate, IN_FLOAT32)
        up = _product(a, tl.load(b_ptr + W * D + k, mask=in_b, other=0.0), up, IN_FLOAT32)
    h = gate * tl.sigmoid(gate) * up
    at = h_ptr + rows.to(tl.int64)[:, None] * W + column[None, :]
    tl.store(at, h.to(h_ptr.dtype.element_ty), mask=exists[:, None] & (column < W)[None, :])


@triton.jit
def _down_kernel(
    h_ptr, down_ptr, y_ptr, weight_ptr, order_ptr, end_ptr, start_ptr, count_ptr,
    D: tl.constexpr, W: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr,
    IN_FLOAT32: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y[assignment] = weight * (h[row] @ down.T); one program is BM rows by BN of the D columns."""
    COLUMNS: tl.constexpr = (D + BN - 1) // BN
    expert, rows, exists = _find_tile(tl.program_id(0) // COLUMNS, end_ptr, start_ptr, count_ptr, E, BLOCK_E, BM)
    if expert >= E:
        return
    assignment = tl.load(order_ptr + rows, mask=exists, other=0)
    column, inner = tl.program_id(0) % COLUMNS * BN + tl.arange(0, BN), tl.arange(0, BK)
    a_ptr = h_ptr + rows.to(tl.int64)[:, None] * W + inner[None, :]
    b_ptr = down_ptr + expert.to(tl.int64) * (D * W) + column[None, :] * W + inner[:, None]
    y = tl.zeros([BM, BN], dtype=tl.float32)
    for k in range(0, W, BK):
        a = tl.load(a_ptr + k, mask=exists[:, None] & (k + inner < W)[None, :], other=0.0)
        b = tl.load(b_ptr + k, mask=(column < D)[None, :] & (k + inner < W)[:, None], other=0.0)
        y = _product(a, b, y, IN_FLOAT32)
    y *= tl.load(weight_ptr + assignment, mask=exists, other=0.0)[:, None]
    at = y_ptr + assignment.to(tl.int64)[:, None] * D + column[None, :]
    tl.store(at, y.to(y_ptr.dtype.element_ty), mask=exists[:, None] & (column < D)[None, :])


@triton.jit
def _combine_kernel(y_ptr, out_ptr, D, K: tl.constexpr, BLOCK: tl.constexpr):
    """out[token] = sum of its K rows of y; one program is BLOCK columns of one token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for slot in tl.static_range(K):
        total += tl.load(y_ptr + (token * K + slot) * D + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * D + column, total.to(out_ptr.dtype.element_ty), mask=column < D)


def run_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, plan: Plan, tile: ExpertsTile, in_float32: bool = False
) -> Tensor:
    """Sum over its experts of weight * down(silu(gate(x)) * up(x)), for every token: (T, D) in the dtype of x.

    `x` (T, D), `gate_up` (E, 2 W, D) and `down` (E, D, W) are contiguous and of one dtype; `weights` (T, K) and the
    plan are of the same routing, and `plan.tile` is `tile.rows`.
    """
    tokens, hidden = x.shape
    experts, width = down.shape[0], down.shape[2]
    top_k = weights.shape[1]
    h, y, out = x.new_empty(tokens * top_k, width), x.new_empty(tokens * top_k, hidden), torch.empty_like(x)
    if not tokens:
        return out
    shape = {"D": hidden, "W": width, "E": experts, "BLOCK_E": max(2, triton.next_power_of_2(experts))}
    shape |= {"IN_FLOAT32": in_float32, "BM": plan.tile, "BN": tile.columns, "BK": tile.inner}
    options = {"num_warps": tile.warps, "num_stages": tile.stages} | LAUNCH
    sorted_rows = (plan.order, plan.tile_end, plan.start, plan.count)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        programs = (plan.max_tiles * triton.cdiv(width, tile.columns),)
        _up_kernel[programs](x, gate_up, h, *sorted_rows, K=top_k, **shape, **options)
        programs = (plan.max_tiles * triton.cdiv(hidden, tile.columns),)
        _down_kernel[programs](h, down, y, weights, *sorted_rows, **shape, **options)
        block = combine_block(hidden)
        _combine_kernel[(tokens, triton.cdiv(hidden, block))](y, out, hidden, K=top_k, BLOCK=block, **LAUNCH)
    return out
