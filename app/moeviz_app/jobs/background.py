"""Work of several pieces that goes on while its visitor looks at other things. No Streamlit here.

Each piece queues by itself (see `fair_queue.py`), so that other visitors come in between. With Stop, or when the
visitor's session is gone, the piece at hand is the last. Work that only reports its progress becomes such pieces by
`in_steps`, and others have their turn between them.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from moeviz_app.jobs.fair_queue import Cancelled, Done, InLine, Progress, Tell, Work

Piece = Callable[..., Any]  # of a loaded model, and of what to tell news with
Ask = Callable[[Piece], Iterator[InLine | Progress | Done]]


@dataclass(slots=True, eq=False)
class _SharedState:
    """State that the thread and the page share."""

    found: list = field(default_factory=list)
    ahead: int = 0
    news: Any = None
    error: Exception | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class Background:
    """Pieces of work on their way. Hold it as long as somebody wants the result."""

    def __init__(self, ask: Ask, pieces: Sequence[Piece]) -> None:
        self.total, self._told = len(pieces), _SharedState()
        weakref.finalize(self, self._told.stop.set)
        arguments = (ask, pieces, self._told)
        threading.Thread(target=_go_through, args=arguments, name="moeviz-background", daemon=True).start()

    def stop(self) -> None:
        """Do no further piece."""
        self._told.stop.set()

    @property
    def done(self) -> int:
        """Number of pieces that are done. Raises what a piece raised."""
        if self._told.error is not None:
            raise self._told.error
        return len(self._told.found)

    @property
    def ahead(self) -> int:
        """Number of turns before this one."""
        return self._told.ahead

    @property
    def news(self) -> Any:
        """Latest progress of the piece at hand; None before its first."""
        return self._told.news

    @property
    def parts(self) -> list:
        """The results of the pieces that are done."""
        return self._told.found[: self.done]

    @property
    def found(self) -> list | None:
        """The results of all pieces; None until the last is there."""
        return self._told.found if self.done == self.total else None


def _go_through(ask: Ask, pieces: Sequence[Piece], told: _SharedState) -> None:
    try:
        for piece in pieces:
            with closing(ask(piece)) as heard:
                for news in heard:
                    if told.stop.is_set():
                        return
                    told.ahead = news.ahead if isinstance(news, InLine) else 0
                    told.news = news.value if isinstance(news, Progress) else None
                    if isinstance(news, Done):
                        told.found.append(news.value)
    except Exception as error:  # raised again where the page asks
        told.error = error


def in_steps(work: Work) -> Work:
    """Turn work into a generator: it runs in a thread of its own, and pauses at each progress until its next turn.

    It must hold nothing meanwhile that other work may wait for, such as a model that is being recorded.
    """

    def steps(_tell: Tell) -> Iterator[Any]:
        made: SimpleQueue[Progress | Done | BaseException] = SimpleQueue()
        turns, left = threading.Semaphore(0), threading.Event()

        def tell(news: Any) -> None:
            made.put(Progress(news))
            turns.acquire()
            if left.is_set():
                raise Cancelled

        def go() -> None:
            try:
                made.put(Done(work(tell)))
            except BaseException as error:  # raised again where the steps are taken
                made.put(error)

        thread = threading.Thread(target=go, name="moeviz-in-turns", daemon=True)
        thread.start()
        try:
            while not isinstance(told := made.get(), Done):
                if isinstance(told, BaseException):
                    raise told
                yield told.value
                turns.release()
            return told.value
        finally:
            left.set()
            turns.release()
            thread.join()

    return steps
