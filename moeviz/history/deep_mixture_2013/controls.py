"""The deep mixture of 2013 with a part of it broken, and the claims that must miss then."""

import torch

from moeviz.history.deep_mixture_2013 import model
from moeviz.history.deep_mixture_2013.checks import bound, unbound
from moeviz.history.deep_mixture_2013.model import MARGIN
from moeviz.history.shared.controls import Control


def _even(logits: torch.Tensor, totals: torch.Tensor, margin: float) -> torch.Tensor:
    return torch.full_like(logits, 1 / logits.shape[1])


def _unlimited(logits: torch.Tensor, totals: torch.Tensor, margin: float) -> torch.Tensor:
    return logits.softmax(dim=1)


def _always(logits: torch.Tensor, totals: torch.Tensor, margin: float, right=model.balanced) -> torch.Tensor:
    return right(logits, totals, MARGIN)


CONTROLS = (
    Control("the gates stay uniform", (model, "balanced", _even), ("information on",), bound),
    Control(
        "the constraint is ignored",
        (model, "balanced", _unlimited),
        ("an expert is ahead", "lowest share", "constraint on"),
        bound,
    ),
    Control("the constraint is never lifted", (model, "balanced", _always), ("constraint off",), unbound),
)
