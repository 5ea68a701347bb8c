"""Traces of every shape from one number: few or many tokens, layers, experts, slots, and all that may be missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
from words_of_traces import KIND_OF

from moeviz.model_info import ModelInfo, ParameterCounts
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace, sort_slots, token_frame

WORDS = tuple(KIND_OF)
LABELS = ("fr", " sql", "42", "a\nb")


def random_trace(seed: int) -> RoutingTrace:
    """The same trace for the same number."""
    rng = np.random.default_rng(seed)
    model, bias = _model(rng)
    tokens = _tokens(rng)
    logits = _logits(rng, model, tokens)
    scores = logits + bias[:, None, :] if rng.random() < 0.2 else logits  # something else than the scores decides too
    experts = np.argsort(-scores, axis=-1, kind="stable")[..., : model.top_k].astype(np.int16)
    experts[~np.isfinite(np.take_along_axis(scores, experts.astype(np.int64), -1))] = NO_EXPERT
    weights = _weights(rng, logits, experts)
    experts, weights = sort_slots(experts, weights)
    _lose(rng, experts, weights)
    if rng.random() < 0.25:
        experts, weights, logits = _forget(rng, experts, weights)
    if rng.random() < 0.2:
        logits = None
    if rng.random() < 0.25:
        weights = None
        if rng.random() < 0.5 and model.top_k > 1:
            model = replace(model, slot_order="unknown")
            experts, _ = sort_slots(rng.permuted(experts, axis=-1), None)
    return RoutingTrace(model, tokens, experts, weights, logits)


def of_the_same_tokens(trace: RoutingTrace, seed: int) -> RoutingTrace:
    """What another engine might have recorded: here and there another expert, or another order."""
    rng = np.random.default_rng(seed)
    experts = trace.experts.copy()
    for layer, count in enumerate(trace.model.num_experts):
        for token in np.flatnonzero(rng.random(experts.shape[1]) < rng.choice([0, 0.05, 0.3])):
            free = np.setdiff1d(np.arange(count), experts[layer, token])
            if len(free) and experts[layer, token, -1] >= 0:
                experts[layer, token, -1] = rng.choice(free)
    return replace(trace, experts=experts)


def _model(rng: np.random.Generator) -> tuple[ModelInfo, np.ndarray]:
    L, E = int(rng.choice([1, 1, 2, 3, 5])), int(rng.choice([1, 2, 4, 6, 8, 8, 8, 16, 32]))
    sizes = rng.choice([E, max(1, E // 2)], L) if rng.random() < 0.2 else np.full(L, E)
    sizes[0] = E
    least = int(sizes.min())
    top_k = least if rng.random() < 0.05 and E <= 4 else int(rng.integers(1, min(4 if E <= 8 else 2, least) + 1))
    layers = tuple(sorted(rng.choice(12, L, replace=False).tolist()))
    zero = int(E >= 4 and least == E and top_k < E and rng.random() < 0.1)
    each = tuple(int(n) for n in rng.integers(10, 200, L))
    rest = [int(n) for n in rng.integers(0, 400, 6)]
    routed = int(sum(n * (size - zero) for n, size in zip(each, sizes.tolist(), strict=True)))
    counts = ParameterCounts(rest[0], rest[1], rest[2], rest[3], routed, rest[4], 0, rest[5], per_expert=each)
    kind = str(rng.choice(["softmax", "softmax", "softmax", "sigmoid", "sqrt_softplus", "unknown"]))
    model = ModelInfo("random", "test", layers, tuple(sizes.tolist()), top_k, kind, zero_experts=zero)
    model = replace(model, parameters=counts if rng.random() < 0.7 else None)
    if rng.random() < 0.1:
        model = replace(model, item_kind="digit", layer_kind="time step")
    return model, rng.normal(0, 2, (L, E)).astype(np.float32)


def _tokens(rng: np.random.Generator) -> pd.DataFrame:
    T = int(rng.choice([1, 2, 5, 7, 8, 12, 20, 40, 40, 80, 80, 160, 240]))
    often = rng.integers(0, 12, T) if rng.random() < 0.15 else np.minimum(rng.zipf(1.5, T), len(WORDS)) - 1
    words = rng.permutation(len(WORDS))[often]
    several = int(rng.choice([1, 1, 2, 8, 8])) if T > 8 else 1
    sequence = np.arange(T) * several // T
    position = np.concatenate([np.arange((sequence == text).sum()) for text in range(several)]).astype(int)
    if rng.random() < 0.2:
        position = position + 2 * (position > 5)  # a gap
    ids = np.full(T, -1) if rng.random() < 0.3 else words
    phase = ["prompt" if row < 0.8 * T else "generated" for row in range(T)]
    frame = token_frame(sequence, position, [WORDS[word] for word in words], ids, phase)
    if rng.random() < 0.5:
        return frame
    names = [LABELS[text % int(rng.choice([2, 4]))] for text in range(several)] if several > 1 else None
    labels = [names[text] for text in sequence] if names else [LABELS[row * 2 // T] for row in range(T)]
    return frame.assign(label=pd.Series(labels, dtype="str"))


def _logits(rng: np.random.Generator, model: ModelInfo, tokens: pd.DataFrame) -> np.ndarray:
    """Some experts are favoured, by some words, by some texts, or where the token before went."""
    L, T, E = len(model.layers), len(tokens), max(model.num_experts)
    favour, word, text, stay, noise = (rng.choice(of) for of in ([0, 1, 3], [0, 0, 3], [0, 0, 2], [0, 0, 3], [0.3, 1]))
    codes = pd.factorize(tokens["text"])[0]
    labels = pd.factorize(tokens["label"])[0] if "label" in tokens else np.zeros(T, int)
    logits = rng.normal(0, noise, (L, T, E)) + favour * rng.normal(size=(L, 1, E))
    logits += word * rng.normal(size=(L, codes.max() + 1, E))[:, codes]
    logits += text * rng.normal(size=(L, labels.max() + 1, E))[:, labels]
    for token in range(1, T):
        logits[:, token] += stay * (logits[:, token - 1] == logits[:, token - 1].max(axis=-1, keepdims=True))
    for layer in range(1, L):
        logits[layer] += rng.choice([0, 2]) * (logits[layer - 1] == logits[layer - 1].max(axis=-1, keepdims=True))
    if rng.random() < 0.15:
        logits = np.round(logits)  # ties
    if rng.random() < 0.1:
        logits *= 8
    logits = logits.astype(np.float32)
    for layer, count in enumerate(model.num_experts):
        logits[layer, :, count:] = -np.inf
    return logits


def _weights(rng: np.random.Generator, logits: np.ndarray, experts: np.ndarray) -> np.ndarray:
    chosen = np.take_along_axis(logits, np.maximum(experts, 0).astype(np.int64), -1)
    weights = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
    weights[experts < 0] = 0
    if (how := rng.random()) < 0.7:
        weights /= weights.sum(axis=-1, keepdims=True)
    elif how < 0.85:
        weights *= np.float32(2.5)
    return weights.astype(np.float32)


def _lose(rng: np.random.Generator, experts: np.ndarray, weights: np.ndarray) -> None:
    """Drop tokens, or the last slots of some."""
    if rng.random() < 0.2:
        rows = rng.random(experts.shape[:2]) < 0.1
        experts[rows], weights[rows] = NO_EXPERT, 0
    if rng.random() < 0.2 and experts.shape[2] > 1:
        rows = rng.random(experts.shape[:2]) < 0.2
        experts[rows, -1], weights[rows, -1] = NO_EXPERT, 0


def _forget(
    rng: np.random.Generator, experts: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows = rng.random(experts.shape[:2]) < rng.choice([0.05, 0.5])
    if rng.random() < 0.3:
        rows[:] = rng.random(experts.shape[1]) < 0.3  # the same tokens at every layer
    if rng.random() < 0.2:
        rows[0] = True
    if rows.all():
        rows[0, 0] = False
    experts[rows], weights[rows] = NOT_RECORDED, 0
    return experts, weights, None
