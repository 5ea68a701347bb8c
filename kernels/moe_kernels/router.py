"""The router: one launch turns logits into expert ids and weights, and writes the record of the same decision.

One program handles BLOCK_M tokens with all their experts. The record costs stores of what is in registers already:
no launch, no copy, no read.

The k best experts are chosen in integers: exact ties, distinct ids, whatever is in the row. Floats are ranked through
int32 keys of the same order. A float maximum drops NaN, and a winner that is retired to -inf is found again in a row of
-inf; keys know neither trouble, and an integer reduction is one instruction (REDUX) on sm_80 and newer.

Shape letters: T tokens, E experts, K slots, R rows of the record; M rows of a tile, N lanes, G groups of S lanes. A
lane holds an expert or nothing; lanes of one group are in the order of its experts.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_kernels.buffers import Record
from moe_kernels.gating import SCORES, Gating
from moe_kernels.tiles import LAUNCH, router_tile

RETIRED = tl.constexpr(-2147483648)  # chosen already
ABSENT = tl.constexpr(-2147483647)  # no expert in this lane, or none that may be chosen; no float has these two keys
NAN_KEY = tl.constexpr(0x7FFFFFFF)
LOW = tl.constexpr(0x1FFF)  # the 13 low bits: zero in every float16 or bfloat16 that was widened to float32


@triton.jit
def order_key(x):
    """float32 -> int32 with the same order; -0 is 0, and every NaN is above +inf."""
    bits = x.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = tl.where(x == 0.0, 0, key)
    return tl.where(x != x, NAN_KEY, key)


@triton.jit
def key_value(key):
    """The float32 of a key, with one 0 and one NaN."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def pack_id(key, ids):
    """Key of a widened 16-bit float, with the id below the value: one maximum finds both, the lowest id first."""
    return tl.where(key == ABSENT, ABSENT, (key & ~LOW) | (LOW - ids))


@triton.jit
def unpack_value(key):
    """Recover the key. Negative floats were widened with zeros, so their keys end in ones."""
    return tl.where(key < 0, key | LOW, key & ~LOW)


@triton.jit
def best_groups(
    key,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, TOP2: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The KEPT best groups (M, BLOCK_C) by keys (M, N), the best first."""
    grouped = tl.reshape(key, [BLOCK_M, BLOCK_G, BLOCK_S])
    group = tl.arange(0, BLOCK_G)[None, :]
    value = tl.max(grouped, axis=2)
    if TOP2:
        lane = tl.arange(0, BLOCK_S)[None, None, :]
        best = tl.min(tl.where(grouped == value[:, :, None], lane, BLOCK_S), axis=2)
        second = tl.max(tl.where(lane == best[:, :, None], RETIRED, grouped), axis=2)
        value = order_key(key_value(value) + key_value(second))
    value = tl.where(group < GROUPS, value, ABSENT)
    return select_top_k(value, group, KEPT, False, BLOCK_M, BLOCK_C)[0]


@triton.jit
def select_top_k(
    key, ids,
    K: tl.constexpr, PACKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return the ids and keys (M, BLOCK_K) of the K largest keys of each row, ties by id.

    Keys that went through `pack_id` give value and id in one reduction; others take a second one for the id.
    """
    slot = tl.arange(0, BLOCK_K)[None, :]
    chosen = tl.zeros([BLOCK_M, BLOCK_K], dtype=tl.int32)
    keys = tl.full([BLOCK_M, BLOCK_K], ABSENT, dtype=tl.int32)
    for j in tl.static_range(K):
        best = tl.max(key, axis=1)[:, None]
        keys = tl.where(slot == j, best, keys)
        if PACKED:
            key = tl.where(key == best, RETIRED, key)
        else:
            first = tl.min(tl.where(key == best, ids, NAN_KEY), axis=1)[:, None]
            chosen = tl.where(slot == j, first, chosen)
            key = tl.where(ids == first, RETIRED, key)
    if PACKED:
        chosen = tl.where(slot < K, LOW - (keys & LOW), 0)
        keys = unpack_value(keys)
    return chosen, keys


SOFTMAX, SIGMOID = (tl.constexpr(SCORES.index(name)) for name in ("softmax", "sigmoid"))


@triton.jit
def _score(x, top, total, SCORE: tl.constexpr):
    """Compute scores of logits; top and total are a softmax's maximum and sum."""
    if SCORE == SOFTMAX:
        return tl.exp(x - top) / total
    if SCORE == SIGMOID:
        return tl.sigmoid(x)
    small = tl.exp(-tl.abs(x))  # sqrt(softplus(x)); log(1 + small) without loss where small is tiny (Kahan)
    one_more = 1.0 + small
    log1p = tl.where(one_more == 1.0, small, tl.log(one_more) * (small / (one_more - 1.0)))
    return tl.sqrt(tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + log1p)


@triton.jit
def _weigh(
    picked, top, total, in_k, scale, added, floor,
    SCORE: tl.constexpr, RENORMALISE: tl.constexpr, OVER_WINNERS: tl.constexpr,
):  # fmt: skip
    """Compute the weights (M, BLOCK_K) of the chosen experts' logits."""
    if OVER_WINNERS:  # softmax over the winners is the renormalised softmax over all, for K exponentials instead of E
        masked = tl.where(in_k, picked, float("-inf"))
        weights = tl.where(in_k, tl.exp(picked - tl.max(masked, axis=1)[:, None]), 0.0)
        return weights / tl.sum(weights, axis=1)[:, None] * scale
    weights = tl.where(in_k, _score(picked, top, total, SCORE), 0.0)
    if RENORMALISE:
        weights = weights / tl.maximum(tl.sum(weights, axis=1)[:, None] + added, floor, tl.PropagateNan.ALL)
    return weights * scale


@triton.jit
def _load(row_ptr, bias_ptr, expert, live, in_e, HAS_BIAS: tl.constexpr):
    x = tl.load(row_ptr + expert, mask=live & in_e, other=float("-inf")).to(tl.float32)
    return x, tl.load(bias_ptr + expert, mask=in_e, other=0.0).to(tl.float32) if HAS_BIAS else 0.0


@triton.jit
def _rank(x, bias, in_e, top, total, SCORE: tl.constexpr, RANKS_LOGITS: tl.constexpr):
    """Make integer keys of the order in which experts are chosen."""
    rank = x if RANKS_LOGITS else _score(x, top, total, SCORE) + bias
    return tl.where(in_e, order_key(rank), ABSENT)


@triton.jit
def _decide(
    row_ptr, bias_ptr, live, scale, added, floor,
    K: tl.constexpr, SCORE: tl.constexpr, RENORMALISE: tl.constexpr, OVER_WINNERS: tl.constexpr,
    HAS_BIAS: tl.constexpr, RANKS_LOGITS: tl.constexpr, PACKED: tl.constexpr,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, TOP2: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Choose experts and their weights, (M, BLOCK_K)."""
    lane = tl.arange(0, BLOCK_G * BLOCK_S)[None, :]
    expert = lane // BLOCK_S * SIZE + lane % BLOCK_S
    in_e = (lane // BLOCK_S < GROUPS) & (lane % BLOCK_S < SIZE)
    x, bias = _load(row_ptr, bias_ptr, expert, live, in_e, HAS_BIAS)
    top, total = 0.0, 1.0
    if SCORE == SOFTMAX and not (RANKS_LOGITS and OVER_WINNERS):
        top = tl.max(x, axis=1)[:, None]
        total = tl.sum(tl.exp(x - top), axis=1)[:, None]
    key = _rank(x, bias, in_e, top, total, SCORE, RANKS_LOGITS)
    if GROUPS > 1:  # the experts of the groups kept are loaded again, side by side: each round then looks at fewer
        group = best_groups(key, GROUPS, KEPT, TOP2, BLOCK_M, BLOCK_G, BLOCK_S, BLOCK_C)
        first = tl.broadcast_to(group[:, :, None] * SIZE, [BLOCK_M, BLOCK_C, BLOCK_S])
        lane = tl.arange(0, BLOCK_C * BLOCK_S)[None, :]
        expert = tl.reshape(first, [BLOCK_M, BLOCK_C * BLOCK_S]) + lane % BLOCK_S
        in_e = (lane // BLOCK_S < KEPT) & (lane % BLOCK_S < SIZE)
        x, bias = _load(row_ptr, bias_ptr, expert, live, in_e, HAS_BIAS)
        key = _rank(x, bias, in_e, top, total, SCORE, RANKS_LOGITS)
    if PACKED:
        key = pack_id(key, expert)
    experts, keys = select_top_k(key, expert, K, PACKED, BLOCK_M, BLOCK_K)
    in_k = tl.arange(0, BLOCK_K)[None, :] < K
    # Loaded again, which takes fewer instructions than to find them among the lanes.
    again = 0.0 if RANKS_LOGITS else tl.load(row_ptr + experts, mask=live & in_k, other=0.0).to(tl.float32)
    picked = key_value(keys) if RANKS_LOGITS else again
    weights = _weigh(picked, top, total, in_k, scale, added, floor, SCORE, RENORMALISE, OVER_WINNERS)
    return experts, weights


@triton.jit
def _write(ptr, at, value, mask):
    tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["T", "R"])  # a text of one token, or of sixteen, does not compile anew
def _route_kernel(
    x_ptr, stride_x, T, bias_ptr, weight_ptr, expert_ptr, scale, added, floor,
    record_expert_ptr, record_weight_ptr, cursor_ptr, R,
    E: tl.constexpr, K: tl.constexpr, SCORE: tl.constexpr, RENORMALISE: tl.constexpr, OVER_WINNERS: tl.constexpr,
    HAS_BIAS: tl.constexpr, RANKS_LOGITS: tl.constexpr,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, TOP2: tl.constexpr,
    RECORDS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    PACKED: tl.constexpr = RANKS_LOGITS and x_ptr.dtype.element_ty.primitive_bitwidth == 16
    token = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    slot = tl.arange(0, BLOCK_K)[None, :]
    live = (token < T)[:, None]
    experts, weights = _decide(
        x_ptr + token[:, None] * stride_x, bias_ptr, live, scale, added, floor,
        K, SCORE, RENORMALISE, OVER_WINNERS, HAS_BIAS, RANKS_LOGITS, PACKED,
        GROUPS, KEPT, TOP2, E // GROUPS, BLOCK_M, BLOCK_G, BLOCK_S, BLOCK_C, BLOCK_K,
    )  # fmt: skip
    chosen = live & (slot < K)
    _write(weight_ptr, token[:, None] * K + slot, weights, chosen)
    _write(expert_ptr, token[:, None] * K + slot, experts, chosen)
    if RECORDS:
        row = (tl.load(cursor_ptr) + token)[:, None]
        _write(record_expert_ptr, row * K + slot, experts, chosen & (row < R))
        _write(record_weight_ptr, row * K + slot, weights, chosen & (row < R))


def route(
    logits: Tensor, gating: Gating, bias: Tensor | None = None, record: Record | None = None, block_m: int | None = None
) -> tuple[Tensor, Tensor]:
    """Route T tokens in one launch: weights (T, K) float32 and expert ids (T, K) int32, highest rank first.

    `logits` (T, E) are float32, bfloat16 or float16, with experts next to each other in memory; `bias` (E,) is added
    for selection only. Ids follow the tie rule of `Gating`, and are distinct and in range whatever a row holds, NaN
    and infinities included. `record` receives the same decision, from its cursor on (see `Record`). `block_m` tokens
    go to a program; by default as in the table in `tiles.py`. (In Triton's interpreter, which runs the tests without a
    GPU, a program costs the same whatever its size, so they ask for large ones.)
    """
    tokens, experts = logits.shape
    if experts != gating.experts or logits.stride(1) != 1:
        raise ValueError(f"Logits of {gating.experts} adjacent experts are needed; got {tuple(logits.shape)}.")
    weights = logits.new_empty(tokens, gating.top_k, dtype=torch.float32)
    chosen = logits.new_empty(tokens, gating.top_k, dtype=torch.int32)
    if not tokens:
        return weights, chosen
    tile = router_tile(gating)
    block_m = block_m or tile.block_m
    nothing = weights, weights, weights, 0  # pointers that the kernel does not read
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _route_kernel[(triton.cdiv(tokens, block_m),)](
            logits, logits.stride(0), tokens, weights if bias is None else bias, weights, chosen,
            gating.scale, gating.added, gating.floor, *(nothing if record is None else record.arguments()),
            **gating_flags(gating, bias is not None), RECORDS=record is not None, BLOCK_M=block_m,
            BLOCK_G=tile.block_g, BLOCK_S=tile.block_s, BLOCK_C=tile.block_c, BLOCK_K=tile.block_k,
            num_warps=tile.warps, **LAUNCH,
        )  # fmt: skip
    return weights, chosen


@lru_cache
def gating_flags(gating: Gating, has_bias: bool) -> dict[str, int]:
    """Return the kernel's compile-time arguments for a gating: one read-only object for all launches."""
    return {
        "E": gating.experts,
        "K": gating.top_k,
        "SCORE": SCORES.index(gating.score),
        "RENORMALISE": gating.renormalise,
        "OVER_WINNERS": gating.is_softmax_over_winners,
        "HAS_BIAS": has_bias,
        "RANKS_LOGITS": gating.ranks_logits(has_bias),
        "GROUPS": gating.groups,
        "KEPT": gating.groups_kept,
        "TOP2": gating.group_score == "top2_sum",
    }
