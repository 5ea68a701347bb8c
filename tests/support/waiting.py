"""How long tests wait for anything, and how: for an event, never for a time that should be enough."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

# In which whatever a test waits for comes, also on a machine that has much else to do; for one that has more, set more.
SECONDS = int(os.environ.get("MOEVIZ_TESTS_SECONDS", "180"))
PAUSE = 0.01  # seconds between two looks


def until(look: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait for what another thread or process does, until `look` sees it; what it saw, or an AssertionError."""
    end, never = time.monotonic() + seconds, threading.Event()
    while not (seen := look()):
        if time.monotonic() > end:
            raise AssertionError(f"It did not come in {seconds} s.")
        never.wait(PAUSE)
    return seen
