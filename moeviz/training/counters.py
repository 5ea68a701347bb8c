"""Sums of what routers answer, on the device where they answer. Nothing here waits for a GPU.

Letters: L layers, E experts (of the layer with the most), T rows that a router answers for, K slots.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moeviz.training.measures import SUMS


class Counters:
    """How often each expert was chosen, and sums of what the router thought of it.

    counts   (L, E + 1) int64: assignments of each expert, and tokens.
    sums     (L, E + columns) float64: probabilities of each expert, and SUMS.
    """

    def __init__(self, num_experts: Sequence[int], device: torch.device) -> None:
        L, E = len(num_experts), max(num_experts)
        self.num_experts = num_experts
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.counts = torch.zeros(L, E + 1, dtype=torch.int64, device=device)
        self.sums = torch.zeros(L, E + len(SUMS), dtype=exact, device=device)

    @torch.no_grad()
    def add(self, row: int, experts: Tensor, logits: Tensor | None, keep: Tensor | None, function: str) -> None:
        """Add one answer of a router: experts (T, K), logits (T, E), and which rows are tokens (T,); None: all.

        function   how the router makes probabilities of logits; with "unknown" there are none.
        """
        size, device = self.num_experts[row], self.counts.device
        filled = experts >= 0
        keep = torch.ones_like(filled[:, 0]) if keep is None else keep.to(experts.device)
        chosen = experts.clamp(min=0)  # an empty slot has no expert
        counted = (filled & keep[:, None]).to(device, torch.int64)
        self.counts[row].scatter_add_(0, chosen.to(device).flatten(), counted.flatten())
        self.counts[row, -1] += keep.sum()
        if logits is None:
            return
        with torch.autocast(logits.device.type, enabled=False):
            columns = _columns(logits.float(), chosen, filled, function)
            kept = torch.where(keep[:, None], columns, 0).sum(0, dtype=self.sums.dtype).to(device)
        self.sums[row, :size] += kept[:size]
        self.sums[row, -len(SUMS) :] += kept[size:]

    def take(self) -> tuple[Tensor, Tensor]:
        """Counts and sums so far; they begin anew."""
        taken = self.counts.clone(), self.sums.clone()
        self.counts.zero_()
        self.sums.zero_()
        return taken


def _columns(logits: Tensor, chosen: Tensor, filled: Tensor, function: str) -> Tensor:
    """(T, E + columns): probabilities, then SUMS."""
    normaliser, one = logits.logsumexp(-1), torch.ones_like(logits[:, 0])
    square = torch.where(logits.isfinite(), logits, 0).square().mean(-1)  # -inf: no such expert
    if function == "unknown":
        nothing = torch.zeros_like(one)
        return torch.cat(
            [torch.zeros_like(logits), torch.stack([nothing, normaliser**2, square, nothing, one, nothing], 1)], 1
        )
    p = _probabilities(logits, normaliser, function)
    mass = torch.where(filled, p.gather(1, chosen), 0).sum(-1)
    entropy = torch.special.entr(p).sum(-1)
    return torch.cat([p, torch.stack([entropy, normaliser**2, square, mass, one, one], 1)], 1)


def _probabilities(logits: Tensor, normaliser: Tensor, function: str) -> Tensor:
    """As `normalised_scores` of a trace."""
    if function == "softmax":
        return (logits - normaliser[:, None]).exp()
    scores = logits.sigmoid() if function == "sigmoid" else torch.nn.functional.softplus(logits).sqrt()
    return scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
