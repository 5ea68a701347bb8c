"""The page of one expert: what it serves, with whom, from where to where, and what is lost without it."""

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_catalog, recorded
from moeviz_app.url.expert import asked_query
from moeviz_app.url.fields import DATASET
from moeviz_app.views.dataset_expert import dataset_expert_page
from moeviz_app.views.expert_context import (
    ExpertContext,
    expert_in_address,
    go,
    map_of_experts,
    numbers_line,
    picture,
    title,
)
from moeviz_app.views.expert_jobs import muted, offer_muting, offer_rows, offer_weights, rows
from moeviz_app.widgets.chart_panel import heading
from moeviz_app.widgets.components.kwic import keyword_in_context
from moeviz_app.widgets.messages import escape_markdown, explained, note, say

from moeviz.charts import theme
from moeviz.charts.expert import ATLAS, COMPANY, FLOW, KINDS, LOADS, ROWS, TOKEN, TOKENS, WEIGHTS
from moeviz.embedded import EMBEDDED
from moeviz.metrics.expert import FEW, expert_numbers, loss_of_all, row_norms, with_losses
from moeviz.metrics.expert_tokens import contexts, expert_summary
from moeviz.metrics.words import in_words_of


def expert_page() -> None:
    """One expert of one layer, named in the address."""
    if DATASET in (query := asked_query()):
        dataset_expert_page(query)
        return
    place = st.empty()
    with explained():
        asked = expert_in_address()
        with place.container():
            _title(asked)
        _draw(asked)


def _draw(asked: ExpertContext) -> None:
    trace, where = asked.trace, (asked.layer, asked.expert)
    tokens = TOKENS.measure(trace, *where)
    kinds, lost = KINDS.measure(trace, *where) if "label" in trace.tokens else None, muted(asked)
    if kinds is not None and lost is not None:
        kinds = with_losses(kinds, lost, *where)
    head, beside = st.columns([5, 3], gap="large")
    with head:
        if asked.trouble:
            say(asked.trouble)
        st.markdown(f"##### {escape_markdown(expert_summary(trace, *where, tokens, kinds))}")
        _numbers(asked, kinds, lost)
        _serves(asked, tokens)
    with beside:
        map_of_experts(LOADS, LOADS.measure(trace, *where), asked)
    shared_tokens = COMPANY.measure(trace, *where)
    left, right = st.columns([2, 3], gap="large")
    with left:
        _kinds(asked, kinds, lost)
    with right:
        _flow(asked, shared_tokens)
        _weights(asked)
    heading(COMPANY, asked.trace.model)
    map_of_experts(COMPANY, shared_tokens, asked)
    if kinds is not None:
        heading(ATLAS, asked.trace.model)
        map_of_experts(ATLAS, ATLAS.measure(trace, *where), asked)
    _rows(asked)


def _title(asked: ExpertContext) -> None:
    title(asked)
    if asked.trace.model.name != EMBEDDED:
        note(asked.trace.model.name)


def _numbers(asked: ExpertContext, kinds: pd.DataFrame | None, lost: pd.DataFrame | None) -> None:
    """Say the expert's load and weight, and the loss without it: one line, since four boxes fill a phone."""
    (facts,) = expert_numbers(asked.trace, asked.layer, asked.expert).itertuples(index=False)
    more = [] if pd.isna(facts.mean_weight) else [f"mean weight {facts.mean_weight:.2f}"]
    if lost is not None:
        more.append(_loss(loss_of_all(lost, asked.layer, asked.expert), kinds))
    numbers_line(facts, *more)
    if 0 < facts.tokens < FEW:
        note(f"It has only {facts.tokens} of these tokens: shares and ratios of so few say little.")


def _loss(of_all: float, kinds: pd.DataFrame | None) -> str:
    words = f"muted, the model loses **{of_all:.3f}** nats a token"
    if kinds is None or kinds["loss_change"].isna().all():
        return words
    most = kinds.loc[kinds["loss_change"].idxmax()]
    return f"{words}, most in {escape_markdown(most['label'])}: {most['loss_change']:.2f}"


@st.fragment
def _serves(asked: ExpertContext, tokens: pd.DataFrame) -> None:
    """Draw the expert's tokens, and their places in the text. In a fragment, so that a click changes nothing else."""
    code, (left, right) = None, st.columns([2, 3], gap="large")
    with left:
        heading(TOKENS, asked.trace.model)
        if len(tokens):
            chosen = picture(TOKENS, tokens, asked, on_select="rerun", selection_mode=TOKEN)
            code = next((int(point["code"]) for point in chosen.selection.get(TOKEN, [])), None)
        else:
            _tell(asked, "No token occurs often enough here and keeps to it.")
    with right:
        st.subheader("Where in the text does it have them?", anchor=False)
        lines = contexts(asked.trace, asked.layer, asked.expert, code)
        count = asked.trace.model.num_experts[asked.trace.model.layers.index(asked.layer)]
        colour = theme.expert_colours(count, (asked.expert,))[asked.expert]
        keyword_in_context(lines, colour, key="contexts")
        note(in_words_of(asked.trace.model, _of_lines(lines, tokens, code)))


def _of_lines(lines: pd.DataFrame, tokens: pd.DataFrame, code: int | None) -> str:
    if not len(lines):
        return "It has no token here."
    order = "in the order of the text" if lines["weight"].isna().all() else "highest weight first (last column)"
    if code is None:
        return f"{len(lines)} of its tokens, at most two a token and, of several texts, three a text; {order}."
    has = int(tokens.loc[tokens["code"] == code, "tokens"].iloc[0])
    return f"{len(lines)} of the {has} that it has of this token; {order}. Click the bar again for all tokens."


def _kinds(asked: ExpertContext, kinds: pd.DataFrame | None, lost: pd.DataFrame | None) -> None:
    heading(KINDS, asked.trace.model)
    if kinds is None:
        _tell(asked, "The tokens of this trace have no labels, so there are no kinds of text to compare.")
        held_out = recorded.held_out(asked.trace.model.name)
        if held_out is not None and st.button("See the held-out texts"):
            go(asked.layer, asked.expert, held_out)
    else:
        picture(KINDS, kinds, asked)
    if lost is None and model_catalog.why_only_read(asked.trace.model.name) is None:
        _tell(asked, "What is lost without this expert has not been computed for these texts.")
        offer_muting(asked)


def _flow(asked: ExpertContext, shared_tokens: pd.DataFrame) -> None:
    heading(FLOW, asked.trace.model)
    frame = FLOW.measure(asked.trace, asked.layer, asked.expert, shared_tokens)
    if len(frame):
        picture(FLOW, frame, asked)
    elif len(asked.trace.model.layers) == 1:
        _tell(asked, "This trace has one MoE layer, so its tokens come from no other and go to no other.")
    else:
        _tell(asked, "None of its tokens was recorded a layer before or after.")


def _weights(asked: ExpertContext) -> None:
    heading(WEIGHTS, asked.trace.model)
    if asked.trace.weights is None:
        _tell(asked, "This trace has expert ids alone. How much weight each has was not recorded.")
        offer_weights(asked)
        return
    frame = WEIGHTS.measure(asked.trace, asked.layer, asked.expert)
    if len(frame):
        picture(WEIGHTS, frame, asked)
    else:
        _tell(asked, "It is chosen for no token here.")


def _rows(asked: ExpertContext) -> None:
    geometry = rows(asked)
    if geometry is None and model_catalog.why_only_read(asked.trace.model.name) is not None:
        return
    heading(ROWS, asked.trace.model)
    if geometry is None:
        st.text("This is a fact about the model's weights, which a trace does not hold.")
        offer_rows(asked)
        return
    (norm,) = row_norms(geometry, asked.layer, asked.expert).itertuples(index=False)
    others = f"those of its layer are {norm.lowest:.2f} to {norm.highest:.2f}, the median {norm.median:.2f}"
    st.text(f"The norm of its row is {norm.norm:.2f}; {others}.")
    picture(ROWS, ROWS.measure(geometry, asked.layer, asked.expert), asked)


def _tell(asked: ExpertContext, sentence: str) -> None:
    """Why there is nothing to draw, in the words of the trace."""
    st.text(in_words_of(asked.trace.model, sentence))
