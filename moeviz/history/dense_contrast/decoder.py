"""A decoder built as Mixtral's, of any size: attention, and in each layer experts behind a router, or one without.

Small it is trained here; with the sizes of Mixtral 8x7B it is built without memory, and its parameters are counted.

Source: Jiang et al., Mixtral of Experts (arXiv 2401.04088), sections 2 and 2.1. SwiGLU: Shazeer (arXiv 2002.05202).

N sequences of P words each, or T words in all; D width, H hidden units of an expert, E experts, K chosen of them,
V words of the vocabulary.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moeviz.history.shared.experts import TopKChoice

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-5
INITIAL_SPREAD = 0.02


@dataclass(frozen=True, slots=True)
class Sizes:
    """Everything that decides how many parameters a decoder has, and how many of them work on one word."""

    vocabulary: int
    width: int
    hidden: int  # units of one expert
    layers: int
    heads: int
    key_heads: int  # heads share their keys and values in groups
    experts: int  # 1: a dense network, without a router
    top_k: int

    def as_fast(self) -> "Sizes":
        """Return the dense network with as much work per word: one block, as wide as the chosen experts together."""
        return replace(self, hidden=self.top_k * self.hidden, experts=1, top_k=1)

    def as_large(self) -> "Sizes":
        """Return the network of as many parameters that uses them all: every expert is on for every word."""
        return replace(self, top_k=self.experts)


MIXTRAL_8X7B = Sizes(vocabulary=32_000, width=4096, hidden=14_336, layers=32, heads=32, key_heads=8, experts=8, top_k=2)


class MixtureBlock(nn.Module):
    """The experts of one layer: y = Σᵢ Softmax(TopK(x W_g))ᵢ · SwiGLUᵢ(x), section 2.1. One expert needs no router."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.top_k = sizes.top_k
        self.router = _matrix(sizes.experts, sizes.width) if sizes.experts > 1 else None
        self.experts = SwiGLUExperts(sizes)

    def choose(self, x: Float[Tensor, "T D"]) -> TopKChoice:
        """Return a softmax over only the K highest logits: the others are left out before it."""
        logits = F.linear(x, self.router)
        highest, experts = logits.topk(self.top_k, dim=-1)
        return TopKChoice(logits, experts, highest.softmax(dim=-1))

    def forward(self, x: Float[Tensor, "T D"]) -> tuple[Float[Tensor, "T D"], TopKChoice | None]:
        """The output, and what was decided. Only the chosen experts are computed, each on the words sent to it."""
        if self.router is None:
            return self.experts(0, x), None
        choice = self.choose(x)
        y = torch.zeros_like(x)
        for expert in range(len(self.router)):
            word, slot = torch.nonzero(choice.experts == expert, as_tuple=True)
            y = y.index_add(0, word, choice.weights[word, slot, None] * self.experts(expert, x[word]))
        return y, choice


class SwiGLUExperts(nn.Module):
    """SwiGLU blocks: expert i gives Dᵢ (silu(Gᵢ x) · Uᵢ x)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate, self.up = (_matrix(sizes.experts, sizes.hidden, sizes.width) for _ in "GU")
        self.down = _matrix(sizes.experts, sizes.width, sizes.hidden)

    def forward(self, expert: int, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Output of one expert for these words."""
        hidden = F.silu(F.linear(x, self.gate[expert])) * F.linear(x, self.up[expert])
        return F.linear(hidden, self.down[expert])


def as_one_block(mixture: MixtureBlock, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
    """Compute `mixture(x)` with every expert on as one dense SwiGLU of E·H hidden units.

    The experts' matrices are stacked, and a hidden unit is scaled by the weight of the expert that it belongs to. So
    a mixture with K = E is a dense network: it has the memory of the sparse one, and none of its thrift.
    """
    experts, choice = mixture.experts, mixture.choose(x)
    weight = torch.zeros_like(choice.logits).scatter(1, choice.experts, choice.weights)
    hidden = F.silu(F.linear(x, experts.gate.flatten(0, 1))) * F.linear(x, experts.up.flatten(0, 1))
    scaled = hidden * weight.repeat_interleave(experts.gate.shape[1], dim=1)
    return F.linear(scaled, experts.down.transpose(0, 1).flatten(1))


class Attention(nn.Module):
    """Each word looks at itself and at those before it; the heads share keys and values in groups."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head = sizes.width // sizes.heads
        self.query, self.out = (_matrix(sizes.width, sizes.width) for _ in "QO")
        self.key, self.value = (_matrix(sizes.key_heads * self.head, sizes.width) for _ in "KV")

    def forward(self, x: Float[Tensor, "N P D"]) -> Float[Tensor, "N P D"]:
        """Output of attention for each word."""
        matrices = (self.query, self.key, self.value)
        query, key, value = (F.linear(x, matrix).unflatten(-1, (-1, self.head)).transpose(1, 2) for matrix in matrices)
        group = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(group, dim=1) for part in (_rotated(key), value))
        heard = F.scaled_dot_product_attention(_rotated(query), key, value, is_causal=True)
        return F.linear(heard.transpose(1, 2).flatten(2), self.out)


class DecoderLayer(nn.Module):
    """Attention, then the experts; each adds to what comes in, and sees it normalised."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention_norm, self.mixture_norm = (nn.RMSNorm(sizes.width, NORM_EPSILON) for _ in range(2))
        self.attention, self.mixture = Attention(sizes), MixtureBlock(sizes)

    def forward(self, x: Float[Tensor, "N P D"]) -> tuple[Float[Tensor, "N P D"], TopKChoice | None]:
        """Return the sum of the experts' answers, and what the router decided."""
        x = x + self.attention(self.attention_norm(x))
        y, choice = self.mixture(self.mixture_norm(x).flatten(0, 1))
        return x + y.view_as(x), choice


class Decoder(nn.Module):
    """Words in, and for each the logits of the word that follows."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding, self.head = (_matrix(sizes.vocabulary, sizes.width) for _ in range(2))
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, NORM_EPSILON)

    def forward(self, words: Int[Tensor, "N P"]) -> tuple[Float[Tensor, "N P V"], list[TopKChoice]]:
        """Return the logits, and what the router of each layer decided: nothing in a dense network."""
        x, choices = F.embedding(words, self.embedding), []
        for layer in self.layers:
            x, choice = layer(x)
            choices += [] if choice is None else [choice]
        return F.linear(self.norm(x), self.head), choices


def unfilled(sizes: Sizes) -> Decoder:
    """Return a decoder of these sizes with every shape and no memory."""
    with torch.device("meta"):
        return Decoder(sizes)


def at_random(sizes: Sizes, generator: torch.Generator) -> Decoder:
    """Return a decoder to train: matrices are drawn from `generator`, norms are 1."""
    decoder = unfilled(sizes).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)
            else:
                parameter.normal_(0, INITIAL_SPREAD, generator=generator)
    return decoder


def _matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _rotated(x: Float[Tensor, "N heads P head"]) -> Float[Tensor, "N heads P head"]:
    """Apply rotary positions: rotate pairs of numbers by an angle that grows with the position (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    speeds = ROTARY_BASE ** -(torch.arange(half) / half)
    angles = torch.arange(x.shape[-2])[:, None] * speeds
    one, other = x[..., :half], x[..., half:]
    return torch.cat([one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()], dim=-1)


# The cost of a decoder: memory for all its parameters, and compute for those that work on a word.

# By the name of a module on the way to a parameter; the last that fits counts.
PART_OF = {"embedding": "input_embedding", "head": "output_embedding", "attention": "attention"}
PART_OF |= {"router": "routers", "experts": "routed_experts"}
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

    >>> from moeviz.history.dense_contrast.decoder import MIXTRAL_8X7B
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
