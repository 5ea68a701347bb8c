"""The soft mixture of support vector machines -> RoutingTrace."""

import numpy as np

from moeviz.capture.mixtures.gates import samples, soft_slots
from moeviz.errors import InvalidTrace
from moeviz.history.adaptive_mixtures import encode
from moeviz.history.svm_em import SoftMixture
from moeviz.history.vowels import VOWELS, Vowels, stand_in
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace


def trace_of(result: SoftMixture, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """How the gate of a soft mixture of support vector machines shared the vowels out, at each iteration.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is an
    iteration, from 1. The gate is soft, so every sample goes to all K experts, with the mixing proportions as weights,
    which sum to 1; with `slots` 1 only the winner is kept. `data` are those it was trained on: the stand-in unless
    given.

    Raises `InvalidTrace` where `data` are not those of the result, or `slots` are not from 1 to K.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994).
    """
    data = stand_in() if data is None else data
    iterations, _, experts = result.gate_lines.shape
    slots = experts if slots is None else slots
    if result.source != data.source:
        raise InvalidTrace(
            f"The mixture was trained on other samples ({result.source}) than these ({data.source}); give the data "
            "that it was trained on."
        )
    if not 1 <= slots <= experts:
        raise InvalidTrace(f"Got {slots} slots a sample; this mixture has experts for 1 to {experts}.")
    inputs, _ = encode(data)
    logits = np.stack([result.logits(inputs, at) for at in range(iterations)]).astype(np.float32)
    chosen, weights = soft_slots(logits, slots)
    labels = [VOWELS[vowel] for vowel in data.vowel]
    texts = [f"[{label}] speaker {speaker}" for label, speaker in zip(labels, data.speaker, strict=True)]
    return RoutingTrace(
        model=ModelInfo(
            name=f"soft mixture of {experts} support vector machines, seed {result.settings['seed']}",
            backend="mixture",
            layers=result.recorded,
            num_experts=(experts,) * iterations,
            top_k=slots,
            score_function="softmax",
            layer_kind="iteration",
            caution="" if data.measured else f"The vowels are a {data.source}.",
        ),
        tokens=samples(texts, labels),
        experts=chosen,
        weights=weights,
        logits=logits,
    )
