"""The Switch Transformer of 2021 with a part of it broken, and the claims that must miss then."""

from copy import copy

import torch

from moeviz.history.shared.claims import Claim
from moeviz.history.shared.controls import Control
from moeviz.history.switch_2021 import layer, model
from moeviz.history.switch_2021.checks import dropping, of_gradient, short
from moeviz.history.switch_2021.layer import Routed, SwitchLayer

NOT_SCALED = "answers are not scaled by the router"


def _of_dropping(quick: bool, seed: int) -> list[Claim]:
    return dropping(short(quick, seed), brief=quick)


def _not_scaled(self: SwitchLayer, tokens: torch.Tensor, jitter=None, right=SwitchLayer.forward) -> Routed:
    routed = right(self, tokens, jitter)
    return routed._replace(output=routed.output / routed.probabilities.max(dim=-1).values[:, None])


def _deaf(self: SwitchLayer, tokens: torch.Tensor, jitter=None, right=SwitchLayer.forward) -> Routed:
    """The router's weights get no gradient; the experts' do."""
    deaf = copy(self)
    deaf._parameters = self._parameters | {"router": self.router.detach()}
    return right(deaf, tokens, jitter)


def _no_loss(probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return probabilities.sum() * 0


CONTROLS = (
    Control(NOT_SCALED, (SwitchLayer, "forward", _not_scaled), ("router's weights",), of_gradient),
    Control("the router does not learn", (SwitchLayer, "forward", _deaf), ("router's weights",), of_gradient),
    Control("room for all", (layer, "capacity", lambda tokens, *_: tokens), ("dropped at capacity",), _of_dropping),
    Control("nothing is learnt", (model, "LEARNING_RATE", 0.0), ("words dropped, last",), _of_dropping),
    Control("no auxiliary loss", (model, "balancing_loss", _no_loss), ("without the auxiliary loss",), _of_dropping),
)
