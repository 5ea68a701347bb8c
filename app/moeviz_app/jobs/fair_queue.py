"""One thread per device does what visitors ask of it, in turns that are fair to each of them. No Streamlit here.

A page asks for work, gets the number of turns before it, then the work's progress, then its result. Visitors take
turns; a visitor's own runs take turns among themselves. Those without a cookie of ours, who may be any number, have a
turn a second while others wait. Work that is a generator gives its turn away between its steps,
so who asks for a short prompt waits for some steps of a long text, and not for the text. Who stops listening (Stop, a
rerun, a closed tab) has cancelled: the work ends at its next progress, which is within one token. Texts that
decode together grow in each other's turns too, and each has its own: so they are at their end after few rounds.
Dear work, of hundreds of forwards, goes on only while nothing else is in line and no page is being drawn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from inspect import isgeneratorfunction
from queue import Empty, SimpleQueue
from typing import Any

from moeviz.errors import MoevizError
from moeviz_app.jobs.errors import as_sentence
from moeviz_app.jobs.render_lock import released, slow_down, wait_for_pages
from moeviz_app.server.metrics import count

LISTEN_SECONDS = 0.1  # a page looks up this often, and notices its end there
SELDOM = 10  # times that, at most, for one that is far from its turn
TURN_SECONDS = 0.1  # of a long text, while others wait
SHARED_SECONDS = 1.0  # between turns of those who cannot be distinguished, while others wait
MOST_BEGUN = 16  # long texts that are begun and wait for their next turn: each keeps its attention cache
Tell = Callable[[Any], None]
Work = Callable[[Tell], Any]  # is given what to tell news with; returns the result, or yields news and returns it


class Busy(MoevizError):
    """Too many runs are already waiting."""


class Cancelled(BaseException):
    """Nobody listens any more. Not an Exception, so that no handler of errors keeps the work going."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client of a queue: places are counted for each visitor, and for each address that visitors come from."""

    visitor: str = ""
    address: str = ""
    tab: str | None = None  # it waits for one thing at a time: what it asked before is cancelled
    is_browser: bool = True  # one; else all of their address who cannot be distinguished, with a tenth of its places


NOBODY = Client()


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits on runs in line at once, waiting or begun: in all, of one visitor, of one address.

    The last quarter of the places, in all and of an address, is for visitors who have no run there yet.
    With a `rest`, a visitor may have one dear work at a time, and then rests that many times as long as it took.
    """

    in_all: int
    of_visitor: int
    of_address: int
    rest: float = 0.0


@dataclass(frozen=True, slots=True)
class InLine:
    """The work has not begun: this many turns come before its own."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest progress of the work; earlier progress that nobody took is gone."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The work's result."""

    value: Any


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    asker: Client
    dear: bool = False
    told: SimpleQueue = field(default_factory=SimpleQueue)  # Progress, Done, or an exception
    cancelled: threading.Event = field(default_factory=threading.Event)
    steps: Generator[Any, None, Any] | None = None  # of a long text that has begun
    asked: float = field(default_factory=time.monotonic)
    begun: bool = False
    worked: float = 0.0  # seconds of the steps of a long one

    @property
    def is_long(self) -> bool:
        return isgeneratorfunction(self.work)

    def turn(self, others_wait: Callable[[float], bool]) -> bool:
        """Work until it is time for others; whether that was the end."""
        began = time.monotonic()
        if not self.begun:
            count("waited_seconds", began - self.asked)
        self.begun = True
        try:
            ended = self._work(began, others_wait)
        except Cancelled as error:
            ended = self._end("cancelled", error)
        except BaseException as error:  # raised again where the page listens
            ended = self._end("failed", as_sentence(error))
        count("model_seconds", time.monotonic() - began)
        return ended

    def _work(self, began: float, others_wait: Callable[[float], bool]) -> bool:
        self._check()
        if not self.is_long:
            return self._end("done", Done(self.work(self._tell)))
        if self.steps is None:
            self.steps = self.work(self._tell)
        try:
            while True:
                if self.dear:
                    wait_for_pages()
                resumed = time.monotonic()
                try:
                    news = next(self.steps)
                finally:
                    self.worked += time.monotonic() - resumed
                self._tell(news)
                if others_wait(began):
                    return False
        except StopIteration as end:
            return self._end("done", Done(end.value))

    def _end(self, how: str, told: Done | BaseException) -> bool:
        if self.steps is not None:
            self.steps.close()
        self.told.put(told)
        count("runs", end=how)
        return True

    def _tell(self, news: Any) -> None:
        self._check()
        self.told.put(Progress(news))

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class FairQueue:
    """The line of one device. Its thread lives while there is work; then it calls `at_rest`."""

    def __init__(self, places: QueueLimits | int, at_rest: Callable[[], object] = lambda: None) -> None:
        self.places = QueueLimits(places, places, places) if isinstance(places, int) else places
        self._line: dict[str, deque[_Job]] = {}  # by visitor, who has the next turn first; of each, its next job first
        self._at: _Job | None = None  # that has its turn now
        self._rested: dict[str, float] = {}  # by visitor: when the next dear work may begin
        self._shared_turn = float("-inf")  # when somebody who cannot be distinguished had the last one
        self._at_rest, self._guard, self._running = at_rest, threading.Lock(), False
        self._stopping, self._resting = False, threading.Event()
        self._resting.set()

    def ask(self, work: Work, asker: Client = NOBODY, dear: bool = False) -> Iterator[InLine | Progress | Done]:
        """Queue the work now, and listen: yields now and then (more often near its turn), and the result last.

        dear   it has its turns only while nothing else is in line.

        Raises `Busy`, and whatever the work raises. Close the iterator to cancel.
        """
        job = _Job(work, asker, dear)
        with self._guard:
            for other in self._jobs():
                if asker.tab is not None and other.asker.tab == asker.tab:
                    other.cancelled.set()
            self._check_places(asker)
            if not self._running:
                _start(self._go)
                self._running = True
                self._resting.clear()
            self._line.setdefault(asker.visitor, deque()).append(job)
            count("waiting")
        return self._listen(job)

    def check_dear(self, asker: Client) -> None:
        """Raise `Busy` if this visitor may not begin dear work now: there is another, or the last one took long."""
        with self._guard:
            left = self._rested.get(asker.visitor, 0.0) - time.monotonic()
            under_way = any(job.dear and job.asker.visitor == asker.visitor for job in self._jobs())
        if not self.places.rest or (left <= 0 and not under_way):
            return
        count("refusals", why="dear")
        if under_way:
            raise Busy("You already have a long measurement under way here. Stop it, or wait for its end.")
        raise Busy(
            f"Your last long measurement took much of this server's time. Begin the next in {left + 0.5:,.0f} s, or "
            "run moeviz on your own machine."
        )

    def _charge(self, visitor: str, seconds: float) -> None:
        now = time.monotonic()
        self._rested = {who: until for who, until in self._rested.items() if until > now}
        self._rested[visitor] = max(now, self._rested.get(visitor, now)) + self.places.rest * seconds

    def stop(self, seconds: float) -> bool:
        """Take no more work, cancel what there is, and wait so long for its end; whether it came."""
        with self._guard:
            self._stopping = True
            for job in self._jobs():
                job.cancelled.set()
        return self._resting.wait(seconds)

    def _jobs(self) -> list[_Job]:
        """All in line that somebody listens to, the one whose turn it is included."""
        jobs = [job for line in self._line.values() for job in line]
        return [job for job in [*jobs, *([self._at] if self._at else [])] if not job.cancelled.is_set()]

    def _check_places(self, asker: Client) -> None:
        if self._stopping:
            raise Busy("This server is being stopped. Try again in a minute.")
        jobs = self._jobs()
        of_visitor = sum(job.asker.visitor == asker.visitor for job in jobs)
        of_address = sum(job.asker.address == asker.address for job in jobs)
        most = self.places
        shared = max(most.of_visitor, most.of_address // 10)
        if of_visitor >= (most.of_visitor if asker.is_browser else shared):
            why, says = "visitor", f"You already have {_runs(of_visitor)} in line, and one visitor may have no more."
            slow_down()
        elif of_address >= most.of_address:
            why, says = "address", f"Your network already has {_runs(of_address)} in line, and it may have no more."
        elif len(jobs) >= most.in_all:
            why, says = "busy", f"This server already has {_runs(len(jobs))} in line, and takes no more."
        elif of_visitor and (_is_nearly(of_address, most.of_address) or _is_nearly(len(jobs), most.in_all)):
            why = "near"
            says = f"There are {_runs(len(jobs))} in line, and the last places are for visitors who have none there."
        else:
            return
        count("refusals", why=why)
        raise Busy(f"{says} Try again in a moment.")

    def _go(self) -> None:
        while (job := self._next()) is not None:
            ended = job.turn(self._others_wait)
            with self._guard:
                self._at = None
                if ended and job.dear:
                    self._charge(job.asker.visitor, job.worked)
                count("running", -1)
                if not ended:
                    self._line.setdefault(job.asker.visitor, deque()).append(job)
                    count("waiting")
        self._at_rest()

    def _next(self) -> _Job | None:
        """Take the first visitor's first job; the visitor then stands last. None: there is nothing to do."""
        with self._guard:
            lines = list(self._line.items())
            if time.monotonic() < self._shared_turn + SHARED_SECONDS:
                lines.sort(key=lambda of: not of[1][0].asker.is_browser)  # the others in their order
            for dear in (False, True):
                of_kind = [(visitor, job) for visitor, line in lines for job in line if job.dear is dear]
                begun = sum(job.steps is not None for _, job in of_kind)
                for visitor, job in of_kind:
                    if job.cancelled.is_set() or not job.is_long or job.steps is not None or begun < MOST_BEGUN:
                        return self._take(visitor, job)
            self._running = False
            self._resting.set()
            return None

    def _take(self, visitor: str, job: _Job) -> _Job:
        line = self._line.pop(visitor)
        line.remove(job)
        if line:
            self._line[visitor] = line
        self._at = job
        if not job.asker.is_browser:
            self._shared_turn = time.monotonic()
        count("waiting", -1)
        count("running")
        return job

    def _others_wait(self, began: float) -> bool:
        """Return True if the work that has its turn since `began` is to give it away."""
        late = time.monotonic() > began + TURN_SECONDS
        with self._guard:
            dear = self._at is not None and self._at.dear
            waiting = {job.dear for line in self._line.values() for job in line}
        return (dear and False in waiting) or (late and dear in waiting)

    def _listen(self, job: _Job) -> Iterator[InLine | Progress | Done]:
        heard: Any = InLine(0)
        try:
            while not isinstance(heard, Done):
                if isinstance(heard, InLine):
                    heard = InLine(self._ahead(job))
                turns = heard.ahead if isinstance(heard, InLine) else 0
                with released():
                    heard = _latest(job.told, LISTEN_SECONDS * min(1 + turns, SELDOM)) or heard
                if isinstance(heard, BaseException):
                    raise heard
                yield heard
        finally:
            job.cancelled.set()

    def _ahead(self, job: _Job) -> int:
        """Return the number of turns before the job's first."""
        with self._guard:
            own = self._line.get(job.asker.visitor, deque())
            if job.begun or job not in own:
                return 0
            place, before, found = own.index(job), int(self._at is not None), False
            for visitor, line in self._line.items():
                found = found or visitor == job.asker.visitor
                before += min(len(line), place + (not found)) if visitor != job.asker.visitor else place
            return before


def _is_nearly(number: int, most: int) -> bool:
    return number >= most - most // 4


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _start(go: Callable[[], None]) -> None:
    """Start a thread; raise `Busy` if the system has no more of them."""
    try:
        threading.Thread(target=go, name="moeviz-worker", daemon=True).start()
    except RuntimeError as error:
        count("refusals", why="threads")
        raise Busy("This server has run out of threads, so the run did not begin. Try again in a moment.") from error


def _latest(told: SimpleQueue, seconds: float) -> Any:
    """Return the last message, once there is one; None if nothing comes for a while."""
    latest = None
    try:
        latest = told.get(timeout=seconds)
        while not isinstance(latest, Done | BaseException):
            latest = told.get_nowait()
    except Empty:
        pass
    return latest


def wait_for(heard: Iterator[InLine | Progress | Done], listen: Callable[[InLine | Progress], None]) -> Any:
    """Wait for the result and return it; `listen` gets everything else."""
    with closing(heard):
        for told in heard:
            if isinstance(told, Done):
                return told.value
            listen(told)
    raise RuntimeError("The work ended without a result.")
