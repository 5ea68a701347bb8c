"""The interface of an intervention, what it may ask of a model's routers, the option that asks for it, and the checks.

Each intervention says what should have been recorded (`check_held` in its file), and every run under one is held
against it before anyone sees the trace.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from moeviz.capture.interventions.parameter import Parameter
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace
from moeviz.text import no_layer

TINY = 1e-7  # weights that half precision rounds to 0


if TYPE_CHECKING:  # the command line reads the table of interventions, and needs no torch for it
    from torch import Tensor as Tensor
else:
    Tensor = Any

Experts = Mapping[int, Sequence[int]]  # expert ids by the model's own index of the layer


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """Between what one router chooses."""

    num_experts: int  # those that compute nothing too
    top_k: int
    groups: int = 1  # of experts in order and of equal size,
    groups_kept: int = 1  # of which a token's experts come from this many
    ceiling: int = 2**15  # experts per token that moeviz can choose

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
        groups = f"{self.groups} groups, of which a token's experts come from {groups_in_words(self)}"
        return f"{self.num_experts} experts in {groups}"


def groups_in_words(limits: RouterLimits) -> str:
    """Say how many groups a token's experts come from."""
    return "one" if limits.groups_kept == 1 else str(limits.groups_kept)


LimitsByLayer = Mapping[int, RouterLimits]  # by the model's own index of the layer


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """The decisions of one router: T tokens, K slots."""

    experts: np.ndarray  # (T, K)
    weights: np.ndarray  # (T, K)

    @property
    def filled_slots(self) -> np.ndarray:
        """The number of slots of each token (T,) that hold an expert."""
        slots: np.ndarray = (self.experts >= 0).sum(axis=-1)
        return slots

    def by_expert(self, num_experts: int) -> np.ndarray:
        """Return the weight of every expert for every token, (T, E) float32: 0 where it was not chosen."""
        table = np.zeros((len(self.experts), num_experts), np.float32)
        weights = np.where(self.experts < 0, 0, self.weights)
        np.add.at(table, (np.arange(len(table))[:, None], self.experts.clip(min=0)), weights)
        return table


@dataclass(frozen=True, slots=True)
class ChangedLayer:
    """One layer of a run under an intervention, to be held against what it asked for."""

    asked: object  # the intervention
    layer: int  # the model's own index
    index: int  # which of the trace's layers that is
    limits: RouterLimits
    now: LayerRouting  # what was recorded
    own: LayerRouting  # what the router decided itself in that run, before it was changed
    precision: float  # how much a weight may be off by rounding, relative

    def own_weights(self) -> np.ndarray:
        """Return the router's own weight of every expert for every token, (T, E) float32."""
        return self.own.by_expert(self.limits.num_experts)

    def check_weights(self, expected: np.ndarray, precision: float = 0.0) -> None:
        """Raise `CaptureError` if an expert has another weight than expected, (T, E)."""
        found, allowed = self.now.by_expert(expected.shape[1]), TINY if precision else 0.0
        same = np.isclose(found, expected, rtol=2 * precision, atol=allowed, equal_nan=True)
        self.check_all_tokens(same.all(axis=-1), "an expert has another weight than it should")

    def check_all_tokens(self, is_so: np.ndarray, otherwise: str) -> None:
        """Raise `CaptureError` unless it is so for every token (T,)."""
        if not is_so.all():
            raise CaptureError(
                f"{type(self.asked).__name__} did not come through at layer {self.layer}: for {(~is_so).sum()} of "
                f"{len(is_so)} tokens {otherwise}. A trace of this run would not be of the change that you asked for. "
                "Please report this model."
            )


def check_layers(asked: Sequence[object], layers: LimitsByLayer) -> None:
    """Raise `CaptureError` for a layer that the model does not have."""
    for layer in asked:
        if not is_whole(layer) or layer not in layers:
            raise CaptureError(no_layer("The model", shown(layer), tuple(layers)))


def check_experts(what: object, experts: object, layers: LimitsByLayer) -> None:
    """Raise `CaptureError` unless `experts` names some, all of which are there."""
    if not isinstance(experts, Mapping):
        raise CaptureError(f"{what} needs experts by layer, as in {what}({{3: (1, 4)}}), and got {experts!r}.")
    check_layers(tuple(experts), layers)
    for layer, ids in experts.items():
        if isinstance(ids, str) or not isinstance(ids, Sequence | set | frozenset | np.ndarray):
            raise CaptureError(
                f"{what} needs a sequence of experts for each layer, as in {what}({{3: (1,)}}), and got {ids!r}."
            )
        for expert in ids:
            check_expert(layer, expert, layers)
    if not any(len(ids) for ids in experts.values()):
        raise CaptureError(f"{what} names no expert. Name one or more by layer, as in {what}({{3: (1, 4)}}).")


def check_expert(layer: Any, expert: Any, layers: LimitsByLayer) -> None:
    """Raise `CaptureError` for an expert that the layer does not have."""
    if not is_whole(expert) or not 0 <= expert < layers[layer].num_experts:
        raise CaptureError(f"Layer {layer} has experts 0 to {layers[layer].num_experts - 1}, not {shown(expert)}.")


def is_whole(number: object) -> bool:
    """True for a whole number, of Python or of numpy; False for True and False."""
    return isinstance(number, Integral) and not isinstance(number, bool | np.bool_)


def shown(value: object) -> str:
    """Return a value in a sentence: numpy's numbers as plain ones."""
    return str(value) if is_whole(value) else repr(value)


Choice = tuple[Tensor, Tensor]  # weights (T, K), experts (T, K)


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of one router in one forward. T tokens, K slots, E experts."""

    layer: int  # the model's own index
    index: int  # which of the trace's layers that is
    limits: RouterLimits
    weights: Tensor  # (T, K)
    experts: Tensor  # (T, K)
    kept: Tensor  # (T,) bool: no padding
    of_prompts: bool  # the tokens are those of the prompts, not one generated after them
    factor: float  # what the block multiplies its experts' sum by besides
    # Choose again: pushed (E,) or (T, E), as `choose_torch` has it; top-k; and with removed=True, experts that are
    # pushed to -inf have no part in the scores either.
    again: Callable[..., Choice]


@runtime_checkable
class Intervention(Protocol):
    """Something that changes what routers decide."""

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` if a model with these limits by layer, and these tokens, cannot be given it."""

    def change(self, decision: Decision) -> Choice:
        """Return the weights and experts to use instead of the router's own; the same tensors if nothing changes."""

    def check_held(self, at: ChangedLayer) -> None:
        """Raise `CaptureError` if a run did not do it at one layer. Called for each layer of a trace, in order."""


@dataclass(frozen=True, slots=True)
class Option:
    """A request for an intervention: an option of `moeviz what-if`, and the choices of the page What if."""

    flag: str  # "--mute"
    make: Callable[[Any, Callable[[str], RoutingTrace]], object]  # of the parsed arguments, and what reads a trace
    keywords: Mapping[str, Any]  # as argparse takes them
    least: int | None = None  # of whole numbers, if the option takes those
    several: str | None = None  # what a value looks like, if there may be several, as in 3:1;4:2
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further flags that go with it
    title: str = ""  # on the page; without one, it is not offered there
    meaning: str = ""  # what it does, in a sentence
    parameters: tuple[Parameter, ...] = ()  # that a person chooses, in order
    of: Callable[..., object] | None = None  # of the values of these, by name

    @property
    def name(self) -> str:
        """Name of the parsed argument."""
        return self.flag.lstrip("-").replace("-", "_")


EXPERT_WORDS = r"[\d:,;]+"


def experts_from_words(words: Sequence[str]) -> Experts:
    """Read expert ids by layer from words such as "3:1,4". Raises `CaptureError` for any other word.

    >>> experts_from_words(["3:1,4", "5:0"])
    {3: (1, 4), 5: (0,)}
    """
    experts: dict[int, tuple[int, ...]] = {}
    for text in words:
        if not re.fullmatch(r"\d{1,9}:\d{1,9}(,\d{1,9})*", text):
            raise CaptureError(f"{text!r} names no experts. Write LAYER:EXPERT, or LAYER:EXPERT,EXPERT for several.")
        layer, ids = text.split(":")
        experts[int(layer)] = (*experts.get(int(layer), ()), *map(int, ids.split(",")))
    return experts


def experts_of_layer(experts: Mapping[Any, Any], layer: int) -> list[int]:
    """Return the ids that are named for a layer, each once and in order."""
    return sorted({int(expert) for expert in experts.get(layer, ())})


def is_one_of(experts: Tensor, ids: Sequence[int]) -> Tensor:
    """Return a bool mask (T, K) of the slots that hold one of these expert ids."""
    found: Tensor = (experts[..., None] == experts.new_tensor(ids)).any(dim=-1)
    return found


def push(decision: Decision, experts: Sequence[int], value: float) -> Tensor:
    """A vector (E,) float32, `value` for these experts and 0 for others: what `Decision.again` adds to the ranks."""
    pushed: Tensor = decision.weights.new_zeros(decision.limits.num_experts).float()
    pushed[list(experts)] = value
    return pushed


def push_by_token(decision: Decision, experts: Tensor) -> Tensor:
    """Return (T, E) float32, infinite for the experts (T, N) named for each token and 0 for others."""
    pushed: Tensor = decision.weights.new_zeros(len(experts), decision.limits.num_experts).float()
    return pushed.scatter_(1, experts.long(), float("inf"))
