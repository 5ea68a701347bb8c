"""The page of one expert, continued: where its tokens come from and go to, its weights, the atlas, its router row."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.expert import BAR, BESIDE, CELL
from moeviz.metrics.expert import expert_atlas, expert_weights
from moeviz.metrics.expert_company import expert_flow
from moeviz.metrics.router_rows import router_neighbours
from moeviz.metrics.tokens import visible

WIDEST = 30  # pixels of a stream that all the tokens are in
ACROSS = 4  # small maps in a row of the atlas
ATLAS_CELLS = 20_000  # past these the atlas is of the own layer alone
PANEL = 88  # pixels of the name of a small map
NAME_ROWS = 1.6  # rows of cells that its name takes


def expert_flow_streams(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Where its tokens were a layer before, and are a layer after; wider is more, orange more than usual."""
    end = frame["side"].map({"before": 0, "after": 2}).astype(float)
    rows = theme.compact(frame.assign(end=end, at=frame["place"] - (frame["shown"] - 1) / 2, here=1.0, centre=0.0))
    reach = float(rows["at"].abs().max()) + 0.5
    x = alt.X("end:Q", scale=alt.Scale(domain=[-0.6, 2.6], nice=False), axis=None)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[-reach - 0.8, reach], nice=False, reverse=True), axis=None)
    tips = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("expert:O"),
        alt.Tooltip("tokens:Q", format=",", title="of its tokens"),
        alt.Tooltip("share:Q", format=".1%", title="share of them"),
        alt.Tooltip("times:Q", format=".2f", title="times usual"),
    ]
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    width = alt.StrokeWidth("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.5, WIDEST]), legend=None)
    colour = theme.times_colour("times", "tokens, × usual", dark)
    parts = [base.mark_rule(opacity=0.9).encode(x2="here:Q", y2="centre:Q", strokeWidth=width, color=colour)]
    ink = theme.INK["dark" if dark else "light"]
    for side, align, dx in (("before", "right", -6), ("after", "left", 6)):
        there = base.transform_filter(alt.datum.side == side)
        named = there.transform_calculate(name="'expert ' + datum.expert + ' · ' + format(datum.share, '.0%')")
        parts.append(named.mark_text(align=align, dx=dx, color=ink, fontSize=11.5).encode(text="name:N"))
        first = there.transform_filter("datum.place === 0").transform_calculate(
            name="(datum.side === 'before' ? 'from layer ' : 'on to layer ') + datum.layer",
        )
        title = first.mark_text(align=align, dx=dx, color=ink, fontWeight=700, fontSize=12)
        parts.append(title.encode(text="name:N", y=alt.value(6), tooltip=alt.value(None)))
    middle = alt.Chart(rows.head(1)).mark_point(shape="square", size=900, filled=True, opacity=1, color=ink)
    parts.append(middle.encode(x="here:Q", y="centre:Q", tooltip=alt.value(None)))
    return theme.framed(alt.layer(*parts), int(28 * (2 * reach + 0.8) + 55), canvas=True)


def expert_weight_bars(frame: pd.DataFrame, dark: bool = False) -> alt.Chart:
    """How often it gets how much weight, apart by choice."""
    tips = [
        alt.Tooltip("choice:O"),
        alt.Tooltip("low:Q", format=".2f", title="weight from"),
        alt.Tooltip("high:Q", format=".2f", title="to"),
        alt.Tooltip("tokens:Q", format=","),
    ]
    legend = alt.Legend(orient="top", title="choice (1: highest weight)")
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("low:Q", bin="binned", title="weight", axis=alt.Axis(tickCount=6, format="~g")),
            x2="high:Q",
            y=alt.Y("tokens:Q", title="tokens"),
            color=alt.Color("choice:O", scale=alt.Scale(scheme=theme.VIRIDIS), legend=legend),
            order=alt.Order("choice:O"),
            tooltip=tips,
        )
    )
    return theme.framed(bars, theme.SHORT)


def expert_atlas_maps(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """A small map of all experts for each kind of text, one expert framed; a click chooses another."""
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
    tips = [alt.Tooltip("label:N", title="kind of text"), "layer:O", "expert:O"]
    tips.append(alt.Tooltip("times:Q", format=".2f", title="times uniform"))
    base = alt.Chart(cells).encode(x=x, x2="right:Q", y=y, y2="bottom:Q", tooltip=tips)
    chosen = alt.selection_point(name=CELL, fields=["layer", "expert"], on="click", empty=False)
    ink = theme.INK["dark" if dark else "light"]
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
    tips = [alt.Tooltip("other:O", title="expert"), alt.Tooltip("cosine:Q", format="+.3f")]
    tips.append(alt.Tooltip("norm:Q", format=".3f", title="norm of its row"))
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelOverlap=False))
    x = alt.X("cosine:Q", title="cosine of the two router rows", scale=alt.Scale(domain=[-1, 1.15], nice=False))
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tips)
    number = base.mark_text(align="left", dx=4, color=theme.NOTE, fontSize=11)
    number = number.encode(text=alt.Text("cosine:Q", format="+.2f"), x=alt.X("right:Q"))
    number = number.transform_calculate(right="max(datum.cosine, 0)")
    return theme.framed(alt.layer(base.mark_bar(color=theme.MAIN), number), BAR * len(rows) + BESIDE)


FLOW = Chart(
    "Where do its tokens come from, and where do they go?",
    "The experts that have most of its tokens one layer before and one after; wider is more tokens, orange is more "
    "than that expert has of all tokens.",
    expert_flow,
    expert_flow_streams,
)
WEIGHTS = Chart(
    "How much weight does it have where it is chosen?",
    "Each bar counts tokens by the weight of this expert; the colour says whether it is their first choice or a later.",
    expert_weights,
    expert_weight_bars,
)
ATLAS = Chart(
    "Which experts does each kind of text use?",
    "One small map a kind: layers down, experts across, orange where the kind goes more than uniformly. In a large "
    "model the own layer alone. Click an expert to see it.",
    expert_atlas,
    expert_atlas_maps,
)
ROWS = Chart(
    "Whose router row is like its own?",
    "A router scores an expert by the product of the token's state and the expert's row. Rows with a cosine near 1 "
    "want the same tokens, rows near -1 opposite ones.",
    router_neighbours,
    router_rows_bars,
)
