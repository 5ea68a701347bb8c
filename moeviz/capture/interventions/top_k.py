"""TopK: another number of experts per token."""

from dataclasses import dataclass

import numpy as np

from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    LimitsByLayer,
    Option,
    check_layers,
    is_whole,
    shown,
)
from moeviz.capture.interventions.parameter import Parameter
from moeviz.errors import CaptureError


@dataclass(frozen=True, slots=True)
class TopK:
    """Another number of experts per token, in all layers or in some; weighed as the router would.

    >>> TopK(1)  # one expert per token, in all layers
    TopK(top_k=1, layers=None)
    """

    top_k: int
    layers: tuple[int, ...] | None = None

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for layers that are not there, or more slots than a token can have experts."""
        asked = tuple(layers) if self.layers is None else tuple(self.layers)
        check_layers(asked, layers)
        if not asked:
            raise CaptureError("TopK names no layer. Name one or more, or leave `layers` out for all.")
        tightest = min(asked, key=lambda layer: layers[layer].most)
        limits = layers[tightest]
        if not is_whole(self.top_k) or not 1 <= self.top_k <= limits.most:
            why = f" Layer {tightest} has {limits}." if limits.most < limits.num_experts and limits.groups > 1 else ""
            why = why or (" That is what moeviz can choose." if limits.most < limits.num_experts else "")
            raise CaptureError(f"Each token can take 1 to {limits.most} experts, not {shown(self.top_k)}.{why}")

    def change(self, decision: Decision) -> Choice:
        """Let the router choose that many of its best."""
        if not self._is_at(decision.layer):
            return decision.weights, decision.experts
        return decision.again(None, int(self.top_k))

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if a token has another number of experts."""
        if self._is_at(at.layer):
            at.check_all_tokens(at.now.filled_slots == self.top_k, "another number of slots is filled")

    def _is_at(self, layer: int) -> bool:
        return self.layers is None or layer in self.layers


PER_TOKEN = Parameter(
    "experts_per_token",
    "Experts per token",
    lambda info, _: range(1, min(info.num_experts) + 1),
    usual=lambda info: max(info.top_k - 1, 1),
    scale=True,
)
OPTION = Option(
    "--experts-per-token",
    lambda args, _read: TopK(args.experts_per_token),
    {"metavar": "K", "help": "another top-k"},
    least=1,
    title="Change top-k",
    meaning="Every token goes to a different number of experts in every layer, weighted as the router would.",
    parameters=(PER_TOKEN,),
    of=lambda experts_per_token: TopK(experts_per_token),
)
