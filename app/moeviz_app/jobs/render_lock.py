"""Pages are drawn one at a time, and the others wait for their turn. No Streamlit here.

Scripts of Streamlit are threads of one Python, as is the thread that runs the model. Fifty of them at once are all
slow, and the model is slowest: after each of its thousand small steps it waits until another thread lets go. One after
the other, each takes as long as it does alone, and the first is there at once. `benchmarks.load` has the figures.

A visitor's own tabs wait for each other first, so that twenty of them have one place in the line. Those without a
cookie of ours, who may be any number behind one address, let all others go before; where they are more than a few, they
also wait until nobody else has a page that is being drawn or waits for a run, or for two seconds. Tabs wait longer
after a run that was refused because the visitor has too many: else twenty tabs that ask again and again would have
twenty answers drawn in the time of each run of anybody else.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

AT_ONCE = 1  # Python runs one thread at a time, however many cores there are
SECONDS = 2.0  # after this long a page goes on together with the others: a slow page holds nobody up for longer
SECONDS_OF_OWN = 60.0  # the same for a visitor's own tabs
PAUSE = 1.0  # seconds in which no tab of a visitor is drawn who has asked for too much
FEW = 3  # waiting tabs that cannot be distinguished: more of them are a crowd
QUIET_SECONDS, LOOK_SECONDS = 0.5, 0.05  # a crowd waits until the others have been gone for so long; it looks so often


class FairSemaphore:
    """A semaphore that is first come, first served; behind all of those, who lets others go before."""

    def __init__(self, places: int) -> None:
        self._free, self._guard = places, threading.Lock()
        self._line, self._behind = deque[threading.Event](), deque[threading.Event]()

    def enter(self, seconds: float, behind: bool = False) -> bool:
        """Wait for a place; whether there was one in time."""
        line = self._behind if behind else self._line
        with self._guard:
            if self._free:
                self._free -= 1
                return True
            called = threading.Event()
            line.append(called)
        if called.wait(seconds):
            return True
        with self._guard:
            if not called.is_set():
                line.remove(called)
            return called.is_set()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a place."""
        return len(self._line) + len(self._behind)

    def leave(self) -> None:
        """Give the place to the next in line."""
        with self._guard:
            if line := self._line or self._behind:
                line.popleft().set()
            else:
                self._free += 1


class _Mine(threading.local):
    """Per thread: the semaphores that it passes to draw, and how it waits at each; those that it holds."""

    through: tuple[tuple[FairSemaphore, float, bool], ...] = ()
    inside: tuple[FairSemaphore, ...] = ()
    pauses: bool = False
    shared: FairSemaphore | None = None  # of all visitors of an address who cannot be distinguished


class _Distinguished:
    """Pages of visitors who can be distinguished: their number now, and when the last of them was gone."""

    now: int = 0
    gone: float = float("-inf")


_room = FairSemaphore(AT_ONCE)
_own: WeakValueDictionary[str, FairSemaphore] = WeakValueDictionary()
_guard = threading.Lock()
_mine, _distinguished = _Mine(), _Distinguished()


@contextmanager
def render_slot(visitor: str = "", is_browser: bool = True) -> Iterator[None]:
    """Wait for this visitor's turn to draw, and have it inside the block.

    is_browser   whether it is one browser; else all of an address who cannot be distinguished.
    """
    with _guard:
        own = _own.get(visitor) or _own.setdefault(visitor, FairSemaphore(1))
        _distinguished.now += is_browser
    _mine.through = (own, SECONDS_OF_OWN, False), (_room, SECONDS, not is_browser)
    _mine.shared = None if is_browser else own
    try:
        _enter()
        yield
    finally:
        if is_browser:
            with _guard:
                _distinguished.now -= 1
                _distinguished.gone = time.monotonic()
        if _mine.pauses:
            _leave(but=own)
            time.sleep(PAUSE)
        _leave()
        _mine.through, _mine.pauses = (), False


def slow_down() -> None:
    """This visitor asks for too much: once their tab is drawn, their tabs wait for a while. Others do not."""
    _mine.pauses = True


@contextmanager
def released() -> Iterator[None]:
    """Give the slot to another page while this thread waits inside the block; without a slot, do nothing."""
    _leave()
    try:
        yield
    finally:
        _enter()


def give_up_slot() -> None:
    """Draw on together with the others from here on.

    For a page that may hold what another waits for inside, such as a cache's lock: then nobody may wait for a turn.
    """
    _leave()


def wait_for_pages(seconds: float = SECONDS) -> None:
    """Wait until no page is being drawn or waits to be, but no longer than that."""
    if _room.enter(seconds, behind=True):
        _room.leave()


def _enter() -> None:
    for semaphore, seconds, behind in _mine.through:
        if behind:
            _let_others_finish()
        if semaphore.enter(seconds, behind):
            _mine.inside += (semaphore,)


def _let_others_finish() -> None:
    """Wait for those who can be distinguished, but not for ever, if this page is one of a crowd."""
    until = time.monotonic() + SECONDS
    while _mine.shared is not None and _mine.shared.waiting > FEW and (now := time.monotonic()) < until:
        if not _distinguished.now and now > _distinguished.gone + QUIET_SECONDS:
            return
        time.sleep(LOOK_SECONDS)


def _leave(but: FairSemaphore | None = None) -> None:
    for semaphore in _mine.inside:
        if semaphore is not but:
            semaphore.leave()
    _mine.inside = tuple(semaphore for semaphore in _mine.inside if semaphore is but)
