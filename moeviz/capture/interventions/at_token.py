"""AtToken: one token gets other experts at one layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    LimitsByLayer,
    Option,
    check_experts,
    is_whole,
    push_by_token,
    shown,
)
from moeviz.errors import CaptureError

FORM = re.compile(r"(\d{1,9}):(\d{1,9}):(\d{1,9}(?:,\d{1,9})*)")


@dataclass(frozen=True, slots=True)
class AtToken:
    """One token of the prompts goes to these experts at one layer; layers above it decide anew.

    layer    the model's own index.
    token    row of the trace, from 0.
    experts  at most as many as a token has slots; the router's best fill the slots that are left. Weights are those
             that the router gives to the experts it is left with.

    >>> AtToken(3, 5, (0, 2))  # at layer 3, token 5 goes to experts 0 and 2
    AtToken(layer=3, token=5, experts=(0, 2))
    """

    layer: int
    token: int
    experts: Sequence[int]

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for a layer, token or experts that are not there, or more experts than slots."""
        check_experts("AtToken", {self.layer: self.experts}, layers)
        if not is_whole(self.token) or not 0 <= self.token < len(token_ids):
            raise CaptureError(f"The prompt has tokens 0 to {len(token_ids) - 1}, not {shown(self.token)}.")
        if len({*self.experts}) > layers[self.layer].top_k:
            raise CaptureError(
                f"A token takes {layers[self.layer].top_k} experts at layer {self.layer}; "
                f"{len({*self.experts})} cannot be chosen for it."
            )

    def change(self, decision: Decision) -> Choice:
        """Return the router's own choice, but for one token."""
        if decision.layer != self.layer or not decision.of_prompts:
            return decision.weights, decision.experts
        row = decision.kept.nonzero()[int(self.token)]
        named = decision.experts.new_tensor([sorted({int(expert) for expert in self.experts})])
        pushed = decision.weights.new_zeros(len(decision.weights), decision.limits.num_experts).float()
        pushed[row] = push_by_token(decision, named)
        weights, experts = decision.again(pushed, None)
        return (decision.weights.index_copy(0, row, weights[row]), decision.experts.index_copy(0, row, experts[row]))

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if the token has another expert, or another token is not as its router decided."""
        expected = at.own_weights()
        if at.layer == self.layer:
            for expert in self.experts:
                there = at.now.experts[self.token] == expert
                at.check_all_tokens(there.any(keepdims=True), f"expert {expert} is missing")
            expected[self.token] = at.now.by_expert(at.limits.num_experts)[self.token]
        at.check_weights(expected)


def at_token_of(text: str) -> AtToken:
    """Read a change of one token from a word such as "3:5:0,2". Raises `CaptureError` for any other word."""
    found = FORM.fullmatch(text)
    if found is None:
        raise CaptureError(f"{text!r} names no token and its experts. Write LAYER:TOKEN:EXPERTS, as in 3:5:0,2.")
    return AtToken(int(found[1]), int(found[2]), tuple(map(int, found[3].split(","))))


OPTION = Option(
    "--at-token",
    lambda args, _read: at_token_of(args.at_token),
    {"metavar": "LAYER:TOKEN:EXPERTS", "help": "one token goes to these experts at one layer; 3:5:0,2"},
)
