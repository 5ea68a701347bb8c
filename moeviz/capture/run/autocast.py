"""Autocast belongs to a thread: one that works for another takes it over."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

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
