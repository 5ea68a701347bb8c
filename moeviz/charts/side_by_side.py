"""All systems of the gallery in one chart. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.side_by_side import work_side_by_side

NAME_WIDTH = 150


def systems_side_by_side(frame: pd.DataFrame) -> alt.Chart:
    """One bar per trace, divided into its experts, busiest first. Columns: those of `work_side_by_side`."""
    ranked = frame.sort_values(["share"], ascending=False, kind="stable")
    rank = ranked.groupby("trace", sort=False).cumcount()
    ranked = ranked.assign(rank=rank, even=1 / ranked["num_experts"])
    colours = [theme.EXPERT_COLOURS[place % len(theme.EXPERT_COLOURS)] for place in range(int(rank.max()) + 1)]
    chart = (
        alt.Chart(ranked)
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("share:Q", title="share of the work", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("trace:N", title=None, sort=list(frame["trace"].unique()), axis=alt.Axis(labelLimit=NAME_WIDTH)),
            color=alt.Color("rank:O", scale=alt.Scale(range=colours), legend=None),
            order=alt.Order("rank:Q"),
            tooltip=[
                alt.Tooltip("trace:N", title="system"),
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("share:Q", title="share of the work", format=".1%"),
                alt.Tooltip("even:Q", title="uniform share", format=".1%"),
                alt.Tooltip("num_experts:Q", title="experts", format="d"),
                alt.Tooltip("used:Q", title="experts per token", format=".1f"),
                alt.Tooltip("entropy:Q", title="router entropy, share of the maximum", format=".2f"),
            ],
        )
    )
    return theme.framed(chart, theme.rows_height(frame["trace"].nunique()))


SIDE_BY_SIDE = Chart(
    "How does each system divide its work among its experts?",
    "Each bar is all the work of a system's last layer, divided into its experts with the busiest first. Equal pieces "
    "are a uniform load; an expert that does nothing has no piece. The colours show rank only.",
    measure=work_side_by_side,
    draw=systems_side_by_side,
)
