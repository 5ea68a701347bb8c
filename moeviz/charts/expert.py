"""The page of one expert: where it stands, its tokens, and the kinds of text that it takes."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.expert import expert_kinds, expert_loads
from moeviz.metrics.expert_company import shared_tokens
from moeviz.metrics.expert_tokens import keeping_tokens
from moeviz.metrics.tokens import visible

CELL, TOKEN = "cell", "token"  # names of the selections: an expert of a map, a token of the bars
NUMBERS_UP_TO = 16  # experts of a layer, and layers, whose numbers have place in the cells
ROW, LEAST_ROW, ROWS = 28, 6, 480  # pixels of a row of a map, and of all its rows
BAR = 22  # pixels of a bar
AROUND, BESIDE = 145, 75  # pixels that axis and legend take of a map, and the axis of bars


def expert_load_map(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Every expert by its load, one of them framed; a click chooses another."""
    layers = _map(frame[["layer", "expert", "times", "tokens", "here"]], "load, × uniform", dark)
    unused = _places(layers[0].data).transform_filter("datum.tokens === 0")
    layers.insert(
        1, unused.mark_point(shape=theme.CROSS, size=30, color=theme.ON_LEAST, strokeWidth=1.5, cursor="pointer")
    )
    return _framed(layers, frame)


def expert_company_map(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Every expert by how many of one expert's tokens it has, times usual; a click chooses another."""
    columns = ["layer", "expert", "times", "tokens", "share", "usual", "here"]
    return _framed(_map(frame[columns], "of its tokens, × usual", dark), frame)


def _map(frame: pd.DataFrame, legend: str, dark: bool) -> list[alt.Chart]:
    """The cells, their numbers where they fit, and the frame around one."""
    base = _places(theme.compact(frame))
    there = base.transform_filter("isValid(datum.times)")
    chosen = alt.selection_point(name=CELL, fields=["layer", "expert"], on="click", empty=False)
    cells = there.mark_rect(cursor="pointer", stroke=None).encode(color=theme.times_colour("times", legend, dark))
    layers = [cells.add_params(chosen)]
    if max(frame["expert"].max() + 1, frame["layer"].nunique()) <= NUMBERS_UP_TO:
        number = there.transform_filter("datum.tokens > 0").mark_text(fontSize=11, cursor="pointer")
        layers.append(number.encode(text=alt.Text("times:Q", format=".1f"), color=theme.times_ink("times", dark)))
    here = base.transform_filter("datum.here").mark_rect(fill=None, strokeWidth=3, cursor="pointer")
    return [*layers, here.encode(stroke=alt.value(theme.INK["dark" if dark else "light"]))]


def _places(frame: pd.DataFrame) -> alt.Chart:
    tips = [alt.Tooltip("layer:O"), alt.Tooltip("expert:O"), alt.Tooltip("times:Q", format=".2f", title="times")]
    tips += [alt.Tooltip("tokens:Q", format=",")]
    x = alt.X("expert:O", title="expert", axis=theme.ids_axis())
    return alt.Chart(frame).encode(x=x, y=alt.Y("layer:O", title="layer", axis=theme.ids_axis()), tooltip=tips)


def _framed(layers: list[alt.Chart], frame: pd.DataFrame) -> alt.LayerChart:
    rows = frame["layer"].nunique()
    height = int(max(min(ROW, ROWS / rows), LEAST_ROW) * rows)
    return theme.framed(alt.layer(*layers), height + AROUND, canvas=True)


def keeping_tokens_bars(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Of each token's occurrences, the share that the expert has; dashed, its share of all tokens."""
    again = frame.groupby(frame["text"].map(visible)).cumcount()  # two tokens may look the same, and are two bars
    shown = [visible(text) + "\u200b" * times for text, times in zip(frame["text"], again, strict=True)]
    count = frame["tokens"].astype(str) + " of " + frame["occurrences"].astype(str)
    columns = ["code", "rank", "texts", "share", "usual", "lift"]
    rows = frame[columns].assign(shown=shown, count=count)
    pick = alt.selection_point(name=TOKEN, fields=["code"], on="click")
    tips = [
        alt.Tooltip("shown:N", title="token"),
        alt.Tooltip("count:N", title="its occurrences"),
        alt.Tooltip("texts:Q", title="texts with it"),
        alt.Tooltip("lift:Q", format=".1f", title="times usual"),
    ]
    ticks = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("share:Q", title="share of the token's occurrences", axis=ticks, scale=alt.Scale(domain=[0, 1.2]))
    names = alt.Axis(labelFont="monospace", labelLimit=110, labelOverlap=False)
    y = alt.Y("shown:N", sort=None, title=None, axis=names)
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    faded = alt.condition(pick, alt.value(1), alt.value(0.35))
    bars = base.mark_bar(color=theme.MAIN, cursor="pointer", cornerRadiusEnd=2).encode(opacity=faded).add_params(pick)
    counts = base.mark_text(align="left", dx=4, color=theme.NOTE, fontSize=11).encode(text="count:N")
    usual = alt.Chart(rows.head(1)).mark_rule(color=theme.CHANCE, strokeDash=list(theme.DASH), strokeWidth=2)
    return theme.framed(alt.layer(bars, counts, usual.encode(x="usual:Q")), BAR * len(rows) + BESIDE)


def expert_kinds_bars(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """How much the expert takes of each kind of text; on the right, where it is known, what is lost without it."""
    rows = frame.assign(label=frame["label"].map(visible))
    lost = "loss_change" in frame and bool(frame["loss_change"].notna().any())
    tips = [
        alt.Tooltip("label:N", title="kind of text"),
        alt.Tooltip("has:Q", format=",", title="tokens that it has"),
        alt.Tooltip("tokens:Q", format=",", title="of so many"),
        alt.Tooltip("texts:Q", title="in texts"),
        alt.Tooltip("times:Q", format=".2f", title="times uniform"),
        alt.Tooltip("luck:Q", format=".3f", title="by chance as much"),
    ]
    if lost:
        tips.append(alt.Tooltip("loss_change:Q", format="+.3f", title="nats lost without it"))
    y = alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=120, labelOverlap=False))
    end = 1.25 * max(float(frame["times"].max()), 2.0)
    ticks = alt.Axis(tickCount=5, format="~g")
    x = alt.X("times:Q", title="of its tokens, × uniform", axis=ticks, scale=alt.Scale(domain=[0, end], nice=False))
    base = alt.Chart(rows).encode(y=y, tooltip=tips)
    layers = [base.mark_bar().encode(x=x, x2=alt.datum(1), color=theme.times_colour("times", dark=dark))]
    layers.append(
        alt.Chart(rows.head(1)).mark_rule(color=theme.NOTE, aria=False).encode(x=alt.datum(1, type="quantitative"))
    )
    if lost:
        number = base.mark_text(align="right", fontSize=11.5, fontWeight=600, color=theme.NOTE)
        layers.append(number.encode(x=alt.value("width"), text=alt.Text("loss_change:Q", format="+.3f")))
    return theme.framed(alt.layer(*layers), BAR * len(rows) + BESIDE)


LOADS = Chart(
    "Which of all the experts is it?",
    "Orange has more than a uniform share, blue less; a cross: no token went there. Click an expert to see it.",
    expert_loads,
    expert_load_map,
)
TOKENS = Chart(
    "Which tokens keep to it?",
    "Of a token's occurrences, how many it has; dashed: of all tokens. Click a bar to see that token alone.",
    keeping_tokens,
    keeping_tokens_bars,
)
KINDS = Chart(
    "What does it take of each kind of text, and what is lost without it?",
    "Bars: its share of the kind's tokens, times a uniform share. Numbers on the right: how much the loss rises, in "
    "nats a token, where it is muted and the router takes its next best.",
    expert_kinds,
    expert_kinds_bars,
)
COMPANY = Chart(
    "Who has the same tokens?",
    "Of its tokens, how many every other expert has, times what is usual: in its own layer what chance gives a "
    "partner, in others that expert's share of all tokens. Click an expert to see it.",
    shared_tokens,
    expert_company_map,
)
