"""Charts of how many experts a share of the work needs, and how many a text has reached."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.coverage import experts_needed, experts_needed_caption, experts_touched, experts_touched_caption

MOST_WRITTEN = 60  # layers: with more, a row is too low for numbers


def experts_needed_grid(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw layer by level, coloured by what a uniform load would need. Columns: those of `experts_needed`."""
    written = frame["needed"].astype("str") + " / " + frame["by_lot"].astype("str")
    lines = {"labelExpr": "split(datum.label, '|')", "labelAlign": "center", "labelOverlap": False}
    levels = alt.Axis(orient="top", title="share of assignments", labelAngle=0, grid=False, **lines)
    base = alt.Chart(frame.assign(column=_columns(frame), written=written)).encode(
        x=alt.X("column:O", title=None, sort=None, axis=levels),
        y=alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, grid=False)),
        tooltip=theme.tooltip(
            layer="d",
            level=("share of assignments", ".0%"),
            needed=("experts that carry it", "d"),
            by_lot=("at random", "d"),
            even=("under a uniform load", "d"),
            num_experts=("experts in the layer", "d"),
        ),
    )
    title = "share of what a uniform load needs"
    colour = theme.gradient("of_even", title, {"domain": [0, 1]}, format="%", titleLimit=330)
    layers = frame["layer"].nunique()
    size = 9 if layers > MOST_WRITTEN / 2 else 11
    words = (
        [base.mark_text(fontSize=size).encode(text="written:N", color=theme.ink_on("of_even"))]
        if layers <= MOST_WRITTEN
        else []
    )
    return theme.framed(
        theme.layered(base.mark_rect(stroke=None).encode(color=colour), *words), theme.rows_height(layers), canvas=True
    )


def _columns(frame: pd.DataFrame) -> pd.Series:
    """Name each level, with what a uniform load needs if that is the same for all layers."""
    names = (100 * frame["level"]).round().astype("int").astype("str") + " %"
    same = frame["num_experts"].nunique() == 1
    return names + "|uniform " + frame["even"].astype("str") if same else names


def touched_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Different experts chosen as the text goes on, one line per layer. Columns: those of `experts_touched`."""
    last = max(int(frame["tokens"].max()), 2) if len(frame) else 2
    most = int(frame["num_experts"].max()) if len(frame) else 1
    base = alt.Chart(frame).encode(
        x=alt.X(
            "tokens:Q",
            title="tokens so far (dashed: choice at random)",
            scale=alt.Scale(type="log", nice=False, domain=[1, last]),
            axis=alt.Axis(format="~s", tickCount=6, grid=False),
        ),
        detail="layer:N",
        tooltip=theme.tooltip(
            layer="d",
            tokens=("tokens so far", ","),
            experts=("different experts", "d"),
            chance=("at random", ".1f"),
            num_experts=("experts in the layer", "d"),
        ),
    )
    y = alt.Y(
        "experts:Q",
        title="different experts chosen",
        scale=alt.Scale(domain=[0, most], nice=False),
        axis=alt.Axis(format="d", tickMinStep=1),
    )
    lines = base.mark_line(interpolate="linear").encode(y=y, color=theme.layer_colour())
    chance = base.mark_line(interpolate="linear", color=theme.CHANCE, strokeDash=list(theme.DASH)).encode(y="chance:Q")
    return theme.framed(theme.layered(lines, chance), theme.MEDIUM, canvas=True)


CHARTS = (
    Chart.row(experts_needed_grid, experts_needed, experts_needed_caption),
    Chart.row(touched_by_layer, experts_touched, experts_touched_caption),
)
