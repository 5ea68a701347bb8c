"""Mute: some experts may not be chosen."""

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
    RouterLimits,
    check_experts,
    experts_from_words,
    experts_of_layer,
    is_one_of,
    push,
)
from moeviz.capture.interventions.parameter import EXPERTS, LAYER
from moeviz.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Mute:
    """These experts may not be chosen, as {layer: experts}: the router takes and weighs its next best.

    With `reroute=False` nothing takes their place: they add 0, and the weights of the others stay as they are. With
    `removed=True` they are as if the model did not have them, as in a checkpoint without them: a router that weighs by
    a softmax over all experts takes it over those that are left.

    >>> Mute({3: (1, 4), 5: (0,)})  # experts 1 and 4 of layer 3, and expert 0 of layer 5
    Mute(experts={3: (1, 4), 5: (0,)}, reroute=True, removed=False)
    """

    experts: Experts
    reroute: bool = True
    removed: bool = False

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or where too few are left to choose from."""
        check_experts("Mute", self.experts, layers)
        if self.removed and not self.reroute:
            raise CaptureError("Mute with removed=True is with rerouting: leave reroute=False out, or removed=True.")
        for layer, ids in self.experts.items():
            limits, muted = layers[layer], {int(expert) for expert in ids}
            if not self.reroute or limits.left(muted) >= limits.top_k:
                continue
            if limits.groups == 1:
                raise CaptureError(
                    f"Layer {layer} has {limits.num_experts} experts, and each token takes {limits.top_k}: at most "
                    f"{limits.num_experts - limits.top_k} can be muted, not {len(muted)}. Mute fewer, or "
                    "without rerouting."
                )
            raise _too_few(layer, limits, muted, f"at most {limits.left(muted)} are left in them")

    def change(self, decision: Decision) -> Choice:
        """Return the next best experts, or the same without the muted ones."""
        muted = experts_of_layer(self.experts, decision.layer)
        if not muted:
            return decision.weights, decision.experts
        if not self.reroute:
            return decision.weights.masked_fill(is_one_of(decision.experts, muted), 0), decision.experts
        pushed = push(decision, muted, float("-inf"))
        weights, experts = decision.again(pushed, None, removed=True) if self.removed else decision.again(pushed, None)
        out_of_reach = is_one_of(experts, muted)[decision.kept].any(dim=-1)
        if out_of_reach.any():
            tokens = f"too few are left in them for {int(out_of_reach.sum())} of {len(out_of_reach)} tokens"
            raise _too_few(decision.layer, decision.limits, set(muted), tokens)
        return weights, experts

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if a muted expert has a weight; with rerouting, if it has a slot or one is empty.

        Without rerouting all other weights must be the router's own.
        """
        muted = experts_of_layer(self.experts, at.layer)
        if self.reroute and muted:
            without = np.logical_not(np.isin(at.now.experts, muted).any(axis=-1))
            at.check_all_tokens(without, "a muted expert has a slot")
            at.check_all_tokens(at.now.filled_slots == at.own.filled_slots, "a slot is empty")
        else:
            expected = at.own_weights()
            expected[:, muted] = 0
            at.check_weights(expected)


def _too_few(layer: int, limits: RouterLimits, muted: set[int], what: str) -> CaptureError:
    return CaptureError(
        f"Layer {layer} has {limits}, and each token takes {limits.top_k}: with {len(muted)} muted, {what}. Mute "
        "fewer, or without rerouting."
    )


OPTION = Option(
    "--mute",
    lambda args, _read: Mute(experts_from_words(args.mute), reroute=not args.no_reroute),
    {"metavar": "LAYER:EXPERTS", "help": "each router takes its next best expert instead; 3:1,4;5:0 for several"},
    several=EXPERT_WORDS,
    title="Mute experts",
    meaning="They cannot be chosen: each router takes its next best expert instead, weighted as it would be.",
    parameters=(LAYER, EXPERTS),
    of=lambda layer, experts: Mute({layer: tuple(experts)}),
    beside={"--no-reroute": {"action": "store_true", "help": "with --mute: nothing takes a muted expert's place"}},
)
