"""Made-up traces of every kind for the explorer's tests, and findings to stand in its list."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from moeviz.next_tokens import NextTokens
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace
from moeviz.testing import sample_trace

HOSTILE = ("<img src=x onerror=alert(1)>", "![x](http://example.com/x.png)", "\u202eevil\u202c", "שלום", "⟨😀 1/2⟩")


@dataclass(frozen=True)
class Found:
    """A finding."""

    sentence: str
    layer: int
    token: int
    expert: int | None


STAND_IN = (
    Found("Layer 2 sends 40% of this text to expert 3.", 2, 7, 3),
    Found("At layer 3, “<b>the</b>” was a close call.", 3, 4, None),
)


def made(kind: str, layers: int = 6, tokens: int = 52, top_k: int = 2, experts: int = 8) -> RoutingTrace:
    """A trace of this kind: whole, ids, unordered, missing, dropped, biased, hostile, uneven, texts or next."""
    return KINDS[kind](sample_trace(layers, tokens, top_k, experts))


def _ids(trace: RoutingTrace) -> RoutingTrace:
    return replace(trace, weights=None, logits=None)


def _unordered(trace: RoutingTrace) -> RoutingTrace:
    return replace(_ids(trace), model=replace(trace.model, slot_order="unknown"))


def _missing(trace: RoutingTrace) -> RoutingTrace:
    """Tokens 2 to 5 are not recorded anywhere."""
    return _without(trace, NOT_RECORDED)


def _dropped(trace: RoutingTrace) -> RoutingTrace:
    """Tokens 2 to 5 got no expert, and token 6 lost its last slot."""
    dropped = _without(trace, NO_EXPERT)
    dropped.experts[:, 6, -1] = NO_EXPERT
    dropped.weights[:, 6, -1] = 0
    return dropped


def _biased(trace: RoutingTrace) -> RoutingTrace:
    """In the last layer, the last token has the expert that scores lowest: something else than scores decides."""
    experts = trace.experts.copy()
    experts[-1, -1, -1] = trace.logits[-1, -1].argmin()
    return replace(trace, experts=experts)


def _without(trace: RoutingTrace, mark: int) -> RoutingTrace:
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[:, 2:6], weights[:, 2:6] = mark, 0
    return replace(trace, experts=experts, weights=weights, logits=None)


def _hostile(trace: RoutingTrace) -> RoutingTrace:
    texts = [HOSTILE[row % len(HOSTILE)] for row in range(len(trace.tokens))]
    return replace(trace, tokens=trace.tokens.assign(text=pd.Series(texts, dtype="str")))


def _uneven(trace: RoutingTrace) -> RoutingTrace:
    """Layers 3, 5, 7 …, the first with half as many experts as the others."""
    model, few = trace.model, max(trace.model.num_experts) // 2
    counts = (few, *model.num_experts[1:])
    layers = tuple(3 + 2 * layer for layer in model.layers)
    logits = trace.logits.copy()
    logits[0, :, few:] = -np.inf
    experts = trace.experts.copy()
    experts[0] = np.argsort(-logits[0], axis=-1, kind="stable")[:, : model.top_k]
    return replace(trace, model=replace(model, layers=layers, num_experts=counts), experts=experts, logits=logits)


def _texts(trace: RoutingTrace) -> RoutingTrace:
    """Two texts of the same length."""
    half = len(trace.tokens) // 2
    rows = np.arange(len(trace.tokens))
    tokens = trace.tokens.assign(
        sequence=(rows // half).astype(np.int32), position=(rows % half).astype(np.int32), phase=trace.tokens["phase"]
    )
    return replace(trace, tokens=tokens)


def _with_next(trace: RoutingTrace) -> RoutingTrace:
    """With next tokens: the text does go on with the likeliest, but for the first token."""
    texts = tuple(dict.fromkeys([*trace.tokens["text"], "Amen", "und", "</b>", "x", "y", "z"]))
    L, T, _ = trace.experts.shape
    follows = [*trace.tokens["text"][1:], "Amen"]
    ids = np.array(
        [[texts.index(text), *(texts.index(other) for other in ("und", "</b>", "x", "y"))] for text in follows]
    )
    ids[0, 0] = texts.index("z")
    p = np.linspace([0.6, 0.2, 0.1, 0.05, 0.0], [0.9, 0.06, 0.02, 0.01, 0.0], T)
    lens = np.broadcast_to(ids, (L, T, 5)), np.broadcast_to(p / 2, (L, T, 5))
    lens_ids, lens_p = lens[0].astype(np.int32), lens[1].astype(np.float32)
    return replace(trace, next_tokens=NextTokens(texts, ids.astype(np.int32), p.astype(np.float32), lens_ids, lens_p))


def without(trace: RoutingTrace, experts: list[tuple[int, int]]) -> RoutingTrace:
    """The trace as if experts were muted: the next free one has their tokens, and other next tokens come."""
    ids = trace.experts.copy()
    for layer, expert in experts:
        row = trace.model.layers.index(layer)
        for own in ids[row]:
            if expert in own:
                free = [e for e in range(trace.model.num_experts[row]) if e not in own and (layer, e) not in experts]
                own[own.tolist().index(expert)] = free[0]
    found = trace.next_tokens
    if found is not None:
        order = [1, 0, 2, 3, 4]
        found = NextTokens(found.texts, found.rows[:, order].copy(), found.p)
    return replace(trace, experts=ids, logits=None, next_tokens=found)


KINDS = {
    "next": _with_next,
    "whole": lambda trace: trace,
    "ids": _ids,
    "unordered": _unordered,
    "missing": _missing,
    "dropped": _dropped,
    "biased": _biased,
    "hostile": _hostile,
    "uneven": _uneven,
    "texts": _texts,
}
