"""Bias: some experts are chosen more readily, or less."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real

import numpy as np

from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    LimitsByLayer,
    Option,
    check_experts,
)
from moeviz.capture.interventions.parameter import AMOUNT, EXPERTS, LAYER
from moeviz.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Bias:
    """These amounts are added to the scores by which a router ranks its experts; it weighs those it chooses as before.

    The amounts are in the router's own unit: logits where it takes a softmax, and scores (mostly from 0 to 1) where it
    ranks a sigmoid's, or has a correction bias, to which this is added. 0 changes nothing; a large amount chooses as
    `Force` does, and a large negative one as `Mute`.

    >>> Bias({3: {1: 2.0, 4: -0.5}})  # of layer 3, expert 1 more readily and expert 4 less
    Bias(amounts={3: {1: 2.0, 4: -0.5}})

    Source: a bias on only the choice, as in Wang et al. (arXiv 2408.15664); on logits, Fayyaz et al. (arXiv
    2509.09660).
    """

    amounts: Mapping[int, Mapping[int, float]]

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, and for amounts that are no finite numbers."""
        if not isinstance(self.amounts, Mapping) or not all(isinstance(of, Mapping) for of in self.amounts.values()):
            raise CaptureError(f"Bias takes amounts by layer and expert, as {{3: {{1: 2.0}}}}, not {self.amounts!r}.")
        check_experts("Bias", {layer: tuple(of) for layer, of in self.amounts.items()}, layers)
        for of in self.amounts.values():
            for amount in of.values():
                if isinstance(amount, bool) or not isinstance(amount, Real) or not isfinite(amount):
                    raise CaptureError(
                        f"Bias takes finite numbers, such as 2.0 or -0.5, not {amount!r}. To choose an expert always "
                        "or never, use Force or Mute."
                    )

    def change(self, decision: Decision) -> Choice:
        """Return the best experts by the biased scores."""
        amounts = self._at(decision.layer)
        if not amounts:
            return decision.weights, decision.experts
        pushed = decision.weights.new_zeros(decision.limits.num_experts).float()
        for expert, amount in amounts.items():
            pushed[expert] = amount
        return decision.again(pushed, None)

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if the choice moved against the bias, or a layer without one changed.

        The expert with the largest amount, if the router itself would have chosen it, must still be there, and the
        one with the most negative amount must not come in. Groups of experts are chosen first, so there only a
        single biased expert can be checked.
        """
        amounts = self._at(at.layer)
        if not amounts:
            return at.check_weights(at.own_weights())
        at.check_all_tokens(at.now.filled_slots == at.own.filled_slots, "another number of slots is filled")
        if at.limits.groups > 1 and len(amounts) > 1:
            return
        for expert, amount in amounts.items():
            is_in, was_in = ((part.experts == expert).any(axis=-1) for part in (at.now, at.own))
            if amount == max(amounts.values()) > 0:
                at.check_all_tokens(is_in | ~was_in, f"favoured expert {expert} is gone")
            if amount == min(amounts.values()) < 0:
                at.check_all_tokens(was_in | ~is_in, f"disfavoured expert {expert} came in")

    def _at(self, layer: int) -> dict[int, float]:
        return {int(expert): float(by) for expert, by in self.amounts.get(layer, {}).items() if by}


def amounts_from_words(words: Sequence[str]) -> dict[int, dict[int, float]]:
    """Read amounts by layer and expert from words such as "3:1=+2.5". Raises `CaptureError` for any other word.

    >>> amounts_from_words(["3:1=+2.5", "3:4=-1"])
    {3: {1: 2.5, 4: -1.0}}
    """
    amounts: dict[int, dict[int, float]] = {}
    for text in words:
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})=([+-]?\d{1,9}(?:\.\d{1,9})?)", text)
        if found is None:
            raise CaptureError(f"{text!r} is not a bias. Write LAYER:EXPERT=AMOUNT, such as 3:1=+2.5.")
        amounts.setdefault(int(found[1]), {})[int(found[2])] = float(found[3])
    return amounts


OPTION = Option(
    "--bias",
    lambda args, _read: Bias(amounts_from_words(args.bias)),
    {
        "metavar": "LAYER:EXPERT=AMOUNT",
        "help": "added to an expert's score before the router chooses, as 3:0=+2;4:1=-1; or one FILE.json of moeviz "
        "contrast --steering",
    },
    several=r"[\d:;=.,+\-e]+",
    title="Turn experts up or down",
    meaning="This is added to their scores before each router chooses; it weighs those it chooses as it would.",
    parameters=(LAYER, EXPERTS, AMOUNT),
    of=lambda layer, experts, amount: Bias({layer: dict.fromkeys(experts, float(amount))}),
)
