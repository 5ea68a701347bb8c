"""Dispatch: assignments sorted by expert, stably, so that each expert finds its tokens side by side.

A token's k choices are k assignments; assignment a belongs to token a // k. No float, no atomic whose order shows, and
nothing that waits for the device: the same ids give the same plan, and a CUDA graph may hold it. Shape letters: N
assignments, E experts, B blocks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_kernels.buffers import Plan, max_tiles
from moe_kernels.tiles import LAUNCH, SORTED_AT_ONCE, dispatch_block, scan_rows

NOBODY = tl.constexpr(0x7FFF)  # sorts after every expert


@triton.jit
def _write_experts(start_ptr, count_ptr, end_ptr, count, lane, E: tl.constexpr, TILE: tl.constexpr):
    tl.store(count_ptr + lane, count, mask=lane < E)
    tl.store(start_ptr + lane, tl.cumsum(count, axis=0) - count, mask=lane < E)
    tl.store(end_ptr + lane, tl.cumsum((count + (TILE - 1)) // TILE, axis=0), mask=lane < E)


@triton.jit
def _sorted_block(expert_ptr, base, N, BLOCK: tl.constexpr):
    """Sort assignments base to base + BLOCK by (expert, place): experts, places in the block, and which are real."""
    place = tl.arange(0, BLOCK)
    expert = tl.load(expert_ptr + base + place, mask=base + place < N, other=NOBODY).to(tl.int32)
    key = tl.sort((expert << 16) | place)  # all keys differ, so the order is total, and stable
    return key >> 16, key & 0xFFFF, (key >> 16) != NOBODY


@triton.jit(do_not_specialize=["N"])
def _count_kernel(expert_ptr, part_ptr, N, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, BLOCK_E)
    expert = tl.load(expert_ptr + at, mask=at < N, other=0).to(tl.int32)
    counts = tl.histogram(expert, BLOCK_E, mask=at < N)
    tl.store(part_ptr + tl.program_id(0) * E + lane, counts, mask=lane < E)


@triton.jit(do_not_specialize=["B"])
def _scan_kernel(
    part_ptr, start_ptr, count_ptr, end_ptr, B,
    E: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Turn part (B, E), in place and in one program, into the assignments of each expert in the blocks before."""
    lane = tl.arange(0, BLOCK_E)
    so_far = tl.zeros([BLOCK_E], dtype=tl.int32)
    for first in range(0, B, ROWS):
        block = first + tl.arange(0, ROWS)
        inside = (block < B)[:, None] & (lane < E)[None, :]
        at = part_ptr + block[:, None] * E + lane[None, :]
        counts = tl.load(at, mask=inside, other=0)
        tl.store(at, tl.cumsum(counts, axis=0) - counts + so_far[None, :], mask=inside)
        so_far += tl.sum(counts, axis=0)
    _write_experts(start_ptr, count_ptr, end_ptr, so_far, lane, E, TILE)


@triton.jit(do_not_specialize=["N"])
def _scatter_kernel(
    expert_ptr, part_ptr, start_ptr, order_ptr, place_ptr, N,
    E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Write one block to its sorted rows: behind the expert's start, the blocks before, and the block's own order."""
    base = tl.program_id(0) * BLOCK
    lane = tl.arange(0, BLOCK_E)
    expert, place, real = _sorted_block(expert_ptr, base, N, BLOCK)
    expert = tl.where(real, expert, 0)
    counts = tl.histogram(expert, BLOCK_E, mask=real)
    earlier = tl.cumsum(counts, axis=0) - counts  # of lower experts in this block
    first = tl.load(start_ptr + lane, mask=lane < E, other=0)
    first += tl.load(part_ptr + tl.program_id(0) * E + lane, mask=lane < E, other=0)
    row = tl.arange(0, BLOCK) + tl.gather(first - earlier, expert, axis=0)
    tl.store(place_ptr + base + place, row, mask=real)
    tl.store(order_ptr + row, base + place, mask=real)


@triton.jit(do_not_specialize=["N"])
def _sort_kernel(
    expert_ptr, start_ptr, count_ptr, end_ptr, order_ptr, place_ptr, N,
    E: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Sort in one program: for decoding, where launches dominate the cost."""
    lane, row = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK)
    expert, place, real = _sorted_block(expert_ptr, 0, N, BLOCK)
    counts = tl.histogram(tl.where(real, expert, 0), BLOCK_E, mask=real)
    _write_experts(start_ptr, count_ptr, end_ptr, counts, lane, E, TILE)
    tl.store(order_ptr + row, place, mask=real)
    tl.store(place_ptr + place, row, mask=real)


def plan_dispatch(experts: Tensor, num_experts: int, tile: int, block: int | None = None) -> Plan:
    """Sort the assignments of `experts` (T, K), ids from 0 to num_experts - 1, for work in tiles of `tile` rows.

    One launch up to 1,024 assignments, three above. `block` assignments are sorted by one program; by default the
    table in `tiles.py` says how many.
    """
    flat = experts.reshape(-1)
    total = flat.numel()
    order, place = (flat.new_empty(total, dtype=torch.int32) for _ in range(2))
    start, count, tile_end = (flat.new_empty(num_experts, dtype=torch.int32) for _ in range(3))
    block = block or dispatch_block(total)
    shape = {"E": num_experts, "BLOCK": block, "BLOCK_E": max(2, triton.next_power_of_2(num_experts))}
    with torch.cuda.device_of(flat):  # Triton launches on the current device
        if total <= min(block, SORTED_AT_ONCE):
            _sort_kernel[(1,)](
                flat, start, count, tile_end, order, place, total, TILE=tile, **shape, num_warps=4, **LAUNCH
            )
        else:
            blocks = triton.cdiv(total, block)
            part = flat.new_empty(blocks, num_experts, dtype=torch.int32)
            _count_kernel[(blocks,)](flat, part, total, **shape, num_warps=4, **LAUNCH)
            scan = {"E": num_experts, "TILE": tile, "ROWS": scan_rows(shape["BLOCK_E"]), "BLOCK_E": shape["BLOCK_E"]}
            _scan_kernel[(1,)](part, start, count, tile_end, blocks, **scan, num_warps=8, **LAUNCH)
            _scatter_kernel[(blocks,)](flat, part, start, order, place, total, **shape, num_warps=4, **LAUNCH)
    return Plan(order, place, start, count, tile_end, tile, max_tiles(total, num_experts, tile))
