"""Charts of two layers side by side. None of them takes an id in one layer for the same expert in the other."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.load import load_tooltip
from moeviz.metrics.flow import transitions_caption
from moeviz.metrics.layers import (
    balance_of_two,
    overlap,
    overlap_caption,
    ranked_load,
    ranked_load_caption,
    transitions,
    two_balances_caption,
)

MEASURES = {"normalised_entropy": "entropy / ln E", "jain": "Jain's index", "gini": "Gini"}


def load_of_two_layers(frame: pd.DataFrame) -> alt.LayerChart:
    """Loads from the busiest to the least used expert, one line per layer. Columns: those of `ranked_load`."""
    ranks = alt.Scale(domain=[1, int(frame["rank"].max())], nice=False, zero=False)
    base = alt.Chart(frame).encode(
        x=alt.X("rank:Q", title="rank in its layer (dashed: uniform load)", scale=ranks, axis=theme.whole_axis()),
        color=_two_colours(frame),
        tooltip=[*theme.tooltip(rank="d"), *load_tooltip()],
    )
    y = alt.Y("load:Q", title="share of assignments", axis=theme.share_axis())
    even = base.mark_line(strokeDash=list(theme.DASH), strokeWidth=1.5).encode(y="uniform:Q")
    return theme.framed(theme.layered(base.mark_line(point=len(frame) <= 64).encode(y=y), even), theme.MEDIUM)


def _layers(frame: pd.DataFrame) -> list[int]:
    return [int(layer) for layer in np.unique(frame["layer"])]


def _two_colours(frame: pd.DataFrame) -> alt.Color:
    return theme.colour("layer", _layers(frame), theme.PAIR, title="layer")


def balance_of_two_layers(frame: pd.DataFrame) -> alt.LayerChart:
    """Three measures of balance, one dot per layer. Columns: those of `balance_of_two`."""
    named = frame.assign(measure=frame["measure"].map(MEASURES))
    base = alt.Chart(named).encode(y=alt.Y("measure:N", title=None, sort=list(MEASURES.values())))
    x = alt.X("value:Q", title="value (grey: uniform load)", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=6))
    even = base.mark_tick(color=theme.NOTE, thickness=3, opacity=1, height=26).encode(x="even:Q")
    dots = base.mark_point(filled=True, size=140, opacity=1).encode(
        x=x,
        color=_two_colours(frame),
        shape=alt.Shape("layer:N", title="layer", scale=alt.Scale(domain=_layers(frame))),
        tooltip=theme.tooltip(
            layer="d",
            measure="",
            value=".3f",
            max_over_mean=("busiest expert, × uniform", ".2f"),
            cv=("std / mean", ".3f"),
            chance_cv=("std / mean at random", ".3f"),
            dead_experts=("experts with no tokens", "d"),
        ),
    )
    return theme.framed(theme.layered(even, dots), theme.SHORT)


def layer_transitions(frame: pd.DataFrame) -> alt.Chart:
    """First choice at one layer by first choice at the other. Columns: those of `transitions`."""
    first, second = int(frame["from_layer"].iloc[0]), int(frame["to_layer"].iloc[0])
    ids = {side: [int(e) for e in np.unique(frame[f"{side}_expert"])] for side in ("from", "to")}
    axis = theme.ids_axis()
    title = f"share of the expert's tokens in layer {first}"
    chart = theme.cells(
        frame[frame["tokens"] > 0].drop(columns=["from_layer", "to_layer"]),
        x=alt.X("to_expert:O", title=f"expert in layer {second}", scale=alt.Scale(domain=ids["to"]), axis=axis),
        y=alt.Y("from_expert:O", title=f"expert in layer {first}", scale=alt.Scale(domain=ids["from"]), axis=axis),
        color=theme.gradient("share", title, {"domainMin": 0}, format="%", titleLimit=330),
        tooltip=theme.tooltip(
            from_expert=(f"expert in layer {first}", "d"),
            to_expert=(f"expert in layer {second}", "d"),
            tokens=",",
            share=("share of the first expert's tokens", ".1%"),
            chance=("share if the layers were independent", ".1%"),
            lift=("times that", ".2f"),
        ),
    )
    return theme.framed(chart, theme.grid_height(len(ids["from"])), canvas=True)


def layer_overlap(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw what the choices of two layers have in common, with what chance gives. Columns: those of `overlap`."""
    base = alt.Chart(frame).encode(
        y=alt.Y("measure:N", title=None, sort=None, axis=alt.Axis(labelLimit=130)),
        tooltip=theme.tooltip(measure="", value=".3f", chance=("by chance", ".3f"), maximum=".3f", unit=""),
    )
    x = alt.X(
        "share:Q",
        title="share of the maximum (orange: chance)",
        scale=alt.Scale(domain=[0, 1]),
        axis=theme.share_axis(),
    )
    bars = base.mark_bar(color=theme.MAIN, height=alt.RelativeBandSize(0.5)).encode(x=x)
    chance = base.mark_tick(color=theme.CHANCE, thickness=4, opacity=1, height=alt.RelativeBandSize(0.7)).encode(
        x="chance_share:Q"
    )
    return theme.framed(theme.layered(bars, chance), theme.SHORT)


CHARTS = (
    Chart.row(load_of_two_layers, ranked_load, ranked_load_caption, expert="expert", layers="two"),
    Chart.row(balance_of_two_layers, balance_of_two, two_balances_caption, layers="two"),
    Chart.row(layer_transitions, transitions, transitions_caption, expert="from_expert", layers="two"),
    Chart.row(layer_overlap, overlap, overlap_caption, layers="two"),
)
