"""A deep mixture of experts, 2013 as a `RoutingTrace`."""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.history.deep_mixture_2013.model import SHIFT, DeepMixture, moves
from moeviz.history.shared.gates import samples, slots_from, soft_slots, system_trace
from moeviz.routing_trace import RoutingTrace

LAYERS = (1, 2)  # as the paper counts
THIRD = (2 * SHIFT + 1) // 3  # of the moves in a direction
DOWN, RIGHT = ("upper", "middle", "lower"), ("left", "middle", "right")
LABELS = ("digit", "place")


def trace_of(result: DeepMixture, label: str = "digit", slots: int | None = None) -> RoutingTrace:
    """The division of 810 test digits by the two gates of a deep mixture: one of each kind at each of the 81 positions.

    A token is one sample, alone in its sequence: `text` is "7 moved 2 right, 3 up". `label` is the digit or, with
    "place", which of nine regions it was moved to; each has as many samples as any other. Layers are 1 and 2, as the
    paper counts. The gates are soft, so every sample goes to all E experts of both layers, with weights that sum to 1;
    counts of assignments are then the same for all experts. With `slots` 1 only the expert with the highest gate is
    kept, weight and all, and counts tell who wins.

    Raises `InvalidTrace` for a label other than digit or place, or slots that are not from 1 to E.

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013).
    """
    experts = result.logits.shape[2]
    slots = slots_from(slots, experts)
    if label not in LABELS:
        raise InvalidTrace(
            f"Got the label {label!r}. Samples are labelled by {' or by '.join(LABELS)}; choose one of them."
        )
    found = soft_slots(result.logits, slots)
    steps = list(zip(*(part.tolist() for part in moves(result.place.astype(np.int64))), strict=True))
    digits = [str(digit) for digit in result.digit]
    texts = [f"{digit} {_in_words(*move)}" for digit, move in zip(digits, steps, strict=True)]
    tokens = samples(texts, digits if label == "digit" else [_region(*move) for move in steps])
    name = f"deep mixture of {experts} and {experts} experts, seed {result.settings['seed']}"
    facts = {"layers": LAYERS, "score_function": "softmax", "dtype": "float32"}
    return system_trace(name, tokens, found, result.logits, item_kind="digit", label_kind=label, **facts)


def _in_words(right: int, down: int) -> str:
    ways = ((right, "right", "left"), (down, "down", "up"))
    said = [f"{abs(pixels)} {ahead if pixels > 0 else back}" for pixels, ahead, back in ways if pixels]
    return f"moved {', '.join(said)}" if said else "in the middle"


def _region(right: int, down: int) -> str:
    """Name the region of a place, one of nine with nine places each: upper left, upper middle and so on."""
    across, along = RIGHT[(right + SHIFT) // THIRD], DOWN[(down + SHIFT) // THIRD]
    return "middle" if across == along else f"{along} {across}"
