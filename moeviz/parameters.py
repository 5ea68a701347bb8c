"""Active and touched parameters, from the counts that `moeviz.capture.models.parameters` takes from a model; and the
memory that they need: bytes of weights by precision, and the number of cards that hold them.

Active parameters are those that one token runs through: top_k of the routed experts in each MoE layer, and everything
else. Model makers publish them by three conventions, so moeviz always names the one that it uses:

    all                           everything counts          (Mixtral's 12.9B, Qwen3's 3.3B)
    without input embedding       a look-up, not a product   (gpt-oss's 3.6B, DeepSeek-V3's 37B)
    without both embeddings       only the layers (GLM-4.5's 32B)

Touched parameters are those that a whole prompt runs through: each expert that at least one token chose, once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moeviz.model_info import ParameterCounts

CONVENTIONS = ("all", "without input embedding", "without both embeddings")


def active_parameters(counts: ParameterCounts, top_k: int, convention: str = "all") -> int:
    """Return the number of parameters that one token runs through, by one of CONVENTIONS.

    A tied matrix is both input embedding and output head, so it is counted unless both embeddings are left out.

    >>> tiny = ParameterCounts(100, 0, 40, 8, 60, 0, 0, 2, per_expert=(15,))
    >>> [active_parameters(tiny, 2, convention) for convention in CONVENTIONS]
    [180, 180, 80]

    Source: Mixtral of Experts (arXiv 2401.04088), section 2.1, 'active parameter count'.
    """
    return touched_parameters(counts, [top_k] * len(counts.per_expert)) - _left_out(counts, convention)


def touched_parameters(counts: ParameterCounts, distinct: Sequence[int]) -> int:
    """Return the parameters that a set of tokens runs through, if they use `distinct[l]` experts in MoE layer l."""
    experts = sum(used * size for used, size in zip(distinct, counts.per_expert, strict=True))
    return counts.total - counts.routed_experts + experts


def _left_out(counts: ParameterCounts, convention: str) -> int:
    return {
        "all": 0,
        "without input embedding": 0 if counts.tied else counts.input_embedding,
        "without both embeddings": counts.input_embedding + counts.output_embedding,
    }[convention]


BITS = (32, 16, 8, 4)  # per weight. Quantised formats also store scales and keep some layers: 2 to 15% more
# From the makers' data sheets, in GB of 10^9 bytes.
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
FREE = 0.1  # of a card, for activations and the runtime


@dataclass(frozen=True, slots=True)
class LayerCache:
    """The number of values that one layer caches for a text."""

    constant: int
    per_token: int
    window: int | None  # tokens kept at most

    def values(self, tokens: int) -> int:
        """Return the number of values cached for this many tokens."""
        return self.constant + self.per_token * (tokens if self.window is None else min(tokens, self.window))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The facts that determine the memory of a served model. `moeviz.capture.models.kv_cache` reads them."""

    name: str
    parameters: ParameterCounts
    num_experts: int  # of the layer with the most
    top_k: int
    hidden: int  # values per token between layers
    vocabulary: int
    caches: tuple[LayerCache, ...]  # of all layers that cache something

    @property
    def width(self) -> int:
        """The inner size of the largest expert, which has three matrices of hidden x width."""
        return max(self.parameters.per_expert) // (3 * self.hidden)


def weight_bytes(parameters: int, bits: int) -> int:
    """Return the bytes of this many weights.

    >>> weight_bytes(46_702_792_704, 16)
    93405585408
    """
    return parameters * bits // 8


def cards_needed(taken: int, card: str | int | float) -> int:
    """Return the number of cards of one kind that hold this many bytes, with a tenth of each left free.

    Nothing is stored twice.

    card   one of `CARDS`, or the memory of another card in GB.

    >>> cards_needed(93_405_585_408, "H100"), cards_needed(93_405_585_408, "H200"), cards_needed(93_405_585_408, 24)
    (2, 1, 5)
    """
    return math.ceil(taken / usable_bytes(card))


def usable_bytes(card: str | int | float) -> float:
    """Return the bytes of a card for weights, keys and values: all but a tenth.

    >>> usable_bytes("H100")
    72000000000.0
    """
    return (CARDS[card] if isinstance(card, str) else card) * 1e9 * (1 - FREE)
