"""When Python looks for garbage among all that was imported: rarely, and not after every script. No Streamlit here.

Streamlit collects garbage after every script run, and a walk over all that torch and models are made of takes 0.14 s.
What is frozen is left out of that walk; but so is what a visitor had open at that moment, which would then never be
found when it is garbage. So all is thawed, looked through and frozen again, now and then when nobody waits.
"""

import atexit
import gc
import threading
import time
from collections.abc import Callable

SECONDS_FROZEN = 600.0


class Garbage:
    """What is left out of the walks, and since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._guard = clock, threading.Lock()
        self._since: float | None = None

    def freeze(self) -> None:
        """Collect what is garbage, and leave the rest out from now on."""
        with self._guard:
            if self._since is None:
                atexit.register(gc.unfreeze)  # what is frozen is not freed at the end, and some libraries complain
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._since = self._clock()

    def look_again(self) -> None:
        """The same where it was done before, and long ago: whatever was frozen alive and is garbage now is freed."""
        if self._since is not None and self._clock() > self._since + SECONDS_FROZEN:
            self.freeze()
