"""What an intervention may ask of the routers of a model, and the sentences where it asks for something else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from moeviz.errors import CaptureError

Experts = Mapping[int, Sequence[int]]  # expert ids by the model's own index of the layer


@dataclass(frozen=True, slots=True)
class Limits:
    """Between what one router chooses."""

    num_experts: int  # those that compute nothing too
    top_k: int
    groups: int = 1  # of experts in order and of equal size,
    groups_kept: int = 1  # of which a token's experts come from so many
    ceiling: int = 2**15  # experts a token that moeviz can choose

    @property
    def group_size(self) -> int:
        """Experts in a group."""
        return self.num_experts // self.groups

    @property
    def most(self) -> int:
        """Experts that a token can have, where moeviz chooses."""
        return min(self.groups_kept * self.group_size, self.ceiling)

    def left(self, muted: set[int]) -> int:
        """Experts that a token can have at best without these."""
        sizes = [self.group_size - sum(e // self.group_size == group for e in muted) for group in range(self.groups)]
        return sum(sorted(sizes, reverse=True)[: self.groups_kept])

    def __str__(self) -> str:
        if self.groups == 1:
            return f"{self.num_experts} experts"
        return f"{self.num_experts} experts in {self.groups} groups, of which a token's experts come from {kept(self)}"


def kept(limits: Limits) -> str:
    """How many groups a token's experts come from, in words."""
    return "one" if limits.groups_kept == 1 else str(limits.groups_kept)


Layers = Mapping[int, Limits]  # by the model's own index of the layer


def check_layers(asked: Sequence[object], layers: Layers) -> None:
    """Raise `CaptureError` for a layer that the model does not have."""
    for layer in asked:
        if not is_whole(layer) or layer not in layers:
            raise CaptureError(f"The model has no MoE layer {shown(layer)}; it has {tuple(layers)}.")


def check_experts(what: object, experts: object, layers: Layers) -> None:
    """Raise `CaptureError` unless `experts` names some, all of which are there."""
    if not isinstance(experts, Mapping):
        raise CaptureError(f"{what} takes experts by layer, such as {{3: (1, 4)}}, not {experts!r}.")
    check_layers(tuple(experts), layers)
    for layer, ids in experts.items():
        if isinstance(ids, str) or not isinstance(ids, Sequence | set | frozenset | np.ndarray):
            raise CaptureError(f"{what} takes several expert ids a layer, such as {{3: (1, 4)}}, not {ids!r}.")
        for expert in ids:
            check_expert(layer, expert, layers)
    if not any(len(ids) for ids in experts.values()):
        raise CaptureError(f"{what} names no expert. Name one or more by layer, such as {{3: (1, 4)}}.")


def check_expert(layer: Any, expert: Any, layers: Layers) -> None:
    """Raise `CaptureError` for an expert that the layer does not have."""
    if not is_whole(expert) or not 0 <= expert < layers[layer].num_experts:
        raise CaptureError(f"Layer {layer} has experts 0 to {layers[layer].num_experts - 1}, not {shown(expert)}.")


def is_whole(number: object) -> bool:
    """Whether this is a whole number, of Python or of numpy. True and False are none."""
    return isinstance(number, Integral) and not isinstance(number, bool | np.bool_)


def shown(value: object) -> str:
    """A value in a sentence: numpy's numbers as plain ones."""
    return str(value) if is_whole(value) else repr(value)
