"""What all visitors share: models, their queues, recorded traces. The only file with Streamlit's caches."""

import atexit
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pandas as pd
import streamlit as st
from moeviz_app import settings
from moeviz_app.worker import Done, InLine, News, Worker

import moeviz
from moeviz.capture.models.identity import weights_identity
from moeviz.charts.routing_over_training import SATURATION
from moeviz.embedded import EMBEDDED
from moeviz.embedded.example import example_trace
from moeviz.embedded.reference import muted_experts, reference_routing
from moeviz.embedded.routing_over_training import traces_over_training
from moeviz.errors import ModelNotFound, MoevizError
from moeviz.history.systems import SYSTEMS
from moeviz.model_info import ModelInfo
from moeviz.names import quoted
from moeviz.routing_trace import RoutingTrace

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel

MODELS_IN_MEMORY = 2
FACTS_IN_MEMORY = 32


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


def facts_at_hand(name: str) -> ModelInfo:
    """The same; of the model that ships, as long as torch is not here, from the example's trace."""
    return example().model if name == EMBEDDED and not torch_is_here() else model_facts(name)


def torch_is_here() -> bool:
    """Whether what runs models has been imported, so that asking for its facts takes no time."""
    return _arrived().is_set()


@st.cache_resource(show_spinner=False)
def bring_torch() -> None:
    """Import what runs models: whoever asks first does, and others wait. It takes seconds."""
    import moeviz.capture.models.load
    import moeviz.capture.models.memory
    import moeviz.capture.trace  # noqa: F401

    _arrived().set()


@st.cache_resource(show_spinner=False)
def _arrived() -> threading.Event:
    return threading.Event()


@st.cache_resource(show_spinner=False)
def warm_up() -> None:
    """Once, after the first page is sent: bring torch and the model that ships, while the visitor looks at it."""
    if settings.SETTINGS.warm_up:
        threading.Thread(target=_warm_up, name="moeviz-warm-up", daemon=True).start()


def _warm_up() -> None:
    bring_torch()
    if EMBEDDED in settings.SETTINGS.models:
        _load(EMBEDDED, AS_IT_IS)


def memory(name: str, how: How) -> tuple[int, int | None]:
    """Bytes that a model takes, and bytes that are free for it where it is to go (None: the system does not say)."""
    bring_torch()
    from moeviz.capture.models.memory import bytes_free, bytes_needed

    facts = model_facts(name)
    return bytes_needed(facts.parameters.total, how.dtype or facts.dtype), bytes_free(how.device_map)


def context_length(name: str) -> int | None:
    """Tokens that fit into a model's context, by its config alone; None where that sets no limit."""
    check_on_offer(name)
    return _context_length(name)


def model(name: str, how: How = AS_IT_IS) -> "LoadedModel":
    """The model of that name, loaded once for everybody.

    Raises `ModelNotFound` where it is not on offer, and `CaptureError` where there is not the memory for it.
    """
    check_on_offer(name)
    return _load(name, how)


def at_work(
    name: str, how: How, work: Callable[["LoadedModel", Callable[[Any], None]], Any]
) -> Iterator[InLine | News | Done]:
    """Have the model's own thread do `work(model, tell)`; see `moeviz_app.worker.Worker.ask`. Close it to cancel."""
    return asking(name, how)(work)


def asking(
    name: str, how: How
) -> Callable[[Callable[["LoadedModel", Callable[[Any], None]], Any]], Iterator[InLine | News | Done]]:
    """The same to be called later, from any thread: the model is loaded here and now."""
    loaded, worker = model(name, how), _worker(name, how)
    return lambda work: worker.ask(lambda tell: work(loaded, tell))


def training(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[InLine | News | Done]:
    """Have the history gallery's one thread do `work(tell)`: trainings wait for each other, and for no model."""
    return _worker("the history gallery", AS_IT_IS).ask(work)


def at_hand(name: str, how: How) -> bool:
    """Whether that model needs nothing but its turn: it ships with moeviz, or is in memory."""
    return (name, how) == (EMBEDDED, AS_IT_IS) or (name, how) in _in_memory()


def weights(name: str, how: How, revision: str | None) -> str | None:
    """Which weights that name stands for: those in memory or, where it was not loaded, those that would be.

    `revision` is the commit of what a trace was recorded with; None is returned where nobody can know.
    """
    return _loaded_weights().get((name, how)) or weights_identity(name, revision)


def chats(name: str, how: How) -> bool:
    """Whether that model takes turns of a chat, by its tokenizer's template: known once it is in memory."""
    loaded = _in_memory().get((name, how))
    return bool(loaded is not None and getattr(loaded.tokenizer, "chat_template", None))


def added_by_template(name: str, how: How, prompt: str, system: str | None) -> list[int]:
    """Which tokens of a turn of a chat its template added; none where that cannot be told, or the model is gone."""
    if not chats(name, how):
        return []
    from moeviz.capture.run.chat import added_by_template

    added = added_by_template(_in_memory()[name, how].tokenizer, prompt, system)
    return [] if added is None else [token for token, is_added in enumerate(added) if is_added]


def check_on_offer(name: str) -> None:
    """Raise `ModelNotFound` if this visitor may not have that model."""
    if name not in settings.SETTINGS.models and not settings.may_name_any_model():
        raise ModelNotFound(
            f"{quoted(name)} is not available here. Choose one of {', '.join(settings.SETTINGS.models)}."
        )


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _facts(name: str) -> ModelInfo:
    bring_torch()
    from moeviz.capture.models.load import model_facts

    with _building():
        return model_facts(name)


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _context_length(name: str) -> int | None:
    bring_torch()
    from moeviz.capture.models.load import context_length, model_config

    return context_length(model_config(name))


@st.cache_resource(max_entries=MODELS_IN_MEMORY, show_spinner="Loading the model …")
def _load(name: str, how: How) -> "LoadedModel":
    bring_torch()
    from moeviz.capture.models.memory import check_room

    facts = model_facts(name)
    check_room(name, facts.parameters.total, how.dtype or facts.dtype, how.device_map)
    found = weights_identity(name)  # before they are read: a folder may change under us
    with _building():
        loaded = moeviz.load_model(name, dtype=how.dtype, device_map=how.device_map)
    _loaded_weights()[name, how] = found or loaded.info.revision
    _freeze()
    _in_memory()[name, how] = loaded
    return loaded


@st.cache_resource(show_spinner=False)
def _in_memory() -> WeakValueDictionary:
    """The models that `_load` holds at the moment, by name and how they are opened."""
    return WeakValueDictionary()


@st.cache_resource(show_spinner=False)
def _loaded_weights() -> dict[tuple[str, How], str | None]:
    """Which weights `_load` found when it loaded a model last."""
    return {}


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _worker(name: str, how: How) -> Worker:
    return Worker(settings.SETTINGS.max_waiting)


@st.cache_resource(show_spinner=False)
def over_training() -> dict[int, RoutingTrace]:
    """How the embedded model routed its evaluation texts at each recorded moment of its training."""
    return traces_over_training()


@st.cache_resource(show_spinner=False)
def saturation() -> pd.DataFrame:
    """How much of the final routing each of those moments had."""
    return SATURATION.measure(over_training())


@st.cache_resource(show_spinner="Opening the gallery …")
def gallery() -> dict[str, RoutingTrace]:
    """How each system of the history gallery routes, as it ships; for Mixtral, the embedded model."""
    from moeviz.history.shipped_traces import shipped_trace

    traces = {row.title: shipped_trace(name) for name, row in SYSTEMS.items()}
    return traces | {"Mixtral (embedded)": evaluation_routing()}


@st.cache_resource(show_spinner="Counting …")
def known_models() -> pd.DataFrame:
    """Exact parameter counts of the models whose configurations ship, beside what their makers say."""
    bring_torch()
    from moeviz.capture.models.known_counts import known_counts

    with _building():
        return known_counts()


@st.cache_resource(show_spinner=False)
def example() -> RoutingTrace:
    """What a page shows before anything has been run."""
    return example_trace()


def opened_file() -> RoutingTrace | None:
    """The trace that this server was started with, read once; None where it was started without.

    Raises `InvalidTrace` where the file holds none, and `MoevizError` where it cannot be read any more.
    """
    path = settings.SETTINGS.trace_file
    return None if path is None else _trace_in(path)


@st.cache_resource(max_entries=1, show_spinner="Reading the trace …")
def _trace_in(path: str) -> RoutingTrace:
    try:
        return moeviz.read_trace(path)
    except OSError as error:
        raise MoevizError(f"{quoted(path)} cannot be read: {error.strerror or error}.") from error


def usual(model: ModelInfo) -> RoutingTrace | None:
    """How other texts are routed by that model: known for the one whose texts ship, and has the layers it says."""
    known = reference()
    same = (known.model.name, known.model.layers, known.model.num_experts, known.model.top_k)
    return known if same == (model.name, model.layers, model.num_experts, model.top_k) else None


def evaluation_routing() -> RoutingTrace:
    """How the finished embedded model routes the texts of its evaluation set, labelled by domain."""
    return over_training()[max(over_training())]


@st.cache_resource(show_spinner=False)
def reference() -> RoutingTrace:
    """The same with weights: what the page of an expert shows before anything is asked of the model."""
    return reference_routing()


@st.cache_resource(show_spinner=False)
def reference_muted() -> pd.DataFrame:
    """What each kind of those texts loses without each expert of the embedded model."""
    return muted_experts()


@st.cache_resource(show_spinner=False)
def _freeze() -> None:
    # Streamlit collects garbage after every script run, and a walk over all that torch imports takes 0.14 s.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is frozen is not freed at the end, and some libraries complain of that


@st.cache_resource(show_spinner=False)
def _building() -> threading.Lock:
    """One for all visitors: counting parameters swaps how torch makes them, for every thread at once."""
    return threading.Lock()
