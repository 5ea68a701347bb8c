"""Ready for all visitors: traces that ship, names of their experts, first texts, and a server's own files."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd
import streamlit as st

from moeviz.cli.app import MOST_FILES
from moeviz.embedded import recorded_routing
from moeviz.embedded.recorded_routing import (
    ROUTING,
    example_trace,
    expert_table_of,
    muted_experts,
    reference_routing,
    traces_over_training,
)
from moeviz.errors import MissingField, MoevizError
from moeviz.formats.dataset.opening import is_dataset
from moeviz.formats.exports import open_cached
from moeviz.formats.importers.importer import Opened
from moeviz.history.systems import SYSTEMS
from moeviz.metrics.expert_names import expert_names, names_that_hold
from moeviz.metrics.parameters import varying_routes_in_words
from moeviz.metrics.routes import RouteRegret
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz.training.reading import is_run
from moeviz_app import settings

MOST = 256  # pictures and numbers
_known: dict[Hashable, Any] = {}

_once = st.cache_resource(show_spinner=False)

example = _once(example_trace)  # what pages show before anything has been run
over_training = _once(traces_over_training)
expert_table = _once(expert_table_of)
reference_muted = _once(muted_experts)
names_by_chance = _once(recorded_routing.names_by_chance)
_held_out = _once(reference_routing)


def opened_files() -> Iterator[tuple[str, Opened]]:
    """Return the names of the files that this server was started with, and what they hold, each read once.

    Runs and datasets are left out.

    Raises `InvalidTrace` if one holds nothing, and `MoevizError` where it cannot be read any more.
    """
    files = (path for path in settings.SETTINGS.files if not is_run(path) and not is_dataset(path))
    return ((Path(path).name, _in_file(path)) for path in files)


@st.cache_resource(max_entries=MOST_FILES, show_spinner="Reading the file …")
def _in_file(path: str) -> Opened:
    try:
        return open_cached(path)
    except OSError as error:
        raise MoevizError(f"{quoted(path)} cannot be read: {error.strerror or error}.") from error


def usual(model: ModelInfo) -> RoutingTrace | None:
    """Return a model's trace of other texts: there is one of our own, where layers and experts are the same."""
    if (known := held_out(model.name)) is None:
        return None
    same = (known.model.layers, known.model.num_experts, known.model.top_k)
    return known if same == (model.layers, model.num_experts, model.top_k) else None


def evaluation_routing() -> RoutingTrace:
    """Return the embedded model's trace of its evaluation texts, labelled by domain."""
    return over_training()[max(over_training())]


def held_out(model: str) -> RoutingTrace | None:
    """Return a model's trace of the held-out texts, with weights: what the page of an expert shows at first."""
    return _held_out(model) if model in ROUTING else None


@_once
def reference_routes() -> RouteRegret:
    """Return how well the embedded model routes tokens of the held-out texts."""
    from moeviz.recorded_answers import recorded_routes

    return recorded_routes()


@st.cache_resource(show_spinner="Opening the gallery …")
def gallery() -> dict[str, RoutingTrace]:
    """Return the trace that ships for each system of the history gallery; instead of Mixtral's, our small model's."""
    from moeviz.history.systems import shipped_trace

    traces = {row.title: shipped_trace(name) for name, row in SYSTEMS.items()}
    return traces | {"Ours (embedded)": evaluation_routing()}


T = TypeVar("T")


def cached_for_example(trace: object, what: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` returns: computed once for the example's trace, and each time for any other."""
    if trace is not example():
        return make()
    key = (id(trace), what)
    if key not in _known:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = make()
    return _known[key]


def once_per_trace(make: Callable[[RoutingTrace], T]) -> Callable[[RoutingTrace], T]:
    """Let a function of a trace run once for all visitors, as long as the trace is there; none is kept alive for it.

    What the function returns must not hold the trace.
    """
    known: WeakKeyDictionary[RoutingTrace, T] = WeakKeyDictionary()

    @wraps(make)
    def found(trace: RoutingTrace) -> T:
        if trace not in known:
            known[trace] = make(trace)
        return known[trace]

    return found


def names_of(model: ModelInfo, opened: Iterable[RoutingTrace] = ()) -> pd.DataFrame | None:
    """Return names of a model's experts, as `expert_names` has them: the same wherever they are shown.

    Our own models have them from the held-out texts that ship; others from the first of these `opened` traces that is
    of the model and has labels, or else several texts. None if nothing names them.
    """
    if (texts := usual(model)) is not None:
        return names_in(texts)
    own = [trace for trace in opened if layout(trace.model) == layout(model)]
    labelled = sorted(own, key=lambda trace: "label" not in trace.tokens)  # stable
    return next((names for trace in labelled if (names := names_in(trace)) is not None), None)


def names_of_layer(names: pd.DataFrame | None, layer: int) -> dict[int, str]:
    """Return the short names that hold of one layer's experts, by expert."""
    if names is None:
        return {}
    held = names_that_hold(names[names["layer"] == layer])
    return dict(zip(held["expert"].tolist(), held["short"], strict=True))


@once_per_trace
def names_in(trace: RoutingTrace) -> pd.DataFrame | None:
    """Return the names that the texts of a trace give its experts; None if they do not, as for a single text."""
    try:
        return expert_names(trace)
    except MissingField:
        return None


varying_routes = once_per_trace(varying_routes_in_words)


def layout(model: ModelInfo) -> tuple[object, ...]:
    """Return what two traces of the same model agree in."""
    return model.name, model.layers, model.num_experts, model.top_k


MIXED = "Mixed"
TELLING = (2, 20)  # layer and token of it: without that layer's expert for German, another token is likeliest
EXAMPLES = {
    MIXED: "The letter said: « Nous partons demain matin. » Er antwortete: Ich komme mit.\n"
    "def total(prices):\n    return sum(prices)\n12 + 30 = 42",
    "English": "In the beginning of the year the sea was calm, and the old captain walked along the shore.",
    "French": "Au commencement de l'année, la mer était calme, et le vieux capitaine marchait sur la plage.",
    "German": "Am Anfang des Jahres war das Meer ruhig, und der alte Kapitän ging jeden Abend am Ufer entlang.",
    "Python": 'import os\n\n\ndef read_lines(path):\n    """Return all lines of the file."""\n'
    "    with open(path) as f:\n        return [line.strip() for line in f]\n",
    "JSON": '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "alive": false}',
    "SQL": "SELECT name, COUNT(*) FROM orders WHERE price > 100 GROUP BY name ORDER BY name;",
    "Arithmetic": "12 + 30 = 42\n7 * 8 = 56\n100 - 37 = 63\n144 / 12 = 12\n",
}
