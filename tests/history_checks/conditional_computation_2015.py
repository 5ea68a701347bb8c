"""Does conditional computation behave as its paper of 2015 says?

The paper's errors are of all of MNIST, 60,000 digits; ours of 4,000. None of its figures is compared: each claim is
about two of our own networks. That the gated network beats a dense one of as much computation, and that it is faster
on the clock, is not claimed.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.history.conditional_computation_2015 import model
from moeviz.history.conditional_computation_2015.model import Conditional, train

SEEDS, QUICK_SEEDS, QUICK_EPOCHS = 3, 1, 8
TARGETS = (1 / 8, 1 / 16)  # what ships, and the paper's
AT_MOST_ABOVE = 3  # times the target
RATIO = 1.6
OPEN = 0.5
STEADIER = 0.5  # of the spread without a baseline
DIGITS, DRAWN = 100, 30  # whose blocks are drawn so many times


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Both targets and 3 seeds; where it is to be quick, the target of what ships, one seed and 8 of 40 epochs.

    Source: E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297 (2015).
    """
    found = [*of_policy(quick, seed), *of_variance(quick, seed)]
    return [*found, *without_losses(quick, seed), *of_baseline(quick, seed)]


def of_policy(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims that the policy has learnt which blocks to switch on."""
    runs = _trained(quick, seed)
    dense = _mean(runs(estimator="uniform", target=1.0), "error")
    found = []
    for target in TARGETS[: 1 if quick else None]:
        learnt = runs(target=target)
        found += [
            _against_uniform(learnt, runs, target),
            _on_share(learnt, target),
            _against_dense(learnt, dense, target),
        ]
    return found


def of_variance(quick: bool = False, seed: int = 0) -> list[Claim]:
    """L_v makes a block's probability go with the kind of digit."""
    runs = _trained(quick, seed)
    spread = [np.mean([run.class_spread() for run in runs(variance=weight)]) for weight in (1.0, 0.0)]
    what = "spread of σ over the kinds of digit, with L_v minus without"
    return [Claim(what, float(spread[0] - spread[1]), NOT_PRINTED, "above 0", bool(spread[0] > spread[1]))]


def without_losses(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Nothing but the errors tells the policy what to do, and more blocks make fewer."""
    on = min(run.on_share for run in _trained(quick, seed)(sparsity=0.0, variance=0.0))
    return [Claim("share of blocks on without the losses, lowest run", on, NOT_PRINTED, f"above {OPEN}", on > OPEN)]


def of_baseline(quick: bool = False, seed: int = 0) -> list[Claim]:
    """How much the policy gradient varies from draw to draw before training, with the baseline that training starts at.

    The baseline leaves the gradient right on average; what it is for is to make it vary less.

    Source: Williams, Machine Learning 8:229-256 (1992).
    """
    draws = torch.Generator().manual_seed(seeds(seed, 1)[0])
    network, digits_in, wanted = model.untrained(DIGITS, draws)
    spread = {}
    for baseline in (math.log(model.CLASSES), 0.0):
        slopes = []
        for _ in range(DRAWN):
            logits = network.logits(digits_in).detach().requires_grad_()
            on = (torch.rand(logits.shape, generator=draws) < torch.sigmoid(logits)).float()
            cost = cross_entropy(network.classes(digits_in, on), wanted, reduction="none")
            model.reinforce(logits, on, cost, baseline).backward()
            slopes.append(logits.grad)
        spread[baseline > 0] = float(torch.stack(slopes).std(dim=0).mean())
    ratio = spread[True] / spread[False] if spread[False] else math.inf  # no gradient at all is not a steady one
    what = "spread of the policy gradient over draws, with the baseline / without"
    return [Claim(what, ratio, NOT_PRINTED, f"at most {STEADIER}", ratio <= STEADIER)]


def _trained(quick: bool, seed: int) -> partial:
    tried = seeds(seed, QUICK_SEEDS if quick else SEEDS)
    return partial(_runs, seeds=tried, **({"epochs": QUICK_EPOCHS} if quick else {}))


def _against_uniform(learnt: list[Conditional], runs: partial, target: float) -> Claim:
    """Uniform dropout gets exactly twice the blocks."""
    uniform = runs(estimator="uniform", target=min(1.0, 2 * _mean(learnt, "on_share")))
    ratio = _mean(learnt, "error") / _mean(uniform, "error")
    what = f"error, learned policy / uniform dropout with twice the blocks on, target {target}"
    return Claim(what, ratio, NOT_PRINTED, "below 1", ratio < 1)


def _on_share(learnt: list[Conditional], target: float) -> Claim:
    """The policy is less sparse than asked, but not by much."""
    ratio = _mean(learnt, "on_share") / target
    what = f"share of blocks on / target, target {target}"
    return Claim(what, ratio, NOT_PRINTED, f"above 1, at most {AT_MOST_ABOVE}", 1 < ratio <= AT_MOST_ABOVE)


def _against_dense(learnt: list[Conditional], dense: float, target: float) -> Claim:
    ratio = _mean(learnt, "error") / dense
    what = f"error, learned policy / all 256 units always on, target {target}"
    return Claim(what, ratio, NOT_PRINTED, f"at most {RATIO}", ratio <= RATIO)


def _runs(*, seeds: range, **settings: int | float | str) -> list[Conditional]:
    return [train(seed=seed, **settings) for seed in seeds]


def _mean(runs: list[Conditional], what: str) -> float:
    return float(np.mean([getattr(run, what) for run in runs]))


def _nothing(probability: torch.Tensor, *_: float) -> torch.Tensor:
    return probability.sum() * 0


def _backwards(*arguments: torch.Tensor | float, right: Callable = model.reinforce) -> torch.Tensor:
    return -right(*arguments)


def _off(logits: torch.Tensor, *_: torch.Tensor | float) -> torch.Tensor:
    return logits.sum() * 0


def _no_baseline(
    logits: torch.Tensor, on: torch.Tensor, cost: torch.Tensor, _: float, right: Callable = model.reinforce
) -> torch.Tensor:
    return right(logits, on, cost, 0.0)


CONTROLS = (
    Control(
        "the policy gradient's sign is flipped",
        (model, "reinforce", _backwards),
        ("uniform dropout", "all 256 units"),
        of_policy,
    ),
    Control(
        "the losses that keep it sparse are off", (model, "sparsity_loss", _nothing), ("blocks on / target",), of_policy
    ),
    Control("L_v is off", (model, "variance_loss", _nothing), ("spread of σ",), of_variance),
    Control("no baseline", (model, "reinforce", _no_baseline), ("over draws",), of_baseline),
    Control("the policy does not learn", (model, "reinforce", _off), ("without the losses",), without_losses),
)
