"""Swap: two experts get each other's tokens."""

from dataclasses import dataclass

import numpy as np

from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    LimitsByLayer,
    Option,
    check_expert,
    check_layers,
)
from moeviz.capture.interventions.parameter import EXPERT, LAYER, WITH_EXPERT
from moeviz.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Swap:
    """Two experts of a layer get each other's tokens, with the weights that the router gave them.

    >>> Swap(2, 0, 5)  # in layer 2, experts 0 and 5
    Swap(layer=2, one=0, other=5)
    """

    layer: int
    one: int
    other: int

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or the same one twice."""
        check_layers((self.layer,), layers)
        for expert in (self.one, self.other):
            check_expert(self.layer, expert, layers)
        if self.one == self.other:
            raise CaptureError(f"Expert {self.one} cannot be swapped with itself. Name two experts.")

    def change(self, decision: Decision) -> Choice:
        """Swap the two ids in a choice, and leave its weights."""
        if decision.layer != self.layer:
            return decision.weights, decision.experts
        is_one, is_other = (decision.experts == expert for expert in (self.one, self.other))
        swapped = decision.experts.masked_fill(is_one, int(self.other)).masked_fill(is_other, int(self.one))
        return decision.weights, swapped

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if the decision is not the router's own with the two ids swapped."""
        expected = at.own_weights()
        if at.layer == self.layer:
            expected[:, [self.one, self.other]] = expected[:, [self.other, self.one]]
        at.check_weights(expected)


OPTION = Option(
    "--swap",
    lambda args, _read: Swap(*args.swap),
    {"nargs": 3, "metavar": ("LAYER", "EXPERT", "EXPERT")},
    least=0,
    title="Swap two experts",
    meaning="Each gets the other's tokens, with the weights that the router gave.",
    parameters=(LAYER, EXPERT, WITH_EXPERT),
    of=lambda layer, expert, with_expert: Swap(layer, expert, with_expert),
)
