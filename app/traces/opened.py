"""Trace files that visitors open: each is read in a process of its own, a few at a time, within what is set."""

import threading

from moeviz_app import counters, settings
from moeviz_app.traces.shelf import check_memory
from moeviz_app.work.drawing import aside

from moeviz.errors import MoevizError
from moeviz.formats.elsewhere import Limits, read_elsewhere
from moeviz.formats.trace_facts import check_size
from moeviz.names import quoted
from moeviz.routing_trace import RoutingTrace

MB = 10**6
AT_ONCE = 2  # each may take a processor, and the memory that `Limits` gives it
_places = threading.BoundedSemaphore(AT_ONCE)


def read_upload(data: bytes, name: str) -> RoutingTrace:
    """The trace in a file that somebody opens in the browser.

    Raises `InvalidTrace` for what is none, or takes more memory or time than is set, and `MoevizError` where others
    open files for so long that this one does not get its turn.
    """
    set_for = settings.SETTINGS
    limits = Limits(set_for.max_unpacked_mb * MB, set_for.seconds_to_read)
    try:
        check_size(data, set_for.max_upload_mb * 2**20)  # as Streamlit counts them
        with aside():
            trace = _read(data, name, limits)
    except MoevizError:
        counters.count("files", end="refused")
        raise
    counters.count("files", end="opened")
    return trace


def _read(data: bytes, name: str, limits: Limits) -> RoutingTrace:
    if not _places.acquire(timeout=limits.seconds):
        raise MoevizError(f"Others are opening files, and {quoted(name)} did not get its turn. Try again soon.")
    try:
        trace = read_elsewhere(data, name, limits)
        check_memory(trace, name)
    finally:
        _places.release()
    return trace
