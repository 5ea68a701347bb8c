"""The sparsely-gated mixture of 2017 with a part of it broken, and the claims that must miss then."""

from collections.abc import Callable

import torch
from torch import nn

from moeviz.history.shared.claims import Claim, seeds
from moeviz.history.shared.controls import Control
from moeviz.history.sparsely_gated_2017 import language_model, model
from moeviz.history.sparsely_gated_2017.checks import alone, learnt, random_gate, short, started
from moeviz.history.sparsely_gated_2017.model import train
from moeviz.history.sparsely_gated_2017.noisy_top_k import Choice, Routing, squared_variation


def _no_loss(routing: Routing, importance: float, load: float) -> torch.Tensor:
    return routing.importance.sum() * 0


def _exchanged(routing: Routing, importance: float, load: float) -> torch.Tensor:
    """Each loss evens what the other is about."""
    return load * squared_variation(routing.importance) + importance * squared_variation(routing.load)


def _not_at_zero(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(shape, generator=draws)), nn.Parameter(torch.zeros(shape))


def _no_noise(*arguments: torch.Tensor | int | None, right: Callable = language_model.noisy_top_k) -> Choice:
    *others, noise = arguments
    return right(*others, None if noise is None else torch.zeros_like(noise))


def _first_step(quick: bool, seed: int) -> list[Claim]:
    return started(train(importance=1.0, load=1.0, steps=1, seed=seeds(seed, 1)[0]))


CONTROLS = (
    Control("no loss", (model, "balancing_loss", _no_loss), ("steps",), short),
    Control("no noise", (language_model, "noisy_top_k", _no_noise), ("CV(importance), no loss",), short),
    Control("gates do not start at 0", (language_model, "_gate", _not_at_zero), ("at the first step",), _first_step),
    Control("gates do not learn", (language_model, "_gate", random_gate), ("random gates",), learnt),
    Control("the losses are exchanged", (model, "balancing_loss", _exchanged), ("CV(importance) / CV(load)",), alone),
    Control("no loss at all", (model, "balancing_loss", _no_loss), ("max / mean load, ", "largest difference"), alone),
)
