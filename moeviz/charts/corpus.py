"""How routing changes from the beginning of a corpus to its end. Not a topic: a text of one page has no parts."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.load import balance_over_time

MOST_COLUMNS = 200


def balance_of_parts(frame: pd.DataFrame) -> alt.Chart:
    """The busiest expert of each layer, part by part. Columns: those of `balance_over_time`."""
    parts = int(frame["part"].max()) + 1 if len(frame) else 1
    together = -(-parts // MOST_COLUMNS)
    shown = frame.dropna(subset=["max_over_mean"]).assign(part=frame["part"] // together * together)
    worst = shown.groupby(["layer", "part"], as_index=False)["max_over_mean"].max()
    worst["until"] = np.minimum(worst["part"] + together, parts)
    note = f"the highest of {together} in a row" if together > 1 else f"{parts:,} in all"
    axis = alt.Axis(format=",d", tickMinStep=1, grid=False)
    legend = alt.Legend(title="busiest expert, × uniform", titleLimit=330, orient="top", gradientLength=200)
    cells = (
        alt.Chart(theme.compact(worst))
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("part:Q", title=f"part of the corpus ({note})", axis=axis, scale=alt.Scale(nice=False)),
            x2="until:Q",
            y=alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, grid=False)),
            color=alt.Color("max_over_mean:Q", scale=alt.Scale(scheme=theme.VIRIDIS, domainMin=1), legend=legend),
            tooltip=[
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("part:Q", format=",d"),
                alt.Tooltip("max_over_mean:Q", title="busiest expert, × uniform", format=".2f"),
            ],
        )
    )
    return theme.framed(cells, theme.rows_height(worst["layer"].nunique()), canvas=True)


OVER_TIME = Chart(
    "Does the load stay as uniform from the beginning of the corpus to its end?",
    "Each column is a part of the corpus, in the order in which it was traced, and each cell is the load of a layer's "
    "busiest expert there: 1 is uniform, and a column that is brighter than the others is text that its experts divide "
    "less evenly.",
    measure=balance_over_time,
    draw=balance_of_parts,
)
