"""What if the routers decided otherwise? Each intervention takes a router's decision and gives another one.

    Mute      some experts may not be chosen (or add nothing where they were)
    Force     some experts are chosen for every token
    TopK      another number of experts a token
    Exchange  two experts get each other's tokens
    Replay    the routing of another trace

To choose again, moeviz must know how a router decides: that is so where its kernels can run it, and it is checked on
the model itself. Other routers can still be muted without choosing again, exchanged and replayed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

Choice = tuple[Tensor, Tensor]  # weights (T, K), experts (T, K)
Experts = Mapping[int, Sequence[int]]  # expert ids by the model's own index of the layer


@dataclass(frozen=True, slots=True)
class Decision:
    """What one router decided in one forward. T tokens, K slots, E experts."""

    layer: int  # the model's own index
    index: int  # which of the trace's layers that is
    num_experts: int
    weights: Tensor  # (T, K)
    experts: Tensor  # (T, K)
    kept: Tensor  # (T,) bool: no padding
    factor: float  # what the block multiplies its experts' sum by besides
    again: Callable[
        [Tensor | None, int | None], Choice
    ]  # choose again, with a bias (E,) on the ranks and another top-k


@runtime_checkable
class Intervention(Protocol):
    """Something that changes what routers decide."""

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` where a model with so many experts by layer, this top-k and these tokens cannot be."""

    def change(self, decision: Decision) -> Choice:
        """Weights and experts in place of those that the router chose."""


@dataclass(frozen=True, slots=True)
class Mute:
    """These experts may not be chosen: the router takes its next best, and weighs them as it would.

    With `reroute=False` nothing takes their place: they add 0, and the weights of the others stay as they are.
    """

    experts: Experts
    reroute: bool = True

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or where too few are left to choose from."""
        _check_experts(self.experts, layers)
        for layer, muted in self.experts.items():
            if self.reroute and layers[layer] - len(set(muted)) < top_k:
                raise CaptureError(
                    f"Layer {layer} has {layers[layer]} experts, and each token takes {top_k}: at most "
                    f"{layers[layer] - top_k} can be muted, not {len(set(muted))}. Or mute with reroute=False."
                )

    def change(self, decision: Decision) -> Choice:
        """The next best experts, or the same without the muted ones."""
        muted = self.experts.get(decision.layer)
        if not muted:
            return decision.weights, decision.experts
        if self.reroute:
            return decision.again(_bias(decision, muted, -torch.inf), None)
        silent = torch.isin(decision.experts, decision.experts.new_tensor(list(muted)))
        return decision.weights.masked_fill(silent, 0), decision.experts


@dataclass(frozen=True, slots=True)
class Force:
    """These experts are chosen for every token; what slots are left go to the router's best. Weighed as it would."""

    experts: Experts

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there, or more than a token has slots."""
        _check_experts(self.experts, layers)
        for layer, forced in self.experts.items():
            if len(set(forced)) > top_k:
                raise CaptureError(
                    f"A token takes {top_k} experts; {len(set(forced))} cannot be forced at layer {layer}."
                )

    def change(self, decision: Decision) -> Choice:
        """The forced experts, and the router's best beside them."""
        forced = self.experts.get(decision.layer)
        if not forced:
            return decision.weights, decision.experts
        return decision.again(_bias(decision, forced, torch.inf), None)


@dataclass(frozen=True, slots=True)
class TopK:
    """Another number of experts a token, in all layers or in some; weighed as the router would."""

    top_k: int
    layers: tuple[int, ...] | None = None

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for layers that are not there, or more slots than experts."""
        _check_layers(self.layers or (), layers)
        if not 1 <= self.top_k <= min(layers.values()):
            raise CaptureError(f"Each token can take 1 to {min(layers.values())} experts, not {self.top_k}.")

    def change(self, decision: Decision) -> Choice:
        """The router's best so many."""
        if self.layers is not None and decision.layer not in self.layers:
            return decision.weights, decision.experts
        return decision.again(None, self.top_k)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Two experts of a layer get each other's tokens, with the weights that the router gave them."""

    layer: int
    one: int
    other: int

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for experts that are not there."""
        _check_experts({self.layer: (self.one, self.other)}, layers)

    def change(self, decision: Decision) -> Choice:
        """The same choice with the two ids exchanged."""
        if decision.layer != self.layer:
            return decision.weights, decision.experts
        is_one, is_other = (decision.experts == expert for expert in (self.one, self.other))
        return decision.weights, decision.experts.masked_fill(is_one, self.other).masked_fill(is_other, self.one)


@dataclass(frozen=True, slots=True)
class Replay:
    """The routing of a trace of the same tokens, whatever the router says. The model's own gives the same output."""

    trace: RoutingTrace

    def check(self, layers: Mapping[int, int], top_k: int, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` for a trace of other layers, other experts, or without weights."""
        model = self.trace.model
        if dict(zip(model.layers, model.num_experts, strict=True)) != dict(layers) or self.trace.weights is None:
            raise CaptureError(
                f"The trace to replay is of {model.name}: layers {model.layers}, {model.num_experts} experts"
                f"{'' if self.trace.weights is not None else ', no weights'}. It needs weights, and the same layers "
                f"and experts as the model that runs: {dict(layers)}."
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


def _put(decision: Decision, weights: Tensor, experts: Tensor) -> Choice:
    """These rows in place of the tokens'. Padding keeps its own, or gets the first of them where slots are others."""
    own = decision.weights, decision.experts
    if weights.shape[1] != decision.weights.shape[1]:
        own = weights[:1].expand(len(decision.kept), -1), experts[:1].expand(len(decision.kept), -1)
    row = decision.kept.nonzero()[:, 0]
    return own[0].index_copy(0, row, weights), own[1].index_copy(0, row, experts)


def _bias(decision: Decision, experts: Sequence[int], value: float) -> Tensor:
    bias = torch.zeros(decision.num_experts, device=decision.weights.device)
    bias[list(experts)] = value
    return bias


def _check_layers(asked: Sequence[int], layers: Mapping[int, int]) -> None:
    if missing := [layer for layer in asked if layer not in layers]:
        raise CaptureError(f"The model has no MoE layer {missing[0]}; it has {tuple(layers)}.")


def _check_experts(experts: Experts, layers: Mapping[int, int]) -> None:
    _check_layers(tuple(experts), layers)
    for layer, ids in experts.items():
        if outside := [expert for expert in ids if not 0 <= expert < layers[layer]]:
            raise CaptureError(f"Layer {layer} has experts 0 to {layers[layer] - 1}, not {outside[0]}.")
