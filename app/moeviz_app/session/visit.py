"""The typed state of one visit, apart from the values of widgets, which Streamlit keeps under their keys."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from moeviz.formats.importers.importer import ImportOptions
from moeviz.metrics.findings import Finding
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session.library import SessionLibrary

KEY = "visit"  # in Streamlit's session_state
Place = tuple[int, int]  # layer, row of the token
Query = dict[str, str]


@dataclass(frozen=True, slots=True)
class Takes:
    """The subject that a page takes: see `subject.py`, which has the words.

    needs        without these the page can show nothing
    prefers      without these it shows little: another subject is drawn, unless the visitor insists on theirs
    example      the id of the subject that the place shows until the visitor chooses one
    model        of which the subject must be, if an address says so
    same_model   whether another model's subject is never drawn instead of one that has what the page needs
    one_text     whether the page shows one of several texts at a time
    """

    needs: frozenset[str] = frozenset()
    prefers: frozenset[str] = frozenset()
    example: str = "mixed"
    model: str | None = None
    same_model: bool = False
    one_text: bool = False


@dataclass(slots=True)
class PartsSeen:
    """The parts of a page that came near the screen, for as long as it is of the same trace."""

    page: str = ""
    first: str | None = None  # its name: it is drawn at once; None: no part was there yet
    names: set[str] = field(default_factory=set)
    within: str | None = None  # that is being drawn


@dataclass(slots=True)
class Visit:
    """The state that a visitor keeps over reruns and pages."""

    # The visitor's subject, and the parts of it that the page on screen takes.
    subject: str | None = None  # id of the chosen one; None: each place shows its example
    takes: Takes = field(default_factory=Takes)
    page_address: Any = None  # of the page on screen: a `PageAddress`, or None
    insists_on: set[tuple[Takes, str]] = field(default_factory=set)  # subjects of which such a page shows little

    # The trace that was run or opened last, and the place in the one on screen.
    trace: RoutingTrace | None = None
    text: int = 0  # which of several texts, on pages that show one at a time
    token: int | None = None  # its row
    brushed: range | None = None  # rows, in the overview
    overviews: int = 0  # drawn so far: each has a widget key of its own
    is_placed: bool = False  # whether somebody has pointed at a place of this trace
    findings: tuple[RoutingTrace, list[Finding]] | None = None
    explorer: tuple[RoutingTrace, range, Place, Place] | None = None  # trace, rows, its place, the place it was given
    direct: tuple[RoutingTrace, int] | None = None  # the trace and the token whose choices are shown in parts
    muted: tuple[RunRequest, int] | None = (
        None  # the run on screen without some experts; how often others were asked for
    )

    # A run that goes on, that waits for somebody to press Run, or that was refused.
    unfinished: tuple[RoutingTrace, int] | None = None  # and the tokens that were asked for
    why_waiting: str | None = None
    notice: Any = None  # the place where the page says so
    awaited: tuple[Hashable, int | None, int | None] | None = None  # the run that waits; layer and token of its link
    why_refused: str | None = None
    is_lost: bool = False  # whether this tab had another one before, until something is run or opened

    # Traces and datasets that were run or opened, by name.
    recent: SessionLibrary = field(default_factory=SessionLibrary)
    counts: SessionLibrary = field(default_factory=SessionLibrary)
    training_runs: SessionLibrary = field(default_factory=SessionLibrary)
    opened_run: str | None = None  # the page Training shows it next
    datasets: dict[str, str] = field(default_factory=dict)  # paths
    left_out: dict[str, frozenset[int]] = field(default_factory=dict)  # of a dataset's key: shards that are not whole
    results: dict[str, Any] = field(default_factory=dict)  # that took long, by all that they depend on
    images: dict[str, bytes] = field(default_factory=dict)  # of prompts, by SHA-256: nobody else has them
    upload: str | None = None  # the id of the last one that was opened
    brought: list[RoutingTrace] = field(default_factory=list)  # traces of earlier visits, whoever's these were
    kept_seen: set[str] = field(default_factory=set)  # traces of earlier visits that were looked at

    # Pages by title, and addresses.
    pages: dict[str, st.Page] = field(default_factory=dict)
    address: Query = field(default_factory=dict)  # of the page on screen
    not_followed: list[str] = field(default_factory=list)  # why the address could not be followed whole
    not_followed_at: tuple[str, str | None] | None = None  # on which page, with which subject
    heard: tuple[str, Query] | None = None  # the page and the address that the browser sent last
    written: list[tuple[str, Query]] = field(default_factory=list)  # and those that it has not repeated yet
    serve_asked: Query = field(default_factory=dict)  # by a link to the page Serve
    serve_shown: Query = field(default_factory=dict)
    change_asked: Query | None = None  # by a link to the page What if
    pair_asked: dict[str, tuple[RunRequest, str | None]] = field(default_factory=dict)  # by side: a run, a part of it
    expert_asked: Query = field(default_factory=dict)  # of the page of an expert that is opened next
    expert_steps: int = 0  # from one expert to another: widgets' keys count them, since a browser that goes back clicks

    # State of pages.
    seen: PartsSeen = field(default_factory=PartsSeen)
    box_of: RoutingTrace | None = None  # the trace whose prompt the box was given last
    has_begun: bool = False  # whether the files that the server was started with are open
    what_if: Any = None  # the last change and its effect
    lineage: Any = None  # the last one on the page of that name, with the names of base and child
    pruning: Any = None  # the last curve on Prune, with what it was asked of
    dialled: Any = None  # the last losses and texts on Contrast, with what they are of
    word_change: tuple[RunRequest, Any, RoutingTrace, RoutingTrace] | None = None  # a run, the edit of its text, both
    word_asked: Any = None  # as a browser says it
    word_linked: dict[str, Any] | None = None  # by a link to the page One word
    word_place: int | None = None  # of the token that was clicked, among those that both texts have
    row_of_several: int | None = None  # the row that was clicked in one of several strips
    file_asked: tuple[str, tuple[str, ...], ImportOptions] | None = None  # upload, the facts that it lacks, those given
    folder_tried: str | None = None  # on the page Corpus


def visit() -> Visit:
    """Return the state of the visit that this script runs for."""
    if KEY not in st.session_state:
        # The browser lists streamlit, a token, and the session before: its page has stayed open if it names one.
        asks = st.context.headers.get("Sec-WebSocket-Protocol", "").split(",")
        st.session_state[KEY] = Visit(is_lost=len(asks) > 2 and bool(asks[2].strip()))
    found: Visit = st.session_state[KEY]
    return found
