"""All that outlives a rerun: the only file that touches session_state and Streamlit's caches.

One visitor has one trace, one chosen layer, one pair of layers and one chosen token; every page shows those. Widgets
keep their values under the keys below, across pages too (`persist_state="session"`). Models are shared by all.
"""

import atexit
import gc
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import streamlit as st

import moeviz
from app import settings
from app.timing import log_moment
from moeviz.charts.saturation import SATURATION
from moeviz.charts.theme import MAX_TOKENS
from moeviz.embedded.formation import formation_traces
from moeviz.errors import ModelNotFound
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

if TYPE_CHECKING:
    from moeviz.capture.models import LoadedModel

PROMPT, EXAMPLE, MODEL = "prompt", "example", "model"
NEW_TOKENS, TEMPERATURE, SEED = "new_tokens", "temperature", "seed"
LAYER, FIRST_LAYER, SECOND_LAYER = "layer", "first_layer", "second_layer"
WINDOW, STRIP, HEATMAP, UPLOAD = "window", "strip", "heatmap", "upload"
MOMENT, FORMATION_LAYER = "moment", "formation_layer"
_TRACE, _TOKEN, _OPENED, _HEATMAPS = "trace", "token", "opened", "heatmaps"
CELL = "cell"  # the selection in the token by layer chart
MODELS_IN_MEMORY = 2
FACTS_IN_MEMORY = 32
POLL_SECONDS = 0.1


def current_trace() -> RoutingTrace | None:
    """The trace that every page shows; None before the first run."""
    return st.session_state.get(_TRACE)


def set_trace(trace: RoutingTrace) -> None:
    """Show `trace` from now on. A layer that it has too stays chosen; the token does not."""
    layers = trace.model.layers
    defaults = {LAYER: layers[len(layers) // 2], FIRST_LAYER: layers[0], SECOND_LAYER: layers[-1]}
    for key, layer in defaults.items():
        if st.session_state.get(key) not in layers:
            st.session_state[key] = layer
    st.session_state.update({_TRACE: trace, _TOKEN: None, WINDOW: 1})


def selected_token() -> int | None:
    """Row of the chosen token in the trace's `tokens`."""
    return st.session_state.get(_TOKEN)


def pick_from_strip() -> None:
    """Callback of the token strip."""
    st.session_state[_TOKEN] = int(st.session_state[STRIP].pick)
    chart = st.session_state.get(heatmap_key())  # pages other than the first have a strip without it
    if chart is not None and chart.selection.get(CELL):
        st.session_state[_HEATMAPS] = st.session_state.get(_HEATMAPS, 0) + 1


def heatmap_key() -> str:
    """Widget key of the token by layer chart.

    The browser tells of a selection only when it changes, and nobody can change it from here. So when the strip takes
    over from the chart, a new chart takes its place, in which every token can be clicked.
    """
    return f"{HEATMAP} {st.session_state.get(_HEATMAPS, 0)}"


def pick_from_heatmap() -> None:
    """Callback of the token by layer chart, which counts tokens from the start of the window."""
    if points := st.session_state[heatmap_key()].selection.get(CELL):
        st.session_state[_TOKEN] = window().start + int(points[0]["token"])


def forget_token() -> None:
    """Callback of the choice of window: the chosen token is out of sight."""
    st.session_state[_TOKEN] = None


def chosen_layers(how_many: Literal["one", "two"]) -> tuple[int, ...]:
    """The layer, or the pair of layers, that the visitor looks at."""
    keys = {"one": (LAYER,), "two": (FIRST_LAYER, SECOND_LAYER)}[how_many]
    return tuple(st.session_state[key] for key in keys)


def already_opened(file_id: str) -> bool:
    """Whether this upload is the one that was opened last."""
    return st.session_state.get(_OPENED) == file_id


def open_trace(trace: RoutingTrace, file_id: str) -> None:
    """Show a trace that came in a file, and remember that this upload is done with."""
    set_trace(trace)
    st.session_state[_OPENED] = file_id


def windows(trace: RoutingTrace) -> int:
    """How many stretches of tokens `trace` falls into."""
    return max(1, -(-len(trace.tokens) // MAX_TOKENS))


def window() -> range:
    """Rows of the tokens on screen."""
    start = (st.session_state.get(WINDOW, 1) - 1) * MAX_TOKENS
    return range(start, min(start + MAX_TOKENS, len(current_trace().tokens)))


def value(key: str) -> Any:
    """What a widget holds."""
    return st.session_state.get(key)


def start_with(key: str, value: object) -> None:
    """Give a widget its first value."""
    st.session_state.setdefault(key, value)


def use_example(texts: dict[str, str]) -> None:
    """Callback of the examples: put the chosen one into the prompt."""
    if (name := st.session_state[EXAMPLE]) is not None:
        st.session_state[PROMPT] = texts[name]
        st.session_state[EXAMPLE] = None


def may_name_any_model() -> bool:
    """Whether this visitor may load a folder or an id that the deployment does not list."""
    allowed = settings.SETTINGS.allow_any_model
    if allowed is not None:
        return allowed
    headers = st.context.headers
    host = re.sub(r":\d+$", "", headers.get("Host", ""))
    return (
        st.context.ip_address in (None, "::ffff:127.0.0.1")  # None is Streamlit's way to say: this machine
        and host in ("localhost", "127.0.0.1", "[::1]")
        and "X-Forwarded-For" not in headers
    )


def model_facts(name: str) -> ModelInfo:
    """What the config of that model says: no weights are loaded for it."""
    _check_on_offer(name)
    return _facts(name)


def context_length(name: str) -> int | None:
    """Tokens that fit into a model that this deployment lists; None for others, which load only when they are run."""
    return model(name).max_tokens if name in settings.SETTINGS.models else None


def model(name: str) -> "LoadedModel":
    """The model of that name, loaded once for everybody. Raises `ModelNotFound` where it is not on offer."""
    _check_on_offer(name)
    return _load(name)


def _check_on_offer(name: str) -> None:
    if name not in settings.SETTINGS.models and not may_name_any_model():
        raise ModelNotFound(f"{name!r} is not on offer here; choose one of {', '.join(settings.SETTINGS.models)}.")


@st.cache_resource(max_entries=FACTS_IN_MEMORY, show_spinner=False)
def _facts(name: str) -> ModelInfo:
    from moeviz.capture.models import model_facts

    with _lock("building"):
        return model_facts(name)


@st.cache_resource(max_entries=MODELS_IN_MEMORY, show_spinner=False)
def _load(name: str) -> "LoadedModel":
    with _lock("building"):
        loaded = moeviz.load_model(name)
    _freeze()
    return loaded


@st.cache_resource(show_spinner=False)
def formation() -> dict[int, RoutingTrace]:
    """How the embedded model routed its evaluation texts at each recorded moment of its training."""
    return formation_traces()


@st.cache_resource(show_spinner=False)
def saturation() -> pd.DataFrame:
    """How much of the final routing each of those moments had."""
    return SATURATION.measure(formation())


def evaluation_routing() -> RoutingTrace:
    """How the finished embedded model routes the texts of its evaluation set, labelled by domain."""
    return formation()[max(formation())]


@st.cache_resource(show_spinner=False)
def _freeze() -> None:
    # Streamlit collects garbage after every script run, and a walk over all that torch imports takes 0.14 s.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is frozen is not freed at the end, and some libraries complain of that


@st.cache_resource(show_spinner=False)
def _lock(what: Literal["building", "running"]) -> threading.Lock:
    """One for all visitors. Building: counting parameters swaps how torch makes them, for every thread at once."""
    return threading.Lock()


def run(
    name: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    waiting: Callable[[], object],
    progress: Callable[[int, int], object],
) -> None:
    """Trace the prompt and show that trace from now on; where this raises, the trace before it stays.

    One visitor at a time: a second run would wait for the model in silence, and could not be stopped while it waits.
    `waiting` is called while somebody else's run goes on. Streamlit ends a run that nobody waits for any more at its
    next `st` call, so both callbacks should make one.
    """
    from moeviz.capture.decoding import Sampling

    loaded, lock = model(name), _lock("running")
    while not lock.acquire(timeout=POLL_SECONDS):
        waiting()
    try:
        log_moment("model begins")
        trace = moeviz.trace(
            loaded,
            st.session_state[PROMPT],
            max_new_tokens=min(max_new_tokens, settings.SETTINGS.max_new_tokens),  # whatever a browser sends
            sampling=Sampling(temperature=temperature, seed=seed),
            progress=progress,
        )
        log_moment("model ends")
    finally:
        lock.release()
    set_trace(trace)
