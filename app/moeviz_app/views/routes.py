"""Routes: were tokens routed well, and which paths do they take? A part of Explore, and a tab of Experts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts.routes import GAINS, RANKS, ROUTES, STAKE, WELL, WHOSE
from moeviz.errors import InvalidTrace
from moeviz.metrics.expert_names import sample_of_texts
from moeviz.metrics.paths import PathTable, path_table, shared_by_chance, similar_tokens, tokens_of_path
from moeviz.metrics.routes import RouteRegret, blind_spots, route_sentences
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz_app.jobs.recorded import once_per_trace, reference_routes, usual
from moeviz_app.session import session
from moeviz_app.url.fields import MOST_SEARCHED, page_address, short_text
from moeviz_app.url.navigation import expert_query
from moeviz_app.views.expert_jobs import offer_routes, routes_of
from moeviz_app.views.experts import say_sample, texts_on_screen
from moeviz_app.widgets.chart_panel import heading, picture_and_words, tag
from moeviz_app.widgets.expert_links import open_expert
from moeviz_app.widgets.messages import example_note, explained, note, say
from moeviz_app.widgets.pickers import choice_of

PAGE = "Routes"
ADDRESS = page_address(short_text("through", session.A_PATH, cleared=True))
VIEWS = {"How much is at stake": STAKE, "How well it was routed": WELL}
GROUPS = {
    "certainty": "certainty",
    "layer": "layer",
    "label": "kind of text",
    "kind": "class of token",
    "place": "place",
}
ALIKE = 8  # tokens
COLUMNS = {  # of paths, as a page says them
    "path": "layer: experts",
    "tokens": "tokens",
    "lift": "× independent layers",
    "tokens_aside": "tokens of other texts",
    "lift_aside": "× independent layers there",
    "holds": "beyond chance there",
    "examples": "examples",
}


def show_routes(trace: RoutingTrace) -> None:
    """Draw, under the explorer, what is at stake for each token and layer, and all routes of the chosen ones."""
    with st.expander("Was it routed well?", expanded=routes_of(trace) is not None), explained():
        if (found := routes_of(trace)) is None:
            offer_routes(trace)
            return
        for sentence in route_sentences(found)[:1]:
            st.text(in_words_of(trace.model, sentence))
        _left_out(found)
        view = choice_of(st.segmented_control, "Colour", list(VIEWS), session.ROUTES_VIEW, next(iter(VIEWS)))
        chart = VIEWS.get(view, STAKE)
        heading(chart)
        picture_and_words(chart, chart.measure(found), model=trace.model)
        (layer,), token = session.chosen_layers("one"), session.selected_token()
        if token is None:
            say("Choose a token above, to see all its routes.")
            return
        sequence, position = (int(trace.tokens[name].iloc[token]) for name in ("sequence", "position"))
        heading(ROUTES)
        if (sentence := found.sentence(sequence, position, layer)) is None:
            say("The last token and special ones have no routes to compare: choose another token above.")
            return
        st.text(sentence)
        picture_and_words(ROUTES, ROUTES.measure(found, sequence, position, layer))


def show_alike(trace: RoutingTrace) -> None:
    """Draw, under the explorer, the tokens of the texts that ship that are routed most like the chosen one."""
    texts, token = usual(trace.model), session.selected_token()
    if texts is None or token is None:
        return
    place = st.expander("Which tokens of other texts are routed like this one?", key="alike is open", on_change="rerun")
    if not place.open:
        return
    text = visible(trace.tokens["text"].iloc[token])
    with place, explained():
        st.text(f"These tokens of the held-out texts share most of the experts of “{text}”; {_chance(texts)}.")
        _tokens(similar_tokens(texts, token, ALIKE, of=trace))


def routes_page() -> None:
    """Judge the routes of the texts on screen by layer, certainty and kind; their paths; and tokens routed alike."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(PAGE, anchor=False, width="content")
        tag()
    with explained():
        if (trace := texts_on_screen()) is not None:
            _judged(trace)
            _paths(trace)
            _alike(trace)


def _judged(trace: RoutingTrace) -> None:
    st.subheader("Was it routed well?", anchor=False)
    if (found := routes_of(trace)) is None:
        from moeviz.recorded_answers import POSITIONS

        offer_routes(trace, POSITIONS)
        return
    if found is reference_routes():
        example_note("To judge a text of your own, run it on Explore and open “Was it routed well?” there.")
    with st.container(border=True, key="answer"):
        for sentence in route_sentences(found):
            st.text(in_words_of(trace.model, sentence))
    _left_out(found)
    by = [name for name in GROUPS if name != "label" or "label" in found.cells]
    what = choice_of(st.segmented_control, "Groups", by, session.ROUTES_BY, by[0], format_func=GROUPS.get) or by[0]
    for chart in (RANKS, GAINS):
        heading(chart)
        picture_and_words(chart, chart.measure(found.cells, what), model=trace.model)
    spots = blind_spots(found.cells)
    if (blind := spots[spots["blind"] | spots["blind_ties"]]).size:
        st.subheader("Blind spots", anchor=False)
        note("Groups whose band reaches chance; of many groups one or two do by chance.")
        _table(blind.drop(columns=["low_gain", "high_gain", "spread", "blind", "blind_ties"]))
    if found.every:
        heading(WHOSE)
        picture_and_words(WHOSE, WHOSE.measure(found), model=trace.model)


def _paths(trace: RoutingTrace) -> None:
    st.subheader("Which paths do tokens take?", anchor=False)
    with explained():
        found = _paths_of(trace)
        say_sample(trace)
        for sentence in found.sentences():
            st.text(in_words_of(trace.model, sentence))
        shown = found.paths.assign(path=_addresses(found.paths))[list(COLUMNS)].rename(columns=COLUMNS)
        key = f"paths of {id(trace)}"
        _table(shown, on_select=partial(_choose_path, found, key), selection_mode="single-row", key=key)
        text = st.text_input(
            "A path, or a pair of experts",
            key=session.A_PATH,
            max_chars=MOST_SEARCHED,
            placeholder="0:3.1: layer 0, expert 3, and expert 1 in the next",
            help="Choose a row above, or type the first layer and an expert for each layer from there on.",
            persist_state="session",
        )
        if text:
            _show_path(trace, *_path_in(text))


def _choose_path(found: PathTable, key: str) -> None:
    """Write the path of the row that was just chosen into the box below the table; none if it was let go."""
    rows = st.session_state[key].selection.rows
    session.set_value(session.A_PATH, "".join(_addresses(found.paths.iloc[rows])))


def _addresses(paths: pd.DataFrame) -> list[str]:
    """Return paths as the box takes them: the first layer, and an expert for each layer from there on."""
    rows = zip(paths["first_layer"], paths["path"], strict=True)
    return [f"{first}:{'.'.join(map(str, path))}" for first, path in rows]


def _path_in(text: str) -> tuple[int, list[int]]:
    """Return the first layer and the experts of a path. Raises `InvalidTrace` for anything else."""
    first, _, experts = text.partition(":")
    if not all(part.strip().isdecimal() for part in (first, *experts.split("."))):
        raise InvalidTrace(f"A path is {quoted(text)}; it must be a layer and an expert for each layer, as 0:3.1.")
    return int(first), [int(expert) for expert in experts.split(".")]


def _show_path(trace: RoutingTrace, first_layer: int, path: Sequence[int]) -> None:
    """Draw the page of a path: its tokens, and the ways to its experts."""
    tokens = tokens_of_path(trace, first_layer, path)
    if tokens.empty:
        say("No token of these texts takes this path.")
        return
    layers = trace.model.layers[trace.model.layers.index(first_layer) :]
    with st.container(horizontal=True):
        for layer, expert in zip(layers, path, strict=False):
            if st.button(f"Layer {layer}, expert {expert}", key=f"path to {layer} {expert}"):
                open_expert(expert_query(layer, expert))
    _tokens(tokens)


@once_per_trace
def _paths_of(trace: RoutingTrace) -> PathTable:
    return path_table(sample_of_texts(trace))


def _alike(trace: RoutingTrace) -> None:
    st.subheader("Which tokens are routed like this one?", anchor=False)
    text = st.text_input("A token", key=session.ALIKE, max_chars=80, placeholder="return", persist_state="session")
    if text:
        with explained():
            found = similar_tokens(trace, text, ALIKE)
            note(f"Share of its experts, over all layers, that each of these has too; {_chance(trace)}.")
            _tokens(found)


def _chance(texts: RoutingTrace) -> str:
    return f"two tokens of these texts drawn at random share {shared_by_chance(texts):.0%}"


def _tokens(found: pd.DataFrame) -> None:
    names = [name for name in ("shared", "text", "context", "label") if name in found]
    _table(found[names])


def _left_out(found: RouteRegret) -> None:
    for layer, why in found.left_out.items():
        note(f"Layer {layer} is left out: {why}")


def _table(frame: pd.DataFrame, **options: Any) -> Any:
    texts = frame.select_dtypes(exclude="number").columns
    shown = frame.assign(**{name: frame[name].map(lambda text: visible(str(text))) for name in texts}).round(3)
    return st.dataframe(shown, hide_index=True, **options)
