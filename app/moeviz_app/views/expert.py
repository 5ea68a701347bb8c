"""The page of one expert: its tokens, its partners, the flow through it, and the loss without it.

For a dataset instead of a trace: its load, its tokens in their text, kinds of text and partners, as answers come.
"""

from functools import partial

import pandas as pd
import streamlit as st

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.expert import ATLAS, COMPANY, FLOW, KINDS, LOADS, ROWS, TOKENS, WEIGHTS
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.errors import DamagedShard
from moeviz.metrics.expert import FEW, expert_numbers, loss_of_all, need_sentence, row_norms, with_losses
from moeviz.metrics.expert_names import expert_name_sentence
from moeviz.metrics.expert_tokens import contexts, expert_summary, expert_summary_of_counts
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.words import in_words_of
from moeviz_app.jobs import model_catalog
from moeviz_app.session.subject import choose
from moeviz_app.url.navigation import asked_query
from moeviz_app.views.expert_context import (
    FIRST,
    LINES,
    NUMBERS,
    PARTNERS,
    SHARES,
    ExpertInDataset,
    ExpertInTrace,
    chosen_token,
    names,
    numbers_line,
    panel,
    picture,
    seen_expert,
    title,
)
from moeviz_app.views.expert_jobs import muted, offer_muting, offer_rows, offer_weights, rows
from moeviz_app.widgets.answers import Answers, damage, whole
from moeviz_app.widgets.chart_panel import heading
from moeviz_app.widgets.components.texts import keyword_in_context
from moeviz_app.widgets.expert_links import SeenExpert
from moeviz_app.widgets.facts import dataset_facts
from moeviz_app.widgets.messages import escape_markdown, explained, note, say

MOST_KINDS, MOST_MAPS = 40, 100  # labels of a dataset that are drawn; there may be thousands
PLACES, PLACES_DRAWN = "Its tokens, drawn at random", 8
NO_TOKEN = "No token occurs often enough here and keeps to it."
NEEDS_TRACE = (
    "A dataset keeps counts of first choices from one layer to the next, and is never read whole, so these take a "
    "trace: how much weight it has, and which experts of other layers have the same tokens in any slot. “moeviz "
    "convert FOLDER trace.npz” makes one of a small dataset."
)


def expert_page() -> None:
    """Draw the page of one expert of one layer, named in the address, as the subject on screen shows it."""
    with explained():
        seen = seen_expert(asked_query())
        title(seen)
        if isinstance(seen, ExpertInDataset):
            _draw_of_dataset(seen)
        else:
            _draw_of_trace(seen)


def _draw_of_trace(seen: ExpertInTrace) -> None:
    trace, where = seen.trace, (seen.layer, seen.expert)
    tokens = TOKENS.measure(trace, *where)
    kinds, lost = KINDS.measure(trace, *where) if "label" in trace.tokens else None, muted(seen)
    if kinds is not None and lost is not None:
        kinds = with_losses(kinds, lost, *where)
    head, beside = st.columns([5, 3], gap="large")
    with head:
        if seen.trouble:
            say(seen.trouble)
        by_kind = kinds is not None and kinds["stands_out"].any()  # then its tokens have only their picture
        summary = expert_summary(trace, *where, tokens.head(0) if by_kind else tokens, kinds)
        st.markdown(f"##### {escape_markdown(summary)}")
        numbers = expert_numbers(trace, *where)
        without = [] if lost is None else [f"muted, the model loses **{loss_of_all(lost, *where):.3f}** nats per token"]
        numbers_line(numbers, *without)
        if 0 < (has := numbers["tokens"].item()) < FEW and numbers["recorded"].item() >= HANDFUL:
            note(f"It has only {has} of these tokens: shares and ratios of so few say little.")
        left, right = st.columns(2, gap="large")
        with left:
            _kinds(seen, kinds, lost)
        with right:
            _serves(seen, tokens, numbers)
        if kinds is not None and lost is not None and (sentence := need_sentence(kinds)):
            st.text(sentence)
        if (known := names(seen)) is not None and (sentence := expert_name_sentence(known, *where)):
            st.text(sentence)
    with beside:
        picture(seen, LOADS, LOADS.measure(trace, *where))
    shared_tokens = COMPANY.measure(trace, *where)
    nowhere = "None of its tokens was recorded a layer before or after."
    if len(seen.model.layers) == 1:
        nowhere = "This trace has one MoE layer, so its tokens come from no other and go to no other."
    left, right = st.columns(2, gap="large")
    with left:
        panel(seen, FLOW, FLOW.measure(trace, *where, shared_tokens), nowhere)
    with right:
        _weights(seen)
    panel(seen, COMPANY, shared_tokens)
    if kinds is not None:
        panel(seen, ATLAS, ATLAS.measure(trace, *where))
    _rows(seen)


def _draw_of_dataset(seen: ExpertInDataset) -> None:
    if seen.trouble:
        say(seen.trouble)
    dataset_facts(seen.shown)
    if not whole(seen.shown):
        return
    token = chosen_token(seen)
    asks = seen.questions(token)
    answers = Answers(dict(asks.values()))
    head, beside = st.columns([5, 3], gap="large")
    with head:
        sentence, numbers = st.empty(), st.empty()
        left, right = st.columns([2, 3], gap="large")

    def answer(what: Chart | str) -> pd.DataFrame | None:
        return answers.drawn(asks[what][0], seen.model, what if isinstance(what, Chart) else None)

    try:
        with numbers.container():
            if (known := answer(NUMBERS)) is not None:
                numbers_line(known)
        with beside:
            if (loads := answer(LOADS)) is not None:
                picture(seen, LOADS, loads)
        with right:
            _sample(seen, answer(LINES), known, token)
        with left:
            if (of_layer := answer(TOKENS)) is not None:
                tokens = of_layer[of_layer["expert"] == seen.expert].drop(columns="expert").reset_index(drop=True)
                if known is not None:
                    has = int(known["tokens"].iloc[0]), int(known["recorded"].iloc[0])
                    sentence.markdown(f"##### {escape_markdown(expert_summary_of_counts(*has, tokens))}")
                panel(seen, TOKENS, tokens, NO_TOKEN)
        nowhere = "It is the first choice of no token that has one in a layer before or after."
        for chart, nothing, most in (
            (SHARES, "", MOST_KINDS),
            (FIRST, nowhere, None),
            (PARTNERS, "", None),
            (ATLAS, "", MOST_MAPS),
        ):
            if chart in asks and (frame := answer(chart)) is not None:
                panel(seen, chart, frame, nothing, most)
    except DamagedShard as error:
        damage(seen.shown, error)
        return
    answers.watch()
    say(NEEDS_TRACE)


@st.fragment
def _serves(seen: ExpertInTrace, tokens: pd.DataFrame, numbers: pd.DataFrame) -> None:
    """Draw places in the text, and the expert's tokens. In a fragment, so that a click changes nothing else."""
    code = chosen_token(seen)
    _sample(seen, contexts(seen.trace, seen.layer, seen.expert, code, PLACES_DRAWN, seen.sample), numbers, code)
    panel(seen, TOKENS, tokens, NO_TOKEN)


def _sample(
    seen: ExpertInTrace | ExpertInDataset, lines: pd.DataFrame | None, known: pd.DataFrame | None, token: int | None
) -> None:
    """Draw places in the text that are drawn at random, with a button that draws others."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(PLACES, anchor=False, width="content")
        if lines is not None and len(lines) and st.button("Draw others", help="With the next seed"):
            seen.go(seen.layer, seen.expert, sample=seen.sample + 1)
    if lines is None:
        return
    of, again = "its tokens" if known is None else f"{known['tokens'].iloc[0]:,}", ""
    if token is not None:
        of, again = "the places where it has this token", " Click the bar again for all tokens."
    words = f"{len(lines)} of {of}, in the order of the texts (seed {seen.sample}).{again}"
    _lines(seen, lines, in_words_of(seen.model, words) if len(lines) else "It has no token here.")


def _lines(seen: SeenExpert, lines: pd.DataFrame, words: str) -> None:
    """Draw places in the text, the token on the expert's colour, with a heading."""
    count = seen.model.num_experts[seen.model.layers.index(seen.layer)]
    keyword_in_context(lines, theme.expert_colours(count, (seen.expert,))[seen.expert], key="contexts")
    note(words)


def _kinds(seen: ExpertInTrace, kinds: pd.DataFrame | None, lost: pd.DataFrame | None) -> None:
    if kinds is not None:
        panel(seen, KINDS, kinds)
    else:
        heading(KINDS, seen.model)
        _tell(seen, "The tokens of this trace have no labels, so there are no kinds of text to compare.")
        if seen.model.name in ROUTING:
            st.button("Look at the 60 texts of 15 kinds", on_click=partial(choose, seen.model.name))
    if lost is None and model_catalog.why_only_read(seen.model.name) is None:
        _tell(seen, "What is lost without this expert has not been computed for these texts.")
        offer_muting(seen)


def _weights(seen: ExpertInTrace) -> None:
    if seen.trace.weights is None:
        heading(WEIGHTS, seen.model)
        _tell(seen, "This trace has only expert ids. Their weights were not recorded.")
        offer_weights(seen)
        return
    panel(seen, WEIGHTS, WEIGHTS.measure(seen.trace, seen.layer, seen.expert), "It is chosen for no token here.")


def _rows(seen: ExpertInTrace) -> None:
    geometry = rows(seen)
    if geometry is None and model_catalog.why_only_read(seen.model.name) is not None:
        return
    heading(ROWS, seen.model)
    if geometry is None:
        st.text("This is a fact about the model's weights, which a trace does not hold.")
        offer_rows(seen)
        return
    (norm,) = row_norms(geometry, seen.layer, seen.expert).itertuples(index=False)
    others = f"those of its layer are {norm.lowest:.2f} to {norm.highest:.2f}, the median {norm.median:.2f}"
    st.text(f"The norm of its row is {norm.norm:.2f}; {others}.")
    picture(seen, ROWS, ROWS.measure(geometry, seen.layer, seen.expert))


def _tell(seen: ExpertInTrace, sentence: str) -> None:
    """Explain why there is nothing to draw, in the words of the trace."""
    st.text(in_words_of(seen.model, sentence))
