"""All systems of the gallery in one chart. Not a topic, since a topic is about one trace."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.system_table import work_side_by_side

NAME_WIDTH = 150
ROW, THICK, THIN = 40, 16, 9  # pixels: of a system, of its bar, and of its boxes below that
WIDE = 0.92  # of the width of a box: the rest keeps it apart from the next
BESIDE = 64  # right of the boxes, for how many are filled


def systems_side_by_side(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw two rows per trace: its work, busiest expert first; its experts, filled for those that an input goes to.

    Columns: those of `work_side_by_side`.
    """
    y = alt.Y("trace:N", title=None, sort=list(frame["trace"].unique()), axis=alt.Axis(labelLimit=NAME_WIDTH))
    height = ROW * frame["trace"].nunique() + 50
    layered = theme.layered(_work(frame, y), *_boxes(frame, y), _write_filled(frame, y))
    return theme.framed(layered, height).properties(padding={"left": 5, "top": 5, "bottom": 5, "right": BESIDE})


def _work(frame: pd.DataFrame, y: alt.Y) -> alt.Chart:
    ranked = frame.sort_values(["share"], ascending=False, kind="stable")
    rank = ranked.groupby("trace", sort=False).cumcount()
    ranked = ranked.assign(rank=rank, even=1 / ranked["num_experts"])
    colours = [theme.EXPERT_COLOURS[place % len(theme.EXPERT_COLOURS)] for place in range(int(rank.max()) + 1)]
    return (
        alt.Chart(ranked)
        .mark_bar(stroke="white", strokeWidth=0.5, height=THICK, yOffset=-THIN / 2 - 2)
        .encode(
            x=alt.X("share:Q", title="share of the work", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1])),
            y=y,
            color=alt.Color("rank:O", scale=alt.Scale(range=colours), legend=None),
            order=alt.Order("rank:Q"),
            tooltip=[
                *theme.tooltip(
                    trace=("system", ""), expert="d", share=("share of the work", ".1%"), even=("uniform share", ".1%")
                ),
                *_count_columns(),
                *theme.tooltip(entropy=("router entropy, share of the maximum", ".2f")),
            ],
        )
    )


def _boxes(frame: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    place = frame.groupby("trace", sort=False).cumcount()
    share = np.clip(frame["used"] - place, 0, 1)
    ends = {"from": place, "to": place + WIDE, "filled": place + WIDE * share}
    columns = {name: numbers / frame["num_experts"] for name, numbers in ends.items()}
    base = alt.Chart(frame[["trace", "num_experts", "used"]].assign(**columns)).encode(
        x="from:Q", y=y, tooltip=[*theme.tooltip(trace=("system", "")), *_count_columns()]
    )
    below = {"height": THIN, "yOffset": THICK / 2 + 2}
    filled = base.transform_filter("datum.filled > datum.from").mark_bar(color=theme.NOTE, **below)
    hollow = base.mark_bar(fillOpacity=0, stroke=theme.NOTE, strokeWidth=1, **below)
    return [filled.encode(x2="filled:Q"), hollow.encode(x2="to:Q")]


def _write_filled(frame: pd.DataFrame, y: alt.Y) -> alt.Chart:
    systems = frame.drop_duplicates("trace")
    both = zip(systems["used"], systems["num_experts"], strict=True)
    words = [f"{used:.2g} of {all_of_them}" for used, all_of_them in both]
    return (
        alt.Chart(systems[["trace"]].assign(end=1, words=words))
        .mark_text(align="left", baseline="middle", dx=6, dy=THICK / 2 + 2, color=theme.NOTE)
        .encode(x="end:Q", y=y, text="words:N")
    )


def _count_columns() -> list[alt.Tooltip]:
    return theme.tooltip(used=("experts that an input goes to, mean", ".2~f"), num_experts=("of", "d"))


SIDE_BY_SIDE = Chart.row(systems_side_by_side, work_side_by_side)
