"""Pieces of streaming: how often a growing trace is assembled, and autocast for the thread that runs the model."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch

from moeviz.routing_trace import RoutingTrace

PAUSE = 5  # times as long as a trace took to be made: until the next, beside other streams


@dataclass(slots=True)
class Throttle:
    """The trace so far, made at most once in so many seconds, and the same one again in between.

    Beside other streams it is made less often, so that all of theirs together take a fifth of the time.
    """

    seconds: float
    stale: bool = False  # whether the model has gone on since the last was made
    _last: RoutingTrace | None = None
    _made_at: float = 0.0
    _took: float = 0.0

    def latest(self, make: Callable[[], RoutingTrace], streams: int = 1) -> RoutingTrace:
        """The newest there is: a new one if it is time, beside so many streams in all."""
        now = time.monotonic()
        pause = max(self.seconds, PAUSE * self._took * streams if streams > 1 else 0.0)
        self.stale = self._last is not None and now < self._made_at + pause
        if self._last is None or not self.stale:
            self._last, self._made_at = make(), time.monotonic()
            self._took = self._made_at - now
        return self._last


DEVICES = ("cpu", "cuda")


def autocast_of_caller() -> Callable[[], AbstractContextManager[None]]:
    """The block, for another thread to enter, in which autocast is what it is here and now."""
    on = {device: torch.get_autocast_dtype(device) for device in DEVICES if torch.is_autocast_enabled(device)}

    @contextmanager
    def same() -> Iterator[None]:
        with ExitStack() as stack:
            for device, dtype in on.items():
                stack.enter_context(torch.autocast(device, dtype))
            yield

    return same
