"""The choices of an intervention: each declared once, for the page What if and its address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.model_info import ModelInfo

Offer = Callable[[ModelInfo, int | None], Sequence[Any]]  # of a model, and of the layer that was chosen before


@dataclass(frozen=True, slots=True)
class Parameter:
    """One choice: its name in an address, its label, and what a model offers."""

    name: str  # a keyword of `Option.of`
    label: str
    offered: Offer
    usual: Callable[[ModelInfo], Any] | None = None  # the value to begin with; else the first offered
    several: bool = False  # any number of the values
    of_layer: bool = False  # another choice in each layer
    scale: bool = False  # the values are ordered: a slider

    def first(self, info: ModelInfo, offered: Sequence[Any]) -> Any:
        """Return the value to begin with."""
        usual = None if self.usual is None else self.usual(info)
        value = usual if usual in offered else offered[0]
        return [value] if self.several else value

    def text(self, value: Any) -> str:
        """Return a value as an address has it."""
        return ",".join(map(str, value)) if self.several else str(value)

    def value(self, text: str, offered: Sequence[Any]) -> Any:
        """Return the value that an address has; None if the model does not offer it."""
        found = [value for word in text.split(",") for value in offered if str(value) == word]
        return (list(dict.fromkeys(found)) or None) if self.several else next(iter(found), None)


def _experts(info: ModelInfo, layer: int | None) -> range:
    return range(min(info.num_experts) if layer is None else info.num_experts[info.layers.index(layer)])


AMOUNTS = tuple(half / 2 for half in range(-16, 17))  # that an expert is turned up by, or down

LAYER = Parameter("layer", "Layer", lambda info, _: info.layers)
EXPERTS = Parameter("experts", "Experts", _experts, several=True, of_layer=True)
EXPERT = Parameter("expert", "Expert", _experts, of_layer=True)
WITH_EXPERT = Parameter("with_expert", "With expert", _experts, usual=lambda _: 1, of_layer=True)
AMOUNT = Parameter("amount", "Added to the score", lambda *_: AMOUNTS, usual=lambda _: 2.0, scale=True)
