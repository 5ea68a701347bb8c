"""Files that visitors open.

Each file is read in a process of its own, a few at a time, within what is set. Counts take of the same memory as
traces.
"""

import threading
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from moeviz.errors import MoevizError, NotSaid
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.importer import NOTHING_TOLD, ImportOptions, Opened
from moeviz.formats.sandboxed_read import Limits, read_sandboxed
from moeviz.formats.trace_facts import check_size
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import Counted
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.jobs.render_lock import released
from moeviz_app.server import metrics
from moeviz_app.session.library import check_memory, free_name
from moeviz_app.session.subject import OWN_COUNTS
from moeviz_app.session.visit import visit

MB = 10**6
T = TypeVar("T")
AT_ONCE = 2  # each may take a processor, and the memory that `Limits` gives it
_noted: WeakKeyDictionary[Counted, tuple[str, tuple[str, ...]]] = WeakKeyDictionary()
_places = threading.BoundedSemaphore(AT_ONCE)


def read_upload(data: bytes, name: str, options: ImportOptions = NOTHING_TOLD) -> Opened:
    """Read the trace or the counts in a file that somebody opens; `options` are facts that it does not say itself.

    Raises `NotSaid` if an option is missing, `InvalidTrace` for what holds neither, or takes more memory or time
    than is set, and `MoevizError` where others open files for so long that this one does not get its turn.
    """

    def read(limits: Limits) -> Opened:
        opened = read_sandboxed(data, name, limits, options)
        check_memory(opened.counted, name)
        return opened

    with released():
        return noted(read_in_turn(data, name, read, _places))


def read_in_turn(data: bytes, name: str, read: Callable[[Limits], T], places: threading.BoundedSemaphore) -> T:
    """Read a visitor's file once there is a place for it, within what is set. Errors as with `read_upload`."""
    set_for = settings.SETTINGS
    limits = Limits(set_for.max_unpacked_mb * MB, set_for.seconds_to_read)
    try:
        check_size(data, set_for.max_upload_mb * 2**20)  # as Streamlit counts them
        if not places.acquire(timeout=limits.seconds):
            raise MoevizError(f"Others are opening files, and {quoted(name)} did not get its turn. Try again soon.")
        try:
            found = read(limits)
        finally:
            places.release()
    except MoevizError as error:
        metrics.count("files", end="asked" if isinstance(error, NotSaid) else "refused")
        raise
    metrics.count("files", end="opened")
    return found


def noted(opened: Opened) -> Opened:
    """Remember the doctor's findings on a file, as long as its content is kept."""
    _noted[opened.counted] = (opened.label, opened.findings)
    return opened


def said_of(counted: Counted) -> tuple[str, tuple[str, ...]] | None:
    """Return the format that another program wrote, and the doctor's findings; None for what came in no such file."""
    label, findings = _noted.get(counted, ("", ()))
    return (label, findings) if label else None


MOST = 4
TITLE = 60  # characters


def remember(counts: ExpertCounts) -> None:
    """Keep counts among the last ones, and look at them."""
    name = free_name(visible(counts.model.name)[:TITLE], visit().counts)
    visit().counts.put(name, counts, MOST)
    visit().subject = f"{OWN_COUNTS}{name}"
