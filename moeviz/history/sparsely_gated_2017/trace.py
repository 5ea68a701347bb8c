"""The sparsely-gated mixture of experts, 2017 as a `RoutingTrace`."""

import numpy as np
from jaxtyping import Float32, Int16

from moeviz.history.shared.datasets import english
from moeviz.history.shared.gates import system_trace
from moeviz.history.sparsely_gated_2017.model import LENGTH, SparselyGated
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, normalised_scores, sort_slots, token_frame

LEVELS = (1, 2)  # primary gate, gates of the groups


def trace_of(result: SparselyGated) -> RoutingTrace:
    """Return the routing of words that a sparsely-gated mixture has not seen, without noise, as a trace.

    A token is a word of the held-out text, 32 in a sequence; `token_id` is its index in the vocabulary. Weights are
    those of the top k and sum to 1; logits are what the gate says without noise, x · W_g.

    A hierarchy has two layers, its levels. The experts of the first are the G groups. Those of the second are all E,
    expert j of group i under the id i · E / G + j; their weights are those of both gates multiplied, and so are their
    probabilities: the logits there are log softmax(group) + log softmax(expert in its group). A word's experts are the
    best of each of its groups, and need not be the best of all.

    Source: Shazeer et al. (arXiv 1701.06538), section 2.1 and appendix B.
    """
    words, (count, experts) = english().vocabulary, result.logits.shape
    number = np.arange(count)
    hierarchy = result.group_logits.shape[1] > 0
    chosen, weights, logits = _levels(result) if hierarchy else _one(result)
    groups = result.group_logits.shape[1]
    what = f"{groups} groups of {experts // groups} experts" if hierarchy else f"{experts} experts"
    tokens = token_frame(number // LENGTH, number % LENGTH, [words[word] for word in result.words], result.words)
    levels = {"layers": LEVELS, "num_experts": (groups, experts), "layer_kind": "level"} if hierarchy else {}
    return system_trace(
        f"sparsely-gated mixture of {what}, seed {result.settings['seed']}",
        tokens,
        (chosen, weights),
        logits,
        score_function="softmax",
        item_kind="word",
        **levels,
    )


def _one(result: SparselyGated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return result.chosen[None].astype(np.int16), result.weights[None], result.logits[None]


def _levels(
    result: SparselyGated,
) -> tuple[Int16[np.ndarray, "2 T K"], Float32[np.ndarray, "2 T K"], Float32[np.ndarray, "2 T E"]]:
    """Put both levels into arrays of one width: a word has fewer groups than experts."""
    (count, slots), (_, experts), (_, groups) = result.chosen.shape, result.logits.shape, result.group_logits.shape
    chosen, weights = np.full((2, count, slots), NO_EXPERT, np.int16), np.zeros((2, count, slots), np.float32)
    chosen[0, :, : result.groups.shape[1]], weights[0, :, : result.groups.shape[1]] = (
        result.groups,
        result.group_weights,
    )
    chosen[1], weights[1] = result.chosen, result.weights
    logits = np.full((2, count, experts), -np.inf, np.float32)
    logits[0, :, :groups] = result.group_logits
    within = np.log(normalised_scores(result.logits.reshape(count, groups, -1), "softmax"))
    logits[1] = (np.log(normalised_scores(result.group_logits, "softmax"))[:, :, None] + within).reshape(count, experts)
    return *sort_slots(chosen, weights), logits
