"""Steering: does turning up the experts of a kind of text make a model better at it? A search, and its trial."""

from collections.abc import Callable
from itertools import permutations

import numpy as np

from moeviz.analyses.what_if import loss_by_set
from moeviz.capture.interventions.bias import Bias
from moeviz.capture.models.load import LoadedModel
from moeviz.metrics.contrast import FEWEST, SteeringTrial, contrast, first_half, texts_of_label, turned
from moeviz.routing_trace import RoutingTrace

AMOUNTS = (0.5, 1.0, 2.0, 4.0)
DRAWS, SEED = 40, 0


def steering_trial(
    model: LoadedModel, trace: RoutingTrace, *, progress: Callable[[int, int], None] | None = None
) -> SteeringTrial:
    """Search the pairs of kinds for one that can be turned up to its gain, and try that one on other texts.

    The experts of a pair are those of `contrast` that hold, in the first half of each text; losses are those of second
    halves. Every other text of each kind chooses the pair and the amount: those after which the first kind's loss
    falls most. The texts between judge it, compared with the same amounts for other experts of the same layers, drawn
    at random.

    trace      texts that this model read, with labels.
    progress   called with (done, total), in pairs.

    Raises what `loss_by_set` raises.
    """
    kinds = trace.tokens.groupby("label", observed=True, sort=False)["sequence"].unique()
    texts = {str(kind): list(of) for kind, of in kinds.items() if len(of) >= FEWEST}

    def change(kind: str, chooses: bool, amounts: dict[int, dict[int, float]]) -> float:
        some = trace.tokens["sequence"].isin(texts[kind][0 if chooses else 1 :: 2])
        losses = loss_by_set(model, {kind: trace.select(tokens=some.to_numpy())}, Bias(amounts))
        return float((losses["loss_changed"] - losses["loss"]).iloc[0])

    halves = {kind: first_half(texts_of_label(trace, kind)) for kind in texts}
    pairs, ways = [*permutations(texts, 2)], []
    for done, (first, second) in enumerate(pairs, 1):
        found = contrast((halves[first], halves[second]))
        for amount in AMOUNTS if found["holds"].any() else ():
            ways.append((change(first, True, turned(found, amount)), first, second, amount))
        if progress is not None:
            progress(done, len(pairs))
    chosen, first, second, amount = min(ways)
    up = turned(contrast((halves[first], halves[second])), amount)
    experts, rng = dict(zip(trace.model.layers, trace.model.num_experts, strict=True)), np.random.default_rng(SEED)
    at_random = []
    for _ in range(DRAWS):
        dealt = {
            layer: dict(zip(rng.permutation(experts[layer])[: len(of)].tolist(), of.values(), strict=True))
            for layer, of in up.items()
        }
        at_random.append(change(first, False, dealt))
    return SteeringTrial(len(ways), first, second, amount, chosen, change(first, False, up), tuple(at_random))
