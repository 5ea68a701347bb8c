"""How the model does on held-out text while it trains: loss, and whether its experts specialise and share the work."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moeviz.embedded.training.documents import DOMAINS
from moeviz.embedded.training.model import TrainingMixtral
from moeviz.embedded.training.token_files import bytes_per_token, held_out_windows

WINDOWS, LENGTH = 12, 256  # of each domain; tokens in one


@dataclass(frozen=True)
class Report:
    """Held-out loss by domain, and what each layer's router does."""

    nats: dict[str, float]  # a token, by domain
    bits_per_byte: float  # mean over domains
    information: list[float]  # I(expert; domain) in bits, by layer, domains equally likely
    busiest: list[float]  # load of the busiest expert / mean load, by layer
    idlest: list[float]  # load of the idlest expert / mean load, by layer

    def __str__(self) -> str:
        losses = " ".join(f"{domain} {nats:.2f}" for domain, nats in self.nats.items())
        layers = {"MI bits": self.information, "max/mean": self.busiest, "min/mean": self.idlest}
        rows = "; ".join(f"{name} {' '.join(f'{v:.2f}' for v in values)}" for name, values in layers.items())
        mean = np.mean(list(self.nats.values()))
        return f"held out: {mean:.3f} nats, {self.bits_per_byte:.3f} bits/byte | {losses} | {rows}"


@torch.no_grad()
def validate(model: TrainingMixtral, folder: Path, device: str) -> Report:
    """Read up to `WINDOWS` windows of each domain's held-out text."""
    nats, bits, loads = {}, [], []
    for domain in DOMAINS:
        ids = torch.from_numpy(held_out_windows(folder, domain, WINDOWS, LENGTH)).to(device)
        losses, routings = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        nats[domain] = float(losses.mean())
        bits.append(nats[domain] / math.log(2) / bytes_per_token(folder, domain))
        loads.append(torch.stack([routing.counts / routing.counts.sum() for routing in routings]).cpu())
    load = torch.stack(loads)  # (domains, layers, experts)
    mean = load.mean(0)
    information = _entropy_bits(mean) - _entropy_bits(load).mean(0)
    relative = mean * mean.shape[-1]
    rows = (information, relative.amax(-1), relative.amin(-1))
    return Report(nats, float(np.mean(bits)), *(row.tolist() for row in rows))


def _entropy_bits(load: Tensor) -> Tensor:
    return -(load * load.clamp_min(1e-12).log2()).sum(-1)
