"""The page of one expert, as a dataset shows it: its load, its tokens in their text, kinds of text, partners."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import datasets, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.url.expert import dataset_expert_query, for_the_address
from moeviz_app.views.expert_context import checked, map_of_experts, numbers_line, picture, picture_key, title
from moeviz_app.views.topic import READING, damage, dataset_facts, whole
from moeviz_app.widgets.answers import Answers, Make, OnProgress
from moeviz_app.widgets.chart_panel import (
    Lacking,
    heading,
    tell_once,
)
from moeviz_app.widgets.components.kwic import keyword_in_context
from moeviz_app.widgets.expert_links import one_more_step
from moeviz_app.widgets.messages import escape_markdown, explained, note, say

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.expert import ATLAS, COMPANY, FLOW, KINDS, LOADS, TOKEN, TOKENS
from moeviz.corpus import experts
from moeviz.corpus.experts import expert_specific_tokens
from moeviz.corpus.rows import contexts, in_lines
from moeviz.errors import DamagedShard
from moeviz.metrics.expert_tokens import expert_summary_of_counts
from moeviz.model_info import ModelInfo

MOST_KINDS = 40  # bars; labels may be thousands
MOST_MAPS = 100
NUMBERS, LINES = "numbers", "contexts"
SHARES = replace(
    KINDS,
    question="What does it take of each kind of text?",
    reading="Bars: its share of the kind's tokens, times a uniform share. Luck is not judged here: that needs the "
    "counts of each text.",
)
PARTNERS = replace(
    COMPANY,
    question="Who in its layer has the same tokens?",
    reading="Of its tokens, how many every other expert of the layer has, times what chance gives a partner. Click an "
    "expert to see it.",
)
FIRST = replace(
    FLOW,
    question="Where are the tokens whose first choice it is, a layer before and a layer after?",
    reading="The experts that are the first choice of most of these tokens one layer before and one after; wider is "
    "more tokens, orange is more than that expert has of all first choices.",
    measure=experts.expert_flow,
)
NEEDS_TRACE = (
    "A dataset keeps counts of first choices from one layer to the next, and is never read whole, so these take a "
    "trace: how much weight it has, and which experts of other layers have the same tokens in any slot. “moeviz "
    "convert FOLDER trace.npz” makes one of a small dataset."
)


@dataclass(frozen=True, slots=True)
class ExpertQuery:
    """One expert, in one dataset, with a sample of its contexts: of all its tokens, or of one of the vocabulary."""

    shown: ShownDataset
    layer: int
    expert: int
    sample: int
    token: int | None

    @property
    def key(self) -> str:
        """For widgets: another expert has another."""
        return f"{self.shown.key} {self.layer} {self.expert}"

    @property
    def model(self) -> ModelInfo:
        """The model that the expert is of."""
        return self.shown.dataset.model

    def go(self, layer: int, expert: int, sample: int = 0) -> None:
        """To another expert, or other contexts: one step in the browser's history."""
        st.query_params.from_dict(for_the_address(dataset_expert_query(self.shown.name, layer, expert, sample)))
        one_more_step()
        st.rerun(scope="app")


def dataset_expert_page(query: dict[str, str]) -> None:
    """The expert that the address names, in the dataset that it names: one that is listed, whatever it says."""
    place = st.empty()
    place.title("Expert", anchor=False)
    with explained():
        shown = datasets.named(query["dataset"])
        session.set_value(session.DATASET, shown.name)
        layer, expert, trouble = checked(query.get("layer"), query.get("expert"), shown.dataset.model)
        asked = ExpertQuery(shown, layer, expert, number_in(query.get("sample")) or 0, None)
        asked = replace(asked, token=_chosen_token(asked))
        with place.container():
            title(asked)
        if trouble:
            say(trouble)
        dataset_facts(shown)
        if whole(shown):
            _draw(asked)


def _chosen_token(asked: ExpertQuery) -> int | None:
    """The token whose bar is chosen."""
    chosen = session.value(picture_key(TOKENS, asked))
    points = chosen.selection.get(TOKEN, []) if chosen is not None else []
    return next((int(point["code"]) for point in points), None)


def _questions(asked: ExpertQuery) -> dict[str, tuple[Hashable, Make]]:
    """By name: what each answer is kept under, and how it comes about; those that read rows come last."""
    shown, where = asked.shown, (asked.layer, asked.expert)

    def of_tables(analysis: Any) -> tuple[Hashable, Make]:
        return (shown.key, analysis.__name__, *where), lambda _tell: analysis(shown.dataset, *where)

    def lines(progress: OnProgress) -> pd.DataFrame:
        found = contexts(shown.dataset, *where, seed=asked.sample, token_id=asked.token, progress=progress)
        return in_lines(found)

    def keeping(progress: OnProgress) -> pd.DataFrame:
        return expert_specific_tokens(shown.dataset, asked.layer, progress=progress)

    asks = {NUMBERS: of_tables(experts.expert_numbers), LOADS.key: of_tables(experts.expert_loads)}
    if shown.dataset.kept.labels:
        asks[KINDS.key] = of_tables(experts.expert_kinds)
    asks[LINES] = ((shown.key, LINES, *where, asked.sample, asked.token), lines)
    asks[COMPANY.key] = of_tables(experts.partners)
    if len(shown.dataset.model.layers) > 1:
        asks[FIRST.key] = of_tables(experts.expert_flow)
    if shown.dataset.kept.labels:
        asks[ATLAS.key] = of_tables(experts.expert_atlas)
    return asks | {TOKENS.key: ((shown.key, TOKENS.key, asked.layer), keeping)}


def _draw(asked: ExpertQuery) -> None:
    asks = _questions(asked)
    answers, told = Answers(dict(asks.values())), Lacking()
    head, beside = st.columns([5, 3], gap="large")
    with head:
        sentence, numbers = st.empty(), st.empty()
        left, right = st.columns([2, 3], gap="large")

    def answer(name: str, chart: Chart | None = None) -> pd.DataFrame | None:
        """Return an answer; None where the page has said, under the chart's question, why there is none."""
        frame = None
        with explained(partial(tell_once, chart, asked.model, told) if chart else say, but=(DamagedShard,)):
            frame = answers.get(asks[name][0])
            if frame is None:
                if chart:
                    heading(chart, asked.model)
                st.text(READING)
        return frame

    try:
        with numbers.container():
            known = answer(NUMBERS)
            if known is not None:
                numbers_line(next(known.itertuples(index=False)))
        with beside:
            if (frame := answer(LOADS.key, LOADS)) is not None:
                _map(LOADS, frame, asked)
        with right:
            _contexts(asked, answer(LINES), known)
        with left:
            _tokens(asked, answer(TOKENS.key, TOKENS), known, sentence)
        for chart, most in ((SHARES, MOST_KINDS), (FIRST, None), (PARTNERS, None), (ATLAS, MOST_MAPS)):
            if chart.key in asks and (frame := answer(chart.key, chart)) is not None:
                heading(chart, asked.model)
                _map(chart, _first_labels(frame, most), asked)
    except DamagedShard as error:
        damage(asked.shown, error)
        return
    answers.watch()
    say(NEEDS_TRACE)


def _contexts(asked: ExpertQuery, lines: pd.DataFrame | None, known: pd.DataFrame | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Where in the text does it have them?", anchor=False, width="content")
        if lines is not None and len(lines) and st.button("Draw others", help="Another sample of its tokens"):
            asked.go(asked.layer, asked.expert, asked.sample + 1)
    if lines is None:
        return
    count = asked.model.num_experts[asked.model.layers.index(asked.layer)]
    keyword_in_context(lines, theme.expert_colours(count, (asked.expert,))[asked.expert], key="contexts")
    if asked.token is not None:
        of = "places where it has this token"
    else:
        of = "its tokens" if known is None else f"its {known['tokens'].iloc[0]:,} tokens"
    words = f"{len(lines)} of {of}, drawn at random (sample {asked.sample}), in the order of the corpus."
    if asked.token is not None:
        words += " Click the bar again for all tokens."
    note(words if len(lines) else "It has no token here.")


def _tokens(asked: ExpertQuery, of_layer: pd.DataFrame | None, known: pd.DataFrame | None, sentence: Any) -> None:
    if of_layer is None:
        return
    tokens = of_layer[of_layer["expert"] == asked.expert].drop(columns="expert").reset_index(drop=True)
    if known is not None:
        has, recorded = int(known["tokens"].iloc[0]), int(known["recorded"].iloc[0])
        sentence.markdown(f"##### {escape_markdown(expert_summary_of_counts(has, recorded, tokens))}")
    heading(TOKENS)
    if len(tokens):
        picture(TOKENS, tokens, asked, on_select="rerun", selection_mode=TOKEN)
    else:
        st.text("No token occurs often enough here and keeps to it.")


def _first_labels(frame: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """As many kinds of text as can be drawn, those first of which the expert has most; and how many there are."""
    if most is None or frame["label"].nunique() <= most:
        return frame
    labels = list(dict.fromkeys(frame["label"]))
    st.text(f"The {most} of {len(labels):,} kinds of text that it takes most of.")
    return frame[frame["label"].isin(labels[:most])]


def _map(chart: Chart, frame: pd.DataFrame, asked: ExpertQuery) -> None:
    """A picture; where its marks are experts, each is a way to its page."""
    if chart is FIRST and frame.empty:
        st.text("It is the first choice of no token that has one in a layer before or after.")
        return
    if chart in (SHARES, FIRST):
        picture(chart, frame, asked)
    else:
        map_of_experts(chart, frame, asked)
