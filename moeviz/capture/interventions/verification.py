"""Checks that a run did what was asked: what was recorded in it, beside what should have been.

Each intervention says what that is (`check_held` in its file), and every run under one is held against it before
anyone sees the trace.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moeviz.errors import CaptureError

TINY = 1e-7  # weights that half precision rounds to 0


@dataclass(frozen=True, slots=True)
class DecidedRouting:
    """The decisions of several routers: L layers, T tokens, K slots."""

    layers: tuple[int, ...]  # the model's own indices
    experts: np.ndarray  # (L, T, K)
    weights: np.ndarray  # (L, T, K)
    precision: float  # how much a weight may be off by rounding, relative


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """The decisions of one router: T tokens, K slots."""

    experts: np.ndarray  # (T, K)
    weights: np.ndarray  # (T, K)


def layer_pairs(one: DecidedRouting, other: DecidedRouting) -> Iterator[tuple[int, LayerRouting, LayerRouting]]:
    """(layer, what one says of it, what the other says)."""
    for index, layer in enumerate(one.layers):
        first, second = (LayerRouting(part.experts[index], part.weights[index]) for part in (one, other))
        yield layer, first, second


def weights_by_expert(routing: LayerRouting, num_experts: int) -> np.ndarray:
    """The weight of every expert for every token, (T, E) float32: 0 where it was not chosen."""
    table = np.zeros((len(routing.experts), num_experts), np.float32)
    weights = np.where(routing.experts < 0, 0, routing.weights)
    np.add.at(table, (np.arange(len(table))[:, None], routing.experts.clip(min=0)), weights)
    return table


def check_weights(asked: object, layer: int, now: LayerRouting, expected: np.ndarray, precision: float = 0.0) -> None:
    """Raise `CaptureError` where an expert has another weight than expected, (T, E)."""
    found = weights_by_expert(now, expected.shape[1])
    allowed = TINY if precision else 0.0
    same = np.isclose(found, expected, rtol=2 * precision, atol=allowed, equal_nan=True)
    check_all_tokens(asked, layer, same.all(axis=-1), "an expert has another weight than it should")


def check_all_tokens(asked: object, layer: int, is_so: np.ndarray, otherwise: str) -> None:
    """Raise `CaptureError` unless it is so for every token (T,)."""
    if not is_so.all():
        raise CaptureError(
            f"{type(asked).__name__} did not come through at layer {layer}: for {(~is_so).sum()} of {len(is_so)} "
            f"tokens {otherwise}. A trace of this run would not be of the change that you asked for. Please report "
            "this model."
        )


def filled_slots(routing: LayerRouting) -> np.ndarray:
    """How many slots of each token (T,) hold an expert."""
    filled: np.ndarray = (routing.experts >= 0).sum(axis=-1)
    return filled
