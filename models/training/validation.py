"""How the model does on held-out text while it trains: loss, and whether its experts specialise and share the work."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.training.documents import DOMAINS
from models.training.model import TrainingMixture
from models.training.token_files import bytes_per_token, held_out_windows

WINDOWS, LENGTH = 12, 256  # of each domain; tokens in one


@dataclass(frozen=True)
class Report:
    """Held-out loss by domain, and what each layer's router does."""

    nats: dict[str, float]  # a token, by domain
    bits_per_byte: float  # mean over domains
    information: list[float]  # I(expert; domain) in bits, by layer, domains equally likely
    busiest: list[float]  # load of the busiest expert / mean load, by layer
    idlest: list[float]  # load of the idlest expert / mean load, by layer
    repeats: list[float]  # share of tokens with the same first choice as the one before, by layer
    repeats_any: list[float]  # share with at least one expert in common with the one before

    def __str__(self) -> str:
        losses = " ".join(f"{domain} {nats:.2f}" for domain, nats in self.nats.items())
        layers = {"MI bits": self.information, "max/mean": self.busiest, "min/mean": self.idlest}
        layers |= {"repeats": self.repeats}
        rows = "; ".join(f"{name} {' '.join(f'{v:.2f}' for v in values)}" for name, values in layers.items())
        mean = np.mean(list(self.nats.values()))
        return f"held out: {mean:.3f} nats, {self.bits_per_byte:.3f} bits/byte | {losses} | {rows}"


@torch.no_grad()
def validate(model: TrainingMixture, folder: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> Report:
    """Read up to `WINDOWS` windows of each domain's held-out text, with matrix products of `dtype`."""
    nats, bits, loads, repeats = {}, [], [], []
    for domain in DOMAINS:
        ids = torch.from_numpy(held_out_windows(folder, domain, WINDOWS, LENGTH)).to(device)
        losses, routings = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), dtype)
        nats[domain] = float(losses.mean())
        bits.append(nats[domain] / math.log(2) / bytes_per_token(folder, domain))
        loads.append(torch.stack([routing.counts / routing.counts.sum() for routing in routings]).cpu())
        experts = torch.stack([routing.experts for routing in routings]).cpu()
        repeats.append(repetition(experts.view(len(routings), len(ids), -1, experts.shape[-1])))
    load = torch.stack(loads)  # (domains, layers, experts)
    mean = load.mean(0)
    information = _entropy_bits(mean) - _entropy_bits(load).mean(0)
    relative = mean * mean.shape[-1]
    rows = (information, relative.amax(-1), relative.amin(-1), *torch.stack(repeats).mean(0))
    return Report(nats, float(np.mean(bits)), *(row.tolist() for row in rows))


def repetition(experts: Tensor) -> Tensor:
    """Of ids (layers, B, S, K): shares of tokens that repeat the first choice, and any choice, of the one before.

    (2, layers). Source: table 5 of Mixtral of Experts (arXiv 2401.04088), "first choice" and "first or second choice".
    """
    first = experts[..., 1:, 0] == experts[..., :-1, 0]
    common = (experts[..., 1:, :, None] == experts[..., :-1, None, :]).flatten(-2).any(-1)
    return torch.stack([first, common]).float().mean((-1, -2))


def _entropy_bits(load: Tensor) -> Tensor:
    return -(load * load.clamp_min(1e-12).log2()).sum(-1)
