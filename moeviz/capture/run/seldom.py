"""A trace that grows, assembled now and then: for a small model that takes longer than its next token does."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from moeviz.routing_trace import RoutingTrace


@dataclass(slots=True)
class Seldom:
    """The trace so far, made at most once in so many seconds, and the same one again in between."""

    seconds: float
    stale: bool = False  # whether the model has gone on since the last was made
    _last: RoutingTrace | None = None
    _made_at: float = 0.0

    def made(self, make: Callable[[], RoutingTrace]) -> RoutingTrace:
        """The newest there is: a new one if it is time."""
        self.stale = self._last is not None and time.monotonic() < self._made_at + self.seconds
        if self._last is None or not self.stale:
            self._last, self._made_at = make(), time.monotonic()
        return self._last
