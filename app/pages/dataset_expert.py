"""The page of one expert, as a dataset shows it: its load, its tokens in their text, kinds of text, partners."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from moeviz_app.jobs.run_request import number_in
from moeviz_app.pages.dataset_topic import READING, damage, dataset_facts, whole
from moeviz_app.pages.expert_context import checked
from moeviz_app.session import datasets, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.url.expert import dataset_expert_query, for_the_address
from moeviz_app.widgets.answers import Answers, Make, OnProgress
from moeviz_app.widgets.chart_panel import (
    Lacking,
    altair_chart,
    alternative,
    heading,
    menu_and_reading,
    on_dark,
    tell_once,
)
from moeviz_app.widgets.components.kwic import keyword_in_context
from moeviz_app.widgets.expert_links import one_more_step, steps
from moeviz_app.widgets.messages import escape_markdown, explained, note, say

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.expert import ATLAS, CELL, COMPANY, FLOW, KINDS, LOADS, TOKEN, TOKENS
from moeviz.corpus import experts
from moeviz.corpus.keeping import keeping_tokens
from moeviz.corpus.rows import contexts, in_lines
from moeviz.errors import DamagedShard
from moeviz.metrics.expert_tokens import expert_summary_of_counts

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
        return f"{self.shown.key} {self.layer} {self.expert} {steps()}"

    def go(self, layer: int, expert: int, sample: int = 0) -> None:
        """To another expert, or other contexts: one step in the browser's history."""
        st.query_params.from_dict(for_the_address(dataset_expert_query(self.shown.name, layer, expert, sample)))
        one_more_step()
        st.rerun(scope="app")


def dataset_expert_page(query: dict[str, str]) -> None:
    """The expert that the address names, in the dataset that it names: one that is listed, whatever it says."""
    title = st.empty()
    title.title("Expert", anchor=False)
    with explained():
        shown = datasets.named(query["dataset"])
        session.set_value(session.DATASET, shown.name)
        layer, expert, trouble = checked(query.get("layer"), query.get("expert"), shown.dataset.model)
        asked = ExpertQuery(shown, layer, expert, number_in(query.get("sample")) or 0, None)
        asked = replace(asked, token=_chosen_token(asked))
        with title.container():
            _title(asked)
        if trouble:
            say(trouble)
        dataset_facts(shown)
        if whole(shown):
            _draw(asked)


def _chosen_token(asked: ExpertQuery) -> int | None:
    """The token whose bar is chosen."""
    chosen = session.value(_tokens_key(asked))
    points = chosen.selection.get(TOKEN, []) if chosen is not None else []
    return next((int(point["code"]) for point in points), None)


def _tokens_key(asked: ExpertQuery) -> str:
    return f"{TOKENS.key} {asked.key}"


def _title(asked: ExpertQuery) -> None:
    model, layer, expert = asked.shown.dataset.model, asked.layer, asked.expert
    row, sizes = model.layers.index(layer), model.num_experts
    before, after = (row - 1) % len(sizes), (row + 1) % len(sizes)
    ways = {
        "‹ expert": (layer, (expert - 1) % sizes[row]),
        "expert ›": (layer, (expert + 1) % sizes[row]),
        "‹ layer": (model.layers[before], min(expert, sizes[before] - 1)),
        "layer ›": (model.layers[after], min(expert, sizes[after] - 1)),
    }
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"Layer {layer}, expert {expert}", anchor=False, width="content")
        for sign, to in ways.items():
            if st.button(sign, help=f"To layer {to[0]}, expert {to[1]}", disabled=to == (layer, expert)):
                asked.go(*to)


def _questions(asked: ExpertQuery) -> dict[str, tuple[Hashable, Make]]:
    """By name: what each answer is kept under, and how it comes about; those that read rows come last."""
    shown, where = asked.shown, (asked.layer, asked.expert)

    def of_tables(analysis: Any) -> tuple[Hashable, Make]:
        return (shown.key, analysis.__name__, *where), lambda _tell: analysis(shown.dataset, *where)

    def lines(progress: OnProgress) -> pd.DataFrame:
        found = contexts(shown.dataset, *where, seed=asked.sample, token_id=asked.token, progress=progress)
        return in_lines(found)

    def keeping(progress: OnProgress) -> pd.DataFrame:
        return keeping_tokens(shown.dataset, asked.layer, progress=progress)

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
        """What is there of it; else the page has said why, under the chart's question."""
        frame = None
        with explained(
            partial(tell_once, chart, asked.shown.dataset.model, told) if chart else say, but=(DamagedShard,)
        ):
            frame = answers.get(asks[name][0])
            if frame is None:
                if chart:
                    heading(chart, asked.shown.dataset.model)
                st.text(READING)
        return frame

    try:
        with numbers.container():
            known = answer(NUMBERS)
            if known is not None:
                _numbers(known)
        with beside:
            if (frame := answer(LOADS.key, LOADS)) is not None:
                _map(LOADS, frame, asked)
        with right:
            _contexts(asked, answer(LINES), known)
        with left:
            _tokens(asked, answer(TOKENS.key, TOKENS), known, sentence)
        for chart, most in ((SHARES, MOST_KINDS), (FIRST, None), (PARTNERS, None), (ATLAS, MOST_MAPS)):
            if chart.key in asks and (frame := answer(chart.key, chart)) is not None:
                heading(chart, asked.shown.dataset.model)
                _map(chart, _first_labels(frame, most), asked)
    except DamagedShard as error:
        damage(asked.shown, error)
        return
    answers.watch()
    say(NEEDS_TRACE)


def _numbers(known: pd.DataFrame) -> None:
    (facts,) = known.itertuples(index=False)
    said = [
        f"**{facts.times_uniform:.2f}×** a uniform load, rank {facts.rank} of {facts.num_experts}",
        f"has **{facts.tokens:,}** of {facts.recorded:,} tokens",
    ]
    if pd.notna(facts.first_choice):
        said.append(f"first choice for **{facts.first_choice:.0%}** of them")
    st.markdown("  ·  ".join(said if facts.recorded else said[1:2]))


def _contexts(asked: ExpertQuery, lines: pd.DataFrame | None, known: pd.DataFrame | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Where in the text does it have them?", anchor=False, width="content")
        if lines is not None and len(lines) and st.button("Draw others", help="Another sample of its tokens"):
            asked.go(asked.layer, asked.expert, asked.sample + 1)
    if lines is None:
        return
    count = asked.shown.dataset.model.num_experts[asked.shown.dataset.model.layers.index(asked.layer)]
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
        _picture(TOKENS, tokens, asked, on_select="rerun", selection_mode=TOKEN)
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
        _picture(chart, frame, asked)
        return
    chosen = _picture(chart, frame, asked, on_select="rerun", selection_mode=CELL)
    if points := chosen.selection.get(CELL):
        (point,) = points
        asked.go(int(point["layer"]), int(point["expert"]))


def _picture(chart: Chart, frame: pd.DataFrame, asked: ExpertQuery, **options: Any) -> Any:
    """The picture, how to read it, and a menu of what belongs to it."""
    drawn = chart.draw(frame, dark=on_dark())
    shown = altair_chart(drawn, key=f"{chart.key} {asked.key}", alt=alternative(chart), **options)
    menu_and_reading(chart, frame)
    return shown
