"""A small Mixtral and two dense networks, trained: one that is as fast, and one that is as large.

"A sparse MoE uses less compute and the same amount of memory compared to a dense model of the same size": so it is
compared with the dense network of its compute, whose one block is as wide as the chosen experts together, and with the
network of its memory, where all experts are on, which is one dense block too. All three are tiny decoders as Mixtral
is, trained on the same batches of English.

Source: Jiang et al., Mixtral of Experts (arXiv 2401.04088), section 2.1. Sizes, text and training are ours; the loss
that keeps experts balanced is that of Switch Transformers (arXiv 2101.03961), equations 4 to 6.

L layers, T held-out words, E experts, K chosen of them; N sequences of P words in a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int16, Int64
from torch import Tensor

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.history.dense_contrast.decoder import Cost, Decoder, Sizes, at_random, cost
from moeviz.history.shared.datasets import english
from moeviz.history.shared.experts import TopKChoice, balancing_loss
from moeviz.history.shared.gates import system_trace
from moeviz.history.shared.results import Watch, unwatched
from moeviz.model_info import ParameterCounts
from moeviz.routing_trace import RoutingTrace, token_frame

WIDTH, HIDDEN, LAYERS, HEADS, KEY_HEADS = 64, 128, 2, 4, 2
SEQUENCES, WORDS = 16, 48  # N and P
STEPS = 400
RECORD_EVERY = 50
LEARNING_RATE = 3e-3
BALANCE = 0.01  # α: the weight of the balancing loss
LONGEST_GRADIENT = 1.0
TRACED = 16  # held-out sequences whose routing is kept
MOST_EXPERTS = 64
KINDS: dict[str, Callable[[Sizes], Sizes]] = {
    "sparse": lambda sizes: sizes,
    "as fast": Sizes.as_fast,
    "as large": Sizes.as_large,
}


@dataclass(frozen=True, slots=True, eq=False)
class DecoderRun:
    """A trained decoder of one kind: what it costs, how it got better, and how it routed."""

    settings: dict[str, int | str]  # experts, top_k, kind, steps, seed
    parts: dict[str, int]  # parameters by what they do
    active: int  # parameters that work on one word
    recorded: tuple[int, ...]  # R steps, 0 (before training) first, the last one last
    perplexity: Float64[np.ndarray, " R"]  # on all held-out words
    words: Int16[np.ndarray, " T"] = field(repr=False)  # held out, one sequence of P after another: in the vocabulary
    logits: Float32[np.ndarray, "L T E"] = field(repr=False)  # E and K are 0 without a router
    experts: Int16[np.ndarray, "L T K"] = field(repr=False)  # highest weight first
    weights: Float32[np.ndarray, "L T K"] = field(repr=False)

    @property
    def cost(self) -> Cost:
        """Memory and compute."""
        return Cost(self.parts, self.active)


def train(
    experts: int = 8, top_k: int = 2, kind: str = "sparse", steps: int = STEPS, seed: int = 0, watch: Watch = unwatched
) -> DecoderRun:
    """Train a mixture, or one of its dense twins, on English, and try it on words that it has not seen.

    `kind` is one of KINDS: "sparse" is the mixture; "as fast" has one dense block of `top_k` experts' width a layer;
    "as large" has all experts on for every word. With one seed, all kinds see the same batches. The same arguments,
    the same result. `watch` is called before each step.

    Raises `MoevizError` for a kind that is not in KINDS, or arguments that make no mixture.
    """
    sizes = sizes_of(experts, top_k, kind)
    if steps < 1:
        raise MoevizError(f"Got {steps} steps; training needs at least 1.")
    training, held_out = corpus()
    weights, batches = (torch.Generator().manual_seed(2 * seed + purpose) for purpose in range(2))
    decoder = at_random(sizes, weights)
    optimiser = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE)
    curve = {0: perplexity(decoder, held_out)}
    for step in range(steps):
        watch(step / steps, f"step {step}, perplexity {curve[max(curve)]:.0f} on held-out words")
        _learn(decoder, optimiser, _batch(training, batches))
        if (step + 1) % RECORD_EVERY == 0 or step + 1 == steps:
            curve[step + 1] = perplexity(decoder, held_out)
    settings = {"experts": experts, "top_k": top_k, "kind": kind, "steps": steps, "seed": seed}
    return _run(settings, sizes, decoder, curve, held_out)


def sizes_of(experts: int = 8, top_k: int = 2, kind: str = "sparse") -> Sizes:
    """Return the sizes of the decoder that is trained; with the defaults, a Mixtral in small. Raises `MoevizError`."""
    if kind not in KINDS:
        raise MoevizError(f"Got the kind {kind!r}. Choose one of {', '.join(KINDS)}.")
    if not (2 <= experts <= MOST_EXPERTS and 1 <= top_k <= experts):
        raise MoevizError(
            f"Got {experts} experts, {top_k} of them per word. Choose 2 to {MOST_EXPERTS} experts, and from 1 to all "
            "of them per word."
        )
    sizes = Sizes(len(english().vocabulary), WIDTH, HIDDEN, LAYERS, HEADS, KEY_HEADS, experts, top_k)
    return KINDS[kind](sizes)


def corpus() -> tuple[Int64[Tensor, " training"], Int64[Tensor, " held_out"]]:
    """English to train on and held out, in numbers of its vocabulary."""
    text = english()
    return torch.from_numpy(text.training), torch.from_numpy(text.held_out)


@torch.no_grad()
def perplexity(decoder: Decoder, text: Int64[Tensor, " words"]) -> float:
    """e to the mean loss, in nats, of each word given those before it in its sequence: V where all words are alike."""
    return float(_loss(decoder, *_sequences(text))[0].exp())


def _loss(
    decoder: Decoder, words: Int64[Tensor, "N P"], following: Int64[Tensor, "N P"]
) -> tuple[Float[Tensor, ""], list[TopKChoice]]:
    logits, choices = decoder(words)
    return F.cross_entropy(logits.flatten(0, 1), following.flatten()), choices


def _learn(decoder: Decoder, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    loss, choices = _loss(decoder, *batch)
    loss = loss + BALANCE * sum(balancing_loss(choice.logits.softmax(-1), choice.experts) for choice in choices)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), LONGEST_GRADIENT)
    optimiser.step()


def _batch(text: Int64[Tensor, " words"], batches: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - WORDS, (SEQUENCES, 1), generator=batches)
    words = text[starts + torch.arange(WORDS + 1)]
    return words[:, :-1], words[:, 1:]


def _sequences(text: Int64[Tensor, " words"]) -> tuple[Tensor, Tensor]:
    """Cut the text into sequences of P words, and return the word that follows each."""
    whole = (len(text) - 1) // WORDS * WORDS
    return text[:whole].view(-1, WORDS), text[1 : whole + 1].view(-1, WORDS)


@torch.no_grad()
def _run(
    settings: dict[str, int | str],
    sizes: Sizes,
    decoder: Decoder,
    curve: dict[int, float],
    held_out: Int64[Tensor, " words"],
) -> DecoderRun:
    words = _sequences(held_out)[0][:TRACED]
    choices = decoder(words)[1] or [TopKChoice(*(torch.zeros(words.numel(), 0) for _ in TopKChoice._fields))] * LAYERS
    logits, experts, weights = (torch.stack(part).numpy() for part in zip(*choices, strict=True))
    counted = cost(sizes)
    return DecoderRun(
        settings=settings,
        parts=counted.parts,
        active=counted.active,
        recorded=tuple(curve),
        perplexity=np.array(list(curve.values())),
        words=words.flatten().numpy().astype(np.int16),
        logits=logits,
        experts=experts.astype(np.int16),
        weights=weights,
    )


# The result as a trace.


def trace_of(result: DecoderRun) -> RoutingTrace:
    """Return the experts to which the two layers of a tiny Mixtral sent each of 768 held-out words, as a trace.

    A token is a word, `text`, in sequences of 48. Weights are a softmax over only the logits of the chosen experts, so
    they sum to 1; with all experts on there are as many slots as experts, and every load is the same. The model's
    parameters are counted.

    Raises `InvalidTrace` for the dense network that is as fast, which has no router.

    Source: Jiang et al. (arXiv 2401.04088), section 2.1.
    """
    layers, words, experts = result.logits.shape
    if not experts:
        raise InvalidTrace(
            'Got the dense network that is as fast: it has no router to record. Train one of the kinds "sparse" or '
            '"as large".'
        )
    vocabulary = english().vocabulary
    place = np.arange(words)
    name = "tiny Mixtral" if result.settings["kind"] == "sparse" else "tiny Mixtral with all experts on"
    per_expert = (result.parts["routed_experts"] // (layers * experts),) * layers
    facts = {"num_layers": layers, "dtype": "float32", "item_kind": "word", "score_function": "softmax"}
    return system_trace(
        f"{name}, seed {result.settings['seed']}",
        token_frame(place // WORDS, place % WORDS, [vocabulary[word] for word in result.words], result.words),
        (result.experts, result.weights),
        result.logits,
        parameters=ParameterCounts(**result.parts, shared_experts=0, per_expert=per_expert),
        **facts,
    )
