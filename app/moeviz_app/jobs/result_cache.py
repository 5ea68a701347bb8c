"""A cache of results that all visitors share, bounded by bytes. No Streamlit here."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class ResultCache(Generic[T]):
    """Results by all that they depend on; past a number of bytes, the least recently used are dropped."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._found: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()  # with their bytes, the oldest first
        self._guard = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """Return the result; None if it is not there, or not any more."""
        with self._guard:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key][0]

    def put(self, key: Hashable, found: T, size: int) -> None:
        """Keep a result of this many bytes; the newest stays, whatever its size."""
        with self._guard:
            self._found[key] = found, size
            while len(self._found) > 1 and sum(taken for _, taken in self._found.values()) > self.most_bytes:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Put all of it away: for tests."""
        with self._guard:
            self._found.clear()
