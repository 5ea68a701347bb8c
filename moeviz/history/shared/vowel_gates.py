"""What the traces of all systems that tell the vowels of 1991 apart have in common: a soft gate, and the samples."""

import numpy as np
from jaxtyping import Float32

from moeviz.errors import InvalidTrace
from moeviz.history.shared.gates import samples, soft_slots
from moeviz.history.shared.vowels import VOWELS, Vowels
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace


def check_samples(trained_on: str, data: Vowels) -> None:
    """Raise `InvalidTrace` if a system was trained on other vowels than these."""
    if trained_on != data.source:
        raise InvalidTrace(
            f"The system was trained on other samples ({trained_on}) than these ({data.source}). Give the data that "
            "it was trained on."
        )


def vowel_trace(
    name: str,
    data: Vowels,
    logits: Float32[np.ndarray, "L T E"],
    layers: tuple[int, ...],
    layer_kind: str,
    slots: int | None = None,
) -> RoutingTrace:
    """A trace of vowels behind a softmax gate: each sample goes to all experts, or to the `slots` most probable ones.

    A token is one sample, alone in its sequence: `text` is "[i] speaker 12" and `label` the vowel. Where a logit is
    -inf there is no such expert at that layer.

    Raises `InvalidTrace` for slots that are not from 1 to E.
    """
    most = logits.shape[-1]
    slots = most if slots is None else slots
    if not 1 <= slots <= most:
        raise InvalidTrace(
            f"Got {slots} slots per sample; this system has experts for 1 to {most}. Choose a number in that range."
        )
    experts, weights = soft_slots(logits, slots)
    missing = np.isneginf(np.take_along_axis(logits, experts.astype(np.int64), axis=-1))
    labels = [VOWELS[vowel] for vowel in data.vowel]
    texts = [f"[{label}] speaker {speaker}" for label, speaker in zip(labels, data.speaker, strict=True)]
    return RoutingTrace(
        model=ModelInfo(
            name=name,
            backend="mixture",
            layers=layers,
            num_experts=tuple(np.isfinite(logits[:, 0]).sum(axis=-1).tolist()),
            top_k=slots,
            score_function="softmax",
            layer_kind=layer_kind,
            item_kind="sample",
            label_kind="vowel",
            caution="" if data.measured else f"The vowels are a {data.source}.",
        ),
        tokens=samples(texts, labels),
        experts=np.where(missing, np.int16(NO_EXPERT), experts),
        weights=weights,
        logits=logits,
    )
