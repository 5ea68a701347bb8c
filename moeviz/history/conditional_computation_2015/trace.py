"""Conditional computation, 2013 and 2015 as a `RoutingTrace`."""

import numpy as np

from moeviz.history.conditional_computation_2015.model import Conditional
from moeviz.history.shared.gates import samples, switched_slots, system_trace
from moeviz.routing_trace import RoutingTrace

DRAWN = "Which blocks are on was drawn once, as in training: another draw with the same probabilities differs."


def trace_of(result: Conditional) -> RoutingTrace:
    """Return the blocks of a gated network that each test digit switched on, as a trace.

    A token is one of the 1,000 test digits, each a sequence of its own: `text` is the digit and, if the network got it
    wrong, its answer; `label` is the digit. An expert is a block. Gates are independent, so a digit has any number
    of blocks, even 0, and the rows of weights do not sum to 1: a weight is what the block's output is
    multiplied by, 1 if it is on. Their order in the slots is by id and means nothing. Logits are those of the
    policy, one sigmoid per block; if blocks are dropped uniformly nothing scores them, and there are no logits.

    The blocks are those of the draw that gave the answers.

    Source: Y. Bengio, Léonard & Courville, arXiv 1308.3432 (2013); E. Bengio, Bacon, Pineau & Precup, arXiv
    1511.06297 (2015).
    """
    settings, on = result.settings, result.on
    slots = switched_slots(on[None], np.ones((1, *on.shape), np.float32))
    name = f"conditional computation, {settings['estimator']}, blocks drawn, seed {settings['seed']}"
    tokens = samples(_texts(result), [str(digit) for digit in result.digit])
    scored = {"score_function": "unknown" if result.logits is None else "sigmoid", "num_experts": on.shape[1:]}
    facts = {"layer_kind": "hidden layer", "item_kind": "digit", "label_kind": "digit", "caution": DRAWN}
    return system_trace(name, tokens, slots, None if result.logits is None else result.logits[None], **scored, **facts)


def _texts(result: Conditional) -> list[str]:
    pairs = zip(result.digit, result.answer, strict=True)
    return [f"{digit}" if digit == answer else f"{digit} taken for {answer}" for digit, answer in pairs]
