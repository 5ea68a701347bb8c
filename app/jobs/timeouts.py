"""Questions to other machines, with an end: a thread asks, and who waits gives up after some seconds. No Streamlit."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from moeviz_app.jobs.render_lock import give_up_slot

from moeviz.errors import ModelNotFound, MoevizError
from moeviz.names import quoted

SECONDS = 8.0
MOST = 4  # at a time; each may go on for a while after nobody waits for it
NO_HUB = (
    "It is no folder on this machine, and the Hugging Face hub does not answer. Try again, or give the folder of a "
    "model."
)
T = TypeVar("T")
_places = threading.BoundedSemaphore(MOST)


def call_with_timeout(name: str, ask: Callable[[], T], seconds: float = SECONDS, silent: str = NO_HUB) -> T:
    """What `ask` finds out about the model of that name.

    Raises what it raises; `ModelNotFound` where it takes longer, with `silent`; and `MoevizError` where too many are
    looked up.
    """
    places = _places
    if not places.acquire(blocking=False):
        raise MoevizError(f"{MOST} other models are being looked up already. Try again in a moment.")
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(ask())
        except BaseException as error:  # raised again where somebody waits
            found.set_exception(error)
        finally:
            places.release()

    try:
        threading.Thread(target=work, name="moeviz-look-up", daemon=True).start()
    except RuntimeError as error:
        places.release()
        raise MoevizError("This server has run out of threads. Try again in a moment.") from error
    give_up_slot()
    try:
        return found.result(seconds)
    except TimeoutError as error:
        if found.done():  # it was its own
            raise
        raise ModelNotFound(f"Nothing was heard of {quoted(name)} within {seconds:g} s. {silent}") from error
