"""The page of one expert: where it stands, its tokens, and the kinds of text that it takes."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.expert import (
    expert_atlas,
    expert_flow,
    expert_kinds,
    expert_loads,
    expert_weights,
    router_neighbours,
    shared_tokens,
)
from moeviz.metrics.expert_tokens import keeping_tokens
from moeviz.metrics.tokens import visible

CELL, TOKEN = "cell", "token"  # names of the selections: an expert of a map, a token of the bars
NUMBERS_UP_TO = 16  # experts of a layer, and layers, whose numbers have place in the cells
ROW, LEAST_ROW, MAP_HEIGHT = 28, 6, 480  # pixels of a row of a map, and of all its rows
BAR = 22  # pixels of a bar
AROUND, BESIDE = 145, 75  # pixels that axis and legend take of a map, and the axis of bars
WIDEST = 30  # pixels of a stream that all the tokens are in
ACROSS = 4  # small maps in a row of the atlas
ATLAS_CELLS = 20_000  # past these the atlas is only of the own layer
PANEL = 88  # pixels of the name of a small map
NAME_ROWS = 1.6  # rows of cells that its name takes


def expert_load_map(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw every expert by its load, one of them framed; a click chooses another."""
    layers = _map(frame[["layer", "expert", "times", "tokens", "here"]], "load, × uniform", dark)
    unused = _places(layers[0].data).transform_filter("datum.tokens === 0")
    layers.insert(
        1, unused.mark_point(shape=theme.CROSS, size=30, color=theme.ON_LEAST, strokeWidth=1.5, cursor="pointer")
    )
    return _frame_cell(layers, frame)


def expert_company_map(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw every expert by how many of one expert's tokens it has, times usual; a click chooses another."""
    columns = ["layer", "expert", "times", "tokens", "share", "usual", "here"]
    return _frame_cell(_map(frame[columns], "of its tokens, × usual", dark), frame)


def _map(frame: pd.DataFrame, legend: str, dark: bool) -> list[alt.Chart]:
    """Draw the cells, their numbers if they fit, and the frame around one."""
    base = _places(theme.compact(frame))
    there = base.transform_filter("isValid(datum.times)")
    chosen = alt.selection_point(name=CELL, fields=["layer", "expert"], on="click", empty=False)
    cells = there.mark_rect(cursor="pointer", stroke=None).encode(color=theme.times_colour("times", legend, dark))
    layers = [cells.add_params(chosen)]
    if max(frame["expert"].max() + 1, frame["layer"].nunique()) <= NUMBERS_UP_TO:
        number = there.transform_filter("datum.tokens > 0").mark_text(fontSize=11, cursor="pointer")
        layers.append(number.encode(text=alt.Text("times:Q", format=".1f"), color=theme.ink_on("times")))
    here = base.transform_filter("datum.here").mark_rect(fill=None, strokeWidth=3, cursor="pointer")
    return [*layers, here.encode(stroke=alt.StrokeValue(theme.ink(dark)))]


def _places(frame: pd.DataFrame) -> alt.Chart:
    numbers = theme.tooltip(times=("times", ".2f"), tokens=",")
    tips = [alt.Tooltip("layer:O"), alt.Tooltip("expert:O"), *numbers]
    y = alt.Y("layer:O", title="layer", axis=theme.ids_axis())
    return alt.Chart(frame).encode(x=theme.expert_axis(), y=y, tooltip=tips)


def _frame_cell(layers: list[alt.Chart], frame: pd.DataFrame) -> alt.LayerChart:
    rows = frame["layer"].nunique()
    height = int(max(min(ROW, MAP_HEIGHT / rows), LEAST_ROW) * rows)
    return theme.framed(alt.layer(*layers), height + AROUND, canvas=True)


def keeping_tokens_bars(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw the share of each token's occurrences that the expert takes; the dashed line is its share of all tokens."""
    again = frame.groupby(frame["text"].map(visible)).cumcount()  # two tokens may look the same, and are two bars
    shown = [visible(text) + "\u200b" * times for text, times in zip(frame["text"], again, strict=True)]
    count = frame["tokens"].astype(str) + " of " + frame["occurrences"].astype(str)
    columns = ["code", "rank", "texts", "share", "usual", "lift"]
    rows = frame[columns].assign(shown=shown, count=count)
    pick = alt.selection_point(name=TOKEN, fields=["code"], on="click")
    tips = [
        *theme.tooltip(shown=("token", ""), count=("its occurrences", "")),
        alt.Tooltip("texts:Q", title="texts with it"),
        *theme.tooltip(lift=("times usual", ".1f")),
    ]
    ticks = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("share:Q", title="share of the token's occurrences", axis=ticks, scale=alt.Scale(domain=[0, 1.2]))
    names = alt.Axis(labelFont="monospace", labelLimit=110, labelOverlap=False)
    y = alt.Y("shown:N", sort=None, title=None, axis=names)
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    faded = alt.condition(pick, alt.value(1), alt.value(0.35))
    bars = base.mark_bar(color=theme.MAIN, cursor="pointer", cornerRadiusEnd=2).encode(opacity=faded).add_params(pick)
    counts = base.mark_text(align="left", dx=4, color=theme.NOTE, fontSize=11).encode(text="count:N")
    usual = theme.reference(rows.head(1), "usual", axis="x")
    return theme.framed(alt.layer(bars, counts, usual), BAR * len(rows) + BESIDE)


def expert_kinds_bars(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw the expert's share of each kind of text; on the right, if it is known, the loss without it."""
    rows = frame.assign(label=frame["label"].map(visible))
    lost = "loss_change" in frame and bool(frame["loss_change"].notna().any())
    tips = [
        *theme.tooltip(label=("kind of text", ""), has=("tokens that it has", ","), tokens=("of so many", ",")),
        alt.Tooltip("texts:Q", title="in texts"),
        *theme.tooltip(times=("times uniform", ".2f"), luck=("by chance as much", ".3f")),
    ]
    if lost:
        tips += theme.tooltip(loss_change=("nats lost without it", "+.3f"))
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
        layers.append(number.encode(x=alt.XValue("width"), text=alt.Text("loss_change:Q", format="+.3f")))
    return theme.framed(alt.layer(*layers), BAR * len(rows) + BESIDE)


LOADS = Chart.row(expert_load_map, expert_loads)
TOKENS = Chart.row(keeping_tokens_bars, keeping_tokens)
KINDS = Chart.row(expert_kinds_bars, expert_kinds)
COMPANY = Chart.row(expert_company_map, shared_tokens)


def expert_flow_streams(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw the experts of its tokens one layer before and after; wider is more, orange more than usual."""
    end = frame["side"].map({"before": 0, "after": 2}).astype(float)
    rows = theme.compact(frame.assign(end=end, at=frame["place"] - (frame["shown"] - 1) / 2, here=1.0, centre=0.0))
    reach = float(rows["at"].abs().max()) + 0.5
    x = alt.X("end:Q", scale=alt.Scale(domain=[-0.6, 2.6], nice=False), axis=None)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[-reach - 0.8, reach], nice=False, reverse=True), axis=None)
    tips = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("expert:O"),
        *theme.tooltip(tokens=("of its tokens", ","), share=("share of them", ".1%"), times=("times usual", ".2f")),
    ]
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    width = alt.StrokeWidth("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.5, WIDEST]), legend=None)
    colour = theme.times_colour("times", "tokens, × usual", dark)
    parts = [base.mark_rule(opacity=0.9).encode(x2="here:Q", y2="centre:Q", strokeWidth=width, color=colour)]
    ink = theme.ink(dark)
    for side, align, dx in (("before", "right", -6), ("after", "left", 6)):
        there = base.transform_filter(alt.datum.side == side)
        named = there.transform_calculate(name="'expert ' + datum.expert + ' · ' + format(datum.share, '.0%')")
        parts.append(named.mark_text(align=align, dx=dx, color=ink, fontSize=11.5).encode(text="name:N"))
        first = there.transform_filter("datum.place === 0").transform_calculate(
            name="(datum.side === 'before' ? 'from layer ' : 'on to layer ') + datum.layer"
        )
        title = first.mark_text(align=align, dx=dx, color=ink, fontWeight=700, fontSize=12)
        parts.append(title.encode(text="name:N", y=alt.YValue(6), tooltip=alt.TooltipValue(None)))
    middle = alt.Chart(rows.head(1)).mark_point(shape="square", size=900, filled=True, opacity=1, color=ink)
    parts.append(middle.encode(x="here:Q", y="centre:Q", tooltip=alt.TooltipValue(None)))
    return theme.framed(alt.layer(*parts), int(28 * (2 * reach + 0.8) + 55), canvas=True)


def expert_weight_bars(frame: pd.DataFrame, dark: bool = False) -> alt.Chart:
    """Draw a histogram of its weights, by choice."""
    legend = alt.Legend(orient="top", title="choice (1: highest weight)")
    bars = theme.bars(
        frame,
        x=alt.X("low:Q", bin="binned", title="weight", axis=alt.Axis(tickCount=6, format="~g")),
        x2="high:Q",
        y=alt.Y("tokens:Q", title="tokens"),
        color=alt.Color("choice:O", scale=alt.Scale(scheme=theme.VIRIDIS), legend=legend),
        order=alt.Order("choice:O"),
        tooltip=[alt.Tooltip("choice:O"), *theme.tooltip(low=("weight from", ".2f"), high=("to", ".2f"), tokens=",")],
    )
    return theme.framed(bars, theme.SHORT)


def expert_atlas_maps(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw a small map of all experts for each kind of text, one expert framed; a click chooses another."""
    if len(frame) > ATLAS_CELLS:
        frame = frame[frame["layer"].isin(frame.loc[frame["here"], "layer"])]
    labels, layers = list(dict.fromkeys(frame["label"])), sorted(frame["layer"].unique())
    across = min(ACROSS, len(labels))
    panel = frame["label"].map({label: at for at, label in enumerate(labels)})
    wide, high = int(frame["expert"].max()) + 1, len(layers)
    row = frame["layer"].map({layer: at for at, layer in enumerate(layers)})
    left = frame["expert"] + (panel % across) * (wide + max(wide / 12, 0.5))
    top = row + (panel // across) * (high + NAME_ROWS) + NAME_ROWS
    columns = {"label": frame["label"].map(visible), "left": left, "right": left + 1, "top": top, "bottom": top + 1}
    cells = theme.compact(frame.assign(**columns))
    deep = float(cells["bottom"].max())
    x = alt.X("left:Q", axis=None, scale=alt.Scale(domain=[0, float(cells["right"].max())], nice=False))
    y = alt.Y("top:Q", axis=None, scale=alt.Scale(domain=[0, deep], nice=False, reverse=True))
    kind, times = theme.tooltip(label=("kind of text", ""), times=("times uniform", ".2f"))
    tips = [kind, "layer:O", "expert:O", times]
    base = alt.Chart(cells).encode(x=x, x2="right:Q", y=y, y2="bottom:Q", tooltip=tips)
    chosen = alt.selection_point(name=CELL, fields=["layer", "expert"], on="click", empty=False)
    ink = theme.ink(dark)
    maps = base.transform_filter("isValid(datum.times)").mark_rect(cursor="pointer").add_params(chosen)
    maps = maps.encode(color=theme.times_colour("times", "of the kind's choices, × uniform", dark))
    here = base.transform_filter("datum.here").mark_rect(fill=None, strokeWidth=2, stroke=ink, cursor="pointer")
    first = cells.drop_duplicates("label")[["label", "left", "top"]]
    corner = first.assign(left=first["left"] - (frame.loc[first.index, "expert"]).to_numpy(), top=first["top"])
    names = alt.Chart(corner).mark_text(align="left", baseline="bottom", dy=-3, color=ink, fontSize=11, limit=PANEL)
    named = names.encode(x="left:Q", y="top:Q", text="label:N")
    return theme.framed(alt.layer(maps, here, named), int(np.clip(13 * deep, 120, 900)) + 60, canvas=True)


def router_rows_bars(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """The experts of a layer whose router rows are nearest to one expert's, and those that are furthest from it."""
    rows = theme.compact(frame.assign(name="expert " + frame["other"].astype(str)))
    numbers = theme.tooltip(cosine="+.3f", norm=("norm of its row", ".3f"))
    tips = [alt.Tooltip("other:O", title="expert"), *numbers]
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelOverlap=False))
    x = alt.X("cosine:Q", title="cosine of the two router rows", scale=alt.Scale(domain=[-1, 1.15], nice=False))
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    number = base.mark_text(align="left", dx=4, color=theme.NOTE, fontSize=11)
    number = number.encode(text=alt.Text("cosine:Q", format="+.2f"), x=alt.X("right:Q"))
    number = number.transform_calculate(right="max(datum.cosine, 0)")
    return theme.framed(alt.layer(base.mark_bar(color=theme.MAIN), number), BAR * len(rows) + BESIDE)


FLOW = Chart.row(expert_flow_streams, expert_flow)
WEIGHTS = Chart.row(expert_weight_bars, expert_weights)
ATLAS = Chart.row(expert_atlas_maps, expert_atlas)
ROWS = Chart.row(router_rows_bars, router_neighbours)
