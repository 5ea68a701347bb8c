"""The last traces of a visitor: by name, by the run that made them, and by the address that repeats them.

Those of the machine's own user are also stored in their own folder, so that a restart loses none: a separate thread
writes them, after the page has them. A remote visitor's traces are never written, and stored ones are never shown to
one.
"""

import logging
import threading
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moeviz.errors import CaptureError, InvalidTrace, MoevizError
from moeviz.formats.kept_traces import KeptTrace, keep_trace, kept_trace, kept_traces
from moeviz.image_tokens import written_tokens
from moeviz.metrics.tokens import visible, whole_characters
from moeviz.own_folder import own_folder
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.jobs.run_request import RunRequest, run_from_query
from moeviz_app.server import identity
from moeviz_app.session import library
from moeviz_app.session.visit import visit

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
    """Read the traces that lie there, the newest first, but for the files in `seen`; they are added to it."""
    found = []
    try:
        paths = kept_traces(folder()) if identity.may_keep_traces() else []
    except OSError:  # the folder does not exist: the error is reported when something is written
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
    """Return what went wrong since the last call, a sentence each: only to the machine's own user."""
    if not identity.may_keep_traces():
        return []
    sentences = [*_troubles]
    del _troubles[: len(sentences)]
    return sentences


def _write(trace: RoutingTrace, title: str, run: dict[str, str]) -> None:
    try:
        keep_trace(folder(), trace, title, run)
    except (OSError, MoevizError, MemoryError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        _trouble(title, why or type(error).__name__)


def _trouble(title: str, why: str) -> None:
    log.warning("a trace cannot be kept for later visits: %s", why)
    _troubles.append(f"{quoted(title)} cannot be kept for later visits: {why}. It is here until the server stops.")


RECENT_TRACES = 8
TITLE = 40  # characters


def traces() -> dict[str, RoutingTrace]:
    """Return the visitor's last traces by name, the newest first."""
    return visit().recent.newest_first()


def remember(trace: RoutingTrace, run: Any = None, title: str | None = None) -> None:
    """Keep a trace among the last ones, under a name, with the run that made it; for later visits too, if it may."""
    name = next((name for name, other in traces().items() if other is trace), None)
    known, name = name is not None, name or free_name(_short(title) if title else title_of(trace))
    visit().recent.put(name, trace, RECENT_TRACES)
    if run is not None:
        _remember_run(trace, run)
    if not known:
        keep(trace, name, run_of(trace))


def bring(trace: RoutingTrace, title: str, run: Any) -> bool:
    """Keep a trace of an earlier visit as the oldest, if there is a place for it and it is not there yet."""
    if any(trace.equals(other) for other in traces().values()):
        return False
    brought = visit().recent.put_last(free_name(title), trace, RECENT_TRACES)
    if brought:
        visit().brought.append(trace)
        if run is not None:
            _remember_run(trace, run)
    return brought


def of_this_visit() -> dict[str, RoutingTrace]:
    """Return the traces that were run or opened in this visit by name: what others ran here decides no first screen."""
    brought = {id(trace) for trace in visit().brought}
    return {name: trace for name, trace in traces().items() if id(trace) not in brought}


def restore() -> list[str]:
    """Let the recent traces go on with those of earlier visits; sentences on what cannot be kept, or was let go."""
    for kept in earlier(visit().kept_seen):
        bring(kept.trace, kept.title, _run_of_kept(kept.run))
    sentences = troubles()
    if gone := visit().recent.take_dropped():
        names = ", ".join(f"“{name}”" for name in gone)
        why = f"Memory was needed, so the oldest traces were let go: {names}. Run or open them again to see them."
        sentences.append(why)
    return sentences


def _run_of_kept(query: dict[str, str]) -> RunRequest | None:
    """Return the run that made a stored trace, if this deployment still allows it unchanged."""
    if "prompt" not in query:
        return None
    try:
        run = run_from_query(query)
    except CaptureError:  # no run of ours: a file holds what anyone wrote
        return None
    return run if run.parameters() == query else None


def free_name(title: str) -> str:
    """Return a title, with a number behind it where a recent trace is called so already."""
    return library.free_name(title, traces())


def _remember_run(trace: RoutingTrace, run: Any) -> None:
    kept = {id(other) for other in traces().values()} - {id(trace)}
    runs = visit().recent.runs
    runs[:] = [*(pair for pair in runs if id(pair[0]) in kept), (trace, run)]


def title_of(trace: RoutingTrace) -> str:
    """Return a name for a trace: the beginning of its text or, for a system of the gallery, the system's own name."""
    texts = written_tokens(trace.tokens)["text"].head(4 * TITLE)  # a character may be split over as many tokens
    words = "".join(whole_characters([text for text in texts if not text.startswith("<")]))
    return _short(trace.model.name if trace.model.backend == "mixture" else words)


def _short(title: str) -> str:
    text = visible(" ".join(title[: TITLE * TITLE].split()))
    return text if len(text) <= TITLE else f"{text[:TITLE]}…"


def rename(old: str, new: str) -> None:
    """Give one of the recent traces another name; a name that another one has changes nothing."""
    named, new = traces(), new.strip()
    if new and new not in named and old in named:
        visit().recent.rename(old, new)
        keep(named[old], new, run_of(named[old]))


def run_of(trace: RoutingTrace | None) -> Any:
    """Return the run that made a trace; None for one that came in a file."""
    return next((run for made, run in visit().recent.runs if made is trace), None)


def trace_of(run: Hashable) -> RoutingTrace | None:
    """Find a recent trace that was made by such a run."""
    return next((trace for trace, made_by in reversed(visit().recent.runs) if made_by == run), None)
