"""The size of the piece of work that one program takes: static tables, so that nothing is tuned at run time."""

import re
from functools import lru_cache
from typing import NamedTuple

import torch
import triton

from moe_kernels.gating import Gating

LANES_PER_WARP = 256  # logits that one warp holds in registers, eight a thread
MAX_ROWS = 16
SORTED_AT_ONCE = 1_024  # assignments that one program sorts
BLOCK = 256  # assignments per program, if one is not enough
SCANNED = 4_096  # counts that the scan holds at once
SCAN_ROWS = 64
LAUNCH = {"enable_fp_fusion": True}  # for every launch: newer Tritons warn where it is left to a default


class RouterTile(NamedTuple):
    """The router's tile: block_m tokens by block_g groups of block_s lanes, block_c of them kept; block_k slots."""

    block_m: int
    block_g: int
    block_s: int
    block_c: int
    block_k: int
    warps: int


@lru_cache
def router_tile(gating: Gating) -> RouterTile:
    """Return the tile of a router: one warp up to 512 lanes, which reductions over experts then never leave."""
    block_g = triton.next_power_of_2(gating.groups)
    block_s = triton.next_power_of_2(gating.group_size)
    lanes = block_g * block_s
    block_m = max(1, min(MAX_ROWS, LANES_PER_WARP // lanes))
    block_c, block_k = (triton.next_power_of_2(count) for count in (gating.groups_kept, gating.top_k))
    return RouterTile(block_m, block_g, block_s, block_c, block_k, warps=1 if lanes <= 512 else 4)


def dispatch_block(assignments: int) -> int:
    """Return the number of assignments that one program of the dispatch sorts."""
    if assignments > SORTED_AT_ONCE:
        return BLOCK
    return max(16, triton.next_power_of_2(max(1, assignments)))


def scan_rows(block_e: int) -> int:
    """Return the number of blocks whose counts the scan adds up at once."""
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
LARGE_TILE = ExpertsTile(128, 128, 64, 8, 3)  # two accumulators of this size spill registers on sm_80 and sm_120
FOR_LARGE = range(90, 120)  # compute capabilities
FULL_TILE_ROWS = 64  # assignments per expert from which large tiles are mostly full
EXPERT_DTYPES = (torch.bfloat16, torch.float16)  # in float32 tiles spill registers, or fit no consumer card's memory
LEAST_CAPABILITY = 80  # tensor cores for bfloat16, and copies that overlap with the products
OLDEST_TRITON = (3, 4)  # which has histograms of a part of a block
SHARED_MEMORY = 48 * 1024  # bytes that every GPU gives a program


class Device(NamedTuple):
    """The facts about a GPU that decide how the experts run on it."""

    capability: int  # of CUDA, such as 89; 0 for other makes, which number theirs otherwise
    shared_memory: int  # bytes that one program may ask for


@lru_cache
def device_of(index: int) -> Device:
    """Look the GPU of this index up."""
    found = torch.cuda.get_device_properties(index)
    capability = 0 if torch.version.hip else 10 * found.major + found.minor
    return Device(capability, getattr(found, "shared_memory_per_block_optin", SHARED_MEMORY))


def why_not_experts(dtype: torch.dtype, device: Device) -> str:
    """Why the experts' kernels are not for this dtype on this GPU, as a clause; "" where they are."""
    if dtype not in EXPERT_DTYPES:
        return f"moeviz's kernels run experts in bfloat16 and float16, and these are in {str(dtype)[6:]}"
    if device.capability < LEAST_CAPABILITY:
        return "moeviz's kernels run experts on NVIDIA GPUs from compute capability 8.0 on, and this is another"
    return ""


def why_too_old(installed: str = triton.__version__) -> str:
    """Why this version of Triton cannot compile the kernels, as a sentence; "" where it can.

    >>> why_too_old("3.3.1")
    "Triton 3.3.1 is installed, and moeviz's kernels need 3.4 or newer, which comes with torch 2.8."
    """
    if tuple(int(number) for number in re.findall(r"\d+", installed)[:2]) >= OLDEST_TRITON:
        return ""
    oldest = ".".join(map(str, OLDEST_TRITON))
    return f"Triton {installed} is installed, and moeviz's kernels need {oldest} or newer, which comes with torch 2.8."


def shared_memory_of(tile: ExpertsTile) -> int:
    """Bytes of shared memory that the up projection takes in 16 bits: its tiles of x, gate and up, stage by stage."""
    return (tile.stages - 1) * (tile.rows + 2 * tile.columns) * tile.inner * 2


def experts_tile(assignments: int, num_experts: int, device: Device) -> ExpertsTile:
    """Return the tile for `assignments` assignments on a GPU, whose shared memory it fits."""
    per_expert = assignments / num_experts
    if per_expert < DECODE_TILE.rows:
        return DECODE_TILE
    is_large = device.capability in FOR_LARGE and per_expert >= FULL_TILE_ROWS
    fits = shared_memory_of(LARGE_TILE) <= device.shared_memory
    return LARGE_TILE if is_large and fits else PREFILL_TILE


def combine_block(hidden: int) -> int:
    """Return the number of columns of one token that a program of the combine adds up."""
    return min(1_024, triton.next_power_of_2(hidden))
