"""What a decoder costs: memory, which goes with all its parameters, and compute, with those that work on a word."""

from dataclasses import dataclass

from torch import nn

from moeviz.history.dense_contrast.small_mixtral import Sizes, unfilled

# By the name of a module on the way to a parameter; the last that fits counts.
PART_OF = {
    "embedding": "input_embedding",
    "head": "output_embedding",
    "attention": "attention",
    "router": "routers",
    "experts": "routed_experts",
}
PARTS = (*PART_OF.values(), "dense_layers", "other")


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters of a decoder by what they do, and how many of them work on one word."""

    parts: dict[str, int]  # of PARTS; they sum to the total
    active: int

    @property
    def total(self) -> int:
        """All parameters: what has to lie in memory."""
        return sum(self.parts.values())

    @property
    def multiply_adds(self) -> int:
        """Multiplications with a sum for one word: one for each number of a matrix that it runs through.

        The input embedding is looked up, and the norms are no matrices. What words of a sequence do with each other in
        attention comes on top, and is the same for a mixture and for both of its dense twins.
        """
        return self.active - self.parts["input_embedding"] - self.parts["other"]


def cost(sizes: Sizes) -> Cost:
    """Count the parameters of a decoder of these sizes, part by part, from its modules.

    Active are the K of E experts of each layer, and all the rest. The one expert of a dense network is a feed-forward
    block like any other: of its dense layers.

    >>> from moeviz.history.dense_contrast.small_mixtral import MIXTRAL_8X7B
    >>> f"{cost(MIXTRAL_8X7B).total:,} {cost(MIXTRAL_8X7B).active:,}"
    '46,702,792,704 12,879,925,248'

    Source: Jiang et al. (arXiv 2401.04088), section 2.1: "sparse" and "active parameter count".
    """
    parts = count_parts(unfilled(sizes))
    resting = parts["routed_experts"] * (sizes.experts - sizes.top_k) // sizes.experts
    if sizes.experts == 1:
        parts |= {"dense_layers": parts["routed_experts"], "routed_experts": 0}
    return Cost(parts, sum(parts.values()) - resting)


def count_parts(decoder: nn.Module) -> dict[str, int]:
    """Parameters of each of PARTS; those of experts are routed, be there one or several."""
    counts = dict.fromkeys(PARTS, 0)
    for path, parameter in decoder.named_parameters():
        names = [PART_OF[name] for name in path.split(".") if name in PART_OF]
        counts[names[-1] if names else "other"] += parameter.numel()
    return counts
