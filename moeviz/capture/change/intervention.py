"""What an intervention is: it is asked about a model, makes another decision of each, and says whether a run did it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from moeviz.capture.change.held import Routing
from moeviz.capture.change.limits import Layers, Limits

Choice = tuple[Tensor, Tensor]  # weights (T, K), experts (T, K)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one router decided in one forward. T tokens, K slots, E experts."""

    layer: int  # the model's own index
    index: int  # which of the trace's layers that is
    limits: Limits
    weights: Tensor  # (T, K)
    experts: Tensor  # (T, K)
    kept: Tensor  # (T,) bool: no padding
    factor: float  # what the block multiplies its experts' sum by besides
    again: Callable[[Tensor | None, int | None], Choice]  # choose again: pushed (E,), as `choose_torch` has it; top-k


@runtime_checkable
class Intervention(Protocol):
    """Something that changes what routers decide."""

    def check(self, layers: Layers, token_ids: np.ndarray) -> None:
        """Raise `CaptureError` where a model with these limits by layer, and these tokens, cannot be given it."""

    def change(self, decision: Decision) -> Choice:
        """Weights and experts in place of those that the router chose; the same tensors where it leaves them alone."""

    def check_held(self, changed: Routing, own: Routing, layers: Layers) -> None:
        """Raise `CaptureError` where a run did not do it.

        changed   what was recorded in that run.
        own       what the routers decided in it themselves, before they were changed.
        """
