"""Noisy top-k: the gate of the sparsely-gated mixture of experts, and the losses that keep its experts equally busy.

A gate scores all experts, adds noise to the scores, keeps the k highest and weighs those with a softmax. By itself
it comes to prefer a few experts, which are trained more, and so preferred more: two losses counteract that. With many
experts there are two levels of gates, the first of which chooses among groups of experts.

Source: Shazeer, Mirhoseini, Maziarz, Davis, Le, Hinton & Dean, "Outrageously large neural networks: the
sparsely-gated mixture-of-experts layer" (arXiv 1701.06538, ICLR 2017). Equation numbers are the paper's.

N words, D inputs, E experts, K chosen of them. In a hierarchy, G groups of M experts, so that E = G · M.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

LEAST_NOISE = 1e-2  # ours: where Softplus is nearly 0, equation 9 divides by it


@dataclass(frozen=True, slots=True, eq=False)
class GateChoice:
    """A gate's decision for N words, or the decisions of each gate of a row."""

    clean: Float[Tensor, "*gates N E"]  # (x · W_g)ᵢ, what the gate says without its noise
    chosen: Int64[Tensor, "*gates N K"]  # experts, highest weight first
    weights: Float[Tensor, "*gates N K"]  # G(x)ᵢ of those, which sum to 1; all others have 0
    probability: Float[Tensor, "*gates N E"]  # P(x, i); without noise 1 for the chosen and 0 for the others


@dataclass(frozen=True, slots=True, eq=False)
class NoisyTopKRouting:
    """Routing of N words, and how busy that keeps each expert. Experts of a hierarchy count through its groups."""

    chosen: Int64[Tensor, "N K"]
    weights: Float[Tensor, "N K"]
    importance: Float[Tensor, " E"]
    load: Float[Tensor, " E"]
    levels: tuple[GateChoice, ...]  # one, or the primary gate and the gates of the groups


def noisy_top_k(
    x: Float[Tensor, "N D"],
    gate: Float[Tensor, "*gates D E"],
    spread: Float[Tensor, "*gates D E"],
    k: int,
    noise: Float[Tensor, "*gates N E"] | None = None,
) -> GateChoice:
    """Equations 3 to 5. G(x) = Softmax(KeepTopK(H(x), k)), H(x)ᵢ = (x · W_g)ᵢ + N(0, 1) · Softplus((x · W_noise)ᵢ).

    `gate` is W_g and `spread` W_noise, both 0 before training, when only the noise decides. KeepTopK replaces all
    but the k highest by −∞, which the softmax turns into 0. `noise` holds the draws of N(0, 1), and is left out at
    inference.
    """
    clean = x @ gate
    deviation = softplus(x @ spread) + LEAST_NOISE
    scores = clean if noise is None else clean + noise * deviation
    highest, chosen = scores.topk(k, dim=-1)
    if noise is None or k == scores.shape[-1]:
        probability = torch.zeros_like(clean).scatter(-1, chosen, 1.0)
    else:
        probability = chance_of_choice(clean, scores, deviation, k)
    return GateChoice(clean, chosen, highest.softmax(dim=-1), probability)


def chance_of_choice(
    clean: Float[Tensor, "*rows E"], scores: Float[Tensor, "*rows E"], deviation: Float[Tensor, "*rows E"], k: int
) -> Float[Tensor, "*rows E"]:
    """Equations 8 and 9. P(x, i) = Φ(((x · W_g)ᵢ − kth_excluding(H(x), k, i)) / Softplus((x · W_noise)ᵢ)).

    The probability that expert i is among the k highest if its own noise is drawn anew and all others keep theirs.
    Unlike being chosen or not, this has a gradient.
    """
    return torch.special.ndtr((clean - kth_excluding(scores, k)) / deviation)


def kth_excluding(scores: Float[Tensor, "*rows E"], k: int) -> Float[Tensor, "*rows E"]:
    """Return the k-th highest score of the other experts: what each has to beat. For one of the k highest that is the
    (k + 1)-th of all, for any other the k-th.
    """
    highest = scores.topk(k + 1, dim=-1).values
    last_in, first_out = highest[..., k - 1 : k], highest[..., k:]
    return torch.where(scores > first_out, first_out, last_in)


def gate_values(choice: GateChoice) -> Float[Tensor, "*gates N E"]:
    """G(x): the weights of all experts, 0 for those not chosen."""
    return torch.zeros_like(choice.clean).scatter(-1, choice.chosen, choice.weights)


def one_level(choice: GateChoice) -> NoisyTopKRouting:
    """Equations 6 and 10. Importance(X)ᵢ = Σₓ G(x)ᵢ, and Load(X)ᵢ = Σₓ P(x, i).

    Importance is how much experts count, and load how many words they get: one expert may have few words of high
    weight, another many of low weight.
    """
    importance, load = gate_values(choice).sum(dim=-2), choice.probability.sum(dim=-2)
    return NoisyTopKRouting(choice.chosen, choice.weights, importance, load, (choice,))


def two_levels(primary: GateChoice, secondary: GateChoice) -> NoisyTopKRouting:
    """Equations 12 to 14, appendix B. Expert j of group i has the weight G_primary(x)ᵢ · Gᵢ(x)ⱼ.

    Importance_H(X)ᵢⱼ = Σₓ G_primary(x)ᵢ · Gᵢ(x)ⱼ, and Load_H(X)ᵢⱼ = Load_primary(X)ᵢ · Loadᵢ(X⁽ⁱ⁾)ⱼ / |X⁽ⁱ⁾|, where
    X⁽ⁱ⁾ are the words that have group i among their chosen. Loadᵢ(X⁽ⁱ⁾)ⱼ by itself would be simpler, and give the
    primary gate no gradient.
    """
    groups, experts = gate_values(primary), gate_values(secondary)  # "N G" and "G N M"
    importance = torch.einsum("ng,gnm->gm", groups, experts)
    theirs = (groups > 0).to(groups.dtype)
    within = torch.einsum("ng,gnm->gm", theirs, secondary.probability)
    load = primary.probability.sum(dim=0)[:, None] * within / theirs.sum(dim=0).clamp(min=1)[:, None]

    group = primary.chosen[:, :, None]
    expert = secondary.chosen.transpose(0, 1).take_along_dim(group, dim=1)  # "N K K": only of the chosen groups
    weight = secondary.weights.transpose(0, 1).take_along_dim(group, dim=1) * primary.weights[:, :, None]
    chosen = group * secondary.clean.shape[-1] + expert
    return NoisyTopKRouting(
        chosen.flatten(1), weight.flatten(1), importance.flatten(), load.flatten(), (primary, secondary)
    )


def squared_variation(values: Float[Tensor, " E"]) -> Float[Tensor, ""]:
    """Equations 7 and 11 without their weights: the square of the coefficient of variation. 0 where all are equal."""
    return values.var(correction=0) / (values.mean() ** 2 + 1e-10)


def balancing_loss(routing: NoisyTopKRouting, importance: float, load: float) -> Float[Tensor, ""]:
    """Compute equations 7 and 11: w_importance · CV(Importance(X))² + w_load · CV(Load(X))²."""
    return importance * squared_variation(routing.importance) + load * squared_variation(routing.load)
