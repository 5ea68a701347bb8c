"""The mixture beside its dense twins with a part of it broken, and the claims that must miss then."""

from collections.abc import Callable
from dataclasses import replace

import torch

from moeviz.history.dense_contrast import checks, model
from moeviz.history.dense_contrast.checks import MIXTRAL_8X7B, exact, learnt, used
from moeviz.history.dense_contrast.small_mixtral import Choice, Mixture
from moeviz.history.shared.controls import Control
from moeviz.model_info import ModelInfo


def _half(mixture: Mixture, x: torch.Tensor, right: Callable = checks.as_one_block) -> torch.Tensor:
    """The dense block without the weights of its experts."""
    return right(mixture, x) / 2


def _embedded(name: str, right: Callable = checks.model_facts) -> ModelInfo:
    return right("embedded")


def _same_for_all(self: Mixture, x: torch.Tensor) -> Choice:
    """Every word goes to the first experts, which count alike."""
    experts = torch.arange(self.top_k).expand(len(x), -1)
    weights = torch.full((len(x), self.top_k), 1 / self.top_k, dtype=x.dtype)
    return Choice(x @ self.router.T * 0, experts, weights)


CONTROLS = (
    Control("weights are not those of the experts", (checks, "as_one_block", _half), ("one dense block",), exact),
    Control(
        "an expert fewer",
        (checks, "MIXTRAL_8X7B", replace(MIXTRAL_8X7B, experts=7)),
        ("parameters of these modules",),
        exact,
    ),
    Control("the configuration of another model", (checks, "model_facts", _embedded), ("active share",), exact),
    Control("the router says the same for every word", (Mixture, "choose", _same_for_all), ("words use",), used),
    Control("nothing is learnt", (model, "LEARNING_RATE", 0.0), ("three kinds",), learnt),
)
