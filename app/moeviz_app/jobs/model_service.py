"""The models in memory that all visitors share, and the queues of those who wait for them.

The lines and the models are not in Streamlit's cache, so that "Clear cache" in a browser takes them from nobody.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any

import streamlit as st

import moeviz
from moeviz.capture.models.folder import weights_identity
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import installed
from moeviz_app import settings
from moeviz_app.jobs import model_catalog
from moeviz_app.jobs.background import in_steps
from moeviz_app.jobs.fair_queue import Client, Done, FairQueue, InLine, Progress, QueueLimits, Tell, Work, wait_for
from moeviz_app.jobs.model_cache import Garbage, ModelBackend, ModelCache, ModelKey, loaded_before_fork
from moeviz_app.jobs.render_lock import released
from moeviz_app.server import identity
from moeviz_app.server.metrics import count

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TypeGuard

    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel

log = logging.getLogger("moeviz.app")
FILES = "files"  # the line of those who wait for a file to be made
DATASETS = "datasets"  # and of those who wait for an answer from a dataset
FILES_OF_A_VISITOR, FILES_IN_ALL = 8, 100
REST = 3.0  # of a stranger after dear work, in times of what it took
Heard = Iterator[InLine | Progress | Done]
OfModel = Callable[["LoadedModel | EngineModel", Tell], Any]


def warm_up() -> None:
    """Once, after the first page is sent: bring torch and the model that ships, while the visitor looks at it."""
    if settings.SETTINGS.warm_up and not _warm.is_set():
        _warm.set()
        threading.Thread(target=_warm_up, name="moeviz-warm-up", daemon=True).start()


def _warm_up() -> None:
    model_catalog.bring_torch()
    if EMBEDDED in settings.SETTINGS.models:
        _models.get(_wanted(EMBEDDED, model_catalog.DEFAULT_LOAD))


def model(name: str, how: model_catalog.LoadOptions = model_catalog.DEFAULT_LOAD) -> "LoadedModel | EngineModel":
    """Return the model of that name, loaded once for everybody.

    Raises `ModelNotFound` where it is not on offer, and `CaptureError` where there is not the memory or the device.
    """
    model_catalog.check_on_offer(name)
    wanted = _wanted(name, how)
    if (held := _models.peek(wanted)) is not None:
        return held
    with st.spinner("Loading the model …"), released():
        return _models.get(wanted)


def begin_run(dear: bool = False) -> None:
    """Count a run of this visitor. Raises `TooOften` where that is more than may begin in a minute.

    dear   it is of hundreds of forwards: raises `Busy` too, while the visitor has another or rests after the last.
    """
    if dear:
        with _guard:
            lines = list(_lines.values())
        for line in lines:
            line.check_dear(client())
    try:
        asker = identity.visitor()
        _pace.begin(asker.id, 1 if asker.is_browser else identity.BROWSERS)
    except identity.TooOften:
        count("refusals", why="pace")
        raise


def run_on_model(name: str, how: model_catalog.LoadOptions, work: OfModel, dear: bool = False) -> Heard:
    """Have the device's own thread do `work(model, tell)`; see `FairQueue.ask`. Close it to cancel.

    What this page has asked for before is cancelled: it waits for one thing at a time. Dear work pauses wherever it
    tells how far it is, and holds nothing then that others may wait for.
    """
    model(name, how)
    return _line(_wanted(name, how).device).ask(_with_model(name, how, work, dear), client(tab=True), dear)


def dear_runner_on_model(name: str, how: model_catalog.LoadOptions) -> Callable[[OfModel], Heard]:
    """Load a model now, and return a function that runs dear work on it later, from any thread."""
    model(name, how)
    line, asker = _line(_wanted(name, how).device), client()
    return lambda work: line.ask(_with_model(name, how, work, True), asker, True)


def run_dear(work: Work) -> Heard:
    """Have the processor's thread do `work(tell)`, step by step, in what time others leave over."""
    return _line("cpu").ask(in_steps(work), client(tab=True), True)


def dear_runner() -> Callable[[Work], Heard]:
    """Return a function that has the processor's thread do work as `run_dear` does, from any thread."""
    asker = client()
    return lambda work: _line("cpu").ask(in_steps(work), asker, True)


def file_maker(make: Callable[[], bytes | str]) -> Callable[[], bytes | str]:
    """Wrap the making of a download: files are made one at a time, in their own thread, when a browser asks for one."""
    asker = client()
    return lambda: wait_for(_line(FILES).ask(lambda _tell: make(), asker), lambda _told: None)


def report_maker(make: Callable[..., bytes]) -> Callable[[], bytes]:
    """Wrap the making of a report as dear work: it pauses where `make` calls its `pause`, before each chart."""
    run = dear_runner()
    return lambda: wait_for(run(lambda tell: make(pause=partial(tell, None))), lambda _told: None)


def dataset_runner() -> Callable[[Work], Heard]:
    """Return a function that has work on a dataset done, from any thread; it gives its turn away at each progress."""
    asker = client()
    return lambda work: _line(DATASETS).ask(in_steps(work), asker)


def client(tab: bool = False) -> Client:
    """Return this page's visitor as one who waits in line; with `tab`, for one thing at a time in this tab."""
    asker = identity.visitor()
    return Client(asker.id, asker.address, identity.session_id() if tab else None, asker.is_browser)


def at_hand(name: str, how: model_catalog.LoadOptions) -> bool:
    """Return whether a model needs nothing but its turn: it is one of our own, or in memory, and not on a server."""
    if model_catalog.answers_at_once(name):
        return False
    return (how == model_catalog.DEFAULT_LOAD and name in installed()) or _in_memory(name, how) is not None


def weights(name: str, how: model_catalog.LoadOptions, revision: str | None) -> str | None:
    """Return the identity of a model's weights: of those in memory, or else of those that would be loaded.

    `revision` is the commit of what a trace was recorded with; None is returned where nobody can know.
    """
    if found := _weights.get(_named.get((name, how))):
        return found
    return weights_identity(name, revision) if model_catalog.why_only_read(name) is None else None


def chats(name: str, how: model_catalog.LoadOptions) -> bool:
    """Return whether that model takes turns of a chat, by its tokenizer's template: known once it is in memory."""
    loaded = _in_memory(name, how)
    if loaded is None:
        return False
    return loaded.chats if _is_of_an_engine(loaded) else bool(getattr(loaded.tokenizer, "chat_template", None))


def forget_models() -> None:
    """Let the models go that nobody uses: for tests."""
    _models.forget()


def _wanted(name: str, how: model_catalog.LoadOptions) -> ModelKey:
    """Return a model's key in memory: two ways to ask for the same model have one."""
    if (name, how) not in _named:
        if (known := model_catalog.known_before_opening(name)) is not None:  # it is opened in one way
            key = ModelKey(name, known.info.dtype or "", known.where, model_catalog.DEFAULT_LOAD)
        else:
            key = ModelKey(name, how.dtype or model_catalog.dtype_of(name), model_catalog.device(how), how)
        _named[name, how] = key
    return _named[name, how]


def _is_of_an_engine(loaded: Any) -> "TypeGuard[EngineModel]":
    from moeviz.capture.engines.engine import EngineModel

    return isinstance(loaded, EngineModel)


def _in_memory(name: str, how: model_catalog.LoadOptions) -> "LoadedModel | EngineModel | None":
    wanted = _named.get((name, how))
    return None if wanted is None else _models.peek(wanted)


def _in_use(name: str, how: model_catalog.LoadOptions) -> "AbstractContextManager[LoadedModel | EngineModel]":
    """Return a model that stays in memory as long as the context does."""
    return _models.at_work(_wanted(name, how))


def _with_model(name: str, how: model_catalog.LoadOptions, work: OfModel, dear: bool = False) -> Work:
    """Wrap work on a model as work for a queue; the model stays in memory from its first turn to its last."""

    def steps(tell: Tell) -> Iterator[Any]:
        with _in_use(name, how) as loaded:
            return (yield from (work(loaded, tell) if generates else in_steps(partial(work, loaded))(tell)))

    def whole(tell: Tell) -> Any:
        with _in_use(name, how) as loaded:
            return work(loaded, tell)

    generates = isgeneratorfunction(work)
    return steps if generates or dear else whole


def _line(device: str) -> FairQueue:
    """Return the queue of a device, or of those who wait for a file to be made."""
    most = settings.SETTINGS
    rest = REST if most.serve == settings.PUBLIC else 0.0
    places = QueueLimits(most.max_waiting, most.runs_per_visitor, most.runs_per_address, rest)
    if device in (FILES, DATASETS):
        places = QueueLimits(FILES_IN_ALL, FILES_OF_A_VISITOR, FILES_IN_ALL)
    with _guard:
        return _lines.setdefault(device, FairQueue(places, at_rest=_garbage.look_again))


def stop(seconds: float) -> bool:
    """At the end of the server, cancel all runs and wait for them; return whether they ended in time."""
    end = time.monotonic() + seconds
    with _guard:
        lines = list(_lines.values())
    ended = [line.stop(max(0.0, end - time.monotonic())) for line in lines]
    return all(ended)


def _load(wanted: ModelKey) -> "LoadedModel | EngineModel":
    known = model_catalog.known_before_opening(wanted.name)
    found = weights_identity(wanted.name) if known is None else known.identity  # before they are read: they may change
    before, loaded = loaded_before_fork.get(wanted.name, (None, None))
    if loaded is None or before != found or wanted.how != model_catalog.DEFAULT_LOAD:
        with model_catalog.building:
            how = {} if known is not None else {"dtype": wanted.how.dtype, "device_map": wanted.how.device_map}
            loaded = moeviz.load_model(wanted.name, **how, check_memory=False)  # `_models` has looked
    if not _is_of_an_engine(loaded):
        from moeviz.capture.together import share_decoding

        # What visitors write decodes together, if the model's rows turn out not to depend on each other.
        if why_not := share_decoding(loaded):
            log.info("Texts that %s writes take turns: %s", loaded.name, why_not)
    _weights[wanted] = found or loaded.info.revision
    _garbage.freeze()
    return loaded


def _needed(wanted: ModelKey) -> int:
    from moeviz.capture.models.memory import bytes_needed

    if (known := model_catalog.known_before_opening(wanted.name)) is not None:
        return known.memory
    return bytes_needed(model_catalog.facts_of_any(wanted.name).parameters.total, wanted.dtype)


def _free(device: str) -> int | None:
    from moeviz.capture.models.memory import bytes_free

    return bytes_free(device)


def _let_go() -> None:
    from moeviz.capture.models.memory import release_memory

    _garbage.freeze(thaw=True)  # what is frozen is not looked through
    release_memory()


_warm, _guard = threading.Event(), threading.Lock()
_lines: dict[str, FairQueue] = {}
_named: dict[tuple[str, model_catalog.LoadOptions], ModelKey] = {}
_weights: dict[ModelKey | None, str | None] = {}  # which weights `_load` found when it loaded a model last
_garbage = Garbage(forked=settings.process() is not None)
_pace = identity.RateLimiter(settings.SETTINGS.runs_a_minute)
_budget = settings.SETTINGS.model_memory_mb
_ways = ModelBackend(lambda wanted: _load(wanted), _needed, _free, _let_go, _budget and _budget * 10**6)
_models = ModelCache(_ways)
