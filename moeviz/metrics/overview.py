"""A whole trace in few enough columns for a screen."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16

from moeviz.errors import InvalidTrace
from moeviz.metrics.inputs import needs_tokens
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, RoutingTrace

COLUMNS = 1024  # about the pixels of a page's width: of more, a browser would leave out some, and not say which


@needs_tokens
def modal_first_choice(trace: RoutingTrace, columns: int = COLUMNS) -> pd.DataFrame:
    """List the first choice of every router over the whole trace, in stretches of tokens if there are many.

    A trace of up to `columns` tokens has a stretch per token. A longer one is cut into at most `columns` stretches of
    consecutive tokens, all equally long except the last. The modal first choice of a stretch is the most frequent first
    choice of its tokens; if several are equally frequent, the one that comes first in the text, so that a tie favours
    no id. Stretches follow the rows of the trace, even if it holds several texts.

    One row per stretch and layer. Columns: token int32 (row of `trace.tokens` at which the stretch begins) · tokens
    int32 (how many it has) · text category (of all of them) · layer int32 · num_experts int16 (of that layer) · expert
    int16 (the modal first choice; -1: none of its tokens got an expert; -2: none is recorded) · share float32 (of the
    stretch's recorded tokens that have that first choice; at least one in `tokens`, and 0 without an expert) · rank
    int16 (of that expert among the layer's first choices over the whole trace: 1 = the most frequent, ties to the lower
    id; 0 without an expert). Raises `InvalidTrace` if the trace has no tokens, and `MissingField` if it does not say
    which experts are first choices, or nothing at all.

    Source: recorded, not computed, if a stretch is one token; the mode of the sample if it is several. Mixtral of
    Experts (arXiv 2401.04088), figure 8, shows first choices token by token.
    """
    model, T = trace.model, len(trace.tokens)
    if not T:
        raise InvalidTrace("An overview needs tokens, and this trace has none. Run a prompt, or open another trace.")
    length = -(-T // columns)
    starts = np.arange(0, T, length, dtype=np.int32)
    sizes = np.minimum(length, T - starts).astype(np.int32)
    found = [
        _modal(first, length, num_experts)
        for first, num_experts in zip(trace.first_choices("An overview"), model.num_experts, strict=True)
    ]
    expert, share, rank = (np.stack(arrays, axis=1) for arrays in zip(*found, strict=True))
    every = np.repeat(np.arange(len(starts)), len(model.layers))
    texts = trace.tokens["text"].tolist()
    text = pd.Series(["".join(texts[s : s + length]) for s in starts], dtype="str").astype("category")
    return pd.DataFrame(
        {
            "token": starts[every],
            "tokens": sizes[every],
            "text": text.iloc[every].reset_index(drop=True),
            "layer": np.tile(np.asarray(model.layers, np.int32), len(starts)),
            "num_experts": np.tile(np.asarray(model.num_experts, np.int16), len(starts)),
            "expert": expert.ravel(),
            "share": share.astype(np.float32).ravel(),
            "rank": rank.ravel(),
        }
    )


def _modal(
    first: Int16[np.ndarray, " T"], length: int, num_experts: int
) -> tuple[Int16[np.ndarray, " S"], Float[np.ndarray, " S"], Int16[np.ndarray, " S"]]:
    """Return, for each stretch of one layer, the modal first choice, its share of the tokens, and its rank."""
    stretch, filled = np.arange(len(first)) // length, first >= 0
    stretches = int(stretch[-1]) + 1
    cell = stretch[filled] * num_experts + first[filled]
    if stretches * num_experts > 4 * len(cell):  # most of them empty: 1,000 stretches of 32,767 experts take 260 MB
        _, cell = np.unique(cell, return_inverse=True)
    votes = np.zeros(stretches * length)
    votes[: len(first)][filled] = np.bincount(cell)[cell]
    winner = votes.reshape(stretches, length).argmax(axis=1) + np.arange(stretches) * length  # the earliest of the best
    recorded = np.bincount(stretch[first != NOT_RECORDED], minlength=stretches)
    none = np.where(recorded > 0, np.int16(NO_EXPERT), np.int16(NOT_RECORDED))
    expert = np.where(votes[winner] > 0, first[winner], none)
    rank = np.where(expert < 0, np.int16(0), _ranks(first[filled], num_experts)[np.maximum(expert, 0)])
    return expert, votes[winner] / np.maximum(recorded, 1), rank


def _ranks(first: Int16[np.ndarray, " chosen"], num_experts: int) -> Int16[np.ndarray, " E"]:
    ranks = np.empty(num_experts, np.int16)
    ranks[np.argsort(-np.bincount(first, minlength=num_experts), kind="stable")] = np.arange(1, num_experts + 1)
    return ranks
