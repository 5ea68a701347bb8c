"""To wait for a server, and to be able to stop: what is asked runs beside the caller, who looks up now and then."""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from anyio.from_thread import start_blocking_portal

LOOK_UP_SECONDS = 0.1
T = TypeVar("T")


def poll(work: Callable[[], Awaitable[T]]) -> Generator[None, None, T]:
    """Run it in a thread of its own, yield now and then, and return what it returns.

    Closing the generator cancels the work where it waits, which closes its connection.
    """
    with start_blocking_portal() as portal:  # leaving it by an exception cancels what runs there
        future = portal.start_task_soon(work)
        while True:
            try:
                return future.result(LOOK_UP_SECONDS)
            except TimeoutError:
                if future.done():  # the work's own
                    raise
            yield


def run_blocking(work: Callable[[], Awaitable[T]]) -> T:
    """Run work for a server to its end, for a caller who does not stop, and return what it returns."""
    steps = poll(work)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
