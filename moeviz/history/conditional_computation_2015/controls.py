"""Conditional computation with a part of it broken, and the claims that must miss then."""

from collections.abc import Callable

import torch

from moeviz.history.conditional_computation_2015 import model
from moeviz.history.conditional_computation_2015.checks import of_baseline, of_policy, of_variance, without_losses
from moeviz.history.shared.controls import Control


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
