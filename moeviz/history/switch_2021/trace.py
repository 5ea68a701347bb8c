"""Switch Transformer, 2021 as a `RoutingTrace`."""

import numpy as np
import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.history.shared.datasets import UNKNOWN, english
from moeviz.history.shared.gates import system_trace
from moeviz.history.switch_2021.record import WORDS, Switch
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, token_frame


def trace_of(result: Switch) -> RoutingTrace:
    """The expert to which the second block of a tiny Switch Transformer sent each of 1,024 held-out words, as a trace.

    A token is a word, `text`, in sequences of 32; `label` says whether it is a word, a number, a sign or too rare for
    the vocabulary. One layer, one slot, and the weight is the router's probability for that expert, so it does not sum
    to 1. A word that was dropped has NO_EXPERT, and its logits, which say where it wanted to go: all words of the trace
    are one group, over which capacity is counted.

    Raises `InvalidTrace` for the dense twin, which has no router.

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.
    """
    settings, words, experts = result.settings, *result.logits.shape
    if settings["dense"]:
        raise InvalidTrace("Got the dense twin, which has no router to record. Train a Switch Transformer instead.")
    vocabulary = english().vocabulary
    texts = [vocabulary[word] for word in result.words]
    place = np.arange(words)
    tokens = token_frame(place // WORDS, place % WORDS, texts, token_id=result.words)
    served = np.where(result.dropped, NO_EXPERT, result.chosen).astype(np.int16)
    weights = np.where(result.dropped, 0, result.gate).astype(np.float32)
    return system_trace(
        f"tiny Switch Transformer of {experts} experts, seed {settings['seed']}",
        tokens.assign(label=pd.Series([_kind(text) for text in texts], dtype="str")),
        (served[None, :, None], weights[None, :, None]),
        result.logits[None],
        layers=(1,),
        score_function="softmax",
        num_layers=2,
        dtype="float32",
        item_kind="word",
        label_kind="kind of word",
        caution=(
            f"{result.dropped.sum()} of {words} words were dropped: the capacity factor is "
            f"{settings['capacity_factor']:g}, and capacity is counted over all of them."
        ),
    )


def _kind(text: str) -> str:
    if text == UNKNOWN:
        return "rare"
    return "number" if text.isdigit() else "word" if text.replace("_", "a").isalpha() else "sign"
