"""Mixtures of hidden Markov models as a `RoutingTrace`."""

import numpy as np

from moeviz.history.hmm_experts_1996.model import HMMMixture
from moeviz.history.shared.datasets import Utterances, japanese_vowels
from moeviz.history.shared.gates import samples, slots_from, soft_slots, system_trace
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

ENDED = "An utterance has no expert after its last frame, and its logits there are those of its last frame."


def trace_of(
    result: HMMMixture, data: Utterances | None = None, slots: int | None = None, ends: bool = False
) -> RoutingTrace:
    """Return the division of utterances by the gate of a mixture of hidden Markov models, after every frame.

    A token is one utterance, a sequence of its own: `text` is "utterance 12 of speaker 3" and `label` the speaker. A
    layer is the number of frames so far, from 1. Utterances differ in length: after its last frame an utterance
    has no expert. With `ends` there is one layer instead, what the gate says of each utterance at its end.

    Logits are log πₖ + log p(o₁ … oₜ | λₖ), less the highest of the row, so that float32 keeps their differences: the
    softmax is the same. After the last frame they stay as they are there, as nothing more is read. The gate is
    soft, so every utterance goes to all K experts, with the gate's shares as weights; counts of assignments are then
    the same for all experts. With `slots` 1 only the expert with the highest share is kept, weight and all. `data` are
    the 370 test utterances unless given.

    Raises `InvalidTrace` if `slots` are not from 1 to K.

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    data = japanese_vowels()[1] if data is None else data
    experts = len(result.prior)
    slots = slots_from(slots, experts)
    logits = result.logits(data)[-1:] if ends else result.logits(data)
    logits = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float32)
    chosen, weights = soft_slots(logits, slots)
    over = np.arange(len(logits))[:, None] >= [len(each) for each in data.frames]
    layers = (1,) if ends else tuple(range(1, len(logits) + 1))
    taught = "speakers known" if result.settings["supervised"] else f"{result.settings['assignment']} EM"
    return system_trace(
        f"mixture of {experts} hidden Markov models, {taught}, seed {result.settings['seed']}",
        samples(names(data), [f"speaker {speaker + 1}" for speaker in data.speaker]),
        (np.where(over[..., None], np.int16(NO_EXPERT), chosen), np.where(over[..., None], np.float32(0), weights)),
        logits,
        layers=layers,
        score_function="softmax",
        layer_kind="last frame" if ends else "time step",
        item_kind="utterance",
        label_kind="speaker",
        caution="" if ends else ENDED,
    )


def names(data: Utterances) -> list[str]:
    """Name each utterance: "utterance 12 of speaker 3", both counted from 1, in the order of the data."""
    seen: dict[int, int] = {}
    found = []
    for speaker in data.speaker.tolist():
        seen[speaker] = seen.get(speaker, 0) + 1
        found.append(f"utterance {seen[speaker]} of speaker {speaker + 1}")
    return found
