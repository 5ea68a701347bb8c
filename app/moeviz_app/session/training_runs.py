"""Runs of training by name: those that this server was started with, a visitor's own, and those that ship."""

import re
import threading
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path

import streamlit as st

from moeviz.embedded.recorded_routing import OVER_TRAINING as EMBEDDED
from moeviz.errors import MoevizError
from moeviz.formats.sandboxed_read import Limits
from moeviz.metrics.tokens import visible
from moeviz.text import quoted
from moeviz.training.reading import EXAMPLE_FOLDER as EXAMPLES
from moeviz.training.reading import Signature, is_run, read_run, run_at, signature, snapshots_run
from moeviz.training.recorded.run import TrainingRun
from moeviz.training.sandboxed_read import read_run_sandboxed
from moeviz_app import settings
from moeviz_app.session.library import check_memory, free_name
from moeviz_app.session.opened import read_in_turn
from moeviz_app.session.visit import visit

MOST, TITLE = 4, 60  # uploads of a visitor; characters of a name
AUX_OFF, AUX_ON, SNAPSHOTS = "aux loss off", "aux loss on", "embedded model, snapshots alone"
SHIPPED = {AUX_OFF: "aux-off", AUX_ON: "aux-on", SNAPSHOTS: "embedded"}  # and in an address
EXPERTS, BALANCE, LOSSES, PROBE = "Experts", "Balance", "Losses", "Probe set"
PARTS = {EXPERTS: "experts", BALANCE: "balance", LOSSES: "losses", PROBE: "probe"}  # of the page; and in an address
_place = threading.BoundedSemaphore(1)


def offered() -> dict[str, Callable[[], TrainingRun]]:
    """Return runs by name, each a function that reads it: the server's own, the visitor's, then those that ship."""
    own = {name: partial(_own, name) for name in visit().training_runs.newest_first()}
    return (
        {name: partial(_read_started, path) for name, path in started().items()}
        | own
        | {name: partial(_read_shipped, name) for name in SHIPPED}
    )


def started() -> dict[str, str]:
    """List the paths of runs that this server was started with, by name."""
    found: dict[str, str] = {}
    for path in settings.SETTINGS.files:
        if is_run(path):
            place = Path(path)
            named = place.parent if place.is_file() or re.fullmatch("routing|moeviz", place.name) else place
            found[_free(named.name or place.name, found)] = path
    return found


def remember(run: TrainingRun) -> str:
    """Keep a run among a visitor's own; what it is called now."""
    name = _free(run.name, offered())
    visit().training_runs.put(name, run, MOST)
    return name


def open_upload(data: bytes, name: str) -> None:
    """Keep the run of an uploaded `routing.jsonl`, and show it on Training. Raises what `read_upload` raises."""
    visit().opened_run = remember(read_upload(data, name))


def read_upload(data: bytes, name: str) -> TrainingRun:
    """Read the run in a `routing.jsonl` that somebody opens in the browser.

    Raises `InvalidTrace` for anything else, or what takes more memory or time than is set, and `MoevizError` if others
    open files for so long that this one does not get its turn.
    """

    def read(limits: Limits) -> TrainingRun:
        run = read_run_sandboxed(data, name, limits)
        check_memory(run, name)
        return run

    return read_in_turn(data, name, read, _place)


def may_grow(name: str) -> bool:
    """Return whether this run is read again while it grows: on a private server, what it was started with."""
    return settings.SETTINGS.serve == settings.PRIVATE and name in started()


def seen(name: str) -> Signature:
    """Return a signature of a run's files, which changes when the run grows."""
    return signature(started()[name])


def _read_started(path: str) -> TrainingRun:
    try:
        return run_at(path)
    except OSError as error:
        raise MoevizError(f"{quoted(path)} cannot be read: {error.strerror or error}.") from error


def _own(name: str) -> TrainingRun:
    return visit().training_runs[name]


@st.cache_resource(show_spinner=False)
def _read_shipped(name: str) -> TrainingRun:
    return snapshots_run(EMBEDDED) if name == SNAPSHOTS else read_run(EXAMPLES / SHIPPED[name])


def _free(name: str, taken: Container[str]) -> str:
    return free_name(visible(name)[:TITLE] or "run", taken)
