"""Switch Transformer: a language model whose second block sends each word to one expert of eight.

Two Transformer blocks read up to 32 words and say the next one. In the Switch layer each token goes to one expert,
and past an expert's capacity it goes to none. All 1,024 tokens of a batch are one group: capacity is counted over it.

Source: Fedus, Zoph & Shazeer, arXiv 2101.03961 (2021), JMLR 23(120) (2022), section 2. Its models are T5s of 0.2 to
1,600 billion parameters, trained on C4; ours has half a million, and the sizes and the learning rate are our own.

T tokens of a group, D width of a token, H hidden units, E experts; S sequences of a batch, W words of a sequence.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from moeviz.errors import MoevizError
from moeviz.history.shared.experts import balancing_loss, queued
from moeviz.history.shared.results import Watch, unwatched
from moeviz.history.switch_2021.record import SEQUENCES, WORDS, Switch, corpus, measured

INIT_SCALE = 0.1  # section 2.4; a usual Transformer has 1.0
JITTER = 0.01  # the router's input is multiplied by 1 ± at most this, drawn anew each time, only in training


class Routed(NamedTuple):
    """Outcome of routing the tokens of one group."""

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
        queues = queued(tokens, chosen, self.experts, room)
        answers = (queues.tokens @ self.into).relu() @ self.out_of
        output = torch.zeros_like(tokens)
        output[queues.kept] = answers.flatten(0, 1)[queues.slots] * gate[queues.kept, None]
        return Routed(output, logits, probabilities, chosen, ~queues.kept)


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
    return math.ceil(tokens / experts * factor - 1e-9)  # 100 / 7 · 1.05 is a little above 15 in floating point


def matrix(draws: torch.Generator, *shape: int) -> nn.Parameter:
    """Weights from a normal distribution of standard deviation √(0.1 / fan-in), cut at two of them (section 2.4)."""
    deviation = math.sqrt(INIT_SCALE / shape[-2])
    drawn = nn.init.trunc_normal_(torch.empty(shape), 0, deviation, -2 * deviation, 2 * deviation, generator=draws)
    return nn.Parameter(drawn)


WIDTH, HIDDEN, HEADS = 64, 128, 4
EXPERTS, MOST_EXPERTS = 8, 64
STEPS, LEARNING_RATE, LONGEST_GRADIENT = 600, 2e-3, 1.0
EMBEDDING_DEVIATION = 0.05


class SwitchBlock(nn.Module):
    """One Transformer block: attention to the words before, then a feed-forward layer, dense or Switch."""

    def __init__(self, feed_forward: DenseLayer | SwitchLayer, draws: torch.Generator) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mix, self.mixed = matrix(draws, WIDTH, 3 * WIDTH), matrix(draws, WIDTH, WIDTH)
        self.feed_forward = feed_forward

    def forward(
        self, x: Float[torch.Tensor, "S W D"], jitter: torch.Generator | None
    ) -> tuple[Float[torch.Tensor, "S W D"], Routed | None]:
        """Return the words after this block, and its router's decisions, if it has one."""
        parts = (self.before(x) @ self.mix).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + attended.transpose(1, 2).flatten(2) @ self.mixed
        if isinstance(self.feed_forward, DenseLayer):
            return x + self.feed_forward(self.between(x)), None
        routed = self.feed_forward(self.between(x).flatten(0, 1), jitter)
        return x + routed.output.view_as(x), routed


class SwitchLanguageModel(nn.Module):
    """Predictor of the next word: a dense block, then one with a Switch layer (or a dense one: its twin)."""

    def __init__(self, vocabulary: int, feed_forward: DenseLayer | SwitchLayer, draws: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(EMBEDDING_DEVIATION * torch.randn(vocabulary, WIDTH, generator=draws))
        self.position = nn.Parameter(EMBEDDING_DEVIATION * torch.randn(WORDS, WIDTH, generator=draws))
        below = SwitchBlock(DenseLayer(WIDTH, HIDDEN, draws), draws)
        self.blocks = nn.ModuleList([below, SwitchBlock(feed_forward, draws)])
        self.last = nn.LayerNorm(WIDTH)
        self.head = matrix(draws, WIDTH, vocabulary)

    def forward(
        self, words: Int[torch.Tensor, "S W"], jitter: torch.Generator | None = None
    ) -> tuple[Float[torch.Tensor, "S W vocabulary"], Routed | None]:
        """Logits of the next word, and what the router of the last block did."""
        x, routed = functional.embedding(words, self.embedding) + self.position, None
        for block in self.blocks:
            x, routed = block(x, jitter)
        return self.last(x) @ self.head, routed


def train(
    experts: int = EXPERTS,
    capacity_factor: float = 1.25,
    aux_weight: float = 1e-2,
    steps: int = STEPS,
    seed: int = 0,
    dense: bool = False,
    watch: Watch = unwatched,
) -> Switch:
    """Train a tiny Switch Transformer on English, or with `dense` its twin without a router; try it on held-out words.

    The twin has one expert for all words, sees the same batches, and starts with the same weights outside of that
    layer. `aux_weight` is α. The same arguments give the same result on as many threads of torch. `watch` is called
    before each step. Raises `MoevizError` for arguments that make no Switch Transformer.
    """
    settings = {"experts": experts, "capacity_factor": capacity_factor, "aux_weight": aux_weight}
    settings |= {"steps": steps, "seed": seed, "dense": dense}
    weights = 0 < capacity_factor < math.inf and 0 <= aux_weight < math.inf
    if not (1 <= experts <= MOST_EXPERTS and steps >= 1 and weights):
        got = ", ".join(f"{name} {value}" for name, value in settings.items())
        raise MoevizError(
            f"Got {got}. Choose 1 to {MOST_EXPERTS} experts, at least 1 step, a factor above 0, a weight ≥ 0."
        )
    training, held_out, vocabulary = corpus()
    draws, layer_draws, batches, jitter = (torch.Generator().manual_seed(4 * seed + purpose) for purpose in range(4))
    if dense:
        feed_forward = DenseLayer(WIDTH, HIDDEN, layer_draws)
    else:
        feed_forward = SwitchLayer(WIDTH, HIDDEN, experts, capacity_factor, layer_draws)
    model = SwitchLanguageModel(len(vocabulary), feed_forward, draws)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    dropped, balance = np.zeros((steps, SEQUENCES), np.uint8), np.zeros(steps, np.float32)
    for step in range(steps):
        watch(step / steps, f"step {step}, {dropped[max(step - 1, 0)].mean() / WORDS:.1%} of the words dropped")
        starts = torch.randint(len(training) - WORDS, (SEQUENCES, 1), generator=batches)
        text = training[starts + torch.arange(WORDS + 1)]
        loss, routed = _loss(model, text, jitter)
        if routed is not None:
            uneven = balancing_loss(routed.probabilities, routed.chosen)
            loss = loss + aux_weight * uneven
            dropped[step], balance[step] = routed.dropped.view(SEQUENCES, WORDS).sum(1).numpy(), uneven.item()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
        optimiser.step()
    return measured(model, _loss, held_out, settings, dropped, balance)


def _loss(
    model: SwitchLanguageModel, text: Int[torch.Tensor, "S W1"], jitter: torch.Generator | None = None
) -> tuple[Float[torch.Tensor, ""], Routed | None]:
    """Compute the mean cross-entropy of each word of the sequences given those before it, in nats."""
    guesses, routed = model(text[:, :-1], jitter)
    return functional.cross_entropy(guesses.flatten(0, 1), text[:, 1:].flatten()), routed
