"""Force: some experts are chosen for every token."""

from dataclasses import dataclass

import numpy as np

from moeviz.capture.interventions.intervention import (
    EXPERT_WORDS,
    ChangedLayer,
    Choice,
    Decision,
    Experts,
    LimitsByLayer,
    Option,
    check_experts,
    experts_from_words,
    experts_of_layer,
    groups_in_words,
    push,
)
from moeviz.capture.interventions.parameter import EXPERTS, LAYER
from moeviz.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Force:
    """These experts are chosen for every token, as {layer: experts}; the router's best fill the slots that are left.

    Weights are those that the router gives to the experts it is left with.

    >>> Force({3: (0,)})  # in layer 3, every token goes to expert 0
    Force(experts={3: (0,)})
    """

    experts: Experts

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, more than a token has slots, or of too many groups."""
        check_experts("Force", self.experts, layers)
        for layer, ids in self.experts.items():
            limits, forced = layers[layer], {int(expert) for expert in ids}
            if len(forced) > limits.top_k:
                raise CaptureError(
                    f"A token takes {limits.top_k} experts; {len(forced)} cannot be forced at layer {layer}."
                )
            groups = {expert // limits.group_size for expert in forced}
            if len(groups) > limits.groups_kept:
                raise CaptureError(
                    f"Layer {layer} has {limits}, and experts {sorted(forced)} are in {len(groups)} groups. Force "
                    f"experts of {groups_in_words(limits)} at most."
                )

    def change(self, decision: Decision) -> Choice:
        """Return the forced experts, and the router's best next to them."""
        forced = experts_of_layer(self.experts, decision.layer)
        if not forced:
            return decision.weights, decision.experts
        return decision.again(push(decision, forced, float("inf")), None)

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if a forced expert was not chosen."""
        for expert in experts_of_layer(self.experts, at.layer):
            there = (at.now.experts == expert).any(axis=-1)
            at.check_all_tokens(there, f"forced expert {expert} was not chosen")


OPTION = Option(
    "--force",
    lambda args, _read: Force(experts_from_words(args.force)),
    {"metavar": "LAYER:EXPERTS", "help": "every token is sent to these experts; 3:1,4;5:0 for several"},
    several=EXPERT_WORDS,
    title="Force experts",
    meaning="Every token is sent to them; any slots left go to the router's best experts.",
    parameters=(LAYER, EXPERTS),
    of=lambda layer, experts: Force({layer: tuple(experts)}),
)
