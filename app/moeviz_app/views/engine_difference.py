"""Two recordings of the same text, by two engines, in two precisions, in training and serving: where do they part?"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple
from weakref import ref

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.charts.engine_difference import AGREEMENT, MARGINS, PLACES
from moeviz.embedded import EMBEDDED
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics.conventions import Comparison, explain
from moeviz.metrics.engine_difference import (
    agreement_sentence,
    aligned,
    convention_sentence,
    engine_difference,
    engine_difference_summary,
    first_partings,
    tokens_caption,
    tokens_checked,
)
from moeviz.metrics.engine_tokens import margins_of_both, token_differences
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs import model_catalog, recorded
from moeviz_app.jobs.recorded import EXAMPLES, cached_for_example
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import PageAddress
from moeviz_app.widgets import pickers
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.messages import example_note, explained, say
from moeviz_app.widgets.pickers import PAIR, Pair, bring_up_pair, choice_of
from moeviz_app.widgets.run_panel import run_live

PRECISIONS = ("float32", "bfloat16")
CELLS = 6_000  # of the map of tokens, at most
MOST_TOKENS, FEWEST_TOKENS = 128, 16
MOST_SEQUENCES = 1_000  # in the table
_KEPT = "engine difference of a pair"
YOURS = "Your traces"
PLANTED, IN_PRECISIONS = EXAMPLE_PAIRS = ("Example: experts under other numbers", "Example: two precisions")
_OFFERED = "traces at which engine difference began"
TOKENS_LOOKED_AT = 4_096  # to find out whether two traces are of one text
RECORDED, UNDONE = VIEWS = ("As recorded", "With it undone")


class PairTables(NamedTuple):
    """The tables of a pair of traces."""

    found: Comparison
    recorded: pd.DataFrame | None  # layers as recorded; None if they have none alike, or nothing was undone
    checked: pd.DataFrame
    layers: pd.DataFrame
    partings: pd.DataFrame
    margins: pd.DataFrame | MissingField


def engine_difference_page() -> None:
    """Choose two traces; the answer in a sentence, then layer by layer, token by token, and by margins."""
    st.title("Engine difference", anchor=False)
    st.text("Two recordings of the same text: by two engines, in two precisions, in training and in serving.")
    for sentence in recent.restore():
        say(sentence)
    linked = bool(visit().pair_asked)
    waits = bring_up_pair()
    offered = pickers.offered(parts=False)
    if len(offered) < 2 and waits:
        return
    if len(offered) < 2:
        _say_where_traces_come_from()
    _begin(offered, linked and not waits)
    with explained():
        pair = _pair(offered)
        found = _compute_tables(pair)
        with st.container(border=True, key="answer"):
            for convention in found.found.conventions:
                st.text(convention_sentence(convention))
            for sentence in filter(None, (agreement_sentence(found.found), tokens_caption(found.checked))):
                st.text(sentence)
            st.text(engine_difference_summary(found.layers, found.partings))
        heading(AGREEMENT)
        picture_and_words(AGREEMENT, _choose_view(found))
        _places(found.found.undone, found)
        heading(MARGINS)
        with explained():
            if isinstance(found.margins, MissingField):
                raise found.margins
            picture_and_words(MARGINS, found.margins)


def _choose_view(found: PairTables) -> pd.DataFrame:
    """Ask whether layers are shown as recorded or with conventions undone, if there are both."""
    if found.recorded is None:
        return found.layers
    chosen = choice_of(st.segmented_control, "The second trace", VIEWS, session.ENGINE_VIEW, UNDONE)
    return found.recorded if chosen == RECORDED else found.layers


def _say_where_traces_come_from() -> None:
    example_note(
        "To compare two traces of the same text, open two files on the page Files, start the app with both "
        "(moeviz app A B), or run one prompt in two precisions."
    )
    session.link_to("Files", "Open files", ":material/upload:")


def _begin(offered: Mapping[str, RoutingTrace], linked: bool) -> None:
    """Begin with two traces of one text, else with the example; again when other traces appear, not in between."""
    if session.value(_OFFERED) == [*offered] and not linked:
        return
    session.set_value(_OFFERED, [*offered])
    chosen = [offered[name] for key in pickers.KEYS[:2] if (name := session.value(key)) in offered]
    pairs = ((other, newest) for newest, other in combinations(offered.values(), 2))  # the newest come first
    pair = next(filter(_of_one_text, ([(chosen[0], chosen[1])] if len(chosen) > 1 else []) + [*pairs]), None)
    if pair is not None and not linked:
        pickers.choose(*pair)
    session.set_value(session.ENGINE_EXAMPLE, PLANTED if pair is None and not linked else YOURS)


def _of_one_text(pair: Pair) -> bool:
    """Return whether two traces can be of one text and one model."""
    one, other = pair
    if one is other or max(one.model.num_experts) != max(other.model.num_experts):
        return False
    try:
        aligned((one.select(tokens=slice(0, TOKENS_LOOKED_AT)), other.select(tokens=slice(0, TOKENS_LOOKED_AT))))
    except MoevizError:
        return False
    return True


def _pair(offered: dict[str, RoutingTrace]) -> Pair:
    """Choose two of the visitor's traces, a recording with a planted convention, or texts in two precisions."""
    pairs = (*(YOURS,) * (len(offered) > 1), *EXAMPLE_PAIRS)
    shown = choice_of(st.segmented_control, "Compare", pairs, session.ENGINE_EXAMPLE, PLANTED)
    if shown == YOURS:
        return pickers.chosen(offered)
    if shown == PLANTED:
        st.text(
            "The recorded example, and a copy in which each expert has the next one’s number, as from an engine that "
            "counts from one: every token goes to the same experts."
        )
        return cached_for_example(recorded.example(), PLANTED, lambda: (recorded.example(), _planted()))
    st.text(f"The example texts, read first in {' and then in '.join(PRECISIONS)}.")
    one, other = (RunRequest("\n".join(EXAMPLES.values()), EMBEDDED, dtype=dtype) for dtype in PRECISIONS)
    model_catalog.check_on_offer(EMBEDDED)
    return cached_for_example(
        recorded.example(), PRECISIONS, lambda: (run_live(one, "one goes on"), run_live(other, "the other goes on"))
    )


def _planted() -> RoutingTrace:
    """Return the recorded example with other numbers for the experts, in ids and logits."""
    trace = recorded.example()
    numbers = np.array(trace.model.num_experts)[:, None, None]
    experts = np.where(trace.experts < 0, trace.experts, (trace.experts + 1) % numbers).astype(trace.experts.dtype)
    logits = None if trace.logits is None else np.roll(trace.logits, 1, axis=-1)
    return replace(
        trace, model=replace(trace.model, name=f"{trace.model.name}, renumbered"), experts=experts, logits=logits
    )


def _compute_tables(pair: Pair) -> PairTables:
    """Return the tables, cached while the pair is on screen: long texts take seconds. Raises what they raise."""
    known = session.result(_KEPT)
    if known and all(kept() is trace for kept, trace in zip(known[0], pair, strict=True)):
        return known[1]
    compared = explain(pair)
    undone = compared.undone
    tables = (
        compared,
        _as_recorded(pair, compared),
        tokens_checked(pair),
        engine_difference(undone),
        first_partings(undone),
    )
    try:
        found = PairTables(*tables, margins_of_both(undone))
    except MissingField as why:
        found = PairTables(*tables, why)
    session.keep_result(_KEPT, (tuple(map(ref, pair)), found))
    return found


def _as_recorded(pair: Pair, compared: Comparison) -> pd.DataFrame | None:
    if not compared.conventions:
        return None
    try:
        return engine_difference(pair)
    except MoevizError:  # rows or layers that only undoing brings together
        return None


def _places(pair: Pair, found: PairTables) -> None:
    """Draw the text where the two first part, or another place; and a table, if there are several texts."""
    heading(PLACES)
    total, layers = int(found.partings["tokens"].sum()), len(found.layers)
    size = min(max(CELLS // max(layers, 1), FEWEST_TOKENS), MOST_TOKENS)
    windows, window = max(1, -(-total // size)), 1
    if windows > 1:
        usual = _first_place(found.partings) // size + 1
        window = st.pagination(windows, key=f"{_KEPT} {id(pair[0])} {id(pair[1])} {size}", default=usual)
    with explained():
        picture_and_words(PLACES, token_differences(pair, (window - 1) * size, size))
    if len(found.partings) > 1:
        shown = found.partings.head(MOST_SEQUENCES)
        st.dataframe(shown.assign(text=shown["text"].map(visible)), hide_index=True, key="partings")


def _first_place(partings: pd.DataFrame) -> int:
    """Return where they first part, among the tokens of both; 0 if they do not."""
    before = partings["tokens"].cumsum().shift(fill_value=0) + partings["before"]
    parted = before[partings["layer"] >= 0]
    return int(parted.iloc[0]) if len(parted) else 0


def _pair_in_address() -> dict[str, str]:
    """Return the two traces that are compared; the page begins with an example."""
    return PAIR.written() if session.value(session.ENGINE_EXAMPLE) == YOURS else {}


ADDRESS = PageAddress(_pair_in_address, PAIR.fill_in)
