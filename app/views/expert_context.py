"""The expert that the page is about, and the trace it is seen in: what the address says, checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import streamlit as st
from moeviz_app.jobs import recorded
from moeviz_app.session import recent, session
from moeviz_app.url.expert import asked_query, expert_query, for_the_address
from moeviz_app.widgets.chart_panel import altair_chart, alternative, menu_and_reading, on_dark
from moeviz_app.widgets.expert_links import one_more_step, steps
from moeviz_app.widgets.messages import escape_markdown

from moeviz.charts.chart import Chart
from moeviz.charts.expert import CELL
from moeviz.embedded import EMBEDDED
from moeviz.errors import MissingField
from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace

HELD_OUT, TRACE = "held-out", "trace"  # `seen` in the address


@dataclass(frozen=True, slots=True)
class ExpertContext:
    """One expert, in one trace."""

    trace: RoutingTrace
    layer: int
    expert: int
    held_out: bool  # whether the trace is that of the texts that ship
    trouble: str = ""  # what of the address could not be had

    @property
    def key(self) -> str:
        """For widgets and results: another expert or another trace has another."""
        texts = f"held-out {self.trace.model.name}" if self.held_out else id(self.trace)
        return f"{texts} {self.layer} {self.expert}"

    @property
    def model(self) -> ModelInfo:
        """The model that the expert is of."""
        return self.trace.model

    def go(self, layer: int, expert: int) -> None:
        """Go to another expert in the same trace."""
        go(layer, expert, self.trace)


class ExpertOnPage(Protocol):
    """One expert, in a trace or in a dataset: what the parts of a page need that are the same for both."""

    @property
    def model(self) -> ModelInfo:
        """The model that the expert is of."""

    @property
    def layer(self) -> int:
        """Index of the expert's layer in the model."""

    @property
    def expert(self) -> int:
        """Id of the expert in its layer."""

    @property
    def key(self) -> str:
        """The part of widgets' keys that another expert, or another trace, has differently."""

    def go(self, layer: int, expert: int) -> None:
        """Go to another expert: one step in the browser's history."""


def title(shown: ExpertOnPage) -> None:
    """Draw the title, with buttons that lead to the experts beside it and in the layers next to it."""
    model, here = shown.model, (shown.layer, shown.expert)
    row, counts, word = model.layers.index(shown.layer), model.num_experts, layer_word(model)
    before, after = (row - 1) % len(counts), (row + 1) % len(counts)
    ways = {
        "‹ expert": (shown.layer, (shown.expert - 1) % counts[row]),
        "expert ›": (shown.layer, (shown.expert + 1) % counts[row]),
        f"‹ {word}": (model.layers[before], min(shown.expert, counts[before] - 1)),
        f"{word} ›": (model.layers[after], min(shown.expert, counts[after] - 1)),
    }
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"{word.capitalize()} {shown.layer}, expert {shown.expert}", anchor=False, width="content")
        for sign, to in ways.items():
            if st.button(sign, help=f"To {word} {to[0]}, expert {to[1]}", disabled=to == here):
                shown.go(*to)


def numbers_line(facts: Any, *more: str) -> None:
    """Draw an expert's load and its share of first choices in one line, since four boxes fill a phone."""
    said = [
        f"**{facts.times_uniform:.2f}×** a uniform load, rank {facts.rank} of {facts.num_experts}",
        f"has **{facts.tokens:,}** of {facts.recorded:,} tokens",
    ]
    if pd.notna(facts.first_choice):
        said.append(f"first choice for **{facts.first_choice:.0%}** of them")
    said += more
    st.markdown("  ·  ".join(said if facts.recorded else said[1:2]))


def picture_key(chart: Chart, shown: ExpertOnPage) -> str:
    """Return the key of a picture: a browser that goes back has another one's click still."""
    return f"{chart.key} {shown.key} {steps()}"


def picture(chart: Chart, frame: pd.DataFrame, shown: ExpertOnPage, **options: Any) -> Any:
    """Draw a picture, how to read it, and a menu of what belongs to it; return what is chosen in it."""
    chart = chart.of(shown.model)
    drawn = chart.draw(frame, dark=on_dark())
    chosen = altair_chart(drawn, key=picture_key(chart, shown), alt=alternative(chart), **options)
    menu_and_reading(chart, frame)
    return chosen


def map_of_experts(chart: Chart, frame: pd.DataFrame, shown: ExpertOnPage) -> None:
    """Draw a picture of many experts, each a way to its page."""
    chosen = picture(chart, frame, shown, on_select="rerun", selection_mode=CELL)
    if points := chosen.selection.get(CELL):
        (point,) = points
        shown.go(int(point["layer"]), int(point["expert"]))


def expert_in_address() -> ExpertContext:
    """Return the expert of the address, and draw the choice of texts. Raises `MissingField` where no trace has it."""
    asked = asked_query()
    texts = _texts(asked.get("model"))
    if not texts:
        raise MissingField(
            f"This link is about an expert of {asked['model']!r}, and there is no trace of that model here yet. Run a "
            "prompt with it, or open a trace file; then follow the link again."
        )
    begin = _begin(asked.get("seen"), texts)
    trace = texts[begin]
    layer, expert, trouble = checked(asked.get("layer"), asked.get("expert"), trace.model)
    found = ExpertContext(trace, layer, expert, begin == HELD_OUT, trouble)
    if len(texts) > 1:
        _choose(found, begin, texts)
    return found


def go(layer: int, expert: int, trace: RoutingTrace) -> None:
    """To an expert in the texts of a trace: one step in the browser's history."""
    st.query_params.from_dict(for_the_address(expert_query(trace, layer, expert)))
    one_more_step()
    st.rerun(scope="app")


def _texts(model: str | None) -> dict[str, RoutingTrace]:
    """The traces that can show an expert of this model, by name; of the one on screen where the address names none."""
    current = session.current_trace()
    wanted = model or (EMBEDDED if current is None else current.model.name)
    held_out = recorded.held_out(wanted)
    found = {} if held_out is None else {HELD_OUT: held_out}
    recents = recent.traces() if current is None else {TRACE: current} | recent.traces()
    for name, trace in recents.items():
        known = any(trace is other for other in found.values())
        if trace.model.name == wanted and len(trace.tokens) and not known:
            found[name] = trace
    return found


def _begin(asked: str | None, texts: dict[str, RoutingTrace]) -> str:
    """The texts to show: those asked for, else the held-out ones, else what there is."""
    return next(name for name in (asked, HELD_OUT, *texts) if name in texts)


def checked(layer: str | None, expert: str | None, model: ModelInfo) -> tuple[int, int, str]:
    """Layer and expert of the address; the first ones, and a sentence, where the model has no such."""
    first = model.layers[0]
    if layer is None and expert is None:
        return first, 0, ""
    rows = {str(of_model): of_model for of_model in model.layers}
    if layer not in rows:
        there = f"has layers {model.layers[0]} to {model.layers[-1]} with experts"
        return first, 0, f"The link asks for layer {layer!r}; {model.name} {there}. This is layer {first}, expert 0."
    count = model.num_experts[model.layers.index(rows[layer])]
    if expert is None or not expert.isascii() or not expert.isdecimal() or len(expert) > 6 or int(expert) >= count:
        words = f"The link asks for expert {expert!r}; layer {layer} of {model.name} has experts 0 to {count - 1}."
        return rows[layer], 0, f"{words} This is expert 0."
    return rows[layer], int(expert), ""


def _choose(found: ExpertContext, begin: str, texts: dict[str, RoutingTrace]) -> None:
    names = dict(_named(texts))
    chosen = st.segmented_control(
        "Seen in",
        list(texts),
        default=begin,
        format_func=lambda name: names[name],
        required=True,
        key=f"seen in {begin} {len(texts)} {steps()}",  # a choice holds until the address says otherwise
    )
    if chosen != begin:
        if chosen not in (HELD_OUT, TRACE):
            session.set_trace(texts[chosen], recent.run_of(texts[chosen]))
        go(found.layer, found.expert, texts[chosen])


def _named(texts: dict[str, RoutingTrace]) -> Iterator[tuple[str, Any]]:
    for name, trace in texts.items():
        if name == HELD_OUT:
            yield name, f"{trace.tokens['sequence'].nunique()} held-out texts"
        else:
            yield name, escape_markdown(recent.title_of(trace) if name == TRACE else name)
