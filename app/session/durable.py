"""The recent traces of the machine's own user, kept in their own folder: a restart loses none.

They are written by a thread of its own, after the page has them. Nothing of a visitor from elsewhere is written, and
nothing that was written is shown to one.
"""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moeviz_app import settings
from moeviz_app.server import identity

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.kept_traces import KeptTrace, keep_trace, kept_trace, kept_traces
from moeviz.own_folder import own_folder
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

KIND = "traces"  # the folder in the own folder
MOST_WAITING = 16  # traces to write: of more, somebody's disk has stopped
log = logging.getLogger("moeviz.app")
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moeviz-traces")
_guard = threading.Lock()
_waiting: list[Future[None]] = []
_troubles: list[str] = []


def folder() -> Path:
    """Return the folder of kept traces."""
    return own_folder() / KIND


def keep(trace: RoutingTrace, title: str, run: Any) -> None:
    """Have a trace written, with its title and the run that made it, if this visitor may keep anything here."""
    if not identity.may_keep_traces():
        return
    asked = {} if run is None else run.parameters()
    with _guard:
        _waiting[:] = [one for one in _waiting if not one.done()]
        if len(_waiting) >= MOST_WAITING:
            return _trouble(title, "earlier ones are still being written")
        try:
            _waiting.append(_writer.submit(_write, trace, title, asked))
        except RuntimeError as error:  # no thread can be started
            _trouble(title, str(error))


def settle() -> None:
    """Wait until all is written."""
    with _guard:
        waiting = [*_waiting]
    for one in waiting:
        one.result()


def earlier(seen: set[str]) -> list[KeptTrace]:
    """The traces that lie there, the newest first, but for the files in `seen`, which is added to."""
    found = []
    try:
        paths = kept_traces(folder()) if identity.may_keep_traces() else []
    except OSError:  # there is no such place: whoever writes there is told
        paths = []
    for path in paths:
        if path.name not in seen:
            seen.add(path.name)
            try:
                found.append(kept_trace(path, settings.SETTINGS.max_unpacked_mb * 10**6))
            except InvalidTrace as error:
                log.warning("%s", error)
                _troubles.append(str(error))
    return found


def troubles() -> list[str]:
    """Return what went wrong since this was asked last, a sentence each: to the machine's own user alone."""
    if not identity.may_keep_traces():
        return []
    told = [*_troubles]
    del _troubles[: len(told)]
    return told


def _write(trace: RoutingTrace, title: str, run: dict[str, str]) -> None:
    try:
        keep_trace(folder(), trace, title, run)
    except (OSError, MoevizError, MemoryError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        _trouble(title, why or type(error).__name__)


def _trouble(title: str, why: str) -> None:
    log.warning("a trace cannot be kept for later visits: %s", why)
    _troubles.append(f"{quoted(title)} cannot be kept for later visits: {why}. It is here until the server stops.")
