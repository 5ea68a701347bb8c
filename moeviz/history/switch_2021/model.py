"""Switch Transformer: a language model whose second block sends each word to one expert of eight.

Two Transformer blocks read up to 32 words and say the next one. In the Switch layer each token goes to one expert,
and past an expert's capacity it goes to none. All 1,024 tokens of a batch are one group: capacity is counted over it.

Source: Fedus, Zoph & Shazeer, arXiv 2101.03961 (2021), JMLR 23(120) (2022), section 2. Its models are T5s of 0.2 to
1,600 billion parameters, trained on C4; ours has half a million, and the sizes and the learning rate are our own.

T tokens of a group, D width of a token, H hidden units, E experts; S sequences of a batch, W words of a sequence;
N = S · W held-out words.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16, UInt8
from torch import nn
from torch.nn import functional

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.shared.datasets import UNKNOWN, english
from moeviz.history.shared.experts import balancing_loss, queued
from moeviz.history.shared.gates import system_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, token_frame

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
        """Compute a Transformer's feed-forward block: max(0, x W) V."""
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


SEQUENCES, WORDS = 32, 32
STRETCH, HELD_OUT_EVERY = SEQUENCES * WORDS + 1, 12  # a stretch of text is a batch, and the word after it
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


@dataclass(frozen=True, slots=True, eq=False)
class Switch:
    """A trained Switch Transformer, or its dense twin, and how it got there."""

    settings: dict[str, int | float | bool]  # experts, capacity_factor, aux_weight, steps, seed, dense
    dropped_by_step: UInt8[np.ndarray, "steps S"] = field(repr=False)  # words of each sequence, in the batch's order
    balance_by_step: Float32[np.ndarray, " steps"] = field(repr=False)  # N Σ fᵢ Pᵢ: 1 is uniform
    words: Int16[np.ndarray, " N"] = field(repr=False)  # held out, one sequence of W after another: in the vocabulary
    logits: Float32[np.ndarray, "N E"] = field(repr=False)  # E is 0 in the dense twin
    chosen: Int16[np.ndarray, " N"] = field(repr=False)  # what the router wanted, dropped or not; -1 in the dense twin
    gate: Float32[np.ndarray, " N"] = field(repr=False)  # pᵢ(x) of the expert chosen; 1 in the dense twin
    dropped: Bool[np.ndarray, " N"] = field(repr=False)  # these N words are one group
    perplexity: float  # on all held-out words, those that are dropped too
    held_out_dropped: float  # share of all held-out words
    parameters: int

    def drop_rate(self, steps: slice) -> float:
        """Return the share of words that were dropped in these steps of the training."""
        return float(self.dropped_by_step[steps].mean() / WORDS)


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
    return measured(model, held_out, settings, dropped, balance)


def _loss(
    model: SwitchLanguageModel, text: Int[torch.Tensor, "S W1"], jitter: torch.Generator | None = None
) -> tuple[Float[torch.Tensor, ""], Routed | None]:
    """Compute the mean cross-entropy of each word of the sequences given those before it, in nats."""
    guesses, routed = model(text[:, :-1], jitter)
    return functional.cross_entropy(guesses.flatten(0, 1), text[:, 1:].flatten()), routed


@torch.no_grad()
def measured(
    model: SwitchLanguageModel,
    held_out: Int[torch.Tensor, " words"],
    settings: dict[str, int | float | bool],
    dropped: UInt8[np.ndarray, "steps S"],
    balance: Float32[np.ndarray, " steps"],
) -> Switch:
    """Try a model on all the batches that the held-out words make; the first one is kept, word by word."""
    group = SEQUENCES * WORDS
    starts = torch.arange(0, len(held_out) - group, STRETCH)
    inside = torch.arange(SEQUENCES)[:, None] * WORDS + torch.arange(WORDS + 1)
    tried = [_loss(model, held_out[start + inside]) for start in starts]
    first = tried[0][1]
    if first is None:
        logits, chosen, gate = torch.zeros(group, 0), torch.full((group,), -1), torch.ones(group)
        left_out = torch.zeros(len(tried), group, dtype=torch.bool)
    else:
        logits, chosen, gate = first.logits, first.chosen, first.probabilities.max(dim=-1).values
        left_out = torch.stack([routed.dropped for _, routed in tried])
    return Switch(
        settings=settings,
        dropped_by_step=dropped,
        balance_by_step=balance,
        words=held_out[:group].numpy().astype(np.int16),
        logits=logits.numpy(),
        chosen=chosen.numpy().astype(np.int16),
        gate=gate.numpy(),
        dropped=left_out[0].numpy(),
        perplexity=math.exp(sum(loss.item() for loss, _ in tried) / len(tried)),
        held_out_dropped=float(left_out.float().mean()),
        parameters=sum(weights.numel() for weights in model.parameters()),
    )


def corpus() -> tuple[Int[torch.Tensor, " training"], Int[torch.Tensor, " held_out"], tuple[str, ...]]:
    """English to train on, every twelfth stretch of it held out, and its vocabulary.

    The held-out stretches are of the same topics as the rest, as are those of the paper's C4.
    """
    text = english()
    words = np.concatenate([text.training, text.held_out])
    kept_back = np.arange(len(words)) // STRETCH % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
    return torch.from_numpy(words[~kept_back]), torch.from_numpy(words[kept_back]), text.vocabulary


# The result as a trace.


def trace_of(result: Switch) -> RoutingTrace:
    """The expert to which the second block of a tiny Switch Transformer sent each of 1,024 held-out words, as a trace.

    A token is a word, `text`, in sequences of 32; `label` says whether it is a word, a number, a sign or too rare for
    the vocabulary. One layer, one slot, and the weight is the router's probability for that expert, so it does not sum
    to 1. A word that was dropped has NO_EXPERT, and its logits, which say where it wanted to go: all words of the trace
    are one group, over which capacity is counted.

    Raises `InvalidTrace` for the dense twin, which has no router.

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.
    """
    settings, words, experts = result.settings, *result.logits.shape
    if settings["dense"]:
        raise InvalidTrace("Got the dense twin, which has no router to record. Train a Switch Transformer instead.")
    vocabulary = english().vocabulary
    texts = [vocabulary[word] for word in result.words]
    place = np.arange(words)
    tokens = token_frame(place // WORDS, place % WORDS, texts, token_id=result.words)
    served = np.where(result.dropped, NO_EXPERT, result.chosen).astype(np.int16)
    weights = np.where(result.dropped, 0, result.gate).astype(np.float32)
    return system_trace(
        f"tiny Switch Transformer of {experts} experts, seed {settings['seed']}",
        tokens.assign(label=pd.Series([_kind(text) for text in texts], dtype="str")),
        (served[None, :, None], weights[None, :, None]),
        result.logits[None],
        layers=(1,),
        score_function="softmax",
        num_layers=2,
        dtype="float32",
        item_kind="word",
        label_kind="kind of word",
        caution=(
            f"{result.dropped.sum()} of {words} words were dropped: the capacity factor is "
            f"{settings['capacity_factor']:g}, and capacity is counted over all of them."
        ),
    )


def _kind(text: str) -> str:
    if text == UNKNOWN:
        return "rare"
    return "number" if text.isdigit() else "word" if text.replace("_", "a").isalpha() else "sign"
