"""The charts of the tree of 1994: how it divides the plane, and error by passes over the data."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.hierarchical_1994.picture import GRADIENT, TREE, learning_curves, tree_lines
from moeviz.history.shared.chart import formant_plane


def error_by_passes(frame: pd.DataFrame) -> alt.LayerChart:
    """Two curves over a logarithmic axis of passes, and the goal. Columns: those of `learning_curves`."""
    x = alt.X(
        "passes:Q",
        title="passes over the data",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=[1, 10, 100, 1000], format="d"),
    )
    colour = alt.Color(
        "system:N",
        scale=alt.Scale(domain=[TREE, GRADIENT], range=list(theme.PAIR)),
        legend=alt.Legend(title=None, orient="top", columns=1, labelLimit=280),
    )
    curves = (
        alt.Chart(frame)
        .mark_line(strokeWidth=3)
        .encode(
            x=x,
            y=alt.Y("squared_error:Q", title="average squared error", scale=alt.Scale(domainMin=0)),
            color=colour,
            tooltip=[
                alt.Tooltip("system:N"),
                alt.Tooltip("passes:Q", format=",d"),
                alt.Tooltip("squared_error:Q", title="average squared error", format=".3f"),
            ],
        )
    )
    goal = alt.Chart(frame.head(1)).mark_rule(color=theme.NOTE, strokeDash=list(theme.DASH)).encode(y="goal:Q")
    return theme.framed(curves + goal, theme.MEDIUM)


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
LEARNING_CURVES = Chart(
    "How often do the experts have to see the data?",
    "Each line is the error of a system on its training speakers after so many passes over the data; further left is "
    "faster. The dashed line is the error at which the paper of 1991 stops.",
    measure=learning_curves,
    draw=error_by_passes,
)
