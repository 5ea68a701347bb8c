"""Gates of the systems: how they squash, how their weights become slots, and how samples become tokens."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int16

from moeviz.errors import InvalidTrace
from moeviz.history.shared.datasets import VOWELS, Vowels
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, normalised_scores, sort_slots, token_frame

Slots = tuple[Int16[np.ndarray, "L T K"], Float32[np.ndarray, "L T K"]]


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−z), written so that it overflows for no z."""
    return (1 + np.tanh(values / 2)) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Positive numbers in proportion to e^x; each row sums to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def soft_slots(logits: Float32[np.ndarray, "L T E"], slots: int) -> Slots:
    """Slots of a softmax gate, which sends every token to all experts: the `slots` with the highest weights.

    Weights are what the gate gives, so with fewer slots than experts they sum to less than 1.
    """
    everyone = np.broadcast_to(np.arange(logits.shape[-1], dtype=np.int16), logits.shape)
    experts, weights = sort_slots(everyone, normalised_scores(logits, "softmax"))
    return experts[..., :slots], weights[..., :slots]


def switched_slots(on: Bool[np.ndarray, "L T E"], weights: Float[np.ndarray, "L T E"]) -> Slots:
    """Slots of a gate that switches each expert on or off by itself: any number of them, none too.

    K is the most that any token has.
    """
    everyone = np.broadcast_to(np.arange(on.shape[-1], dtype=np.int16), on.shape)
    filled = np.where(on, everyone, np.int16(NO_EXPERT))
    experts, weights = sort_slots(filled, np.where(on, weights, 0).astype(np.float32))
    most = max(1, int(on.sum(axis=-1).max(initial=0)))
    return experts[..., :most], weights[..., :most]


def samples(texts: list[str], labels: list[str] | None = None) -> pd.DataFrame:
    """Return the tokens of independent samples, each a sequence of its own."""
    tokens = token_frame(np.arange(len(texts)), np.zeros(len(texts)), texts)
    return tokens if labels is None else tokens.assign(label=pd.Series(labels, dtype="str"))


def system_trace(
    name: str, tokens: pd.DataFrame, slots: Slots, logits: Float32[np.ndarray, "L T E"] | None, **facts: Any
) -> RoutingTrace:
    """Return the routing of a system of the history, whose `slots` are the experts and their weights.

    `facts` are those of its `ModelInfo`; without them, layers are counted from 0, each with the experts of the logits.
    """
    experts, weights = slots
    layers = facts.pop("layers", tuple(range(len(experts))))
    if logits is not None:
        facts = {"num_experts": logits.shape[-1:] * len(layers)} | facts
    model = ModelInfo(name=name, backend="mixture", layers=layers, top_k=experts.shape[-1], **facts)
    return RoutingTrace(model, tokens, experts, weights, logits)


def check_samples(trained_on: str, data: Vowels) -> None:
    """Raise `InvalidTrace` if a system was trained on other vowels than these."""
    if trained_on != data.source:
        raise InvalidTrace(
            f"The system was trained on other samples ({trained_on}) than these ({data.source}). Give the data that "
            "it was trained on."
        )


def slots_from(slots: int | None, experts: int) -> int:
    """Return the slots that a trace keeps of each input: all of E experts unless a number from 1 to E is given.

    Raises `InvalidTrace` for another number.
    """
    slots = experts if slots is None else slots
    if not 1 <= slots <= experts:
        raise InvalidTrace(
            f"Got {slots} slots; this system has experts for 1 to {experts}. Choose a number in that range."
        )
    return slots


def vowel_trace(
    name: str,
    data: Vowels,
    logits: Float32[np.ndarray, "L T E"],
    layers: tuple[int, ...],
    layer_kind: str,
    slots: int | None = None,
) -> RoutingTrace:
    """A trace of vowels behind a softmax gate: each sample goes to all experts, or to the `slots` most probable ones.

    A token is one sample, a sequence of its own: `text` is "[i] speaker 12" and `label` the vowel. A logit of -inf
    means that the layer lacks the expert.

    Raises `InvalidTrace` for slots that are not from 1 to E.
    """
    slots = slots_from(slots, logits.shape[-1])
    experts, weights = soft_slots(logits, slots)
    missing = np.isneginf(np.take_along_axis(logits, experts.astype(np.int64), axis=-1))
    labels = [VOWELS[vowel] for vowel in data.vowel]
    texts = [f"[{label}] speaker {speaker}" for label, speaker in zip(labels, data.speaker, strict=True)]
    return system_trace(
        name,
        samples(texts, labels),
        (np.where(missing, np.int16(NO_EXPERT), experts), weights),
        logits,
        layers=layers,
        num_experts=tuple(np.isfinite(logits[:, 0]).sum(axis=-1).tolist()),
        score_function="softmax",
        layer_kind=layer_kind,
        item_kind="sample",
        label_kind="vowel",
        caution="" if data.measured else f"The vowels are a {data.source}.",
    )
