"""What if the routers decided otherwise? Each intervention takes a router's decision and gives another one.

    Mute      some experts may not be chosen (or add nothing where they were)
    Force     some experts are chosen for every token
    TopK      another number of experts a token
    Exchange  two experts get each other's tokens
    Replay    the routing of another trace

To choose again, moeviz must know how a router decides: that is so where its kernels can run it, and it is checked on
the model itself. Other routers can still be muted without choosing again, exchanged and replayed.

Where a router limits a token to the experts of its best groups (DeepSeek-V2 and V3, and their kin), choosing again
obeys that limit. A muted expert counts nothing in the score of its group. The group of a forced expert is kept, as one
of the groups that a token may have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.capture.change import held
from moeviz.capture.change.held import Routing
from moeviz.capture.change.intervention import Choice, Decision
from moeviz.capture.change.limits import (
    Experts,
    Layers,
    Limits,
    check_expert,
    check_experts,
    check_layers,
    is_whole,
    kept,
    shown,
)
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace


@dataclass(frozen=True, slots=True)
class Mute:
    """These experts may not be chosen: the router takes its next best, and weighs them as it would.

    With `reroute=False` nothing takes their place: they add 0, and the weights of the others stay as they are.
    """

    experts: Experts
    reroute: bool = True

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or where too few are left to choose from."""
        check_experts("Mute", self.experts, layers)
        for layer, ids in self.experts.items():
            limits, muted = layers[layer], {int(expert) for expert in ids}
            if not self.reroute or limits.left(muted) >= limits.top_k:
                continue
            if limits.groups == 1:
                raise CaptureError(
                    f"Layer {layer} has {limits.num_experts} experts, and each token takes {limits.top_k}: at most "
                    f"{limits.num_experts - limits.top_k} can be muted, not {len(muted)}. Or mute with reroute=False."
                )
            raise _too_few(layer, limits, muted, f"at most {limits.left(muted)} are left in them")

    def change(self, decision: Decision) -> Choice:
        """The next best experts, or the same without the muted ones."""
        muted = _of_layer(self.experts, decision.layer)
        if not muted:
            return decision.weights, decision.experts
        if not self.reroute:
            return decision.weights.masked_fill(_are(decision.experts, muted), 0), decision.experts
        weights, experts = decision.again(_push(decision, muted, -torch.inf), None)
        out_of_reach = _are(experts, muted)[decision.kept].any(dim=-1)
        if out_of_reach.any():
            tokens = f"too few are left in them for {int(out_of_reach.sum())} of {len(out_of_reach)} tokens"
            raise _too_few(decision.layer, decision.limits, set(muted), tokens)
        return weights, experts

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where a muted expert has a weight; with rerouting, where it has a slot or one is empty.

        Without rerouting all other weights must be the router's own.
        """
        for layer, now, before in held.pairs(changed, own):
            muted = _of_layer(self.experts, layer)
            if self.reroute and muted:
                without = np.logical_not(np.isin(now.experts, muted).any(axis=-1))
                held.check(self, layer, without, "a muted expert has a slot")
                held.check(self, layer, held.filled(now) == held.filled(before), "a slot is empty")
            else:
                expected = held.by_expert(before, layers[layer].num_experts)
                expected[:, muted] = 0
                held.check_weights(self, layer, now, expected)


@dataclass(frozen=True, slots=True)
class Force:
    """These experts are chosen for every token; what slots are left go to the router's best. Weighed as it would."""

    experts: Experts

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
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
                    f"experts of {kept(limits)} at most."
                )

    def change(self, decision: Decision) -> Choice:
        """The forced experts, and the router's best beside them."""
        forced = _of_layer(self.experts, decision.layer)
        if not forced:
            return decision.weights, decision.experts
        return decision.again(_push(decision, forced, torch.inf), None)

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where a forced expert was not chosen."""
        for layer, now, _ in held.pairs(changed, own):
            for expert in _of_layer(self.experts, layer):
                there = (now.experts == expert).any(axis=-1)
                held.check(self, layer, there, f"forced expert {expert} was not chosen")


@dataclass(frozen=True, slots=True)
class TopK:
    """Another number of experts a token, in all layers or in some; weighed as the router would."""

    top_k: int
    layers: tuple[int, ...] | None = None

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
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
        """The router's best so many."""
        if not self._is_at(decision.layer):
            return decision.weights, decision.experts
        return decision.again(None, int(self.top_k))

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where a token has another number of experts."""
        for layer, now, _ in held.pairs(changed, own):
            if self._is_at(layer):
                held.check(self, layer, held.filled(now) == self.top_k, "another number of slots is filled")

    def _is_at(self, layer: int) -> bool:
        return self.layers is None or layer in self.layers


@dataclass(frozen=True, slots=True)
class Exchange:
    """Two experts of a layer get each other's tokens, with the weights that the router gave them."""

    layer: int
    one: int
    other: int

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or the same one twice."""
        check_layers((self.layer,), layers)
        for expert in (self.one, self.other):
            check_expert(self.layer, expert, layers)
        if self.one == self.other:
            raise CaptureError(f"Expert {self.one} cannot be exchanged with itself. Name two experts.")

    def change(self, decision: Decision) -> Choice:
        """The same choice with the two ids exchanged."""
        if decision.layer != self.layer:
            return decision.weights, decision.experts
        is_one, is_other = (decision.experts == expert for expert in (self.one, self.other))
        exchanged = decision.experts.masked_fill(is_one, int(self.other)).masked_fill(is_other, int(self.one))
        return decision.weights, exchanged

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where the decision is not the router's own with the two ids exchanged."""
        for layer, now, before in held.pairs(changed, own):
            expected = held.by_expert(before, layers[layer].num_experts)
            if layer == self.layer:
                expected[:, [self.one, self.other]] = expected[:, [self.other, self.one]]
            held.check_weights(self, layer, now, expected)


@dataclass(frozen=True, slots=True)
class Replay:
    """The routing of a trace of the same tokens, whatever the router says. The model's own gives the same output."""

    trace: RoutingTrace

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for a trace of other layers, other experts, or without weights."""
        model, experts = self.trace.model, {layer: limits.num_experts for layer, limits in layers.items()}
        if dict(zip(model.layers, model.num_experts, strict=True)) != experts or self.trace.weights is None:
            raise CaptureError(
                f"The trace to replay is of {model.name}: layers {model.layers}, {model.num_experts} experts"
                f"{'' if self.trace.weights is not None else ', no weights'}. It needs weights, and the same layers "
                f"and experts as the model that runs: {experts}."
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
        experts = np.where(self.trace.experts < 0, 0, self.trace.experts)[decision.index]
        weights = torch.from_numpy(self.trace.need("weights", "Replay")[decision.index]).to(decision.weights)
        experts = torch.from_numpy(experts).to(decision.experts)
        own_weights, own = decision.weights[decision.kept], decision.experts[decision.kept]
        if experts.shape != own.shape:
            return _put(decision, weights / decision.factor, experts)
        place, theirs = own.argsort(dim=-1).argsort(dim=-1), experts.argsort(dim=-1)
        experts, weights = (part.gather(-1, theirs).gather(-1, place) for part in (experts, weights))
        same = weights == own_weights * decision.factor
        return _put(decision, torch.where(same, own_weights, weights / decision.factor), experts)

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where the decision is not that of the trace, up to the rounding of the model's dtype."""
        weights = self.trace.need("weights", "Replay")
        replayed = Routing(changed.layers, self.trace.experts, weights, changed.precision)
        for layer, now, asked in held.pairs(changed, replayed):
            expected = held.by_expert(asked, layers[layer].num_experts)
            held.check_weights(self, layer, now, expected, changed.precision)


def _put(decision: Decision, weights: Tensor, experts: Tensor) -> Choice:
    """These rows in place of the tokens'. Padding keeps its own, or gets the first of them where slots are others."""
    own = decision.weights, decision.experts
    if weights.shape[1] != decision.weights.shape[1]:
        own = weights[:1].expand(len(decision.kept), -1), experts[:1].expand(len(decision.kept), -1)
    row = decision.kept.nonzero()[:, 0]
    return own[0].index_copy(0, row, weights), own[1].index_copy(0, row, experts)


def _of_layer(experts: Mapping[Any, Any], layer: int) -> list[int]:
    return sorted({int(expert) for expert in experts.get(layer, ())})


def _are(experts: Tensor, ids: Sequence[int]) -> Tensor:
    return torch.isin(experts, experts.new_tensor(ids))


def _push(decision: Decision, experts: Sequence[int], value: float) -> Tensor:
    pushed = torch.zeros(decision.limits.num_experts, device=decision.weights.device)
    pushed[list(experts)] = value
    return pushed


def _too_few(layer: int, limits: Limits, muted: set[int], what: str) -> CaptureError:
    return CaptureError(
        f"Layer {layer} has {limits}, and each token takes {limits.top_k}: with {len(muted)} muted, {what}. Mute "
        "fewer, or mute with reroute=False."
    )
