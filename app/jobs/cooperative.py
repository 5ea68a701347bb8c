"""Work that only tells how far it is, made into steps between which others have their turn. No Streamlit here."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from moeviz_app.jobs.fair_queue import Cancelled, Done, Progress, Tell, Work


def in_steps(work: Work) -> Work:
    """The same work as a generator: in a thread of its own, which stands still at all it tells until its next turn.

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
