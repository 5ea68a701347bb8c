"""One thread a model does what visitors ask of it, one after the other, in the order of asking. No Streamlit here.

A page asks for work, hears how many are before it, then what the work tells, then its result. Who stops listening
(Stop, a rerun, a closed tab) has cancelled: the work ends when it next tells something, which is within one token.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from moeviz.errors import MoevizError

LISTEN_SECONDS = 0.1  # a page looks up this often, and hears of its end there
Work = Callable[[Callable[[Any], None]], Any]  # is given what to tell news with; returns the result


class Busy(MoevizError):
    """Too many runs are already waiting for this model."""


class Cancelled(BaseException):
    """Nobody listens any more. Not an Exception, so that no handler of errors keeps the work going."""


@dataclass(frozen=True, slots=True)
class InLine:
    """The work has not begun: so many are before it."""

    ahead: int


@dataclass(frozen=True, slots=True)
class News:
    """What the work told last; what it told before and nobody heard is gone."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The work's result."""

    value: Any


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    told: SimpleQueue = field(default_factory=SimpleQueue)  # News, Done, or an exception
    cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self._check()
            self.told.put(Done(self.work(self._tell)))
        except BaseException as error:  # raised again where the page listens; Cancelled is heard by nobody
            self.told.put(error)

    def _tell(self, news: Any) -> None:
        self._check()
        self.told.put(News(news))

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Worker:
    """The queue of one model. Its thread lives while there is work."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self._waiting: deque[_Job] = deque()
        self._guard, self._running, self._at_work = threading.Lock(), False, False

    def ask(self, work: Work) -> Iterator[InLine | News | Done]:
        """Queue the work now, and listen: yields every LISTEN_SECONDS at least, the result last.

        Raises `Busy`, and whatever the work raises. Close the iterator to cancel.
        """
        job = _Job(work)
        with self._guard:
            self._waiting = deque(other for other in self._waiting if not other.cancelled.is_set())
            if len(self._waiting) >= self.most_waiting:
                raise Busy(f"This model is busy, with {len(self._waiting)} already waiting. Try again in a moment.")
            self._waiting.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="moeviz-worker", daemon=True).start()
        return self._listen(job)

    def _work(self) -> None:
        while True:
            with self._guard:
                self._at_work = bool(self._waiting)
                if not self._waiting:
                    self._running = False
                    return
                job = self._waiting.popleft()
            job.run()

    def _listen(self, job: _Job) -> Iterator[InLine | News | Done]:
        heard = InLine(0)
        try:
            while not isinstance(heard, Done):
                with self._guard:
                    if job in self._waiting:
                        heard = InLine(self._waiting.index(job) + self._at_work)
                heard = _latest(job.told) or heard
                if isinstance(heard, BaseException):
                    raise heard
                yield heard
        finally:
            job.cancelled.set()


def _latest(told: SimpleQueue) -> Any:
    """The last thing told, once there is one; None where nothing comes for a while."""
    latest = None
    try:
        latest = told.get(timeout=LISTEN_SECONDS)
        while not isinstance(latest, Done | BaseException):
            latest = told.get_nowait()
    except Empty:
        pass
    return latest


def result(heard: Iterator[InLine | News | Done], listen: Callable[[InLine | News], None]) -> Any:
    """Listen to the end; `listen` hears all but the result, which is returned."""
    with closing(heard):
        for told in heard:
            if isinstance(told, Done):
                return told.value
            listen(told)
    raise RuntimeError("The work ended without a result.")
