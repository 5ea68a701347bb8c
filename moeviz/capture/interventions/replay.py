"""Replay: the routing of another trace."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moeviz.capture.interventions.intervention import (
    ChangedLayer,
    Choice,
    Decision,
    LayerRouting,
    LimitsByLayer,
    Option,
)
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

if TYPE_CHECKING:  # no torch for the command line, as in `intervention.py`
    from torch import Tensor
else:
    Tensor = Any


@dataclass(frozen=True, slots=True)
class Replay:
    """Replay the routing of a trace of the same tokens instead of what the routers decide.

    Replaying a model's own trace gives the same output, to the last bit. With `live_weights` only the experts are the
    trace's, and each router weighs them by its own scores, as R3 does in reinforcement learning: a trace without
    weights will do.

    >>> import moeviz
    >>> model = moeviz.load_model()
    >>> own = moeviz.trace(model, "Il fait froid.")
    >>> moeviz.what_if(model, "Il fait froid.", moeviz.Replay(own)).effect["kl"].max().item()
    0.0
    """

    trace: RoutingTrace
    live_weights: bool = False

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for a trace of other layers, other experts, or without weights."""
        model, experts = self.trace.model, {layer: limits.num_experts for layer, limits in layers.items()}
        if dict(zip(model.layers, model.num_experts, strict=True)) != experts or (
            self.trace.weights is None and not self.live_weights
        ):
            raise CaptureError(
                f"The trace to replay is of {model.name}: layers {model.layers}, {model.num_experts} experts"
                f"{'' if self.trace.weights is not None else ', no weights'}. It needs weights, or live weights, and "
                f"the same layers and experts as the model that runs: {experts}."
            )
        needed = max(limits.top_k for limits in layers.values())
        if self.live_weights and ((self.trace.experts < 0).any() or model.top_k != needed):
            raise CaptureError(
                f"Live weights need {needed} experts for every token, and the trace has {model.top_k}, or empty slots. "
                "Leave live weights out, or record the trace with as many."
            )
        if not self.trace.recorded.all():
            raise CaptureError(
                f"The trace to replay does not say where {int((~self.trace.recorded).any(axis=0).sum())} of its tokens "
                "went. It needs the experts of every token at every layer."
            )
        if not np.array_equal(self.trace.tokens["token_id"], token_ids):
            raise CaptureError(
                f"The trace to replay is of {len(self.trace.tokens)} other tokens than the {len(token_ids)} of the "
                "prompt; give the prompt that it was recorded from, without what was generated."
            )

    def change(self, decision: Decision) -> Choice:
        """Return the trace's choice; in the router's own order of slots where both chose the same."""
        experts = np.where(self.trace.experts < 0, 0, self.trace.experts)[decision.index]
        if self.live_weights:
            rows, chosen = decision.kept.nonzero(), decision.experts.new_tensor(experts)
            pushed = decision.weights.new_zeros(len(decision.experts), decision.limits.num_experts).float()
            pushed[rows.expand_as(chosen), chosen] = float("inf")
            return decision.again(pushed, None)
        weights = decision.weights.new_tensor(self.trace.need("weights", "Replay")[decision.index])
        experts = decision.experts.new_tensor(experts)
        own_weights, own = decision.weights[decision.kept], decision.experts[decision.kept]
        if experts.shape != own.shape:
            return _put(decision, weights / decision.factor, experts)
        place, theirs = own.argsort(dim=-1).argsort(dim=-1), experts.argsort(dim=-1)
        experts, weights = (part.gather(-1, theirs).gather(-1, place) for part in (experts, weights))
        same = weights == own_weights * decision.factor
        return _put(decision, own_weights.where(same, weights / decision.factor), experts)

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if the decision is not that of the trace, up to the rounding of the model's dtype."""
        if self.live_weights:
            same = np.sort(at.now.experts, axis=-1) == np.sort(self.trace.experts[at.index], axis=-1)
            return at.check_all_tokens(same.all(axis=-1), "other experts were chosen")
        replayed = LayerRouting(self.trace.experts[at.index], self.trace.need("weights", "Replay")[at.index])
        at.check_weights(replayed.by_expert(at.limits.num_experts), at.precision)


def _put(decision: Decision, weights: Tensor, experts: Tensor) -> Choice:
    """Return these rows instead of the tokens' own; padding keeps its own, or gets the first if slots differ."""
    own = decision.weights, decision.experts
    if weights.shape[1] != decision.weights.shape[1]:
        own = weights[:1].expand(len(decision.kept), -1), experts[:1].expand(len(decision.kept), -1)
    row = decision.kept.nonzero()[:, 0]
    return own[0].index_copy(0, row, weights), own[1].index_copy(0, row, experts)


OPTION = Option(
    "--replay",
    lambda args, read: Replay(read(args.replay), args.live_weights),
    {"metavar": "TRACE", "help": "use the routing of a trace of the same prompt"},
    beside={"--live-weights": {"action": "store_true", "help": "with --replay: experts only, weighed by the routers"}},
)
