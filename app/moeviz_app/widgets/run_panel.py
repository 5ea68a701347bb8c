"""A run while it goes on: the place in line, how far it is, its text and its strip as they come, and Stop."""

import time
from collections.abc import Hashable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from moeviz.charts import theme
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.fair_queue import InLine, Progress, Tell, wait_for
from moeviz_app.jobs.result_cache import ResultCache
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.server.metrics import count
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.components.texts import colours_of, going_on, token_strip, written

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.run.request import CaptureRequest


SECONDS_BETWEEN_PICTURES = 0.3
SECONDS_BEFORE_AN_ESTIMATE = 2
PAUSE = 20  # times as long as a picture took, until the next: with many visitors it takes longer
_traces: ResultCache[RoutingTrace] = ResultCache(128 * 2**20 // settings.SETTINGS.processes)


def run_live(run: RunRequest, key: str = "going on") -> RoutingTrace:
    """Trace a prompt on the model's own thread, and show it as it grows. Raises what `moeviz.stream` raises.

    The same run is done once, for all visitors.

    Streamlit ends a script that nobody waits for at its next `st` call; that closes the work, and the model stops
    before its next token. What it had by then is still held, for `session.keep_held`. `key` is that of Stop: another
    one for each run of a script that has several.
    """
    with st.spinner("Loading the model …"):
        model_catalog.bring_torch()  # before anything of it is imported here, next to the thread that warms up
    model_service.begin_run()
    visit().unfinished = None
    if (known := _known(run)) is not None:
        return known
    place = st.empty()
    with place.container():
        picture = Picture(run.new_tokens, key)
    request = request_of(run)
    try:
        way = _ask if model_catalog.answers_at_once(run.model) else _write if run.new_tokens else _read
        trace = wait_for(model_service.run_on_model(run.model, run.how, partial(way, run, request)), picture.listen)
    except Exception:  # of any kind: what a run that failed had is nothing to keep
        visit().unfinished = None
        raise
    finally:
        place.empty()
    visit().unfinished = None
    for phase, tokens in trace.tokens["phase"].value_counts().items():
        count("tokens", int(tokens), phase=str(phase))
    return trace


def request_of(run: RunRequest) -> "CaptureRequest":
    """Return what the library is asked for, with the images that this visit has of the run."""
    from moeviz.capture.run.images import pictures_of

    pixels = settings.MOST_PIXELS[settings.SETTINGS.serve]
    return run.request(pictures_of([visit().images[name] for name in run.images], most=pixels))


def _read(run: RunRequest, request: "CaptureRequest", loaded: "LoadedModel", _tell: Tell) -> RoutingTrace:
    from moeviz.capture.trace import capture

    if (known := _known(run)) is not None:
        return known
    trace = capture(loaded, request)
    _keep(run, trace)
    return trace


def _write(run: RunRequest, request: "CaptureRequest", loaded: "LoadedModel", _tell: Tell) -> Iterator[RoutingTrace]:
    from moeviz.capture.trace import capture_growing

    if (known := _known(run)) is not None:
        return known
    with closing(capture_growing(loaded, request, seconds_between=SECONDS_BETWEEN_PICTURES)) as grown:
        for trace in grown:
            yield trace  # others have their turn here
    _keep(run, trace)
    return trace


def _ask(_run: RunRequest, request: "CaptureRequest", loaded: "LoadedModel", tell: Tell) -> RoutingTrace:
    """Run on a server: while its answer is awaited, Stop hangs up."""
    from moeviz.capture.trace import capture

    return capture(loaded, request, progress=lambda _done, _total: tell(None))


def _known(run: RunRequest) -> RoutingTrace | None:
    """Return the trace of the same run, by any visitor: it depends only on weights, text and settings."""
    return None if (key := _key(run)) is None else _traces.get(key)


def _keep(run: RunRequest, trace: RoutingTrace) -> None:
    """Cache a trace for the same run; in the model's own thread, before the next one has its turn."""
    if (key := _key(run)) is not None:
        _traces.put(key, trace, trace.nbytes)


def _key(run: RunRequest) -> Hashable:
    """Return a run with the identity of its weights; None if that is not known, or may change: on a server."""
    if model_catalog.answers_at_once(run.model):
        return None
    weights = model_service.weights(run.model, run.how, None)
    return None if weights is None else (run, weights)


def forget() -> None:
    """Forget all traces: for tests."""
    _traces.clear()


class Picture:
    """The panel on the page while a run goes on: progress, text and strip."""

    def __init__(self, max_new_tokens: int, key: str) -> None:
        self.bar = st.progress(0.0, "The model is reading the prompt …")
        self.total, self.next, self.shown = max_new_tokens, 0.0, None
        going_on(session.keep_held, key)
        self.text, self.strip = st.empty(), st.empty()

    def listen(self, told: InLine | Progress) -> None:
        """Show the place in line, or the trace so far; a picture now and then, since a browser needs time for it."""
        if isinstance(told, InLine):
            self.bar.progress(0.0, waiting_words(told.ahead, "The model is reading the prompt …"))
            return
        if (trace := told.value) is None:
            self.bar.progress(0.0, "The server is at work. Its routing comes with its whole answer …")
            return
        session.hold(trace, self.total)
        generated = int((trace.tokens["phase"] == "generated").sum()) // trace.tokens["sequence"].nunique() + 1
        self.bar.progress(generated / max(self.total, 1), f"{generated} of {self.total} tokens generated")
        if self.total and trace is not self.shown and (begun := time.monotonic()) > self.next:
            with self.text.container():
                written(trace)
            with self.strip.container():
                _strip_so_far(trace)
            self.shown, now = trace, time.monotonic()
            self.next = now + max(SECONDS_BETWEEN_PICTURES, PAUSE * (now - begun))


def _strip_so_far(trace: RoutingTrace) -> None:
    layer = session.value(session.LAYER)
    if layer not in trace.model.layers:
        layer = session.middle_layer(trace)
    end = len(trace.tokens)
    rows = range(max(0, end - theme.MAX_TOKENS), end)
    token_strip(trace, layer, rows, None, colours_of(trace, layer, rows))


def waiting_words(ahead: int, otherwise: str) -> str:
    """Return how many runs are ahead of this visitor's, in words."""
    if not ahead:
        return otherwise
    return f"{ahead} {'run is' if ahead == 1 else 'runs are'} ahead of yours …"


class Pace:
    """The speed of work since its first progress: time in line and time to load are not counted."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None  # the moment, and the share that was done by then

    def left(self, share: float) -> str:
        """Return about how long the rest takes, to be added to how far it is; nothing while it is too early to say.

        share   of the work that is done, 0 to 1
        """
        now = time.monotonic()
        self.first = self.first or (now, share)
        seconds, done = now - self.first[0], share - self.first[1]
        if not 0 < done < 1 - self.first[1] or seconds < SECONDS_BEFORE_AN_ESTIMATE:
            return ""
        return f", about {seconds / done * (1 - share):.0f} s left"


def waited_for(heard: model_service.Heard, begins: str, unit: str | None = None) -> Any:
    """Return the result of the work; meanwhile a bar shows the units that are done, and Stop ends it. Progress comes
    as (done, total); work without progress has no unit, and no Stop. Raises what it raises.
    """
    place = st.empty()
    with place.container():
        bar = st.progress(0.0, begins)
        if unit is not None:
            st.button("Stop", help="Nothing is kept if you stop.")

    pace = Pace()

    def listen(told: InLine | Progress) -> None:
        if isinstance(told, InLine):
            bar.progress(0.0, waiting_words(told.ahead, begins))
        else:
            done, total = told.value
            share = done / max(total, 1)
            bar.progress(share, f"{done:,} of {total:,} {unit}{pace.left(share)}")

    try:
        return wait_for(heard, listen)
    finally:
        place.empty()


def record(run: RunRequest, key: str = "going on") -> RoutingTrace:
    """Run, show the trace, and remember what it was asked for. `key`: as in `run_live`."""
    trace = run_live(run, key)
    session.set_trace(trace, run)
    session.point_at_awaited(run)
    return trace
