"""The Switch layer: each token goes to one expert, and past an expert's capacity it goes to none.

Source: Fedus, Zoph & Shazeer, arXiv 2101.03961 (2021), JMLR 23(120) (2022), section 2.

T tokens of a group, D width of a token, H hidden units, E experts, C tokens that an expert has room for.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

INIT_SCALE = 0.1  # section 2.4; a usual Transformer has 1.0
JITTER = 0.01  # what the router reads is multiplied by 1 ± so much, drawn anew each time, in training alone


class Routed(NamedTuple):
    """What became of the tokens of one group."""

    output: Float[torch.Tensor, "T D"]  # 0 for a dropped token, which so passes by the residual connection
    logits: Float[torch.Tensor, "T E"]  # h(x)
    probabilities: Float[torch.Tensor, "T E"]  # p(x)
    chosen: Int[torch.Tensor, " T"]  # what the router wanted, dropped or not
    dropped: Bool[torch.Tensor, " T"]


class SwitchLayer(nn.Module):
    """Equations 1 and 2: p(x) = softmax(h(x)), i = argmax p(x), and y = pᵢ(x) Eᵢ(x) with the one expert i.

    An expert is max(0, x W) V, without biases. The router works in float32 whatever the rest does (section 2.4).
    """

    def __init__(self, width: int, hidden: int, experts: int, capacity_factor: float, draws: torch.Generator) -> None:
        super().__init__()
        self.experts, self.capacity_factor = experts, capacity_factor
        self.router = matrix(draws, width, experts)
        self.into = matrix(draws, experts, width, hidden)
        self.out_of = matrix(draws, experts, hidden, width)

    def forward(self, tokens: Float[torch.Tensor, "T D"], jitter: torch.Generator | None = None) -> Routed:
        """Route one group of tokens: capacity is counted over all of them. With `jitter`, as in training."""
        read = tokens.float()
        if jitter is not None:
            read = read * torch.empty_like(read).uniform_(1 - JITTER, 1 + JITTER, generator=jitter)
        logits = read @ self.router
        probabilities = logits.softmax(dim=-1)
        gate, chosen = probabilities.max(dim=-1)
        room = capacity(len(tokens), self.experts, self.capacity_factor)
        place = places(chosen, self.experts)
        kept = place < room
        rows, slots = kept.nonzero()[:, 0], (chosen * room + place)[kept]
        queues = tokens.new_zeros(self.experts * room, tokens.shape[1]).index_copy(0, slots, tokens[rows])
        answers = (queues.view(self.experts, room, -1) @ self.into).relu() @ self.out_of
        answered = answers.flatten(0, 1)[slots] * gate[rows, None]
        return Routed(torch.zeros_like(tokens).index_copy(0, rows, answered), logits, probabilities, chosen, ~kept)


class DenseLayer(nn.Module):
    """One expert for all, without a router: as many multiplications a token as a Switch layer's one expert."""

    def __init__(self, width: int, hidden: int, draws: torch.Generator) -> None:
        super().__init__()
        self.into, self.out_of = matrix(draws, width, hidden), matrix(draws, hidden, width)

    def forward(self, tokens: Float[torch.Tensor, "*tokens D"]) -> Float[torch.Tensor, "*tokens D"]:
        """Equation of a Transformer's feed-forward block: max(0, x W) V."""
        return (tokens @ self.into).relu() @ self.out_of


def capacity(tokens: int, experts: int, factor: float) -> int:
    """Equation 3: how many tokens of a group one expert has room for, ⌈tokens / experts · capacity factor⌉.

    >>> capacity(tokens=6, experts=3, factor=1.5)
    3
    """
    return math.ceil(tokens / experts * factor - 1e-9)  # 100 / 10 · 1.1 is a little above 11 in floating point


def places(chosen: Int[torch.Tensor, " T"], experts: int) -> Int[torch.Tensor, " T"]:
    """Each token's place in the queue of the expert that it chose, from 0: first come, first served.

    >>> places(torch.tensor([1, 0, 1, 1]), experts=2).tolist()
    [0, 0, 1, 2]
    """
    ahead = nn.functional.one_hot(chosen, experts).cumsum(dim=0)
    return ahead.gather(1, chosen[:, None])[:, 0] - 1


def balancing_loss(
    probabilities: Float[torch.Tensor, "T E"], chosen: Int[torch.Tensor, " T"]
) -> Float[torch.Tensor, ""]:
    """Equations 4 to 6 without α: N Σᵢ fᵢ Pᵢ over N experts, 1 where routing is uniform.

    fᵢ is the share of tokens that choose expert i (dropped ones too), and Pᵢ the mean of pᵢ(x). fᵢ has no gradient.

    >>> float(balancing_loss(torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])))
    1.0
    """
    experts = probabilities.shape[-1]
    share = torch.bincount(chosen, minlength=experts) / len(chosen)
    return experts * (share * probabilities.mean(dim=0)).sum()


def matrix(draws: torch.Generator, *shape: int) -> nn.Parameter:
    """Weights from a normal distribution of standard deviation √(0.1 / fan-in), cut at two of them (section 2.4)."""
    deviation = math.sqrt(INIT_SCALE / shape[-2])
    drawn = nn.init.trunc_normal_(torch.empty(shape), 0, deviation, -2 * deviation, 2 * deviation, generator=draws)
    return nn.Parameter(drawn)
