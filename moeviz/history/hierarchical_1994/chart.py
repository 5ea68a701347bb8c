"""The charts of the tree of 1994: how it divides two planes, and error by passes over the data."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.hierarchical_1994.picture import square_lines, tree_lines
from moeviz.history.hierarchical_1994.three_shapes import ALL_PASSES, SHAPES, shipped_error_by_shape
from moeviz.history.shared.chart import formant_plane


def error_by_passes(frame: pd.DataFrame) -> alt.LayerChart:
    """A line per shape of gates and way of fitting it, with the quartiles. Columns: of `error_by_shape`."""
    shapes = alt.Scale(domain=list(SHAPES), range=[*theme.PAIR, theme.OTHER])
    above, below = ({"title": None, "orient": orient, "labelLimit": 280} for orient in ("top", "bottom"))
    solid_and_dashed = alt.Scale(domain=list(ALL_PASSES), range=[[1, 0], list(theme.DASH)])
    base = alt.Chart(frame).encode(
        x=alt.X(
            "passes:Q",
            title="passes over the data",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=[1, 10, 100, 1000], format="d"),
        ),
        color=alt.Color("shape:N", scale=shapes, legend=alt.Legend(**above, columns=1, symbolOpacity=1)),
        detail="way:N",
    )
    bands = base.mark_area(opacity=0.15).encode(y=_error("lower"), y2="upper:Q")
    lines = base.mark_line(strokeWidth=3).encode(
        y=_error("squared_error"),
        strokeDash=alt.StrokeDash(
            "way:N",
            scale=solid_and_dashed,
            legend=alt.Legend(**below, columns=1, symbolType="stroke", symbolStrokeColor=theme.NOTE, symbolSize=300),
        ),
        tooltip=[
            alt.Tooltip("shape:N", title="gates"),
            alt.Tooltip("way:N", title="fitted by"),
            alt.Tooltip("passes:Q", format=",d"),
            alt.Tooltip("squared_error:Q", title="average squared error, median", format=".3f"),
            alt.Tooltip("lower:Q", title="lower quartile of the seeds", format=".3f"),
            alt.Tooltip("upper:Q", title="upper quartile", format=".3f"),
            alt.Tooltip("seeds:Q", title="seeds", format="d"),
        ],
    )
    return theme.framed(bands + lines, theme.MEDIUM)


def _error(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="average squared error", scale=alt.Scale(domainMin=0))


def square_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """The square that needs two cuts, divided by a tree. Columns: those of `square_lines`."""
    return formant_plane(frame, ("to the right of the middle", "above the middle"), "answer wanted")


def tree_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """The plane of 1991, divided by a tree. Columns: those of `tree_lines`."""
    return formant_plane(frame)


TREE_LINES = Chart(
    "How does the tree divide the plane?",
    "Each mark is one spoken vowel in the colour of the leaf that it most likely reaches, and each line is where that "
    "leaf's answer changes. Dashed lines are gates: at the root's, cases part into two branches, and at a lower one, "
    "within a branch.",
    measure=tree_lines,
    draw=tree_plane,
)
SQUARE_LINES = Chart(
    "How does the tree divide what one cut cannot part?",
    "Each mark is a made-up point that is to be answered 1 or 0, in the colour of the leaf that it most likely "
    "reaches. Each quarter of the square has a line of its own, so the root parts two halves and each lower gate cuts "
    "its half again; solid lines are where a leaf's answer changes.",
    measure=square_lines,
    draw=square_plane,
)
LEARNING_CURVES = Chart(
    "What makes it learn fast, and what makes it learn at all?",
    "Each line is the error on the points of the square, in the median of the seeds, with the middle half of them pale "
    "around it; lower is better, and further left is faster. Solid lines are fitted by expectation maximisation, and "
    "dashed ones by gradient descent: this is what makes it fast. Grey lines have a root that stays uniform: with one "
    "cut they stay above the others, however long they learn.",
    measure=shipped_error_by_shape,
    draw=error_by_passes,
)
