"""The kernels' meaning in plain torch, without Triton: what they are tested against, and what runs on CPUs."""

from typing import NamedTuple

import torch
from torch import Tensor

from moe_kernels.buffers import Plan, max_tiles
from moe_kernels.gating import Gating


class Routing(NamedTuple):
    """Decisions of a router for T tokens."""

    experts: Tensor  # (T, K) int32, highest rank first
    weights: Tensor  # (T, K) float32, the factor on each expert's output
    margin: Tensor  # (T,) float32, rank of the last expert chosen minus rank of the best left out; inf if none is left


def scores_torch(logits: Tensor, gating: Gating) -> Tensor:
    """Scores of all experts, (T, E) float32."""
    logits = logits.float()
    if gating.score == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if gating.score == "sigmoid" else torch.nn.functional.softplus(logits).sqrt()


def choose_torch(
    logits: Tensor, gating: Gating, bias: Tensor | None = None, pushed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return weights (T, K) float32 and experts (T, K) int64, without a record: the fast path in torch, for CPUs.

    pushed   (E,) or (T, E), added to the ranks: inf for experts that rank above all others, -inf for those that are
             absent. An absent expert adds nothing to the score of its group. It is chosen only if too few
             others are left in the groups kept; the caller decides what that means.
    """
    if gating.is_softmax_over_winners and gating.groups == 1 and bias is None and pushed is None:
        top, experts = logits.float().sort(dim=-1, descending=True, stable=True)  # compares, so -0 ties with 0
        weights = top[:, : gating.top_k].softmax(dim=-1)
        return weights if gating.scale == 1 else weights * gating.scale, experts[:, : gating.top_k]
    scores, rank = _scores_and_rank(logits, gating, bias)
    if pushed is not None:
        rank = torch.where(pushed.isinf(), pushed, rank + pushed)  # a rank may be infinite too
    experts = _rank_experts(rank, _keep_groups(rank, gating, pushed is not None))[0][:, : gating.top_k]
    return _weights(scores.gather(1, experts), logits.float().gather(1, experts), gating), experts


def route_torch(logits: Tensor, gating: Gating, bias: Tensor | None = None) -> Routing:
    """Return the decision of a router for logits (T, E) of any floating dtype, with a selection bias (E,) or none.

    Exact ids by the tie rule of `Gating`; all arithmetic in float32.
    """
    scores, rank = _scores_and_rank(logits, gating, bias)
    order, candidates = _rank_experts(rank, _keep_groups(rank, gating))
    experts = order[:, : gating.top_k]
    weights = _weights(scores.gather(1, experts), logits.float().gather(1, experts), gating)
    return Routing(experts.int(), weights, _margin(rank.gather(1, order), candidates, gating.top_k))


def _scores_and_rank(logits: Tensor, gating: Gating, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = scores_torch(logits, gating)
    if gating.ranks_logits(bias is not None):
        return scores, logits.float()
    return scores, scores if bias is None else scores + bias.float()


def _keep_groups(rank: Tensor, gating: Gating, some_are_out: bool = False) -> Tensor:
    """Mark the experts in one of the groups kept, (T, E) bool."""
    if gating.groups == 1:
        return torch.ones_like(rank, dtype=torch.bool)
    grouped = _plain_zero(rank).unflatten(1, (gating.groups, gating.group_size)).sort(dim=-1, descending=True).values
    second = grouped[..., min(1, gating.group_size - 1)]
    if some_are_out:
        second = second.masked_fill(second == -torch.inf, 0)
    value = grouped[..., 0] if gating.group_score == "max" else grouped[..., 0] + second
    best = _plain_zero(value).sort(dim=-1, descending=True, stable=True).indices[:, : gating.groups_kept]
    kept = torch.zeros_like(value, dtype=torch.bool).scatter_(1, best, True)
    return kept.repeat_interleave(gating.group_size, dim=1)


def _rank_experts(rank: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Order all experts, candidates first and each part by rank, ties by id; and count the candidates."""
    order = _plain_zero(rank).sort(dim=-1, descending=True, stable=True).indices
    first = kept.gather(1, order).int().sort(dim=-1, descending=True, stable=True).indices
    return order.gather(1, first), kept.sum(dim=1)


def _plain_zero(x: Tensor) -> Tensor:
    return torch.where(x == 0, torch.zeros_like(x), x)  # -0 and 0 tie


def _weights(scores: Tensor, logits: Tensor, gating: Gating) -> Tensor:
    if gating.is_softmax_over_winners:
        return logits.softmax(dim=-1) * gating.scale  # the same, and without loss where all scores are tiny
    if gating.renormalise:
        scores = scores / (scores.sum(dim=-1, keepdim=True) + gating.added).clamp(min=gating.floor)
    return scores * gating.scale


def _margin(ranked: Tensor, candidates: Tensor, top_k: int) -> Tensor:
    if top_k == ranked.shape[1]:
        return torch.full_like(ranked[:, 0], torch.inf)
    return torch.where(candidates > top_k, ranked[:, top_k - 1] - ranked[:, top_k], torch.inf)


def plan_dispatch_torch(experts: Tensor, num_experts: int, tile: int) -> Plan:
    """Sort the assignments of `experts` (T, K) by expert; see `plan_dispatch`."""
    flat = experts.reshape(-1).long()
    order = flat.argsort(stable=True)
    count = flat.bincount(minlength=num_experts)
    start = count.cumsum(0) - count
    tile_end = ((count + tile - 1) // tile).cumsum(0)
    parts = (order, order.argsort(), start, count, tile_end)
    return Plan(*(part.int() for part in parts), tile, max_tiles(flat.numel(), num_experts, tile))


def run_experts_torch(x: Tensor, gate_up: Tensor, down: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """Run every token through its experts, one at a time, in float64: (T, D) float64; see `run_experts`."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, (ids, factors) in enumerate(zip(experts.tolist(), weights.double(), strict=True)):
        for expert, factor in zip(ids, factors, strict=True):
            gate, up = (gate_up[expert].double() @ x[token].double()).chunk(2)
            out[token] += factor * (down[expert].double() @ (torch.nn.functional.silu(gate) * up))
    return out
