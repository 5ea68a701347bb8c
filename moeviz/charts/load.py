"""Charts of how the work is divided among the experts."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.load import (
    balance,
    balance_caption,
    balance_over_time,
    busiest_caption,
    coverage,
    expert_load,
    importance,
    importance_caption,
    load_caption,
)

SHARE = "share of assignments"
MANY_EXPERTS = 64  # past which the sign of an unused expert is small
MOST_COLUMNS = 200


def load_heatmap(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Layer by expert, coloured by load as a multiple of the uniform load. Columns: those of `expert_load`."""
    base = alt.Chart(theme.compact(frame.drop(columns="rank"))).encode(
        x=theme.expert_axis("×: no token"), y=theme.layer_rows(), tooltip=load_tooltip()
    )
    cells = base.mark_rect(stroke=None).encode(color=theme.times_colour("times_uniform", "load, × uniform", dark))
    small = frame["expert"].nunique() > MANY_EXPERTS
    unused = base.transform_filter("datum.tokens === 0").mark_point(
        shape=theme.CROSS, size=6 if small else 60, color=theme.ON_LEAST, strokeWidth=1 if small else 2
    )
    return theme.framed(theme.layered(cells, unused), theme.rows_height(frame["layer"].nunique()), canvas=True)


def load_tooltip() -> list[alt.Tooltip]:
    """Make a tooltip of all that `expert_load` knows of one expert."""
    return theme.tooltip(
        layer="d",
        expert="d",
        tokens=("tokens", ","),
        load=(SHARE, ".2%"),
        uniform=("uniform share", ".2%"),
        times_uniform=("times the uniform share", ".2f"),
    )


def load_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of each expert of one layer, with the uniform load. Columns: those of `expert_load`."""
    bars = theme.bars(
        frame.drop(columns="rank"),
        x=theme.expert_axis("dashed: uniform load"),
        y=alt.Y("load:Q", title=SHARE, axis=theme.share_axis()),
        tooltip=load_tooltip(),
    )
    return theme.framed(theme.layered(bars, theme.reference(frame[["uniform"]].head(1), "uniform")), theme.MEDIUM)


def coverage_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of the work that the busiest experts do, one line per layer. Columns: those of `coverage`."""
    lines = theme.lines(
        frame,
        {"interpolate": "linear"},
        x=alt.X("share_of_experts:Q", title="share of the layer's experts, busiest first", axis=theme.share_axis()),
        y=alt.Y("covered:Q", title="share of assignments", axis=theme.share_axis()),
        detail="layer:N",
        color=theme.layer_colour(),
        tooltip=theme.tooltip(
            layer="d",
            experts=("busiest experts", "d"),
            share_of_experts=("share of experts", ".0%"),
            covered=("share of assignments", ".1%"),
        ),
    )
    return theme.framed(theme.layered(lines, theme.diagonal("uniform load")), theme.MEDIUM, canvas=True)


def balance_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Coefficient of variation of each layer, with what a choice at random gives. Columns: those of `balance`."""
    base = alt.Chart(frame).encode(x=theme.layer_axis("orange: chance"))
    bars = base.mark_bar(color=theme.MAIN).encode(
        y=alt.Y("cv:Q", title="spread (std / mean)"), tooltip=_balance_tooltip()
    )
    ticks = theme.ticks(base, "chance_cv").encode(tooltip=theme.tooltip(chance_cv=("at random", ".3f")))
    return theme.framed(theme.layered(bars, ticks), theme.MEDIUM)


def busiest_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw each layer's load of the busiest expert, as a multiple of the uniform load. Columns: those of `balance`."""
    bars = theme.bars(
        frame,
        x=theme.layer_axis("dashed: uniform load"),
        y=alt.Y("max_over_mean:Q", title="load, × uniform"),
        tooltip=_balance_tooltip(),
    )
    return theme.framed(theme.layered(bars, theme.even_reference()), theme.MEDIUM)


def _balance_tooltip() -> list[alt.Tooltip]:
    measures = theme.figures(
        ".3f",
        max_over_mean="busiest expert, × uniform",
        max_violation="MaxVio",
        cv="std / mean",
        chance_cv="std / mean at random",
        normalised_entropy="entropy / ln E",
        gini="Gini",
        jain="Jain",
    )
    whole = theme.tooltip(layer="d", num_experts=("experts", "d"))
    return [*whole, *measures, *theme.tooltip(dead_experts=("experts with no tokens", "d"))]


def load_against_importance(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of each expert against its mean probability. Columns: those of `importance`."""
    points = (
        alt.Chart(theme.compact(frame.drop(columns="rank")))
        .mark_circle(opacity=0.7, size=45)
        .encode(
            x=alt.X("importance:Q", title="mean router probability", axis=theme.share_axis()),
            y=alt.Y("load:Q", title=SHARE, axis=theme.share_axis()),
            color=theme.layer_colour(),
            tooltip=[*load_tooltip(), *theme.tooltip(importance=("mean probability", ".2%"))],
        )
    )
    end = float(frame[["importance", "load"]].max().min()) if len(frame) else 0.0
    return theme.framed(theme.layered(points, theme.diagonal("load = probability", end)), theme.MEDIUM, canvas=True)


CHARTS = (
    Chart.row(load_heatmap, expert_load, load_caption, expert="expert", themed=True),
    Chart.row(load_bars, expert_load, load_caption, expert="expert", layers="one"),
    # No caption: shares without counts, and of a short text a few experts do most by chance.
    Chart.row(coverage_curve, coverage),
    Chart.row(balance_by_layer, balance, balance_caption),
    Chart.row(busiest_by_layer, balance, busiest_caption),
    Chart.row(load_against_importance, importance, importance_caption, expert="expert"),
)


def balance_of_parts(frame: pd.DataFrame) -> alt.Chart:
    """Draw the busiest expert of each layer, part by part. Columns: those of `balance_over_time`."""
    parts = int(frame["part"].max()) + 1 if len(frame) else 1
    together = -(-parts // MOST_COLUMNS)
    shown = frame.dropna(subset=["max_over_mean"]).assign(part=frame["part"] // together * together)
    worst = shown.groupby(["layer", "part"], as_index=False)["max_over_mean"].max()
    worst["until"] = np.minimum(worst["part"] + together, parts)
    note = f"the highest of {together} in a row" if together > 1 else f"{parts:,} in all"
    axis = alt.Axis(format=",d", tickMinStep=1, grid=False)
    cells = theme.cells(
        theme.compact(worst),
        x=alt.X("part:Q", title=f"part of the corpus ({note})", axis=axis, scale=alt.Scale(nice=False)),
        x2="until:Q",
        y=alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, grid=False)),
        color=theme.gradient("max_over_mean", "busiest expert, × uniform", {"domainMin": 1}, titleLimit=330),
        tooltip=theme.tooltip(layer="d", part=",d", max_over_mean=("busiest expert, × uniform", ".2f")),
    )
    return theme.framed(cells, theme.rows_height(worst["layer"].nunique()), canvas=True)


OVER_TIME = Chart.row(balance_of_parts, balance_over_time)
