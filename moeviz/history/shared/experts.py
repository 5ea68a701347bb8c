"""Common parts of sparse experts since 2017: tokens packed by expert, and the loss that keeps experts balanced.

T tokens, K experts chosen for each, A = T · K assignments; D width, E experts, capacity of C tokens per expert.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class TopKChoice(NamedTuple):
    """A router's decision for T tokens."""

    logits: Float[Tensor, "T E"]
    experts: Int[Tensor, "T K"]  # those with the highest logits, highest first
    weights: Float[Tensor, "T K"]  # each row sums to 1


class Queues(NamedTuple):
    """Tokens packed by expert, so that all experts work at once."""

    tokens: Float[Tensor, "E C D"]  # the queue of each expert in their order; 0 where it is not full
    kept: Bool[Tensor, " A"]  # False for an assignment that finds its expert full
    slots: Int[Tensor, " kept"]  # the place of each kept assignment among the E · C of all queues


def queued(x: Float[Tensor, "A D"], chosen: Int[Tensor, " A"], experts: int, room: int | None = None) -> Queues:
    """Pack tokens by the expert that each has chosen, first come, first served.

    An expert has `room` for this many; without a number, for the most that any expert is given.
    """
    place = places(chosen, experts)
    room = int(place.max()) + 1 if room is None else room
    kept = place < room
    slots = (chosen * room + place)[kept]
    tokens = x.new_zeros(experts * room, x.shape[1]).index_copy(0, slots, x[kept])
    return Queues(tokens.view(experts, room, -1), kept, slots)


def places(chosen: Int[Tensor, " A"], experts: int) -> Int[Tensor, " A"]:
    """Return each token's place in the queue of the expert that it chose, from 0: first come, first served.

    >>> places(torch.tensor([1, 0, 1, 1]), experts=2).tolist()
    [0, 0, 1, 2]
    """
    counts = torch.bincount(chosen, minlength=experts)
    order = chosen.argsort(stable=True)
    place = torch.empty_like(chosen)
    place[order] = torch.arange(len(chosen)) - (counts.cumsum(0) - counts)[chosen[order]]
    return place


def balancing_loss(probabilities: Float[Tensor, "T E"], chosen: Int[Tensor, "*assignments"]) -> Float[Tensor, ""]:
    """E Σᵢ fᵢ Pᵢ: 1 where routing is uniform, and up to E where one expert gets everything.

    fᵢ is the share of assignments that choose expert i (dropped ones too), and Pᵢ its mean probability. fᵢ has no
    gradient.

    Source: Fedus, Zoph & Shazeer, Switch Transformers (arXiv 2101.03961), equations 4 to 6 without α.

    >>> float(balancing_loss(torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])))
    1.0
    """
    experts = probabilities.shape[-1]
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (share * probabilities.mean(dim=0)).sum()
