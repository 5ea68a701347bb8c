"""Adaptive mixtures of local experts, 1991 as a `RoutingTrace`."""

import numpy as np

from moeviz.history.local_experts_1991.model import AdaptiveMixture
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.gates import check_samples, vowel_trace
from moeviz.routing_trace import RoutingTrace


def trace_of(result: AdaptiveMixture, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """Return the division of vowels by an adaptive mixture of local experts, at each recorded epoch of its training.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is a
    recorded epoch, 0 before training. The gate is soft, so every sample goes to all E experts, with the mixing
    proportions as weights, which sum to 1; counts of assignments are then the same for all experts. With `slots` 1
    only the expert with the highest proportion is kept, weight and all, and counts tell who wins. `data` are those it
    was trained on: the stand-in unless given.

    Raises `InvalidTrace` if `data` are not those of the result, or `slots` are not from 1 to E.

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991).
    """
    data = stand_in() if data is None else data
    check_samples(result.source, data)
    inputs, _ = encode(data)
    epochs, _, experts = result.gate_lines.shape
    logits = np.stack([result.state(at).logits(inputs) for at in range(epochs)]).astype(np.float32)
    name = f"adaptive mixture of {experts} local experts, seed {result.settings['seed']}"
    return vowel_trace(name, data, logits, result.recorded, "epoch", slots)
