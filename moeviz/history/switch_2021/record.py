"""The training data of the Switch Transformer, and the record of a training.

S sequences of a batch, W words of a sequence, E experts, N = S · W held-out words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16, UInt8
from torch import nn

from moeviz.history.shared.datasets import english

SEQUENCES, WORDS = 32, 32
STRETCH, HELD_OUT_EVERY = SEQUENCES * WORDS + 1, 12  # a stretch of text is a batch, and the word after it


@dataclass(frozen=True, slots=True, eq=False)
class Switch:
    """A trained Switch Transformer, or its dense twin, and how it got there."""

    settings: dict[str, int | float | bool]  # experts, capacity_factor, aux_weight, steps, seed, dense
    dropped_by_step: UInt8[np.ndarray, "steps S"] = field(repr=False)  # words of each sequence, in the batch's order
    balance_by_step: Float32[np.ndarray, " steps"] = field(repr=False)  # N Σ fᵢ Pᵢ: 1 is uniform
    words: Int16[np.ndarray, " N"] = field(repr=False)  # held out, one sequence of W after another: in the vocabulary
    logits: Float32[np.ndarray, "N E"] = field(repr=False)  # E is 0 in the dense twin
    chosen: Int16[np.ndarray, " N"] = field(repr=False)  # what the router wanted, dropped or not; -1 in the dense twin
    gate: Float32[np.ndarray, " N"] = field(repr=False)  # pᵢ(x) of the expert chosen; 1 in the dense twin
    dropped: Bool[np.ndarray, " N"] = field(repr=False)  # these N words are one group
    perplexity: float  # on all held-out words, those that are dropped too
    held_out_dropped: float  # share of all held-out words
    parameters: int

    def drop_rate(self, steps: slice) -> float:
        """Return the share of words that were dropped in these steps of the training."""
        return float(self.dropped_by_step[steps].mean() / WORDS)


def corpus() -> tuple[Int[torch.Tensor, " training"], Int[torch.Tensor, " held_out"], tuple[str, ...]]:
    """English to train on, every twelfth stretch of it held out, and its vocabulary.

    The held-out stretches are of the same topics as the rest, as are those of the paper's C4.
    """
    text = english()
    words = np.concatenate([text.training, text.held_out])
    kept_back = np.arange(len(words)) // STRETCH % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
    return torch.from_numpy(words[~kept_back]), torch.from_numpy(words[kept_back]), text.vocabulary


@torch.no_grad()
def measured(
    model: nn.Module,
    tried_on: Callable[..., tuple[Float[torch.Tensor, ""], Any]],
    held_out: Int[torch.Tensor, " words"],
    settings: dict[str, int | float | bool],
    dropped: UInt8[np.ndarray, "steps S"],
    balance: Float32[np.ndarray, " steps"],
) -> Switch:
    """Try a model on all the batches that the held-out words make; the first one is kept, word by word.

    `tried_on` returns the cost of a batch, of the model and the batch, and what its router did.
    """
    group = SEQUENCES * WORDS
    starts = torch.arange(0, len(held_out) - group, STRETCH)
    inside = torch.arange(SEQUENCES)[:, None] * WORDS + torch.arange(WORDS + 1)
    tried = [tried_on(model, held_out[start + inside]) for start in starts]
    first = tried[0][1]
    if first is None:
        logits, chosen, gate = torch.zeros(group, 0), torch.full((group,), -1), torch.ones(group)
        left_out = torch.zeros(len(tried), group, dtype=torch.bool)
    else:
        logits, chosen, gate = first.logits, first.chosen, first.probabilities.max(dim=-1).values
        left_out = torch.stack([routed.dropped for _, routed in tried])
    return Switch(
        settings=settings,
        dropped_by_step=dropped,
        balance_by_step=balance,
        words=held_out[:group].numpy().astype(np.int16),
        logits=logits.numpy(),
        chosen=chosen.numpy().astype(np.int16),
        gate=gate.numpy(),
        dropped=left_out[0].numpy(),
        perplexity=math.exp(sum(loss.item() for loss, _ in tried) / len(tried)),
        held_out_dropped=float(left_out.float().mean()),
        parameters=sum(weights.numel() for weights in model.parameters()),
    )
