"""The soft mixture of support vector machines -> RoutingTrace."""

import numpy as np

from moeviz.history.shared.vowel_gates import check_samples, vowel_trace
from moeviz.history.shared.vowels import Vowels, encode, stand_in
from moeviz.history.svm_experts_2002.em import SoftMixture
from moeviz.routing_trace import RoutingTrace


def trace_of(result: SoftMixture, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """How the gate of a soft mixture of support vector machines divided the vowels, at each iteration.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is an
    iteration, from 1. The gate is soft, so every sample goes to all K experts, with the mixing proportions as weights,
    which sum to 1; with `slots` 1 only the winner is kept. `data` are those it was trained on: the stand-in unless
    given.

    Raises `InvalidTrace` where `data` are not those of the result, or `slots` are not from 1 to K.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994).
    """
    data = stand_in() if data is None else data
    check_samples(result.source, data)
    inputs, _ = encode(data)
    iterations, _, experts = result.gate_lines.shape
    logits = np.stack([result.logits(inputs, at) for at in range(iterations)]).astype(np.float32)
    name = f"soft mixture of {experts} support vector machines, seed {result.settings['seed']}"
    return vowel_trace(name, data, logits, result.recorded, "iteration", slots)
