"""The choices of a visitor: one trace, one layer, one pair of layers and one token, which every page shows.

Widgets keep their values under the keys below, across pages too (`persist_state="session"`); the rest is typed:
`visit.py`. What all visitors share is in `jobs/`.
"""

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import streamlit as st

from moeviz.charts.overview import BRUSH, brushed_window
from moeviz.charts.theme import MAX_TOKENS
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs import recorded
from moeviz_app.jobs.model_catalog import LoadOptions
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.recent import remember
from moeviz_app.session.subject import DATASET as OF_DATASET
from moeviz_app.session.subject import TRACE, subject
from moeviz_app.session.visit import visit

PROMPT, MODEL, BOX = "prompt", "model", "prompt box"
NEW_TOKENS, TEMPERATURE, SEED = "new_tokens", "temperature", "seed"
LAYER, FIRST_LAYER, SECOND_LAYER = "layer", "first_layer", "second_layer"
WINDOW, STRIP, UPLOAD = "window", "strip", "upload"
RUN, OTHER_RUN, RUN_LAYER, RUN_AXIS, RUN_FILE = "training_run", "other_run", "run_layer", "run_axis", "run_file"
RUN_AT = "run_at"  # the step that the page Train looks back from; None: the last
RUN_PART, MOMENT, TRAINING_LAYER = "run_part", "moment", "training_layer"
DTYPE, DEVICE, SITE, KERNELS = "dtype", "device_map", "site", "kernels"
DECODING = "decoding"
FAMILIES, READING = "families", "reading"
TEXTS, TEXT_FILES, SOURCE = "texts", "text_files", "source"
CHANGE, AMOUNT = "change", "amount"
EXPERT_MB, GIGABYTES, DEVICES, PHASE = "expert_mb", "gigabytes", "devices", "served_phase"
REPEATS, ENGINE, ALL_LAYERS = "repeats", "engine", "all_layers"
GROUP, COUNTED_LAYER = "group", "counted_layer"  # of counts
COUNTED_PART, CARD, SERVE_PART = "counted_part", "card", "serve_part"
CARDS, SERVED_BITS, CONTEXT, SEQUENCES = "cards", "served_bits", "context", "sequences"  # on Serve
CORPUS_LAYER = "corpus_layer"  # of a dataset
FIRST_TRACE, SECOND_TRACE, THIRD_TRACE, BESIDE = "first_trace", "second_trace", "third_trace", "beside"
ENGINE_EXAMPLE, ENGINE_VIEW = "engine_example", "engine_view"  # on Engine difference
JUDGED_ON = "judged_on"  # on Serve
WORD = "searched_word"  # on the page Experts
EXPERTS_VIEW = "experts_view"
ROUTES_VIEW, ROUTES_BY, ALIKE, A_PATH = "routes_view", "routes_by", "alike", "path"  # of Explore, and on Routes
FIRST_KIND, SECOND_KIND, CONTINUED = "first_kind", "second_kind", "continued"  # on Contrast
PRUNING_SOURCE, CRITERIA, CUT, CUT_BY, SMALLER = "pruning_source", "criteria", "cut", "cut_by", "smaller"  # on Prune
BASE, CHILD, LINEAGE_LAYER = "base", "child", "lineage_layer"  # on Lineage
DEPTH = "depth"  # of the layers that are compared in three traces


def shown_trace() -> RoutingTrace:
    """Return the trace on screen: of the page's subject, one of its texts if the page shows one at a time."""
    one = subject()
    trace = one.read()
    if not isinstance(trace, RoutingTrace):
        trace = visit().trace or recorded.example()
    elif visit().takes.one_text and one.id in ROUTING:
        trace = text_of(one.id, visit().text)
    _choose_layers(trace)
    return trace


@lru_cache(8)
def text_of(model: str, number: int) -> RoutingTrace:
    """Return one of the texts that ship with their routing through one of our own models."""
    texts = recorded.held_out(model)
    assert texts is not None, "it is one of our own"
    return texts.select(tokens=(texts.tokens["sequence"] == number).to_numpy())


def dataset() -> ShownDataset | None:
    """Return the dataset on screen, if it is one. Raises `MoevizError` if it cannot be read any more."""
    one = subject()
    return one.read() if one.id.startswith(OF_DATASET) else None


def is_example() -> bool:
    """Return whether the trace on screen is the example that ships."""
    return shown_trace() is recorded.example()


def set_trace(trace: RoutingTrace, run: Hashable = None, title: str | None = None) -> None:
    """Show `trace` from now on, and remember which run made it; as `title`, or by the beginning of its text.

    A layer that it has too stays chosen, until a page points at another; the token does not, nor does a dataset.
    """
    _choose_layers(trace)
    st.session_state[WINDOW] = 1
    now = visit()
    now.subject = TRACE
    now.trace, now.is_placed, now.is_lost, now.why_waiting, now.why_refused = trace, False, False, None, None
    now.seen.names.clear()
    remember(trace, run, title)
    turn_page()


def _choose_layers(trace: RoutingTrace) -> None:
    """Choose some layers of a trace, if it does not have the chosen ones."""
    layers = trace.model.layers
    defaults = {LAYER: middle_layer(trace), FIRST_LAYER: layers[0], SECOND_LAYER: layers[-1]}
    for key, layer in defaults.items():
        if st.session_state.get(key) not in layers:
            st.session_state[key] = layer


def point_at(layer: int | None, token: int | None) -> None:
    """Choose this layer and this token, as far as the trace has them."""
    trace = shown_trace()
    visit().is_placed = True
    if layer in trace.model.layers:
        st.session_state[LAYER] = layer
    if token is not None and token < len(trace.tokens):
        st.session_state[WINDOW] = token // MAX_TOKENS + 1
        visit().token = token


def choose(layer: int, token: int) -> None:
    """Choose a layer and a token that are on screen, so that no page needs turning."""
    st.session_state[LAYER], visit().token = layer, token


LOST = (
    "Your earlier visit is gone: the server was restarted, or this tab was away for some minutes. Run your text again, "
    "and open your files again."
)


def notices() -> list[str]:
    """Return what stands above a page: why nothing is left of an earlier visit, and why a link's run waits."""
    return [why for why in (LOST if visit().is_lost else None, visit().why_waiting) if why is not None]


def wait(why: str, run: Hashable, layer: int | None, token: int | None) -> None:
    """Let the run that a link asks for wait, and with it the place in its trace."""
    visit().why_waiting, visit().awaited = why, (run, layer, token)


def point_at_awaited(run: Hashable) -> None:
    """Choose the place that a link named, where this is the run that has waited for somebody to press Run."""
    awaited, visit().awaited = visit().awaited, None
    if awaited is not None and awaited[0] == run:
        point_at(*awaited[1:])


def how() -> LoadOptions:
    """Return the options for loading the chosen model."""
    return LoadOptions(st.session_state.get(DTYPE), st.session_state.get(DEVICE))


def middle_layer(trace: RoutingTrace) -> int:
    """Return the layer to begin with."""
    return trace.model.layers[len(trace.model.layers) // 2]


def hold(trace: RoutingTrace, asked: int) -> None:
    """Keep what a run has so far of the tokens that were asked for, in case it is stopped."""
    visit().unfinished = trace, asked


def keep_held() -> None:
    """Callback of Stop, and first of all in every script: show what a run had that something else has ended.

    The trace says that it was stopped.
    """
    held, visit().unfinished = visit().unfinished, None
    if held is not None:
        trace, asked = held
        has = int((trace.tokens["phase"] == "generated").sum())
        words = f"{trace.model.decoding}; stopped with {has:,} of {asked:,} tokens"
        stopped = replace(trace, model=replace(trace.model, decoding=words))
        set_trace(stopped)
        visit().box_of = stopped  # it stays with what is typed meanwhile


def keep_result(name: str, found: Any) -> None:
    """Keep this visitor's last result of that name."""
    visit().results[name] = found


def result(name: str) -> Any:
    """Return this visitor's last result of that name; None without one."""
    return visit().results.get(name)


def forget_result(name: str) -> None:
    """Callback of Back to what ships."""
    visit().results.pop(name, None)


def selected_token() -> int | None:
    """Return the row of the chosen token in the `tokens` of the trace on screen; None if it has no such row."""
    token = visit().token
    return token if token is not None and token < len(shown_trace().tokens) else None


def pick_from_strip() -> None:
    """Callback of the token strip, which has no pick where it left the page at the same moment."""
    if (pick := getattr(st.session_state.get(STRIP), "pick", None)) is not None:
        visit().token, visit().is_placed = int(pick), True


def turn_page() -> None:
    """Callback of the pages of a long trace: the chosen token is out of sight, and no stretch is marked."""
    visit().token = visit().brushed = None
    visit().overviews += 1


def chosen_layers(how_many: Literal["one", "two"]) -> tuple[int, ...]:
    """Return the layer, or the pair of layers, that the visitor looks at."""
    keys = {"one": (LAYER,), "two": (FIRST_LAYER, SECOND_LAYER)}[how_many]
    return tuple(st.session_state[key] for key in keys)


def link_to(
    title: str, label: str, icon: str = ":material/arrow_forward:", query: dict[str, str] | None = None
) -> None:
    """Draw a link to the page of that title; nothing if a page is served without the others."""
    if title in (pages := visit().pages):
        st.page_link(pages[title], label=label, icon=icon, width="content", query_params=query)


def windows(trace: RoutingTrace) -> int:
    """Return the number of windows of tokens that `trace` falls into."""
    return max(1, -(-len(trace.tokens) // MAX_TOKENS))


def window() -> range:
    """Return the rows of the tokens on screen: those brushed in the overview, or else those of the page."""
    if (brushed := visit().brushed) is not None:
        return brushed
    start, tokens = (st.session_state.get(WINDOW, 1) - 1) * MAX_TOKENS, len(shown_trace().tokens)
    start = start if start < tokens else 0
    return range(start, min(start + MAX_TOKENS, tokens))


def pick_from_overview() -> None:
    """Callback of the overview. Without a brush the page holds again; with one, it is the page where that begins."""
    brush = selected(f"overview {visit().overviews}", BRUSH)
    rows = brushed_window(brush["start"], len(shown_trace().tokens)) if brush else None
    visit().token, visit().brushed = None, rows
    if rows is not None:
        st.session_state[WINDOW] = rows.start // MAX_TOKENS + 1


def value(key: str) -> Any:
    """Return a widget's value; None before it was drawn."""
    return st.session_state.get(key)


def selected(key: str, parameter: str) -> Any:
    """Return what is chosen in a chart, in its callback; None without a choice, and where the chart left the page."""
    drawn = value(key)
    return None if drawn is None else drawn.selection.get(parameter)


def keep(key: str) -> None:
    """Let a widget keep its value on another page. Streamlit drops a value that only we have set with the page,
    unless it is set anew.
    """
    st.session_state[key] = st.session_state[key]


def set_value(key: str, value: object) -> None:
    """Let a widget hold something, before it is drawn."""
    st.session_state[key] = value


def start_with(key: str, value: object) -> None:
    """Give a widget its first value."""
    st.session_state.setdefault(key, value)
