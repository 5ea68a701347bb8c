"""Mixtures of experts from before language models -> RoutingTrace: their gates' proportions as routing."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.history.adaptive_mixtures import Mixture
from moeviz.history.vowels import VOWELS, Vowels
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, normalised_scores, sort_slots, token_frame


def from_adaptive_mixtures(result: Mixture, data: Vowels, slots: int | None = None) -> RoutingTrace:
    """How an adaptive mixture of local experts shared its vowels out, at each recorded epoch of its training.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. A layer is a
    recorded epoch, 0 before training. The gate is soft, so every sample goes to all E experts, with the mixing
    proportions as weights, which sum to 1; counts of assignments are then the same for all experts. With `slots` 1
    only the expert with the highest proportion is kept, weight and all, and counts tell who wins.

    Raises `InvalidTrace` where `data` are not those of the result, or `slots` are not from 1 to E.

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991).
    """
    epochs, samples, experts = result.gate_logits.shape
    slots = experts if slots is None else slots
    if samples != len(data.vowel) or result.source != data.source:
        raise InvalidTrace(
            f"The mixture was trained on {samples} samples ({result.source}), and the data are {len(data.vowel)} "
            f"({data.source}); give the data that it was trained on."
        )
    if not 1 <= slots <= experts:
        raise InvalidTrace(f"Got {slots} slots a sample; this mixture has experts for 1 to {experts}.")
    logits = result.gate_logits.astype(np.float32)
    everyone = np.broadcast_to(np.arange(experts, dtype=np.int16), logits.shape)
    chosen, weights = sort_slots(everyone, normalised_scores(logits, "softmax"))
    return RoutingTrace(
        model=ModelInfo(
            name=f"adaptive mixture of {experts} local experts, seed {result.seed}",
            backend="mixture",
            layers=result.recorded,
            num_experts=(experts,) * epochs,
            top_k=slots,
            score_function="softmax",
            layer_kind="epoch",
            caution="" if data.measured else f"The vowels are a {data.source}.",
        ),
        tokens=_samples(data),
        experts=chosen[..., :slots],
        weights=weights[..., :slots],
        logits=logits,
    )


def _samples(data: Vowels) -> pd.DataFrame:
    labels = [VOWELS[vowel] for vowel in data.vowel]
    tokens = token_frame(
        sequence=np.arange(len(labels)),
        position=np.zeros(len(labels)),
        text=[f"[{label}] speaker {speaker}" for label, speaker in zip(labels, data.speaker, strict=True)],
    )
    return tokens.assign(label=pd.Series(labels, dtype="str"))
