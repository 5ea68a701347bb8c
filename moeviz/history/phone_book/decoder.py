"""The phone book in a decoder built as Mixtral's, with attention, SwiGLU experts and a router: name, name, number.

It has one layer of 16 experts of 16 hidden units, two at a time, or one dense block of 32.
"""

import torch
import torch.nn.functional as F

from moeviz.history.dense_contrast.decoder import INITIAL_SPREAD, Decoder, Sizes, at_random
from moeviz.history.dense_contrast.model import balancing_loss
from moeviz.history.phone_book.model import BALANCE, BATCH, NAMES, NUMBERS, WARM_UP, Facts, facts_of

WIDTH, HIDDEN, HEADS, TOP_K = 48, 16, 2, 2
FACTS, STEPS, LEARNING_RATE = 10_000, 600, 1e-2
LONGEST_GRADIENT = 1.0


def remembered_by_decoder(experts: int, facts: int = FACTS, steps: int = STEPS, seed: int = 0) -> float:
    """Train a decoder on a phone book, and return the share of its facts that it answers correctly.

    `experts` are those of its one layer, two at a time; with 2 it is the dense network that is as fast.
    """
    sizes = Sizes(2 * NAMES + NUMBERS, WIDTH, HIDDEN, 1, HEADS, 1, experts, TOP_K)
    decoder = at_random(sizes if experts > TOP_K else sizes.as_fast(), torch.Generator().manual_seed(seed))
    _spread(decoder)
    known = facts_of("book", facts, seed)
    optimiser = torch.optim.Adam(decoder.parameters(), LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    batches = torch.Generator().manual_seed(1000 + seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        loss = _loss(decoder, known, torch.randint(facts, (BATCH,), generator=batches))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), LONGEST_GRADIENT)
        optimiser.step()
    with torch.no_grad():
        answers = decoder(_words(known.names[:facts]))[0][:, -1].argmax(-1)
    return float((answers == 2 * NAMES + known.numbers[:facts]).double().mean())


def _spread(decoder: Decoder) -> None:
    """Scale the weights for six hundred steps: embeddings to 1, every other matrix by its width."""
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_((1.0 if "embedding" in name else parameter.shape[-1] ** -0.5) / INITIAL_SPREAD)


def _words(names: torch.Tensor) -> torch.Tensor:
    """Two words a fact: all names are words of their own, and numbers come after them in the vocabulary."""
    return names + torch.tensor([0, NAMES])


def _loss(decoder: Decoder, facts: Facts, batch: torch.Tensor) -> torch.Tensor:
    logits, choices = decoder(_words(facts.names[batch]))
    loss = F.cross_entropy(logits[:, -1], 2 * NAMES + facts.numbers[batch])
    return loss + BALANCE * sum(balancing_loss(choice) for choice in choices)
