"""The three terms of the loss that are about routing. Each looks at one layer; layers are never pooled."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.training.model import RouterOutput

TINY = 1e-9
Within = Literal["batch", "window"]  # where the load has to be even


@dataclass(frozen=True)
class RoutingLosses:
    """How much each term counts; each is a mean over layers."""

    load_balancing: float = 0.2
    z: float = 1e-3
    domain_information: float = 0.05
    balance_within: Within = "batch"

    def __call__(self, routings: list[RouterOutput], domains: Tensor, number_of_domains: int) -> Tensor:
        """The weighted sum of the terms, in nats. `domains` (B,) says which domain each window is from."""
        total = torch.zeros((), device=domains.device)
        windows = len(domains) if self.balance_within == "window" else 1
        for routing in routings:
            balance = load_balancing_loss(routing, windows)
            total = total + self.load_balancing * balance + self.z * z_loss(routing.logits)
            if self.domain_information:
                information = domain_information(routing.probabilities, domains, number_of_domains)
                total = total - self.domain_information * information
        return total / len(routings)


def load_balancing_loss(routing: RouterOutput, windows: int = 1) -> Tensor:
    """E · Σ f_i · P_i in each of so many equal stretches, on average: 1 where all experts carry the same load.

    Over the whole batch, an expert may keep to one kind of text; within each window, it may not. f_i is the share of
    assignments, so it sums to 1: with top-2 the value is half of that in transformers, which counts shares of tokens.
    Source: Switch Transformers (arXiv 2101.03961), equations 4 to 6.
    """
    E = routing.probabilities.shape[-1]
    stretches = routing.experts.reshape(windows, -1)
    chosen = stretches + E * torch.arange(windows, device=stretches.device)[:, None]
    load = torch.bincount(chosen.flatten(), minlength=windows * E).view(windows, E) / stretches.shape[1]
    return E * (load * routing.probabilities.view(windows, -1, E).mean(1)).sum(-1).mean()


def z_loss(logits: Tensor) -> Tensor:
    """Mean squared logsumexp of the logits: keeps them small. Source: ST-MoE (arXiv 2202.08906), equation 5."""
    return logits.logsumexp(-1).pow(2).mean()


def domain_information(probabilities: Tensor, domains: Tensor, number_of_domains: int) -> Tensor:
    """I(expert; domain) in nats, of the router's probabilities in this batch: H(expert) − H(expert | domain).

    A push: it rewards experts that tell the domains apart. The model card says so, and shows training without it.
    """
    per_window = probabilities.view(len(domains), -1, probabilities.shape[-1]).mean(1)
    member = F.one_hot(domains, number_of_domains).float()
    per_domain = (member.T @ per_window) / member.sum(0).clamp_min(1)[:, None]
    return _entropy(per_window.mean(0)) - (member.mean(0) * _entropy(per_domain)).sum()


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * (probabilities + TINY).log()).sum(-1)
