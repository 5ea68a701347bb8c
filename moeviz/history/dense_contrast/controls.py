"""The mixture beside its dense twins with a part of it broken, and the claims that must miss then."""

from collections.abc import Callable
from dataclasses import replace

import torch

from moeviz.history.dense_contrast import checks, model
from moeviz.history.dense_contrast.checks import MIXTRAL_8X7B, exact, learnt, same_for_all, used
from moeviz.history.dense_contrast.small_mixtral import Mixture
from moeviz.history.shared.controls import Control
from moeviz.model_info import ModelInfo


def _half(mixture: Mixture, x: torch.Tensor, right: Callable = checks.as_one_block) -> torch.Tensor:
    """The dense block without the weights of its experts."""
    return right(mixture, x) / 2


def _embedded(name: str, right: Callable = checks.model_facts) -> ModelInfo:
    return right("embedded")


CONTROLS = (
    Control("weights are not those of the experts", (checks, "as_one_block", _half), ("one dense block",), exact),
    Control(
        "an expert fewer",
        (checks, "MIXTRAL_8X7B", replace(MIXTRAL_8X7B, experts=7)),
        ("parameters of these modules",),
        exact,
    ),
    Control("the configuration of another model", (checks, "model_facts", _embedded), ("active share",), exact),
    Control("the router says the same for every word", (Mixture, "choose", same_for_all), ("words use",), used),
    Control("nothing is learnt", (model, "LEARNING_RATE", 0.0), ("three kinds",), learnt),
    Control("a router that says the same", (Mixture, "choose", same_for_all), ("the same with a router",), learnt),
)
