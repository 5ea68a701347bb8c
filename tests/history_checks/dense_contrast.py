"""Does a mixture need less compute and the same memory as a dense network of its size?"""

import cmath
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from history_checks.claims import IDENTITY, NOT_PRINTED, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by, slopes
from history_checks.negative_controls import Control, swapped
from moeviz.capture.models.load import model_facts
from moeviz.history.dense_contrast import decoder, model
from moeviz.history.dense_contrast.decoder import (
    MIXTRAL_8X7B,
    Attention,
    Decoder,
    MixtureBlock,
    Sizes,
    SwiGLUExperts,
    as_one_block,
    cost,
)
from moeviz.history.dense_contrast.model import KINDS, sizes_of, trace_of, train
from moeviz.history.shared.datasets import Words, english
from moeviz.history.shared.experts import TopKChoice, balancing_loss
from moeviz.metrics.load import expert_load
from moeviz.model_info import ModelInfo
from moeviz.parameters import active_parameters

MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"  # a configuration that moeviz knows
PRINTED = (47e9, 13e9)  # all and active parameters as arXiv 2401.04088 prints them, section 2.1
RATIO = 0.276  # of the exact counts of the model that is published
SAME_SUM = 1e-6
QUICK_STEPS, WORDS = 5, 200
LEARNT = 80


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about costs, which are exact; unless quick, also about learning, which takes a minute or two."""
    found = [*exact(quick, seed), *_small_counts(), *_compute(), _flat(seed), *used(quick, seed)]
    return found if quick else [*found, *learnt(quick, seed)]


def exact(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims that need no training: sums, and counts against another implementation and the paper."""
    return [_one_block(), *_mixtral()]


def used(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The router sends words to different experts."""
    run = train(steps=QUICK_STEPS, seed=seeds(seed, 1)[0])
    fewest = min(len(torch.from_numpy(chosen).unique()) for chosen in run.experts)
    what = f"experts of 8 that held-out words use, fewest of any layer, after {QUICK_STEPS} steps"
    return [Claim(what, fewest, NOT_PRINTED, "at least 4", fewest >= 4)]


def learnt(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claim that all three kinds learn the text; which of them does it best depends on the seed.

    That routing makes a better model is not claimed: with a router that says the same for every word, which is a dense
    block as fast, the mixture guesses as well at this size (its perplexity is 1.025 times as high with seed 0).
    """
    worst = max(float(train(kind=kind, seed=seeds(seed, 1)[0]).perplexity[-1]) for kind in KINDS)
    what = "perplexity on held-out words, highest of the three kinds"
    return [Claim(what, worst, NOT_PRINTED, f"below {LEARNT}", worst < LEARNT, "guessing at random gets 2,000")]


def _one_block() -> Claim:
    """Claim that with all experts on a mixture is one dense block."""
    mixture, x = _at_work("as large")
    output, _ = mixture(x)
    off = float((output - as_one_block(mixture, x)).abs().max())
    what = "largest difference of the output with all experts on from that of one dense block"
    return Claim(what, off, 0.0, f"below {SAME_SUM}", off < SAME_SUM, f"outputs reach {output.abs().max():.1f}")


def _small_counts() -> list[Claim]:
    """The small mixture and its twins."""
    sparse, fast, large = (cost(sizes_of(kind=kind)) for kind in KINDS)
    router = sparse.parts["routers"]
    return [
        _equal("active parameters with all experts on, as a share of all", large.active / large.total, 1),
        _equal("parameters with all experts on, as a multiple of the mixture's", large.total / sparse.total, 1),
        _equal("active parameters of the mixture, except for its routers", sparse.active - router, fast.active),
    ]


def _mixtral() -> list[Claim]:
    """Claims about these modules with the sizes of Mixtral 8x7B, against the model of transformers and the paper."""
    ours, info = cost(MIXTRAL_8X7B), model_facts(MIXTRAL)
    theirs = (info.parameters.total, active_parameters(info.parameters, info.top_k))
    rows = [
        Claim(
            f"{which} parameters of these modules with the sizes of Mixtral 8x7B",
            float(mine),
            printed,
            f"exactly those of its configuration, {exact:,}",
            mine == exact and round(exact / 1e9) * 1e9 == printed,
        )
        for which, mine, exact, printed in zip(
            ("all", "active"), (ours.total, ours.active), theirs, PRINTED, strict=True
        )
    ]
    ratio = theirs[1] / theirs[0]
    what = "active share of all parameters of Mixtral 8x7B"
    return [*rows, Claim(what, ratio, PRINTED[1] / PRINTED[0], f"{RATIO} to three digits", round(ratio, 3) == RATIO)]


def _compute() -> list[Claim]:
    """Multiply-adds that one layer's experts really do, counted while they do them."""
    done = {}
    for kind in KINDS:
        mixture, x = _at_work(kind)
        with FlopCounterMode(display=False) as counter:
            mixture(x)
        router = 0 if mixture.router is None else len(x) * mixture.router.numel()
        done[kind] = counter.get_total_flops() // 2 - router
    return [
        _equal("multiply-adds of the experts as large, of the mixture's", done["as large"] / done["sparse"], 8 / 2),
        _equal("multiply-adds of the block as fast, of the mixture's experts'", done["as fast"] / done["sparse"], 1),
    ]


def _flat(seed: int) -> Claim:
    """Claim that with all experts on all carry the same load."""
    load = expert_load(trace_of(train(kind="as large", steps=QUICK_STEPS, seed=seeds(seed, 1)[0])))["times_uniform"]
    return _equal("load of the busiest expert with all experts on, as a multiple of the uniform load", load.max(), 1)


def _at_work(kind: str) -> tuple[MixtureBlock, torch.Tensor]:
    """The experts of one layer, with outputs of about 1, and words for them; in 64 bits."""
    draws, sizes = torch.Generator().manual_seed(0), sizes_of(kind=kind)
    mixture = MixtureBlock(sizes).double().requires_grad_(False)
    for matrix in mixture.parameters():
        matrix.normal_(0, matrix.shape[-1] ** -0.5, generator=draws)
    return mixture, torch.randn(WORDS, sizes.width, generator=draws, dtype=torch.float64)


def _equal(what: str, ours: float | int, wanted: float | int) -> Claim:
    return Claim(what, float(ours), NOT_PRINTED, f"exactly {wanted:,g}", bool(ours == wanted), kind=IDENTITY)


def _half(mixture: MixtureBlock, x: torch.Tensor, right: Callable = as_one_block) -> torch.Tensor:
    """The dense block without the weights of its experts."""
    return right(mixture, x) / 2


def _embedded(name: str, right: Callable = model_facts) -> ModelInfo:
    return right("embedded")


def _same_for_all(self: MixtureBlock, x: torch.Tensor) -> TopKChoice:
    """Every word goes to the first experts, which count alike."""
    experts = torch.arange(self.top_k).expand(len(x), -1)
    weights = torch.full((len(x), self.top_k), 1 / self.top_k, dtype=x.dtype)
    return TopKChoice(x @ self.router.T * 0, experts, weights)


HERE = sys.modules[__name__]
CONTROLS = (
    Control("weights are not those of the experts", (HERE, "as_one_block", _half), ("one dense block",), exact),
    Control(
        "an expert fewer",
        (HERE, "MIXTRAL_8X7B", replace(MIXTRAL_8X7B, experts=7)),
        ("parameters of these modules",),
        exact,
    ),
    Control("the configuration of another model", (HERE, "model_facts", _embedded), ("active share",), exact),
    Control("the router says the same for every word", (MixtureBlock, "choose", _same_for_all), ("words use",), used),
    Control("nothing is learnt", (model, "LEARNING_RATE", 0.0), ("three kinds",), learnt),
)


# The mechanisms, each against something plainer.

SMALL = Sizes(vocabulary=30, width=16, hidden=6, layers=2, heads=4, key_heads=2, experts=5, top_k=2)


def _small(seed: int, sizes: Sizes = SMALL) -> tuple[Decoder, torch.Generator]:
    """A decoder in 64 bits whose answers are of about the size of 1."""
    draws = torch.Generator().manual_seed(seed)
    network = decoder.at_random(sizes, draws).double()
    for number in network.parameters():
        number.data.normal_(number.ndim == 1, number.shape[-1] ** -0.5 if number.ndim > 1 else 0.2, generator=draws)
    return network, draws


def _swiglu(experts: SwiGLUExperts, expert: int, word: torch.Tensor) -> torch.Tensor:
    gate = experts.gate[expert] @ word
    return experts.down[expert] @ (gate / (1 + torch.exp(-gate)) * (experts.up[expert] @ word))


def _mixed(mixture: MixtureBlock, words: torch.Tensor) -> torch.Tensor:
    """One word after the other: the experts with the highest logits, weighed by a softmax over these alone."""
    if mixture.router is None:
        return torch.stack([_swiglu(mixture.experts, 0, word) for word in words])
    rows = []
    for word in words:
        logits = mixture.router @ word
        best = sorted(range(len(logits)), key=logits.tolist().__getitem__, reverse=True)[: mixture.top_k]
        powers = [logits[e].exp() for e in best]
        rows.append(
            sum(power / sum(powers) * _swiglu(mixture.experts, e, word) for power, e in zip(powers, best, strict=True))
        )
    return torch.stack(rows)


def _layer_off(seed: int) -> float:
    """The experts of a layer, what their router says, and its slope by differences."""
    network, draws = _small(seed)
    mixture, words = network.layers[0].mixture, torch.randn(7, 16, generator=draws, dtype=torch.float64)
    y, choice = mixture(words)
    slope = torch.randn(7, 16, generator=draws, dtype=torch.float64)
    mixture.router.grad = None
    if y.requires_grad:
        (y * slope).sum().backward()

    def said(router: np.ndarray) -> float:
        with torch.no_grad(), swapped(mixture, "router", torch.nn.Parameter(torch.from_numpy(router))):
            return float((_mixed(mixture, words) * slope).sum())

    router = mixture.router.detach().numpy()
    grad = torch.zeros(router.shape) if mixture.router.grad is None else mixture.router.grad
    top = np.sort(words.detach().numpy() @ router.T, axis=1)[:, ::-1][:, :2]
    powers = np.exp(top)
    return apart(
        (y, _mixed(mixture, words)),
        (choice.logits.gather(1, choice.experts), top.copy()),
        (choice.weights, powers / powers.sum(axis=1, keepdims=True)),
        (choice.weights.sum(dim=1), np.ones(7)),
        (grad, slopes(said, router)),
        (as_one_block(mixture, words), _mixed(mixture, words)),
    )


def _turned(vector: torch.Tensor, place: int) -> torch.Tensor:
    """Rotary positions, with complex numbers."""
    half = len(vector) // 2
    pairs = [complex(float(vector[i]), float(vector[i + half])) for i in range(half)]
    pairs = [pair * cmath.exp(1j * place * 10_000 ** (-i / half)) for i, pair in enumerate(pairs)]
    return torch.tensor([pair.real for pair in pairs] + [pair.imag for pair in pairs], dtype=torch.float64)


def _attended(attention: Attention, words: torch.Tensor) -> torch.Tensor:
    rows = []
    for place in range(len(words)):
        heads = []
        for head in range(4):
            own, shared = slice(4 * head, 4 * head + 4), slice(4 * (head // 2), 4 * (head // 2) + 4)
            query = _turned(attention.query[own] @ words[place], place)
            keys = [_turned(attention.key[shared] @ word, at) for at, word in enumerate(words[: place + 1])]
            weights = torch.stack([query @ key / 2 for key in keys]).softmax(dim=0)
            values = [attention.value[shared] @ word for word in words[: place + 1]]
            heads.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        rows.append(attention.out @ torch.cat(heads))
    return torch.stack(rows)


def _normed(norm: torch.nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return x / ((x**2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight


def _decoder_off(seed: int) -> float:
    """The whole decoder on a sequence, word by word, sparse and dense; and what it counts, with all experts on too."""
    pairs = []
    for sizes in (SMALL, SMALL.as_fast()):
        network, draws = _small(seed, sizes)
        words = torch.randint(30, (1, 4), generator=draws)
        with torch.no_grad():
            x = network.embedding[words[0]]
            for layer in network.layers:
                x = x + _attended(layer.attention, _normed(layer.attention_norm, x))
                x = x + _mixed(layer.mixture, _normed(layer.mixture_norm, x))
            pairs.append((network(words)[0][0], _normed(network.norm, x) @ network.head.T))
    for sizes in (SMALL, SMALL.as_large(), SMALL.as_fast()):
        parameters = sum(number.numel() for number in decoder.unfilled(sizes).parameters())
        resting = 0 if sizes.experts == 1 else 2 * (sizes.experts - sizes.top_k) * 3 * sizes.hidden * sizes.width
        counted = cost(sizes)
        pairs += [(counted.total, parameters), (counted.active, parameters - resting)]
    return apart(*pairs)


def _steps_off(seed: int) -> float:
    """Three steps of training on a short text, of each kind, and what they come to on held-out words."""
    with (
        swapped(model, "english", _short),
        swapped(model, "BALANCE", 5.0),
        swapped(model, "RECORD_EVERY", 2),
    ):
        return max(_trained_off(model.corpus(), kind, seed) for kind in KINDS)


@cache
def _short() -> Words:
    whole = english()
    return Words(whole.training[:500], whole.held_out[:900], whole.vocabulary)


def _trained_off(text: tuple[torch.Tensor, ...], kind: str, seed: int) -> float:
    with kept(model, "at_random") as started:
        run = train(4, 2, kind, 3, seed)
    trained, sizes, pairs = started[0][1], sizes_of(4, 2, kind), []
    weights, batches = (torch.Generator().manual_seed(2 * seed + number) for number in range(2))
    network, again = decoder.at_random(sizes, weights), torch.Generator().manual_seed(2 * seed)
    for number in network.parameters():
        drawn = 1 if number.ndim == 1 else torch.empty(number.shape).normal_(0, 0.02, generator=again)
        pairs.append((number.detach().clone(), drawn * torch.ones(number.shape)))
    pairs += [(part, getattr(_short(), name)) for part, name in zip(text, ("training", "held_out"), strict=True)]
    pairs.append((sizes.hidden, 256 if kind == "as fast" else 128))
    adam, curve = torch.optim.AdamW(network.parameters(), 3e-3), [_perplexity(network, text[1])]
    for step in range(3):
        starts = torch.randint(500 - 48, (16, 1), generator=batches)[:, 0].tolist()
        given, following = (torch.stack([text[0][at + by : at + by + 48] for at in starts]) for by in (0, 1))
        said, choices = network(given)
        loss = cross_entropy(said.flatten(0, 1), following.flatten())
        balances = []
        for choice in choices:
            share = torch.stack([(choice.experts == expert).float().mean() for expert in range(4)])
            balances.append(4 * (share * choice.logits.softmax(dim=1).mean(dim=0)).sum())
        loss = loss + 5 * sum(balances)
        adam.zero_grad()
        loss.backward()
        clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        if step:
            curve.append(_perplexity(network, text[1]))
        pairs += [(balancing_loss(c.logits.softmax(-1), c.experts), b) for c, b in zip(choices, balances, strict=True)]
    with torch.no_grad():
        choices = trained(text[1][:768].view(-1, 48))[1]
    if choices:
        trace = trace_of(run)
        pairs += [(trace.experts, torch.stack([choice.experts for choice in choices]))]
        pairs += [(trace.weights, torch.stack([choice.weights for choice in choices]))]
    return apart(*pairs, *zip(trained.parameters(), network.parameters(), strict=True), (run.perplexity, curve))


def _perplexity(network: Decoder, text: torch.Tensor) -> float:
    """Of each word of the sequences of 48, given those before it."""
    with torch.no_grad():
        said = network(text[:864].view(-1, 48))[0].flatten(0, 1).log_softmax(dim=1)
    return float((-said[torch.arange(864), text[1:865]].mean()).exp())


# fmt: off
MECHANISMS = (
    *noticed_by(
        "a plain loop over words, and slopes by differences",
        _layer_off,
        ("weights sum to 1", MixtureBlock.choose, "highest.softmax(dim=-1)", "highest.sigmoid()"),
        ("one block has its experts' weights", as_one_block,
         "hidden * weight.repeat_interleave(experts.gate.shape[1], dim=1)", "hidden"),
    ),
    *noticed_by(
        "the decoder, word by word",
        _decoder_off,
        ("attention looks back alone", Attention.forward, "is_causal=True", "is_causal=False"),
        ("experts at rest are not active", cost, "(sizes.experts - sizes.top_k)", "sizes.experts"),
    ),
    *noticed_by(
        "three steps by hand",
        _steps_off,
        ("the balancing loss is trained on", model._learn,
         "loss + BALANCE", "loss + 0 * BALANCE"),
        ("the trace has the choices", model._run, "experts.astype(np.int16)", "experts.astype(np.int16)[:, ::-1]"),
    ),
)
# fmt: on
