"""A hierarchical mixture of experts, 1994 -> RoutingTrace: a layer is a level of its tree."""

import numpy as np

from moeviz.capture.mixtures.gates import samples, soft_slots
from moeviz.errors import InvalidTrace
from moeviz.history.adaptive_mixtures import encode
from moeviz.history.hierarchical_mixture import BRANCHES, LEAVES, Hierarchy
from moeviz.history.vowels import VOWELS, Vowels, stand_in
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

LEVELS = (0, 1)  # the root, whose branches are its "experts"; the leaves


def trace_of(result: Hierarchy, data: Vowels | None = None, slots: int | None = None) -> RoutingTrace:
    """How a trained tree shared its vowels out: at level 0 between two branches, at level 1 among four experts.

    A token is one sample: `text` is "[i] speaker 12" and `label` the vowel. Gates are soft, so every sample goes
    everywhere; weights are probabilities, at level 1 the product along the way, and sum to 1 at each level. Logits are
    logarithms of these. With `slots` 1 only the likeliest is kept. `data` are those it was trained on: the stand-in
    unless given.

    Raises `InvalidTrace` where `data` are not those of the result, or `slots` are not from 1 to 4.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1.
    """
    data, slots = stand_in() if data is None else data, LEAVES if slots is None else slots
    if result.source != data.source:
        raise InvalidTrace(
            f"The tree was trained on other samples ({result.source}) than these ({data.source}); give the data that "
            "it was trained on."
        )
    if not 1 <= slots <= LEAVES:
        raise InvalidTrace(f"Got {slots} slots a sample; this tree has experts for 1 to {LEAVES}.")
    (inputs, _), tree = encode(data), result.tree()
    logits = np.full((len(LEVELS), len(inputs), LEAVES), -np.inf, np.float32)
    tiny = np.finfo(np.float32).tiny
    logits[0, :, :BRANCHES] = np.log(np.maximum(tree.branches(inputs), tiny))
    logits[1] = np.log(np.maximum(tree.leaves(inputs), tiny))
    experts, weights = soft_slots(logits, slots)
    experts = np.where((np.arange(len(LEVELS)) == 0)[:, None, None] & (experts >= BRANCHES), NO_EXPERT, experts)
    labels = [VOWELS[vowel] for vowel in data.vowel]
    texts = [f"[{label}] speaker {speaker}" for label, speaker in zip(labels, data.speaker, strict=True)]
    return RoutingTrace(
        model=ModelInfo(
            name=f"hierarchical mixture of {LEAVES} experts, seed {result.settings['seed']}",
            backend="mixture",
            layers=LEVELS,
            num_experts=(BRANCHES, LEAVES),
            top_k=slots,
            score_function="softmax",
            layer_kind="level",
            caution="" if data.measured else f"The vowels are a {data.source}.",
        ),
        tokens=samples(texts, labels),
        experts=experts.astype(np.int16),
        weights=weights,
        logits=logits,
    )
