"""A small Mixtral, sparse or with all experts on as a `RoutingTrace`."""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.history.dense_contrast.model import WORDS, DecoderRun
from moeviz.history.shared.datasets import english
from moeviz.history.shared.gates import system_trace
from moeviz.model_info import ParameterCounts
from moeviz.routing_trace import RoutingTrace, token_frame


def trace_of(result: DecoderRun) -> RoutingTrace:
    """Return the experts to which the two layers of a tiny Mixtral sent each of 768 held-out words, as a trace.

    A token is a word, `text`, in sequences of 48. Weights are a softmax over only the logits of the chosen experts, so
    they sum to 1; with all experts on there are as many slots as experts, and every load is the same. The model's
    parameters are counted.

    Raises `InvalidTrace` for the dense network that is as fast, which has no router.

    Source: Jiang et al. (arXiv 2401.04088), section 2.1.
    """
    layers, words, experts = result.logits.shape
    if not experts:
        raise InvalidTrace(
            'Got the dense network that is as fast: it has no router to record. Train one of the kinds "sparse" or '
            '"as large".'
        )
    vocabulary = english().vocabulary
    place = np.arange(words)
    name = "tiny Mixtral" if result.settings["kind"] == "sparse" else "tiny Mixtral with all experts on"
    per_expert = (result.parts["routed_experts"] // (layers * experts),) * layers
    facts = {"num_layers": layers, "dtype": "float32", "item_kind": "word", "score_function": "softmax"}
    return system_trace(
        f"{name}, seed {result.settings['seed']}",
        token_frame(place // WORDS, place % WORDS, [vocabulary[word] for word in result.words], result.words),
        (result.experts, result.weights),
        result.logits,
        parameters=ParameterCounts(**result.parts, shared_experts=0, per_expert=per_expert),
        **facts,
    )
