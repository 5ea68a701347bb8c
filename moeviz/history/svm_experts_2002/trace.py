"""The mixture of support vector machines of 2002 as a `RoutingTrace`."""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.history.shared.gates import samples, system_trace
from moeviz.history.svm_experts_2002.model import SVMMixture
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

VIEWS = ("both", "first choice", "assigned")
CAUTION = (
    "All experts answer for every digit, with weights of any sign. Shown here are only the expert with the highest "
    "weight and, if that one was full, the one that learns from the digit instead."
)


def trace_of(result: SVMMixture, view: str = "both") -> RoutingTrace:
    """Return the expert with the highest weight for each digit, and the one that learns from it, as a trace.

    A token is a training digit, the first 1,000 of the 4,000, each a sequence of its own: `text` is "7, image 12" and
    `label` the digit. A layer is an iteration, from 1, after its gater has been trained. Slot 0 is the first choice,
    the expert with the highest weight. Slot 1 is the expert that the digit was given to, from which it learns in the
    next iteration; it is filled only where the first choice was full, so the share of tokens with two experts is the
    overflow. `view` keeps only one of the two, in one slot.

    Weights are the gater's, as the mixture applies them: signed, unbounded, and they sum to nothing in particular. The
    order is that of the sign too, since the rule of 2002 sorts by it. `logits` are the weights of all experts; there is
    no score function, so what needs probabilities says that it has none.

    Raises `InvalidTrace` for another view.

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002).
    """
    if view not in VIEWS:
        raise InvalidTrace(f"Got the view {view!r}. Choose one of {list(VIEWS)}.")
    iterations, kept, experts = result.weights.shape
    first, given = (part[:, :kept].astype(np.int16) for part in (result.first_choice, result.assigned))
    elsewhere = np.where(given == first, np.int16(NO_EXPERT), given)
    slots = {"both": [first, elsewhere], "first choice": [first], "assigned": [given]}[view]
    chosen = np.stack(slots, axis=-1)
    weights = np.take_along_axis(result.weights, np.maximum(chosen, 0).astype(np.intp), axis=-1)
    labels = [str(digit) for digit in result.digit[:kept]]
    name = f"mixture of {experts} support vector machines, seed {result.settings['seed']}"
    tokens = samples([f"{label}, image {number + 1}" for number, label in enumerate(labels)], labels)
    found = chosen, np.where(chosen == NO_EXPERT, np.float32(0), weights)
    facts = {"layer_kind": "iteration", "item_kind": "digit", "label_kind": "digit", "caution": CAUTION}
    return system_trace(name, tokens, found, result.weights, layers=tuple(range(1, iterations + 1)), **facts)
