"""Two recordings of the same text, token by token: what becomes of each, and whether small margins explain it."""

import numpy as np
import pandas as pd

from moeviz.errors import MissingField
from moeviz.metrics.convention_search import Pair
from moeviz.metrics.engine_difference import aligned, common_layers, differing, equal_rows, margins_of
from moeviz.metrics.inputs import needs_tokens
from moeviz.routing_trace import NOT_RECORDED

SAME, ORDER, OTHER, APART = "same experts", "another order", "other experts", "not compared"
STEPS = 60  # points of a curve


@needs_tokens
def token_differences(pair: Pair, start: int = 0, most: int | None = None) -> pd.DataFrame:
    """Compare each token at each layer: the same experts, another order of them, or other experts.

    `start` and `most` limit the tokens that both traces have: all by default. One row per token and layer that
    both have. Columns: place int32 (of the token among those of both) · sequence, position int32 (in the first trace) ·
    text str · layer int32 · kind str (same experts, another order, other experts, or not compared, where one of the two
    does not record it) · experts, other_experts str (ids in either) · margin float32 (as in `engine_difference`; NaN
    if there is none).

    Source: simple comparison.
    """
    one, other, mine, theirs = aligned(pair)
    rows = slice(start, None if most is None else start + most)
    places, mine, theirs = np.arange(len(mine), dtype=np.int32)[rows], mine[rows], theirs[rows]
    tokens = one.tokens.iloc[mine]
    told = {"place": places, **{name: tokens[name].to_numpy() for name in ("sequence", "position", "text")}}
    frames = []
    for layer in common_layers(pair):
        at, there = one.model.layers.index(layer), other.model.layers.index(layer)
        ours, others = one.experts[at, mine], other.experts[there, theirs]
        margin = None if one.logits is None else margins_of(one.logits[at, mine], ours)
        facts = {"kind": _kinds(ours, others, one.ordered and other.ordered), "experts": _list_ids(ours)}
        facts |= {"other_experts": _list_ids(others), "margin": np.float32(np.nan) if margin is None else margin}
        frames.append(pd.DataFrame(told | {"layer": np.int32(layer)} | facts))
    return pd.concat(frames, ignore_index=True).astype({"text": "str", "kind": "str", "margin": np.float32})


def _kinds(ours: np.ndarray, others: np.ndarray, ordered: bool) -> np.ndarray:
    same = equal_rows(ours, others)
    as_ordered = (ours == others).all(axis=1) if ordered and ours.shape == others.shape else same
    apart = (ours[:, 0] == NOT_RECORDED) | (others[:, 0] == NOT_RECORDED)
    return np.select([apart, ~same, ~as_ordered], [APART, OTHER, ORDER], SAME)


def _list_ids(experts: np.ndarray) -> list[str]:
    return [" ".join(str(expert) for expert in row if expert >= 0) for row in experts.tolist()]


@needs_tokens
def margins_of_both(pair: Pair) -> pd.DataFrame:
    """Do small margins explain it? The margins of tokens with other experts, against those with the same ones.

    One row per kind and size, of all layers together. Columns: kind str (same experts, or other experts) · margin
    float64 (logits) · share float64 (of the kind's tokens whose margin in the first trace is that or less) · rows int64
    (tokens of that kind, counted at each layer). Sizes are 0, which is a tie, and 60 steps from the smallest margin to
    the largest, evenly apart in their logarithm. Raises `MissingField` if the first trace has no router logits, if a
    bias rather than the logits decides, or if all tokens have the same experts; and what `engine_difference` raises.

    Source: a margin is as in `engine_difference`; the curve is an empirical distribution function.
    """
    one, other, mine, theirs = aligned(pair)
    if one.logits is None:
        raise MissingField(
            "Margins need router logits, and the first trace has none. Exchange the two, if the second has them."
        )
    found: dict[bool, list[np.ndarray]] = {True: [np.empty(0)], False: [np.empty(0)]}
    for layer in common_layers(pair):
        at = one.model.layers.index(layer)
        margin = margins_of(one.logits[at, mine], one.experts[at, mine])
        if margin is not None:
            differ = differing(one, other, layer, mine, theirs)
            for kind in found:
                found[kind].append(margin[differ == kind])
    margins = {kind: np.sort(np.concatenate(parts)) for kind, parts in found.items()}
    if not any(map(len, margins.values())):
        raise MissingField(
            "Margins need routers that choose by their logits: in the first trace something else decides too."
        )
    if not len(margins[True]):
        raise MissingField("Margins need tokens with other experts, and every token has the same ones in both.")
    sizes = _sizes(np.concatenate([*margins.values()]))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "kind": name,
                    "margin": sizes,
                    "share": np.searchsorted(margins[kind], sizes, side="right") / max(len(margins[kind]), 1),
                    "rows": len(margins[kind]),
                }
            )
            for kind, name in ((True, OTHER), (False, SAME))
            if len(margins[kind])
        ],
        ignore_index=True,
    )


def _sizes(margins: np.ndarray) -> np.ndarray:
    some = margins[margins > 0]
    if not len(some):
        return np.zeros(1)
    return np.concatenate([[0.0], np.geomspace(float(some.min()), float(some.max()), STEPS)])
