"""All that a visitor keeps over reruns: this file, `recent.py` and the prompt box alone touch session_state.

One visitor has one trace, one chosen layer, one pair of layers and one chosen token; every page shows those. Widgets
keep their values under the keys below, across pages too (`persist_state="session"`). What all share is in `shared.py`.
"""

from collections.abc import Hashable
from typing import Any, Literal

import streamlit as st
from moeviz_app.recent import remember
from moeviz_app.shared import How

from moeviz.charts.overview import BRUSH, brushed_window
from moeviz.charts.theme import MAX_TOKENS
from moeviz.routing_trace import RoutingTrace

PROMPT, EXAMPLE, MODEL = "prompt", "example", "model"
NEW_TOKENS, TEMPERATURE, SEED = "new_tokens", "temperature", "seed"
LAYER, FIRST_LAYER, SECOND_LAYER = "layer", "first_layer", "second_layer"
WINDOW, STRIP, HEATMAP, UPLOAD = "window", "strip", "heatmap", "upload"
MOMENT, TRAINING_LAYER = "moment", "training_layer"
_TRACE, _TOKEN, _OPENED, _HEATMAPS, _LIVE = "trace", "token", "opened", "heatmaps", "live"
DTYPE, DEVICE, SITE, KERNELS = "dtype", "device_map", "site", "kernels"
KERNELS_CHOICES = ("on", "off")
DECODING = "decoding"
DECODING_CHOICES = ("checkpoint",)
HOW = {DTYPE: ("float32", "bfloat16", "float16"), DEVICE: ("auto", "cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3")}
FAMILIES, READING, _RESULTS = "families", "reading", "results"
TEXTS, TEXT_FILES, SOURCE, TOUR = "texts", "text_files", "source", "tour"
CHANGE, CHANGED_LAYER, EXPERTS, TOP_K, PRECISION, EFFECT = (
    "change",
    "changed_layer",
    "experts",
    "changed_top_k",
    "precision",
    "effect",
)
FIRST_TRACE, SECOND_TRACE, BESIDE = "first_trace", "second_trace", "beside"
_BRUSHED, _OVERVIEWS = "brushed", "overviews"
CELL = "cell"  # the selection in the token by layer chart


def current_trace() -> RoutingTrace | None:
    """The trace that every page shows; None before the first run."""
    return st.session_state.get(_TRACE)


def set_trace(trace: RoutingTrace, run: Hashable = None) -> None:
    """Show `trace` from now on, and remember which run made it.

    A layer that it has too stays chosen; the token does not.
    """
    layers = trace.model.layers
    defaults = {LAYER: middle_layer(trace), FIRST_LAYER: layers[0], SECOND_LAYER: layers[-1]}
    for key, layer in defaults.items():
        if st.session_state.get(key) not in layers:
            st.session_state[key] = layer
    st.session_state.update({_TRACE: trace, WINDOW: 1})
    remember(trace, run)
    turn_page()


def point_at(layer: int | None, token: int | None) -> None:
    """Choose this layer and this token, as far as the trace has them."""
    trace = current_trace()
    if layer in trace.model.layers:
        st.session_state[LAYER] = layer
    if token is not None and token < len(trace.tokens):
        st.session_state[WINDOW] = token // MAX_TOKENS + 1
        st.session_state[_TOKEN] = token


def how() -> How:
    """How the chosen model is to be opened."""
    return How(st.session_state.get(DTYPE), st.session_state.get(DEVICE))


def middle_layer(trace: RoutingTrace) -> int:
    """The layer to begin with."""
    return trace.model.layers[len(trace.model.layers) // 2]


def hold(trace: RoutingTrace) -> None:
    """Keep what a run has so far, in case it is stopped."""
    st.session_state[_LIVE] = trace


def keep_held() -> None:
    """Callback of Stop, and first of all in every script: show what a run had that something else has ended."""
    if (trace := st.session_state.pop(_LIVE, None)) is not None:
        set_trace(trace)


def forget_held() -> None:
    """A new run begins: what an earlier one had is no longer wanted."""
    st.session_state.pop(_LIVE, None)


def keep_result(name: str, found: Any) -> None:
    """What this visitor's last training of a system of the gallery came to."""
    st.session_state.setdefault(_RESULTS, {})[name] = found


def result(name: str) -> Any:
    """That; None where it has not been trained."""
    return st.session_state.get(_RESULTS, {}).get(name)


def forget_result(name: str) -> None:
    """Callback of Back to what ships."""
    st.session_state.get(_RESULTS, {}).pop(name, None)


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


def turn_page() -> None:
    """Callback of the pages of a long trace: the chosen token is out of sight, and what was brushed does not hold."""
    overviews = st.session_state.get(_OVERVIEWS, 0)
    st.session_state.update({_TOKEN: None, _BRUSHED: None, _OVERVIEWS: overviews + 1})


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
    """Rows of the tokens on screen: those brushed in the overview, or else those of the page."""
    if (brushed := st.session_state.get(_BRUSHED)) is not None:
        return brushed
    start = (st.session_state.get(WINDOW, 1) - 1) * MAX_TOKENS
    return range(start, min(start + MAX_TOKENS, len(current_trace().tokens)))


def overview_key() -> str:
    """Widget key of the overview: a new one, without a brush, for each page that is turned to and each trace."""
    return f"overview {st.session_state.get(_OVERVIEWS, 0)}"


def pick_from_overview() -> None:
    """Callback of the overview. Without a brush the page holds again; with one, it is the page where that begins."""
    brush = st.session_state[overview_key()].selection.get(BRUSH)
    rows = brushed_window(brush["start"], len(current_trace().tokens)) if brush else None
    st.session_state.update({_TOKEN: None, _BRUSHED: rows})
    if rows is not None:
        st.session_state[WINDOW] = rows.start // MAX_TOKENS + 1


def value(key: str) -> Any:
    """What a widget holds."""
    return st.session_state.get(key)


def keep(key: str) -> None:
    """Let a widget hold on another page what it holds on this one.

    What only we have set, and nobody has moved, Streamlit gives up with the page, unless it is set anew.
    """
    st.session_state[key] = st.session_state[key]


def set_value(key: str, value: object) -> None:
    """Let a widget hold something, before it is drawn."""
    st.session_state[key] = value


def start_with(key: str, value: object) -> None:
    """Give a widget its first value."""
    st.session_state.setdefault(key, value)


def use_example(texts: dict[str, str]) -> None:
    """Callback of the examples: put the chosen one into the prompt."""
    if (name := st.session_state[EXAMPLE]) is not None:
        st.session_state[PROMPT] = texts[name]
        st.session_state[EXAMPLE] = None
