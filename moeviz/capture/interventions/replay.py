"""Replay: the routing of another trace."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moeviz.capture.interventions import intervention
from moeviz.capture.interventions.intervention import Choice, DecidedRouting, Decision, LimitsByLayer, Option
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

if TYPE_CHECKING:  # no torch for the command line, as in `intervention.py`
    from torch import Tensor
else:
    Tensor = Any


@dataclass(frozen=True, slots=True)
class Replay:
    """Replay the routing of a trace of the same tokens instead of what the routers decide.

    Replaying a model's own trace gives the same output, to the last bit. `live_weights` replays only the experts, and
    the router weighs them by its own scores, as training with Rollout Routing Replay does; the trace needs no weights.

    >>> import moeviz
    >>> model = moeviz.load_model()
    >>> own = moeviz.trace(model, "Il fait froid.")
    >>> moeviz.what_if(model, "Il fait froid.", moeviz.Replay(own)).effect["kl"].max().item()
    0.0

    Source: R3 (arXiv 2510.11370), section 4.
    """

    trace: RoutingTrace
    live_weights: bool = False

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for a trace of other layers, other experts or other tokens, or without what is used."""
        model, experts = self.trace.model, {layer: limits.num_experts for layer, limits in layers.items()}
        no_weights = self.trace.weights is None and not self.live_weights
        if dict(zip(model.layers, model.num_experts, strict=True)) != experts or no_weights:
            raise CaptureError(
                f"The trace to replay is of {model.name}: layers {model.layers}, {model.num_experts} experts"
                f"{', no weights' * no_weights}. It needs weights (or live_weights, which takes the router's), and the "
                f"same layers and experts as the model that runs: {experts}."
            )
        if self.live_weights and not self.trace.filled.all():
            raise CaptureError(
                f"{int((~self.trace.filled).sum()):,} slots of the trace to replay hold no expert, and a router weighs "
                "all of a token's experts together. Replay its weights too."
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
        """The trace's choice; in the router's own order of slots where both chose the same."""
        recorded = np.where(self.trace.experts < 0, 0, self.trace.experts)[decision.index]
        experts = decision.experts.new_tensor(recorded)
        if self.live_weights:
            weights, experts = _weighed(decision, experts)
        else:
            weights = decision.weights.new_tensor(self.trace.need("weights", "Replay")[decision.index])
        factor = 1 if self.live_weights else decision.factor  # a recorded weight has the block's factor in it
        own_weights, own = decision.weights[decision.kept], decision.experts[decision.kept]
        if experts.shape != own.shape:
            return _put(decision, weights / factor, experts)
        place, theirs = own.argsort(dim=-1).argsort(dim=-1), experts.argsort(dim=-1)
        experts, weights = (part.gather(-1, theirs).gather(-1, place) for part in (experts, weights))
        same = (experts == own).all(dim=-1, keepdim=True) if self.live_weights else weights == own_weights * factor
        return _put(decision, own_weights.where(same, weights / factor), experts)

    def check_held(self, changed: DecidedRouting, own: DecidedRouting, layers: LimitsByLayer) -> None:
        """Raise `CaptureError` where the decision is not that of the trace, up to the rounding of the model's dtype."""
        if self.live_weights:
            for (layer, now, _), asked in zip(intervention.layer_pairs(changed, own), self.trace.experts, strict=True):
                same = (np.sort(now.experts) == np.sort(asked)).all(axis=-1)
                intervention.check_all_tokens(self, layer, same, "another expert was chosen than in the trace")
            return
        weights = self.trace.need("weights", "Replay")
        replayed = DecidedRouting(changed.layers, self.trace.experts, weights, changed.precision)
        for layer, now, asked in intervention.layer_pairs(changed, replayed):
            expected = intervention.weights_by_expert(asked, layers[layer].num_experts)
            intervention.check_weights(self, layer, now, expected, changed.precision)


def _weighed(decision: Decision, experts: Tensor) -> Choice:
    """Return the router's own weights of these experts (tokens without padding, K), and the experts in its order."""
    pushed = decision.weights.new_zeros(len(decision.kept), decision.limits.num_experts).float()
    rows = decision.kept.nonzero()
    pushed[rows, experts] = float("inf")
    weights, chosen = decision.again(pushed, experts.shape[1])
    return weights[decision.kept], chosen[decision.kept]


def _put(decision: Decision, weights: Tensor, experts: Tensor) -> Choice:
    """Return these rows instead of the tokens' own; padding keeps its own, or gets the first if slots differ."""
    own = decision.weights, decision.experts
    if weights.shape[1] != decision.weights.shape[1]:
        own = weights[:1].expand(len(decision.kept), -1), experts[:1].expand(len(decision.kept), -1)
    row = decision.kept.nonzero()[:, 0]
    return own[0].index_copy(0, row, weights), own[1].index_copy(0, row, experts)


OPTION = Option(
    "--replay",
    lambda args, read: Replay(read(args.replay), live_weights=args.live_weights),
    {"metavar": "TRACE", "help": "use the routing of a trace of the same prompt"},
    beside={
        "--live-weights": {
            "action": "store_true",
            "help": "with --replay: only the experts of the trace, weighed by this model's routers",
        }
    },
)
