"""What all visitors share: the models in memory, and the lines of those who wait for them.

The lines and the models are not in Streamlit's cache, so that "Clear cache" in a browser takes them from nobody.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
from moeviz_app import settings, visitors
from moeviz_app.counters import count
from moeviz_app.traces import recorded
from moeviz_app.work.drawing import aside, step_out
from moeviz_app.work.garbage import Garbage
from moeviz_app.work.in_turns import in_turns
from moeviz_app.work.look_ups import within_seconds
from moeviz_app.work.models_held import ModelsHeld, Wanted, Ways
from moeviz_app.work.worker import Done, InLine, News, Places, Tell, Work, Worker, result

import moeviz
from moeviz.capture.engine_table import engine_of
from moeviz.capture.models.identity import weights_identity
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import installed
from moeviz.errors import ModelNotFound
from moeviz.footprint import ServedModel
from moeviz.model_info import ModelInfo
from moeviz.names import quoted

if TYPE_CHECKING:
    from typing import TypeGuard

    from moeviz.capture.engines.engine import BeforeOpening, EngineModel
    from moeviz.capture.models.load import LoadedModel

FACTS_IN_MEMORY = 32
SECONDS_OF_A_SERVER = 30.0  # to say what it runs
FILES = "files"  # the line of those who wait for a file to be made
DATASETS = "datasets"  # and of those who wait for an answer from a dataset
FILES_OF_A_VISITOR, FILES_IN_ALL = 8, 100
Heard = Iterator[InLine | News | Done]
OfModel = Callable[["LoadedModel | EngineModel", Tell], Any]


@dataclass(frozen=True, slots=True)
class How:
    """How a model is opened. None: as the checkpoint says, and where there is room."""

    dtype: str | None = None
    device_map: str | None = None


AS_IT_IS = How()


def model_facts(name: str) -> ModelInfo:
    """What the config of that model says: no weights are loaded for it."""
    check_on_offer(name)
    return _facts(name)


def model_facts_of_known(name: str) -> ModelInfo:
    """The same of a well-known model, on offer here or not: its sizes are moeviz's own copy, and nothing is loaded."""
    return _facts(name)


def served_facts(name: str) -> ServedModel:
    """What the memory of a served model depends on: of one on offer, or of a well-known one. Nothing is loaded.

    Raises `ModelNotFound` for any other, and `CaptureError` where nobody can tell what it keeps of a text.
    """
    bring_torch()
    from moeviz.capture.models.known_models import KNOWN_MODELS

    if name not in KNOWN_MODELS:
        check_on_offer(name)
    return _served(name)


def facts_at_hand(name: str) -> ModelInfo:
    """The same; of the model that ships, as long as torch is not here, from the example's trace."""
    return recorded.example().model if name == EMBEDDED and not torch_is_here() else model_facts(name)


def torch_is_here() -> bool:
    """Whether what runs models has been imported, so that asking for its facts takes no time."""
    return _arrived.is_set()


def bring_torch() -> None:
    """Import what runs models: whoever asks first does, and others wait. It takes seconds."""
    if _arrived.is_set():
        return
    step_out()
    with _bringing:
        if not _arrived.is_set():
            import moeviz.capture.models.load
            import moeviz.capture.models.memory
            import moeviz.capture.trace  # noqa: F401

            _arrived.set()


def warm_up() -> None:
    """Once, after the first page is sent: bring torch and the model that ships, while the visitor looks at it."""
    if settings.SETTINGS.warm_up and not _warm.is_set():
        _warm.set()
        threading.Thread(target=_warm_up, name="moeviz-warm-up", daemon=True).start()


def _warm_up() -> None:
    bring_torch()
    if EMBEDDED in settings.SETTINGS.models:
        _models.get(_wanted(EMBEDDED, AS_IT_IS))


def memory(name: str, how: How) -> tuple[int, int | None]:
    """Bytes that a model takes, and bytes that are free for it where it is to go (None: the system does not say)."""
    bring_torch()
    from moeviz.capture.models.memory import bytes_free, bytes_needed

    facts = model_facts(name)
    if (known := _known(name)) is not None:
        return known.memory, bytes_free("cpu") if known.memory else None
    return bytes_needed(facts.parameters.total, how.dtype or facts.dtype), bytes_free(how.device_map)


def context_length(name: str) -> int | None:
    """Tokens that fit into a model's context, by its config alone; None where that sets no limit."""
    check_on_offer(name)
    if (known := _known(name)) is not None:
        return known.max_tokens
    config = _config(name)
    from moeviz.capture.models.load import context_length

    return context_length(config)


def model(name: str, how: How = AS_IT_IS) -> "LoadedModel | EngineModel":
    """The model of that name, loaded once for everybody.

    Raises `ModelNotFound` where it is not on offer, and `CaptureError` where there is not the memory or the device.
    """
    check_on_offer(name)
    wanted = _wanted(name, how)
    if (held := _models.peek(wanted)) is not None:
        return held
    with st.spinner("Loading the model …"), aside():
        return _models.get(wanted)


def begin_run() -> None:
    """Count a run of this visitor. Raises `TooOften` where that is more than may begin in a minute."""
    try:
        _pace.begin(visitors.visitor())
    except visitors.TooOften:
        count("refusals", why="pace")
        raise


def at_work(name: str, how: How, work: OfModel) -> Heard:
    """Have the device's own thread do `work(model, tell)`; see `moeviz_app.work.worker.Worker.ask`. Close it to cancel.

    What this page has asked for before is cancelled: it waits for one thing at a time.
    """
    model(name, how)
    return _line(_wanted(name, how).device).ask(_with_model(name, how, work), visitors.asker(tab=True))


def asking(name: str, how: How) -> Callable[[OfModel], Heard]:
    """The same to be called later, from any thread, and beside what the page asks for: the model is loaded now."""
    model(name, how)
    line, asker = _line(_wanted(name, how).device), visitors.asker()
    return lambda work: line.ask(_with_model(name, how, work), asker)


def training(work: Work) -> Heard:
    """Have the processor's thread do `work(tell)`, step by step, so that others have their turn between."""
    return _line("cpu").ask(in_turns(work), visitors.asker(tab=True))


def making(make: Callable[[], bytes | str]) -> Callable[[], bytes | str]:
    """The same for a download: files are made one at a time, in a thread of their own, when a browser asks for them."""
    asker = visitors.asker()
    return lambda: result(_line(FILES).ask(lambda _tell: make(), asker), lambda _told: None)


def asking_datasets() -> Callable[[Work], Heard]:
    """A way to ask for work on a dataset, from any thread; it gives its turn away whenever it tells how far it is."""
    asker = visitors.asker()
    return lambda work: _line(DATASETS).ask(in_turns(work), asker)


def at_hand(name: str, how: How) -> bool:
    """Whether that model needs nothing but its turn: it is one of our own, or in memory. One on a server is not."""
    if answers_at_once(name):
        return False
    return (how == AS_IT_IS and name in installed()) or _in_memory(name, how) is not None


def weights(name: str, how: How, revision: str | None) -> str | None:
    """Which weights that name stands for: those in memory or, where it was not loaded, those that would be.

    `revision` is the commit of what a trace was recorded with; None is returned where nobody can know.
    """
    if found := _weights.get(_named.get((name, how))):
        return found
    return weights_identity(name, revision) if why_only_read(name) is None else None


def chats(name: str, how: How) -> bool:
    """Whether that model takes turns of a chat, by its tokenizer's template: known once it is in memory."""
    loaded = _in_memory(name, how)
    if loaded is None:
        return False
    return loaded.chats if _is_of_an_engine(loaded) else bool(getattr(loaded.tokenizer, "chat_template", None))


def added_by_template(name: str, how: How, prompt: str, system: str | None) -> list[int]:
    """Which tokens of a turn of a chat its template added; none where that cannot be told, or the model is gone."""
    loaded = _in_memory(name, how)
    if loaded is None or not chats(name, how):
        return []
    from moeviz.capture.run.chat import added_by_template

    if _is_of_an_engine(loaded):
        added = loaded.added_by_template(prompt, system)
    else:
        added = added_by_template(loaded.tokenizer, prompt, system)
    return [] if added is None else [token for token, is_added in enumerate(added) if is_added]


def why_only_read(name: str) -> str | None:
    """Why nothing can be changed in the model of that name: another engine runs it. None where transformers does."""
    if (engine := engine_of(name)) is None:
        return None
    return (
        f"{quoted(name)} runs in {engine.name}, where moeviz reads what the routers decide and changes nothing. For "
        "what changes a model, or looks into its weights, choose its transformers checkpoint."
    )


def answers_at_once(name: str) -> bool:
    """Whether a server elsewhere runs the model of that name: nothing of a run is known before its end."""
    return (engine := engine_of(name)) is not None and engine.elsewhere


def check_on_offer(name: str) -> None:
    """Raise `ModelNotFound` if this visitor may not have that model."""
    listed = settings.SETTINGS.models
    if name not in listed and not (settings.may_name_any_model() and _may_be_typed(name)):
        raise ModelNotFound(f"{quoted(name)} is not available here. Choose one of {', '.join(listed)}.")


def check_in_link(name: str) -> None:
    """Raise `ModelNotFound` for a server that only a link names: a page of strangers would choose whom we ask."""
    if answers_at_once(name) and name not in settings.SETTINGS.models:
        raise ModelNotFound(
            f"This link names the server {quoted(name)}, which is not listed here. Links lead to listed servers alone: "
            "if you know that server, type its name under “Model and options”."
        )


def _may_be_typed(name: str) -> bool:
    """Whether a model that is not listed may be named: a server only by whoever the machine belongs to."""
    return settings.SETTINGS.serve == settings.PRIVATE or not answers_at_once(name)


@st.cache_resource(show_spinner="Counting …")
def known_models() -> pd.DataFrame:
    """Exact parameter counts of the models whose configurations ship, beside what their makers say."""
    bring_torch()
    from moeviz.capture.models.known_counts import known_counts

    with _building:
        return known_counts()


def forget_models() -> None:
    """Let the models go that nobody uses: for tests."""
    _models.forget()


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _known(name: str) -> "BeforeOpening | None":
    """What is known of another engine's model before it is opened; None for a transformers model."""
    if engine_of(name) is None:
        return None
    bring_torch()
    from moeviz.capture.opening import known_before

    if answers_at_once(name):
        return within_seconds(name, lambda: known_before(name), SECONDS_OF_A_SERVER, "Its server does not answer.")
    return within_seconds(name, lambda: known_before(name))


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _facts(name: str) -> ModelInfo:
    if (known := _known(name)) is not None:
        return known.info
    config = _config(name)
    from moeviz.capture.models.parameters import parameters_of_config

    with _building:
        return parameters_of_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _served(name: str) -> ServedModel:
    config = _config(name)
    from moeviz.capture.models.served import served_by_config

    with _building:
        return served_by_config(config, name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _config(name: str) -> Any:
    """Read from a file or from the hub: the one look-up that may take long, so nobody else waits for it."""
    bring_torch()
    from moeviz.capture.models.load import model_config

    return within_seconds(name, lambda: model_config(name))


def _wanted(name: str, how: How) -> Wanted:
    """What that name stands for in memory: two ways to ask for the same model are one."""
    if (name, how) not in _named:
        if (known := _known(name)) is not None:  # it is opened in one way
            _named[name, how] = Wanted(name, known.info.dtype or "", known.where, AS_IT_IS)
        else:
            _named[name, how] = Wanted(name, how.dtype or _own_dtype(name), _device(how), how)
    return _named[name, how]


def _own_dtype(name: str) -> str:
    config = _config(name)
    from moeviz.capture.models.load import own_dtype

    return own_dtype(name, config)


def _device(how: How) -> str:
    bring_torch()
    from moeviz.capture.models.memory import device_of

    return device_of(how.device_map)


def _is_of_an_engine(loaded: Any) -> "TypeGuard[EngineModel]":
    from moeviz.capture.engines.engine import EngineModel

    return isinstance(loaded, EngineModel)


def _in_memory(name: str, how: How) -> "LoadedModel | EngineModel | None":
    wanted = _named.get((name, how))
    return None if wanted is None else _models.peek(wanted)


def _in_use(name: str, how: How) -> "AbstractContextManager[LoadedModel | EngineModel]":
    return _models.at_work(_wanted(name, how))


def _with_model(name: str, how: How, work: OfModel) -> Work:
    """Work on a model as work of a line; the model stays in memory from its first turn to its last."""

    def steps(tell: Tell) -> Iterator[Any]:
        with _in_use(name, how) as loaded:
            return (yield from work(loaded, tell))

    def whole(tell: Tell) -> Any:
        with _in_use(name, how) as loaded:
            return work(loaded, tell)

    return steps if isgeneratorfunction(work) else whole


def _line(device: str) -> Worker:
    """Those who wait for a device, or for a file to be made."""
    most = settings.SETTINGS
    places = Places(most.max_waiting, most.runs_per_visitor, most.runs_per_address)
    if device in (FILES, DATASETS):
        places = Places(FILES_IN_ALL, FILES_OF_A_VISITOR, FILES_IN_ALL)
    with _guard:
        return _lines.setdefault(device, Worker(places, at_rest=_garbage.look_again))


def stop(seconds: float) -> bool:
    """At the end of the server: cancel all runs, and wait so long for them; whether they ended."""
    end = time.monotonic() + seconds
    with _guard:
        lines = list(_lines.values())
    ended = [line.stop(max(0.0, end - time.monotonic())) for line in lines]
    return all(ended)


def _load(wanted: Wanted) -> "LoadedModel | EngineModel":
    known = _known(wanted.name)
    found = weights_identity(wanted.name) if known is None else known.identity  # before they are read: they may change
    with _building:
        how = {} if known is not None else {"dtype": wanted.how.dtype, "device_map": wanted.how.device_map}
        loaded = moeviz.load_model(wanted.name, **how, check_memory=False)  # `_models` has looked
    _weights[wanted] = found or loaded.info.revision
    _garbage.freeze()
    return loaded


def _needed(wanted: Wanted) -> int:
    from moeviz.capture.models.memory import bytes_needed

    if (known := _known(wanted.name)) is not None:
        return known.memory
    return bytes_needed(_facts(wanted.name).parameters.total, wanted.dtype)


def _free(device: str) -> int | None:
    from moeviz.capture.models.memory import bytes_free

    return bytes_free(device)


def _let_go() -> None:
    from moeviz.capture.models.memory import let_go

    _garbage.freeze()  # which thaws: what is frozen is not looked through
    let_go()


_arrived, _warm = threading.Event(), threading.Event()
_bringing, _guard = threading.Lock(), threading.Lock()
_building = threading.Lock()  # counting parameters swaps how torch makes them, for every thread at once
_lines: dict[str, Worker] = {}
_named: dict[tuple[str, How], Wanted] = {}
_weights: dict[Wanted | None, str | None] = {}  # which weights `_load` found when it loaded a model last
_garbage = Garbage()
_pace = visitors.Pace(settings.SETTINGS.runs_a_minute)
_budget = settings.SETTINGS.model_memory_mb
_ways = Ways(lambda wanted: _load(wanted), _needed, _free, _let_go, _budget and _budget * 10**6)
_models = ModelsHeld(_ways)
