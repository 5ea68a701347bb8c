"""Lean mixtures to train: the same mathematics as transformers', several times as fast on a CPU.

Two ways of routing: a softmax over a few wide experts, as MixtralForCausalLM has it, and sigmoids over many small ones
with a bias that keeps the load even and experts that all tokens share, as Glm4MoeForCausalLM has it. Weights are
float32, matrix products bfloat16. Shape letters: B windows, S tokens of a window, N = B·S, H hidden size, D head size,
E experts, K top-k. `export.py` hands the weights to transformers, and a test compares the two.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """The size of the model and its way of routing; the defaults are the embedded model's."""

    vocabulary: int = 8_192
    hidden: int = 256
    expert_width: int = 256
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 2
    experts: int = 8
    top_k: int = 2
    shared: int = 0  # experts of the same width that every token uses, beside those that are chosen
    scores: Literal["softmax", "sigmoid"] = "softmax"  # sigmoid: chosen with a bias, weighed without it
    rope_theta: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass
class RouterOutput:
    """What one layer's router did to N tokens: what the losses about routing need."""

    logits: Tensor  # (N, E)
    probabilities: Tensor  # (N, E), softmax of the logits, or their sigmoids over the sum of these
    experts: Tensor  # (N, K), the highest score first
    counts: Tensor  # (E,), assignments of each expert


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm in float32, as Mixtral has it."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)


def rotary_tables(length: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary position embedding, (S, D) each."""
    steps = torch.arange(0, shape.head_size, 2, device=device).float() / shape.head_size
    angles = torch.outer(torch.arange(length, device=device).float(), shape.rope_theta**-steps)
    both = torch.cat([angles, angles], -1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys by their position."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


class Layer(nn.Module):
    """Attention, router and experts of one layer."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        hidden, queries = shape.hidden, shape.heads * shape.head_size
        keys = shape.key_value_heads * shape.head_size
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.expert_norm = nn.Parameter(torch.ones(hidden))
        self.query = nn.Parameter(torch.empty(queries, hidden))
        self.key = nn.Parameter(torch.empty(keys, hidden))
        self.value = nn.Parameter(torch.empty(keys, hidden))
        self.attention_out = nn.Parameter(torch.empty(hidden, queries))
        self.router = nn.Parameter(torch.empty(shape.experts, hidden))
        wide, narrow = (shape.expert_width, hidden), (hidden, shape.expert_width)
        self.gate, self.up, self.down = (_matrices(shape.experts, *size) for size in (wide, wide, narrow))
        if shape.scores == "sigmoid":
            self.register_buffer("bias", torch.zeros(shape.experts))
        if shape.shared:
            wide, narrow = (shape.shared * shape.expert_width, hidden), (hidden, shape.shared * shape.expert_width)
            self.shared_gate, self.shared_up, self.shared_down = (
                nn.Parameter(torch.empty(size)) for size in (wide, wide, narrow)
            )

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend; return the stream (B, S, H), the experts' input (B, S, H) and the router logits (B, S, E)."""
        shape, (B, S, H) = self.shape, x.shape
        heads, pairs = shape.heads, shape.key_value_heads
        weight = torch.cat([self.query, self.key, self.value]).to(x.dtype)
        mixed = F.linear(rms_norm(x, self.attention_norm, shape.epsilon), weight)
        mixed = mixed.view(B, S, heads + 2 * pairs, shape.head_size).transpose(1, 2)
        turned = rotate(mixed[:, : heads + pairs], cos, sin)
        key, value = (
            part.repeat_interleave(heads // pairs, 1) for part in (turned[:, heads:], mixed[:, heads + pairs :])
        )
        seen = F.scaled_dot_product_attention(turned[:, :heads], key, value, is_causal=True)
        x = x + F.linear(seen.transpose(1, 2).reshape(B, S, H), self.attention_out.to(x.dtype))
        y = rms_norm(x, self.expert_norm, shape.epsilon)
        return x, y, F.linear(y.float(), self.router)

    def mix_experts(self, y: Tensor, logits: Tensor) -> tuple[Tensor, RouterOutput]:
        """Send each token to its top-k experts and add up their weighted answers, (B, S, H)."""
        K, logits, tokens = self.shape.top_k, logits.flatten(0, 1), y.flatten(0, 1)
        probabilities, weights, experts = self.choose(logits)
        sorted_experts, order = experts.flatten().sort(stable=True)
        counts = torch.bincount(sorted_experts, minlength=self.shape.experts)
        answers = self._run_experts(tokens[order // K], counts)
        answers = answers[order.argsort()].view(len(tokens), K, -1)
        mixed = (answers * weights.unsqueeze(-1).to(answers.dtype)).sum(1)
        if self.shape.shared:
            mixed = mixed + swiglu(tokens, self.shared_gate, self.shared_up, self.shared_down)
        return mixed.view_as(y), RouterOutput(logits, probabilities, experts, counts)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (N, E) for the losses; weights, which sum to 1, and ids of the top-k experts (N, K)."""
        if self.shape.scores == "softmax":
            scores = probabilities = logits.softmax(-1)
            experts = scores.topk(self.shape.top_k, -1).indices
        else:
            scores = logits.sigmoid()
            probabilities = scores / scores.sum(-1, keepdim=True)
            experts = (scores.detach() + self.bias).topk(self.shape.top_k, -1).indices
        weights = scores.gather(-1, experts)
        return probabilities, weights / weights.sum(-1, keepdim=True), experts

    @torch.no_grad()
    def even_out(self, counts: Tensor, rate: float) -> None:
        """Make busy experts less likely to be chosen, and idle ones more. Source: arXiv 2408.15664, algorithm 1."""
        self.bias += rate * torch.sign(counts.float().mean() - counts)

    def _run_experts(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """SwiGLU of each expert on its own stretch of tokens, which are sorted by expert."""
        answers = []
        for mine, *matrices in zip(tokens.split(counts.tolist()), self.gate, self.up, self.down, strict=True):
            answers.append(swiglu(mine, *matrices))
        return torch.cat(answers)


def swiglu(tokens: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """One expert's answers, in the dtype of the tokens."""
    gate, up, down = (matrix.to(tokens.dtype) for matrix in (gate, up, down))
    return F.linear(F.silu(F.linear(tokens, gate)) * F.linear(tokens, up), down)


def _matrices(number: int, *size: int) -> nn.ParameterList:
    """One matrix for each expert: apart, because Muon orthogonalises matrix by matrix."""
    return nn.ParameterList(nn.Parameter(torch.empty(size)) for _ in range(number))


class TrainingMixture(nn.Module):
    """The whole model, with input and output embeddings tied."""

    def __init__(self, shape: Shape, seed: int = 0):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, shape.hidden))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self._attention, self._loss = Layer.attention, token_losses
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                writes_to_stream = "attention_out" in name or "down" in name
                std = INITIAL_STD / math.sqrt(2 * shape.layers) if writes_to_stream else INITIAL_STD
                nn.init.normal_(weight, std=std, generator=generator)

    def compile_parts(self) -> None:
        """Compile attention and loss; the experts' stretches change length at every step and stay as they are."""
        self._attention = torch.compile(Layer.attention, dynamic=False)
        self._loss = torch.compile(token_losses, dynamic=False)

    def forward(
        self, ids: Tensor, targets: Tensor, dtype: torch.dtype = torch.bfloat16
    ) -> tuple[Tensor, list[RouterOutput]]:
        """Loss of every token in nats, (N,), and what each layer's router did."""
        x = F.embedding(ids, self.embedding).to(dtype)
        cos, sin = rotary_tables(ids.shape[1], self.shape, ids.device)
        routings = []
        for layer in self.layers:
            x, y, logits = self._attention(layer, x, cos, sin)
            mixed, routing = layer.mix_experts(y, logits)
            x = x + mixed
            routings.append(routing)
        return self._loss(x, self.norm, self.embedding, targets, self.shape.epsilon), routings


def token_losses(x: Tensor, norm: Tensor, embedding: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy of every next token in nats, (N,)."""
    x = rms_norm(x, norm, epsilon).flatten(0, 1)
    return F.cross_entropy(F.linear(x, embedding.to(x.dtype)).float(), targets.flatten(), reduction="none")
