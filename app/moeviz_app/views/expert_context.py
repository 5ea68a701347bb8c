"""The expert that the page is about, in a trace or a dataset: what the address says, and what is drawn of both."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts.chart import Chart
from moeviz.charts.expert import ATLAS, CELL, COMPANY, FLOW, KINDS, LOADS, TOKEN, TOKENS
from moeviz.corpus import experts
from moeviz.corpus.rows import contexts, in_lines
from moeviz.embedded import EMBEDDED
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.errors import MissingField
from moeviz.metrics.expert_names import BEATEN
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of, layer_word, percent
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz_app.jobs.recorded import names_of
from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import datasets, recent, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.subject import view
from moeviz_app.url.navigation import OF
from moeviz_app.widgets.answers import Make, OnProgress
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, menu, on_dark
from moeviz_app.widgets.expert_links import SeenExpert, steps
from moeviz_app.widgets.messages import escape_markdown, note

SELECTIONS = {LOADS.key: CELL, COMPANY.key: CELL, ATLAS.key: CELL, TOKENS.key: TOKEN}  # what a click in a chart chooses
# Questions to a dataset that are not charts, and charts that ask it something else than a trace.
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


@dataclass(frozen=True, slots=True)
class ExpertInTrace(SeenExpert):
    """One expert in a trace: its questions are answered at once."""

    trace: RoutingTrace
    held_out: bool  # whether the trace is that of the texts that ship
    sample: int  # which of its contexts are drawn


@dataclass(frozen=True, slots=True)
class ExpertInDataset(SeenExpert):
    """One expert in a dataset: its questions take a while. `sample` chooses which of its contexts are drawn."""

    shown: ShownDataset
    sample: int

    def questions(self, token: int | None) -> dict[Chart | str, tuple[Hashable, Make]]:
        """Return the key that each answer is cached under, and a function that computes it, in the order of the work.

        The contexts are those of one token of the vocabulary, or of all.
        """
        shown, where = self.shown, (self.layer, self.expert)

        def of_tables(analysis: Any) -> tuple[Hashable, Make]:
            return (shown.key, analysis.__name__, *where), lambda _tell: analysis(shown.dataset, *where)

        def lines(progress: OnProgress) -> pd.DataFrame:
            return in_lines(contexts(shown.dataset, *where, seed=self.sample, token_id=token, progress=progress))

        def keeping(progress: OnProgress) -> pd.DataFrame:
            return experts.expert_specific_tokens(shown.dataset, self.layer, progress=progress)

        asks: dict[Chart | str, tuple[Hashable, Make]] = {
            NUMBERS: of_tables(experts.expert_numbers),
            LOADS: of_tables(experts.expert_loads),
            SHARES: of_tables(experts.expert_kinds),
            LINES: ((shown.key, LINES, *where, self.sample, token), lines),
            PARTNERS: of_tables(experts.partners),
            FIRST: of_tables(experts.expert_flow),
            ATLAS: of_tables(experts.expert_atlas),
            TOKENS: ((shown.key, TOKENS.key, self.layer), keeping),  # which reads all rows of the layer: last
        }
        if not shown.dataset.kept.labels:
            del asks[SHARES], asks[ATLAS]
        if len(self.model.layers) == 1:
            del asks[FIRST]
        return asks


def seen_expert(asked: dict[str, str]) -> ExpertInTrace | ExpertInDataset:
    """Return the expert that the address names, in the subject on screen.

    Raises `MissingField` if nothing here is of the model that the address names, and `MoevizError` for a dataset that
    cannot be read any more.
    """
    look, sample = view(), number_in(asked.get("sample")) or 0
    if (wanted := asked.get(OF)) is not None and look.drawn.model != wanted:
        raise MissingField(
            f"This link is about an expert of {quoted(wanted)}, and there is no trace of that model here yet. Run a "
            "prompt with it, or open a trace file; then follow the link again."
        )
    if (shown := session.dataset()) is not None:
        return ExpertInDataset(shown.dataset.model, *checked(asked, shown.dataset.model), shown.key, shown, sample)
    trace = session.shown_trace()
    held_out = look.drawn.id in ROUTING
    key = f"held-out {trace.model.name}" if held_out else f"{id(trace)}"
    return ExpertInTrace(trace.model, *checked(asked, trace.model), key, trace, held_out, sample)


def checked(asked: dict[str, str], model: ModelInfo) -> tuple[int, int, str]:
    """Return layer and expert of the address; the first ones, and a sentence, if the model lacks them."""
    layer, expert, first = asked.get("layer"), asked.get("expert"), model.layers[0]
    if layer is None and expert is None:
        return first, 0, ""
    rows = {str(of_model): of_model for of_model in model.layers}
    if layer not in rows:
        there = f"has layers {model.layers[0]} to {model.layers[-1]} with experts"
        asks = "asks for no layer" if layer is None else f"asks for layer {layer!r}"
        return first, 0, f"The link {asks}; {model.name} {there}. This is layer {first}, expert 0."
    count = model.num_experts[model.layers.index(rows[layer])]
    if expert is None or not expert.isascii() or not expert.isdecimal() or len(expert) > 6 or int(expert) >= count:
        asks = "asks for no expert" if expert is None else f"asks for expert {expert!r}"
        words = f"The link {asks}; layer {layer} of {model.name} has experts 0 to {count - 1}."
        return rows[layer], 0, f"{words} This is expert 0."
    return rows[layer], int(expert), ""


def names(seen: SeenExpert) -> pd.DataFrame | None:
    """Return the names of the model's experts, where held-out texts, these texts or others that are open give them."""
    own = seen.trace if isinstance(seen, ExpertInTrace) else None
    if isinstance(seen, ExpertInDataset):
        own = datasets.sample(seen.shown, read=False)
    first = [] if own is None else [own]
    return names_of(seen.model, [*first, *recent.traces().values()])


def _name_of(known: pd.DataFrame, seen: SeenExpert) -> str:
    own = known[(known["layer"] == seen.layer) & (known["expert"] == seen.expert)]
    beaten = (own["holds"] & (own["f1_token"] > own["f1"])).any()
    return f"{own['name'].iloc[0]} ({BEATEN})" if beaten else str(own["name"].iloc[0])


def title(seen: SeenExpert) -> None:
    """Draw the title, with buttons that lead to its neighbours in this layer and to the adjacent layers."""
    model, here = seen.model, (seen.layer, seen.expert)
    known = names(seen)
    row, counts, word = model.layers.index(seen.layer), model.num_experts, layer_word(model)
    before, after = (row - 1) % len(counts), (row + 1) % len(counts)
    ways = {
        "‹ expert": (seen.layer, (seen.expert - 1) % counts[row]),
        "expert ›": (seen.layer, (seen.expert + 1) % counts[row]),
        f"‹ {word}": (model.layers[before], min(seen.expert, counts[before] - 1)),
        f"{word} ›": (model.layers[after], min(seen.expert, counts[after] - 1)),
    }
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"{word.capitalize()} {seen.layer}, expert {seen.expert}", anchor=False, width="content")
        if known is not None:
            st.markdown(f"#### {escape_markdown(visible(_name_of(known, seen)))}", width="content")
        session.link_to("Experts", "Map")
        for sign, to in ways.items():
            if st.button(sign, help=f"To {word} {to[0]}, expert {to[1]}", disabled=to == here):
                seen.go(*to)
    if isinstance(seen, ExpertInTrace) and model.name != EMBEDDED:
        note(model.name)


def numbers_line(numbers: pd.DataFrame, *more: str) -> None:
    """Draw an expert's load, first choices and weight in one line, since four boxes fill a phone."""
    (facts,) = numbers.itertuples(index=False)
    said = [
        f"**{facts.times_uniform:.2f}×** a uniform load, rank {facts.rank} of {facts.num_experts}",
        f"has **{facts.tokens:,}** of {facts.recorded:,} tokens",
    ]
    if pd.notna(facts.first_choice):
        said.append(f"first choice for **{percent(facts.first_choice)}** of them")
    if pd.notna(facts.mean_weight):
        said.append(f"mean weight {facts.mean_weight:.2f}")
    st.markdown("  ·  ".join([*said, *more] if pd.notna(facts.times_uniform) else said[1:2]))


def picture(seen: SeenExpert, chart: Chart, frame: pd.DataFrame) -> None:
    """Draw a picture, how to read it, and a menu of what belongs to it; an expert in a map is a way to its page."""
    chart, selection = chart.of(seen.model), SELECTIONS.get(chart.key)
    options = {} if selection is None else {"on_select": "rerun", "selection_mode": selection}
    drawn = chart.draw(frame, dark=on_dark())
    chosen = altair_chart(drawn, key=_picture_key(seen, chart), alt=alternative(chart), **options)
    menu(chart, frame, reading=True)
    if selection == CELL and (points := chosen.selection.get(CELL)):
        (point,) = points
        seen.go(int(point["layer"]), int(point["expert"]))


def _picture_key(seen: SeenExpert, chart: Chart) -> str:
    """Return the key of a picture: a browser that goes back still has another one's click."""
    return f"{chart.key} {seen.key} {steps()}"


def panel(seen: SeenExpert, chart: Chart, frame: pd.DataFrame, nothing: str = "", most: int | None = None) -> None:
    """Draw a picture under its question, of at most `most` kinds of text; or explain why there is nothing to draw."""
    heading(chart, seen.model)
    if nothing and frame.empty:
        st.text(in_words_of(seen.model, nothing))
        return
    if most is not None and frame["label"].nunique() > most:
        labels = list(dict.fromkeys(frame["label"]))  # those first of which the expert has most
        st.text(f"The {most} of {len(labels):,} kinds of text that it takes most of.")
        frame = frame[frame["label"].isin(labels[:most])]
    picture(seen, chart, frame)


def chosen_token(seen: SeenExpert) -> int | None:
    """Return the token whose bar is chosen."""
    chosen = session.value(_picture_key(seen, TOKENS))
    points = chosen.selection.get(TOKEN, []) if chosen is not None else []
    return next((int(point["code"]) for point in points), None)
