"""Mixtral's counts of a model that is not Mixtral: the claims must miss then."""

from moeviz.history.mixtral import checks
from moeviz.history.mixtral.checks import counts
from moeviz.history.shared.controls import Control
from moeviz.model_info import ModelInfo


def _embedded(name: str, right=checks.model_facts) -> ModelInfo:
    return right("embedded")


CONTROLS = (
    Control("the configuration of another model", (checks, "model_facts", _embedded), ("parameters of",), counts),
)
