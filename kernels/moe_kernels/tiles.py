"""How big a piece of work one program takes: static tables, so that nothing is tuned at run time."""

from typing import NamedTuple

import triton

from moe_kernels.gating import Gating

LANES_PER_WARP = 256  # logits that one warp holds in registers, eight a thread
MAX_ROWS = 16
SORTED_AT_ONCE = 1_024  # assignments that one program sorts
BLOCK = 256  # assignments a program, where one is not enough
SCANNED = 4_096  # counts that the scan holds at once
SCAN_ROWS = 64


class RouterTile(NamedTuple):
    """The router's tile: block_m tokens by block_g groups of block_s lanes; block_k slots."""

    block_m: int
    block_g: int
    block_s: int
    block_k: int
    warps: int


def router_tile(gating: Gating) -> RouterTile:
    """One warp up to 512 lanes: reductions over experts then never leave it."""
    block_g = triton.next_power_of_2(gating.groups)
    block_s = triton.next_power_of_2(gating.group_size)
    lanes = block_g * block_s
    block_m = max(1, min(MAX_ROWS, LANES_PER_WARP // lanes))
    return RouterTile(block_m, block_g, block_s, triton.next_power_of_2(gating.top_k), 1 if lanes <= 512 else 4)


def dispatch_block(assignments: int) -> int:
    """How many assignments one program of the dispatch sorts."""
    if assignments > SORTED_AT_ONCE:
        return BLOCK
    return max(16, triton.next_power_of_2(max(1, assignments)))


def scan_rows(block_e: int) -> int:
    """How many blocks' counts the scan adds up at once."""
    return max(1, min(SCAN_ROWS, SCANNED // block_e))


class ExpertsTile(NamedTuple):
    """One program of the experts: rows of one expert by columns, `inner` at a time."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


DECODE_TILE = ExpertsTile(16, 64, 64, 4, 4)
PREFILL_TILE = ExpertsTile(64, 64, 64, 4, 3)
LARGE_TILE = ExpertsTile(128, 128, 64, 8, 3)  # sm_90; two accumulators of this size spill registers on sm_80
FULL_TILE_ROWS = 64  # assignments an expert from which large tiles are mostly full


def experts_tile(assignments: int, num_experts: int, capability: int) -> ExpertsTile:
    """The tile for so many assignments, on a GPU of this compute capability (80, 90)."""
    per_expert = assignments / num_experts
    if per_expert < DECODE_TILE.rows:
        return DECODE_TILE
    return LARGE_TILE if capability >= 90 and per_expert >= FULL_TILE_ROWS else PREFILL_TILE


def combine_block(hidden: int) -> int:
    """How many columns of one token a program of the combine adds up."""
    return min(1_024, triton.next_power_of_2(hidden))
