"""An instability by a run: what 16 bits make of large router logits, and the z-loss that keeps them small."""

import numpy as np
import pandas as pd
import torch

from moeviz.history.shared.experts import balancing_loss
from moeviz.history.switch_2021.model import Switch

OFFSETS = (0, 16, 64, 256, 1024)
Z_WEIGHT, DESCENT = 1e-3, 3000  # ST-MoE's weight of the z-loss, and steps of 1 down its slope


def large_logits(result: Switch) -> pd.DataFrame:
    """Add an offset to all router logits of the held-out words: what 16 bits make of them, and what the z-loss does.

    A softmax does not see an offset, and so no loss that is made of it does: only the z-loss, the mean of
    log² Σ exp(h), has a slope along it. bfloat16 has 8 significant bits, so it rounds large logits by much.

    One row per offset. Columns: offset int64 · changed float64 (share of words whose expert changes if logits are
    rounded to bfloat16) · rounded float64 (largest change of a probability) · without, with_z_loss float64 (what
    is left of the offset after 3,000 steps down the slope of the auxiliary loss, without and with the z-loss of
    weight 0.001).

    Source: Zoph et al., ST-MoE (arXiv 2202.08906), section 3, for the z-loss.
    """
    logits, chosen = torch.from_numpy(result.logits), torch.from_numpy(result.chosen.astype(np.int64))
    rows = []
    for offset in OFFSETS:
        short = (logits + offset).bfloat16().float()
        moved = (short.softmax(-1) - logits.softmax(-1)).abs().max()
        left = [_descended(logits.double(), chosen, float(offset), weight) for weight in (0.0, Z_WEIGHT)]
        rows.append((offset, float((short.argmax(-1) != chosen).float().mean()), float(moved), *left))
    return pd.DataFrame(rows, columns=["offset", "changed", "rounded", "without", "with_z_loss"])


def _descended(logits: torch.Tensor, chosen: torch.Tensor, offset: float, weight: float) -> float:
    left = torch.tensor(offset, dtype=torch.float64, requires_grad=True)
    for _ in range(DESCENT):
        seen = logits + left
        loss = 1e-2 * balancing_loss(seen.softmax(-1), chosen) + weight * seen.logsumexp(-1).square().mean()
        (slope,) = torch.autograd.grad(loss, left)
        left = (left - slope).detach().requires_grad_()
    return left.item()
