"""Pages are drawn one at a time, and the others wait for their turn. No Streamlit here.

Scripts of Streamlit are threads of one Python, beside the thread that runs the model. Fifty of them at once are all
slow, and the model is slowest: after each of its thousand small steps it waits until another thread lets go. One after
the other, each takes as long as it does alone, and the first is there at once. `benchmarks.load` has the figures.

A visitor's own tabs wait for each other first, so that twenty of them have one place in the line.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

AT_ONCE = 1  # Python runs one thread at a time, however many cores there are
SECONDS = 2.0  # who has waited so long goes on beside the others: a slow page holds nobody up for longer
SECONDS_OF_OWN = 10.0  # the same for a visitor's own tabs


class Room:
    """So many may be inside; who comes first goes in first."""

    def __init__(self, places: int) -> None:
        self._free, self._line, self._guard = places, deque[threading.Event](), threading.Lock()

    def enter(self, seconds: float) -> bool:
        """Wait for a place; whether there was one in time."""
        with self._guard:
            if self._free:
                self._free -= 1
                return True
            called = threading.Event()
            self._line.append(called)
        if called.wait(seconds):
            return True
        with self._guard:
            if not called.is_set():
                self._line.remove(called)
            return called.is_set()

    def leave(self) -> None:
        """Give the place to the next in line."""
        with self._guard:
            if self._line:
                self._line.popleft().set()
            else:
                self._free += 1


class _Mine(threading.local):
    """Of each thread: the rooms that it goes through to draw, with how long it waits at each; those it is in."""

    through: tuple[tuple[Room, float], ...] = ()
    inside: tuple[Room, ...] = ()


_room = Room(AT_ONCE)
_own: WeakValueDictionary[str, Room] = WeakValueDictionary()
_guard = threading.Lock()
_mine = _Mine()


@contextmanager
def a_turn(visitor: str = "") -> Iterator[None]:
    """Wait for this visitor's turn to draw, and have it inside the block."""
    with _guard:
        own = _own.get(visitor) or _own.setdefault(visitor, Room(1))
    _mine.through = (own, SECONDS_OF_OWN), (_room, SECONDS)
    _enter()
    try:
        yield
    finally:
        _leave()
        _mine.through = ()


@contextmanager
def aside() -> Iterator[None]:
    """Let another draw while this thread waits for something inside the block. Outside of `a_turn` it does nothing."""
    _leave()
    try:
        yield
    finally:
        _enter()


def _enter() -> None:
    _mine.inside = tuple(room for room, seconds in _mine.through if room.enter(seconds))


def _leave() -> None:
    for room in _mine.inside:
        room.leave()
    _mine.inside = ()
