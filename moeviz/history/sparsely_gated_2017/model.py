"""The sparsely-gated mixture of experts, and the language model of 2017 that has one between its two LSTMs.

A word runs through a few of many experts, so that a model may have far more weights than work to do for each word.

Source: Shazeer et al. (arXiv 1701.06538), sections 2, 3.1 and 5.1 and appendices A to C. Ours are the sizes (16
experts of 8,192 weights each, against up to 131,072 of a million in the paper), the text of 100,000 words, against a
billion, and Adam with one step size. Its dropout is left out.

B sequences of T words, N = B · T; D units, E experts, K chosen of them, H hidden units of an expert, V words known;
in a hierarchy G groups, k chosen of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding
from torch.nn.utils import clip_grad_norm_

from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import english
from moeviz.history.shared.experts import queued
from moeviz.history.shared.gates import system_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.history.sparsely_gated_2017.noisy_top_k import (
    GateChoice,
    NoisyTopKRouting,
    balancing_loss,
    noisy_top_k,
    one_level,
    squared_variation,
    two_levels,
)
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, normalised_scores, sort_slots, token_frame

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

    def route(self, x: Float[Tensor, "N D"], draws: torch.Generator | None = None) -> NoisyTopKRouting:
        """Route the words, with noise where there is a generator to draw it. A word's group is chosen first."""
        if not self.groups:
            return one_level(self._choice(x, self.gate, self.spread, draws))
        primary = self._choice(x, self.primary_gate, self.primary_spread, draws)
        return two_levels(primary, self._choice(x, self.gate, self.spread, draws))

    def forward(self, x: Float[Tensor, "N D"], routing: NoisyTopKRouting) -> Float[Tensor, "N D"]:
        """Run every word through its own experts only, and add up what they answer by the word's weights."""
        wanted = x.repeat_interleave(routing.chosen.shape[1], dim=0)
        queues = queued(wanted, routing.chosen.flatten(), len(self.first))
        answers = queues.tokens.bmm(self.first).relu().bmm(self.second)
        own = answers.flatten(0, 1)[queues.slots].view(*routing.chosen.shape, UNITS)
        return (own * routing.weights[:, :, None]).sum(dim=1)

    def _choice(self, x: Tensor, gate: Tensor, spread: Tensor, draws: torch.Generator | None) -> GateChoice:
        shape = (*gate.shape[:-2], len(x), gate.shape[-1])
        return noisy_top_k(x, gate, spread, self.top_k, None if draws is None else torch.randn(shape, generator=draws))


class SparseLanguageModel(nn.Module):
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
    ) -> tuple[Float[Tensor, "N V"], NoisyTopKRouting]:
        """Scores of the word after each, and where each went; with noise where there is a generator to draw it."""
        embedded = embedding(words, self.embedding)
        below = self.below(embedded)[0] + embedded
        flat = below.flatten(0, 1)
        routing = self.mixture.route(flat, draws)
        mixed = (self.mixture(flat, routing).sigmoid() + flat).view_as(below)
        above = self.above(mixed)[0] + mixed
        return torch.addmm(self.bias, above.flatten(0, 1), self.output), routing


def _gate(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))


def _matrix(shape: tuple[int, ...], draws: torch.Generator) -> nn.Parameter:
    """Draw initial weights: uniform in ±1/√D, all layers having D inputs here."""
    return nn.Parameter((2 * torch.rand(shape, generator=draws) - 1) / math.sqrt(UNITS))


def _lstm(draws: torch.Generator) -> nn.LSTM:
    """Make an LSTM that starts from our draws: created without values, since it would use torch's own generator."""
    lstm = nn.LSTM(UNITS, UNITS, batch_first=True, device="meta").to_empty(device="cpu")
    for weights in lstm.parameters():
        weights.data = _matrix(weights.shape, draws).data
    return lstm


SEQUENCES, LENGTH = 32, 32  # of a step, and words of each
STEPS = 400
STEP_SIZE = 4e-3
LARGEST_GRADIENT = 1.0
MOST_EXPERTS = 256
LAST = 20  # steps at the end over which balance is averaged: that of one batch is noisy
MEASURES = ("CV(importance)", "CV(load)", "max / mean load", "max / mean words")


@dataclass(frozen=True, slots=True, eq=False)
class SparselyGated:
    """A trained model's routing of words that it has not seen, and how its balance came about."""

    settings: dict[str, int | float]  # the arguments of `train`
    perplexity: float  # on all held-out words, without noise
    perplexity_by_step: Float32[np.ndarray, " steps"] = field(repr=False)  # on the words of each step, with noise
    balance: Float32[np.ndarray, "steps 4"] = field(repr=False)  # MEASURES on the words of each step, with noise
    words: Int16[np.ndarray, " N"] = field(repr=False)  # held out, sequences of LENGTH in a row: in the vocabulary
    chosen: UInt8[np.ndarray, "N K"] = field(repr=False)  # without noise, highest weight first in each group
    weights: Float32[np.ndarray, "N K"] = field(repr=False)
    logits: Float32[np.ndarray, "N E"] = field(repr=False)  # x · W_g; of a hierarchy each group's own, group by group
    groups: UInt8[np.ndarray, "N k"] = field(repr=False)  # the same of the primary gate; k and G are 0 without groups
    group_weights: Float32[np.ndarray, "N k"] = field(repr=False)
    group_logits: Float32[np.ndarray, "N G"] = field(repr=False)

    def at_end(self) -> dict[str, float]:
        """Return each of MEASURES at the end of training: its mean over the last 20 steps."""
        return dict(zip(MEASURES, self.balance[-LAST:].mean(axis=0).tolist(), strict=True))


def train(
    experts: int = 16,
    top_k: int = 2,
    importance: float = 0.1,
    load: float = 0.1,
    groups: int = 0,
    steps: int = STEPS,
    seed: int = 0,
    watch: Watch = unwatched,
) -> SparselyGated:
    """Train a language model whose gate is kept balanced by two losses with these weights, w_importance and w_load.

    A word goes to `top_k` experts. With `groups`, the experts are divided among them, and a word goes to `top_k`
    groups and in each of them to `top_k` experts. The same arguments, the same result. `watch` is called before each
    step.

    Raises `MoevizError` for numbers that do not go together.
    """
    _check(experts, top_k, groups, steps, (importance, load))
    settings = {"experts": experts, "top_k": top_k, "importance": importance, "load": load, "groups": groups}
    data, draws = english(), torch.Generator().manual_seed(seed)
    model = SparseLanguageModel(len(data.vocabulary), experts, top_k, groups, draws)
    optimizer = torch.optim.Adam(model.parameters(), STEP_SIZE, fused=True)
    losses, balance = [], []
    for step, (words, following) in enumerate(_excerpts(data.training, steps, draws)):
        scores, routing = model(words, draws)
        loss = cross_entropy(scores, following)
        losses.append(loss.item())
        balance.append(_balance(routing))
        watch(
            step / steps, f"step {step}, perplexity {math.exp(losses[-1]):,.0f}, busiest {balance[-1][-1]:.2f} × mean"
        )
        optimizer.zero_grad()
        (loss + balancing_loss(routing, importance, load)).backward()
        clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimizer.step()
    return SparselyGated(
        settings=settings | {"steps": steps, "seed": seed},
        perplexity_by_step=np.exp(np.array(losses, np.float32)),
        balance=np.array(balance, np.float32),
        **_without_noise(model, data.held_out, watch),
    )


def _excerpts(text: np.ndarray, steps: int, draws: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each step, sequences from anywhere in the text, and the word that follows each of their words."""
    words = torch.from_numpy(text)
    for _ in range(steps):
        start = torch.randint(len(words) - LENGTH, (SEQUENCES, 1), generator=draws)
        excerpt = words[start + torch.arange(LENGTH + 1)]
        yield excerpt[:, :-1], excerpt[:, 1:].flatten()


def _balance(routing: NoisyTopKRouting) -> tuple[float, ...]:
    words = torch.bincount(routing.chosen.flatten(), minlength=len(routing.load)).float()
    spread = [math.sqrt(squared_variation(each).item()) for each in (routing.importance, routing.load)]
    return (*spread, *((each.max() / each.mean()).item() for each in (routing.load, words)))


@torch.no_grad()
def _without_noise(model: SparseLanguageModel, text: Int64[np.ndarray, " words"], watch: Watch) -> dict[str, object]:
    """Return the model's predictions of the held-out text, and the routing of its first batch."""
    words = torch.from_numpy(text)
    batches = (len(words) - 1) // (SEQUENCES * LENGTH)
    ends = batches * SEQUENCES * LENGTH
    total, routings = 0.0, []
    for given, following in zip(
        words[:ends].view(batches, SEQUENCES, LENGTH), words[1 : ends + 1].view(batches, -1), strict=True
    ):
        watch(1.0, "held-out words")
        scores, routing = model(given)
        total += cross_entropy(scores, following, reduction="sum").item()
        routings.append(routing)
    seen = SEQUENCES * LENGTH
    return {"perplexity": math.exp(total / ends), "words": text[:seen].astype(np.int16)} | _decisions(routings[0])


def _decisions(routing: NoisyTopKRouting) -> dict[str, np.ndarray]:
    *primary, gate = routing.levels
    clean = gate.clean if not primary else gate.clean.transpose(0, 1).flatten(1)
    nothing = torch.zeros(len(routing.chosen), 0)
    groups = (primary[0].chosen, primary[0].weights, primary[0].clean) if primary else (nothing,) * 3
    tensors = {"chosen": routing.chosen, "weights": routing.weights, "logits": clean}
    tensors |= dict(zip(("groups", "group_weights", "group_logits"), groups, strict=True))
    kinds = {"chosen": np.uint8, "groups": np.uint8}
    return {name: tensor.numpy().astype(kinds.get(name, np.float32)) for name, tensor in tensors.items()}


def _check(experts: int, top_k: int, groups: int, steps: int, weights: tuple[float, float]) -> None:
    if not 1 <= experts <= MOST_EXPERTS or groups < 0 or (groups and experts % groups):
        raise MoevizError(
            f"Got {experts} experts in {groups} groups. Choose 1 to {MOST_EXPERTS} experts, and groups of equal size."
        )
    most = min(groups, experts // groups) if groups else experts
    if not 1 <= top_k <= most:
        raise MoevizError(f"Got top-{top_k} of {experts} experts in {groups} groups. Choose top-1 to top-{most}.")
    if min(weights) < 0 or steps < 1:
        raise MoevizError(
            f"Got the loss weights {weights} and {steps} steps. Weights must be at least 0, and at least 1 step is "
            "needed."
        )


# The result as a trace.

LEVELS = (1, 2)  # primary gate, gates of the groups


def trace_of(result: SparselyGated) -> RoutingTrace:
    """Return the routing of words that a sparsely-gated mixture has not seen, without noise, as a trace.

    A token is a word of the held-out text, 32 in a sequence; `token_id` is its index in the vocabulary. Weights are
    those of the top k and sum to 1; logits are what the gate says without noise, x · W_g.

    A hierarchy has two layers, its levels. The experts of the first are the G groups. Those of the second are all E,
    expert j of group i under the id i · E / G + j; their weights are those of both gates multiplied, and so are their
    probabilities: the logits there are log softmax(group) + log softmax(expert in its group). A word's experts are the
    best of each of its groups, and need not be the best of all.

    Source: Shazeer et al. (arXiv 1701.06538), section 2.1 and appendix B.
    """
    words, (count, experts) = english().vocabulary, result.logits.shape
    number = np.arange(count)
    hierarchy = result.group_logits.shape[1] > 0
    chosen, weights, logits = _levels(result) if hierarchy else _one(result)
    groups = result.group_logits.shape[1]
    what = f"{groups} groups of {experts // groups} experts" if hierarchy else f"{experts} experts"
    tokens = token_frame(number // LENGTH, number % LENGTH, [words[word] for word in result.words], result.words)
    levels = {"layers": LEVELS, "num_experts": (groups, experts), "layer_kind": "level"} if hierarchy else {}
    return system_trace(
        f"sparsely-gated mixture of {what}, seed {result.settings['seed']}",
        tokens,
        (chosen, weights),
        logits,
        score_function="softmax",
        item_kind="word",
        **levels,
    )


def _one(result: SparselyGated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return result.chosen[None].astype(np.int16), result.weights[None], result.logits[None]


def _levels(
    result: SparselyGated,
) -> tuple[Int16[np.ndarray, "2 T K"], Float32[np.ndarray, "2 T K"], Float32[np.ndarray, "2 T E"]]:
    """Put both levels into arrays of one width: a word has fewer groups than experts."""
    (count, slots), (_, experts), (_, groups) = result.chosen.shape, result.logits.shape, result.group_logits.shape
    chosen, weights = np.full((2, count, slots), NO_EXPERT, np.int16), np.zeros((2, count, slots), np.float32)
    chosen[0, :, : result.groups.shape[1]], weights[0, :, : result.groups.shape[1]] = (
        result.groups,
        result.group_weights,
    )
    chosen[1], weights[1] = result.chosen, result.weights
    logits = np.full((2, count, experts), -np.inf, np.float32)
    logits[0, :, :groups] = result.group_logits
    within = np.log(normalised_scores(result.logits.reshape(count, groups, -1), "softmax"))
    logits[1] = (np.log(normalised_scores(result.group_logits, "softmax"))[:, :, None] + within).reshape(count, experts)
    return *sort_slots(chosen, weights), logits
