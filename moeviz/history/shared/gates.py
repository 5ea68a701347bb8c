"""What the gates of all those systems come to: slots, highest weight first, and one token a sample."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int16

from moeviz.routing_trace import NO_EXPERT, normalised_scores, sort_slots, token_frame

Slots = tuple[Int16[np.ndarray, "L T K"], Float32[np.ndarray, "L T K"]]


def soft_slots(logits: Float32[np.ndarray, "L T E"], slots: int) -> Slots:
    """A softmax gate sends every token to all experts; of those, the `slots` with the highest weights.

    Weights are what the gate gives, so with fewer slots than experts they sum to less than 1.
    """
    everyone = np.broadcast_to(np.arange(logits.shape[-1], dtype=np.int16), logits.shape)
    experts, weights = sort_slots(everyone, normalised_scores(logits, "softmax"))
    return experts[..., :slots], weights[..., :slots]


def switched_slots(on: Bool[np.ndarray, "L T E"], weights: Float[np.ndarray, "L T E"]) -> Slots:
    """A gate that switches each expert on or off by itself: any number of them, none too.

    K is the most that any token has.
    """
    everyone = np.broadcast_to(np.arange(on.shape[-1], dtype=np.int16), on.shape)
    filled = np.where(on, everyone, np.int16(NO_EXPERT))
    experts, weights = sort_slots(filled, np.where(on, weights, 0).astype(np.float32))
    most = max(1, int(on.sum(axis=-1).max(initial=0)))
    return experts[..., :most], weights[..., :most]


def samples(texts: list[str], labels: list[str] | None = None) -> pd.DataFrame:
    """The tokens of samples that have nothing to do with each other: each alone in its sequence."""
    tokens = token_frame(np.arange(len(texts)), np.zeros(len(texts)), texts)
    return tokens if labels is None else tokens.assign(label=pd.Series(labels, dtype="str"))
