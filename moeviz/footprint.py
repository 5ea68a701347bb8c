"""The memory that a model needs: bytes of its weights by precision, and how many cards hold it."""

import math
from dataclasses import dataclass

from moeviz.model_info import ParameterCounts

BITS = (32, 16, 8, 4)  # of a weight. Quantised formats keep scales and some layers besides: 2 to 15% more
# What the makers' data sheets say, in GB of 10^9 bytes.
CARDS = {
    "T4": 16,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "L40S": 48,
    "A100 80GB": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
    "MI300X": 192,
}
FREE = 0.1  # of a card, for activations and what the runtime takes


@dataclass(frozen=True, slots=True)
class LayerCache:
    """The number of values that one layer keeps of a text."""

    constant: int
    per_token: int
    window: int | None  # tokens kept at most

    def values(self, tokens: int) -> int:
        """Values kept of so many tokens."""
        return self.constant + self.per_token * (tokens if self.window is None else min(tokens, self.window))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The facts on which the memory of a served model depends. `moeviz.capture.models.kv_cache` reads them."""

    name: str
    parameters: ParameterCounts
    num_experts: int  # of the layer with the most
    top_k: int
    hidden: int  # values that stand for a token between layers
    vocabulary: int
    caches: tuple[LayerCache, ...]  # of all layers that keep something of a text

    @property
    def width(self) -> int:
        """Inner values of the largest expert: it has three matrices of hidden x width."""
        return max(self.parameters.per_expert) // (3 * self.hidden)


def weight_bytes(parameters: int, bits: int) -> int:
    """Return the bytes of that many weights.

    >>> weight_bytes(46_702_792_704, 16)
    93405585408
    """
    return parameters * bits // 8


def cards_needed(taken: int, card: str | int | float) -> int:
    """Return how many cards of one kind hold that many bytes, with a tenth of each left free, and nothing stored twice.

    card   one of `CARDS`, or the memory of another in GB.

    >>> cards_needed(93_405_585_408, "H100"), cards_needed(93_405_585_408, "H200"), cards_needed(93_405_585_408, 24)
    (2, 1, 5)
    """
    return math.ceil(taken / usable_bytes(card))


def usable_bytes(card: str | int | float) -> float:
    """Bytes of a card for weights, keys and values: all but a tenth.

    >>> usable_bytes("H100")
    72000000000.0
    """
    return (CARDS[card] if isinstance(card, str) else card) * 1e9 * (1 - FREE)
