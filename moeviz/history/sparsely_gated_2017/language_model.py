"""The sparsely-gated mixture of experts, and the language model of 2017 that has one between its two LSTMs.

A word runs through a few of many experts, so that a model may have far more weights than work to do for each word.

Source: Shazeer et al. (arXiv 1701.06538), sections 2 and 3.1 and appendix C. Ours are the sizes: 16 experts of 8,192
weights each where the paper has up to 131,072 of a million. Its dropout is left out.

B sequences of T words, N = B · T; D units, E experts, K chosen of them, H hidden units of an expert, V words known.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding

from moeviz.history.sparsely_gated_2017.noisy_top_k import Choice, Routing, noisy_top_k, one_level, two_levels

UNITS = HIDDEN = 64  # D and H; 512 and 1,024 in the paper


class SparseMixture(nn.Module):
    """E experts, of which each word runs through a few: equation 1, y = Σᵢ G(x)ᵢ Eᵢ(x); with groups equation 12.

    An expert is two matrices with a ReLU between them. All gates start at 0 (appendix A): only noise decides then, and
    the experts are equally busy.
    """

    def __init__(self, experts: int, top_k: int, groups: int, draws: torch.Generator) -> None:
        super().__init__()
        self.top_k, self.groups = top_k, groups
        shape = (groups, UNITS, experts // groups) if groups else (UNITS, experts)
        self.gate, self.spread = _gate(shape)
        if groups:
            self.primary_gate, self.primary_spread = _gate((UNITS, groups))
        self.first = _matrix((experts, UNITS, HIDDEN), draws)
        self.second = _matrix((experts, HIDDEN, UNITS), draws)

    def route(self, x: Float[Tensor, "N D"], draws: torch.Generator | None = None) -> Routing:
        """Where the words go, with noise where there is a generator to draw it. A word's group is chosen first."""
        if not self.groups:
            return one_level(self._choice(x, self.gate, self.spread, draws))
        primary = self._choice(x, self.primary_gate, self.primary_spread, draws)
        return two_levels(primary, self._choice(x, self.gate, self.spread, draws))

    def forward(self, x: Float[Tensor, "N D"], routing: Routing) -> Float[Tensor, "N D"]:
        """Run every word through its own experts alone, and add up what they answer by the words' weights.

        An expert's words are packed into a block with room for the most that any expert has, so that all experts can
        work at once.
        """
        words, slots = routing.chosen.shape
        place, room = _places(routing.chosen.flatten(), len(self.first))
        wanted = x[:, None].expand(words, slots, UNITS).flatten(0, 1)
        packed = x.new_zeros(len(self.first) * room, UNITS).index_copy(0, place, wanted)
        answers = packed.view(-1, room, UNITS).bmm(self.first).relu().bmm(self.second)
        own = answers.flatten(0, 1).index_select(0, place).view(words, slots, UNITS)
        return (own * routing.weights[:, :, None]).sum(dim=1)

    def _choice(self, x: Tensor, gate: Tensor, spread: Tensor, draws: torch.Generator | None) -> Choice:
        shape = (*gate.shape[:-2], len(x), gate.shape[-1])
        return noisy_top_k(x, gate, spread, self.top_k, None if draws is None else torch.randn(shape, generator=draws))


class LanguageModel(nn.Module):
    """Guess each next word. Appendix C.1: embedding, LSTM, mixture, sigmoid, LSTM, softmax; what goes into a layer is
    added to what comes out."""

    def __init__(self, vocabulary: int, experts: int, top_k: int, groups: int, draws: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(vocabulary, UNITS, generator=draws))
        self.below, self.above = _lstm(draws), _lstm(draws)
        self.mixture = SparseMixture(experts, top_k, groups, draws)
        self.output, self.bias = _matrix((UNITS, vocabulary), draws), nn.Parameter(torch.zeros(vocabulary))

    def forward(
        self, words: Int64[Tensor, "B T"], draws: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "N V"], Routing]:
        """Scores of the word after each, and where each went; with noise where there is a generator to draw it."""
        embedded = embedding(words, self.embedding)
        below = self.below(embedded)[0] + embedded
        flat = below.flatten(0, 1)
        routing = self.mixture.route(flat, draws)
        mixed = (self.mixture(flat, routing).sigmoid() + flat).view_as(below)
        above = self.above(mixed)[0] + mixed
        return torch.addmm(self.bias, above.flatten(0, 1), self.output), routing


def _places(expert: Int64[Tensor, " assignments"], experts: int) -> tuple[Int64[Tensor, " assignments"], int]:
    """A row for each assignment, so that those of an expert lie together; and how many rows each expert has."""
    counts = torch.bincount(expert, minlength=experts)
    room, order = int(counts.max()), expert.argsort(stable=True)
    nth = torch.empty_like(expert)
    nth[order] = torch.arange(len(expert)) - (counts.cumsum(0) - counts)[expert[order]]
    return expert * room + nth, room


def _gate(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    """W_g and W_noise."""
    return nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))


def _matrix(shape: tuple[int, ...], draws: torch.Generator) -> nn.Parameter:
    """Weights to start from: uniform in ±1/√D, all layers having D inputs here."""
    return nn.Parameter((2 * torch.rand(shape, generator=draws) - 1) / math.sqrt(UNITS))


def _lstm(draws: torch.Generator) -> nn.LSTM:
    """An LSTM that starts from our draws: made without values, since it would draw them from torch's own generator."""
    lstm = nn.LSTM(UNITS, UNITS, batch_first=True, device="meta").to_empty(device="cpu")
    for weights in lstm.parameters():
        weights.data = _matrix(weights.shape, draws).data
    return lstm
