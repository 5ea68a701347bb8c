"""Does a mixture need less compute and the same memory as a dense network of its size?"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from history_checks.claims import IDENTITY, NOT_PRINTED, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.capture.models.load import model_facts
from moeviz.history.dense_contrast import model
from moeviz.history.dense_contrast.decoder import MIXTRAL_8X7B, MixtureBlock, TopKChoice, as_one_block, cost
from moeviz.history.dense_contrast.model import KINDS, sizes_of, trace_of, train
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
    load = expert_load(trace_of(train(kind="as large", steps=QUICK_STEPS, seed=seeds(seed, 1)[0])))
    return _equal(
        "load of the busiest expert with all experts on, as a multiple of the uniform load", load["times_even"].max(), 1
    )


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
