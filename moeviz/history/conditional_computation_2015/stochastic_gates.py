"""Gates that are on or off at random: how to train what decides, and how to keep it sparse.

Source: Y. Bengio, Léonard & Courville, arXiv 1308.3432 (2013); E. Bengio, Bacon, Pineau & Precup, arXiv 1511.06297
(2015). Two Bengios: the estimators of 2013 are Yoshua's, the policy and its losses of 2015 Emmanuel's.

N samples, B blocks: a gate each.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float32


def reinforce(
    logits: Float32[torch.Tensor, "N B"],
    on: Float32[torch.Tensor, "N B"],
    cost: Float32[torch.Tensor, " N"],
    baseline: float,
) -> Float32[torch.Tensor, ""]:
    """What to descend for the policy gradient: the mean of (C − b) log π(u | x), C the digit's negative log-likelihood.

    π(u | x) = Πⱼ σⱼ^uⱼ (1 − σⱼ)^(1 − uⱼ), a Bernoulli per block. By its logit the slope is (uⱼ − σⱼ)(C − b), which
    is right on average whatever the baseline b; b only makes it vary less.

    Source: 2015, its sigmoid-Bernoulli policy; Williams, Machine Learning 8:229-256 (1992), REINFORCE. 2013 has
    the same estimator for a single unit.
    """
    log_probability = (on * F.logsigmoid(logits) + (1 - on) * F.logsigmoid(-logits)).sum(dim=1)
    return ((cost.detach() - baseline) * log_probability).mean()


def straight_through(
    on: Float32[torch.Tensor, "N B"], logits: Float32[torch.Tensor, "N B"]
) -> Float32[torch.Tensor, "N B"]:
    """The same 0s and 1s; but the slope by them passes to the logits as if nothing were between.

    Biased: the fourth of the four estimators of 2013, which gave it its name.
    """
    return on + (logits - logits.detach())


def sparsity_loss(probability: Float32[torch.Tensor, "N B"], target: float) -> Float32[torch.Tensor, ""]:
    """L_b + L_e: each block is to be on for a share τ of the batch, and each digit is to have a share τ of the blocks.

    L_b = Σⱼ |meanᵢ σᵢⱼ − τ|, L_e = meanᵢ |meanⱼ σᵢⱼ − τ|. Source: 2015, L_b and L_e.
    """
    by_block = (probability.mean(dim=0) - target).abs().sum()
    return by_block + (probability.mean(dim=1) - target).abs().mean()


def variance_loss(probability: Float32[torch.Tensor, "N B"]) -> Float32[torch.Tensor, ""]:
    """L_v = −Σⱼ varᵢ σᵢⱼ: a block's probability is to go with the digit, and not to be τ for all. Source: 2015, L_v."""
    return -probability.var(dim=0, correction=0).sum()
