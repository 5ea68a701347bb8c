"""The choice of the k best experts, in integers: exact ties, distinct ids, whatever is in the row.

Floats are ranked through int32 keys of the same order. A float maximum drops NaN, and a winner that is retired to -inf
is found again in a row of -inf; keys know neither trouble, and an integer reduction is one instruction (REDUX) on
sm_80 and newer. Shape letters: M rows of a tile, N lanes, K slots, G groups of S lanes. A lane holds an expert or
nothing; lanes of one group are in the order of its experts.
"""

import triton
import triton.language as tl

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
    """The key alone again. Negative floats were widened with zeros, so their keys end in ones."""
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
    """The K largest keys of each row -> their ids and keys (M, BLOCK_K), ties by id.

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
