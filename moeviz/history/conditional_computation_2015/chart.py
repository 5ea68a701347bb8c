"""The charts of conditional computation. Not topics, since a topic is about any trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.conditional_computation_2015.picture import (
    NAMES,
    SHOWN,
    blocks_by_digit,
    blocks_on,
    error_by_blocks,
)

LEARNT, STRAIGHT, UNIFORM = NAMES.values()
COLOURS = {LEARNT: theme.MAIN, STRAIGHT: theme.EXPERT_COLOURS[2], UNIFORM: theme.CHANCE}
SHAPES = {LEARNT: "circle", STRAIGHT: "triangle-up", UNIFORM: "square"}


def block_probability_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Kind of digit by block, coloured by the probability of being on. Columns: those of `blocks_by_digit`."""
    legend = alt.Legend(title="probability of being on", format="%", orient="top", gradientLength=200)
    chart = (
        alt.Chart(frame)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("block:O", title="block", axis=theme.ids_axis()),
            y=alt.Y("digit:O", title="digit", axis=alt.Axis(labelOverlap=False)),
            color=alt.Color("probability:Q", scale=alt.Scale(scheme=theme.VIRIDIS, domain=[0, 1]), legend=legend),
            tooltip=[
                alt.Tooltip("digit:Q", format="d"),
                alt.Tooltip("block:Q", format="d"),
                alt.Tooltip("probability:Q", title="probability of being on", format=".1%"),
                alt.Tooltip("on:Q", title="share of these digits with the block on", format=".1%"),
                alt.Tooltip("target:Q", title="target τ", format=".2%"),
            ],
        )
    )
    return theme.framed(chart, theme.MEDIUM, canvas=True)


def blocks_on_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """How many digits have how many blocks on, and the same at random. Columns: those of `blocks_on`."""
    base = alt.Chart(frame).encode(
        x=alt.X("blocks_on:O", title="blocks on (orange: at random)", axis=theme.ids_axis()),
        tooltip=[
            alt.Tooltip("blocks_on:Q", title="blocks on", format="d"),
            alt.Tooltip("digits:Q", format=","),
            alt.Tooltip("share:Q", title="share of the digits", format=".1%"),
            alt.Tooltip("by_lot:Q", title="at random", format=".1%"),
        ],
    )
    bars = base.mark_bar(color=theme.MAIN).encode(
        y=alt.Y("share:Q", title="share of the digits", axis=theme.share_axis())
    )
    lot = base.mark_tick(color=theme.CHANCE, thickness=3, opacity=1, width=alt.RelativeBandSize(0.9)).encode(
        y="by_lot:Q"
    )
    return theme.framed(bars + lot, theme.SHORT + 60)


def error_against_blocks_on(frame: pd.DataFrame) -> alt.LayerChart:
    """Error against the share of blocks on, one line per kind of gate. Columns: those of `error_by_blocks`."""
    gated = frame[frame["network"].isin(list(COLOURS))]
    legend = alt.Legend(title=None, orient="top", columns=2, symbolStrokeWidth=2, symbolOpacity=1)
    base = alt.Chart(gated).encode(
        x=_share_of_blocks(),
        color=alt.Color(
            "network:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=legend
        ),
        tooltip=_tooltip(),
    )
    shape = alt.Shape("network:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=legend)
    lines = base.mark_line(strokeWidth=2).encode(y=_error("mean"))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=_error("mean"), shape=shape)
    spread = base.mark_rule(strokeWidth=2).encode(y=_error("lowest"), y2="highest:Q")
    shown = alt.Chart(frame[frame["network"] == SHOWN]).encode(
        x=_share_of_blocks(), y=_error("mean"), tooltip=_tooltip()
    )
    ring = shown.mark_point(filled=False, size=220, strokeWidth=2.5, color=theme.ACCENT, opacity=1)
    return theme.framed(alt.layer(*_dense(frame), lines, spread, points, ring), theme.MEDIUM + 40)


def _dense(frame: pd.DataFrame) -> list[alt.LayerChart]:
    """A dashed line for each dense network, named: the better one below its line, so that the names do not meet."""
    dense = frame[frame["network"].str.startswith("dense")].sort_values("mean")
    rows = [dense.iloc[[i]][["network", "mean"]] for i in range(len(dense))]
    return [theme.named_reference(row, "mean", row["network"].item(), below=i == 0) for i, row in enumerate(rows)]


def _share_of_blocks() -> alt.X:
    return alt.X("on_share:Q", title="share of blocks on", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1]))


def _error(field: str) -> alt.Y:
    axis = alt.Axis(format="%", values=[0.05, 0.1, 0.2, 0.4, 0.8])
    return alt.Y(
        f"{field}:Q",
        title="share of the test digits classified wrongly",
        scale=alt.Scale(type="log", domainMin=0.04, nice=False),
        axis=axis,
    )


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("network:N"),
        alt.Tooltip("target:Q", title="target τ", format=".2%"),
        alt.Tooltip("on_share:Q", title="share of blocks on", format=".1%"),
        alt.Tooltip("mean:Q", title="wrong", format=".1%"),
        alt.Tooltip("lowest:Q", title="best seed", format=".1%"),
        alt.Tooltip("highest:Q", title="worst seed", format=".1%"),
    ]


BLOCKS_BY_DIGIT = Chart(
    "Which blocks does each digit switch on?",
    "Each row is a digit, and each cell is how likely a block is to be on for it. Rows that look alike are computed "
    "alike; a row does not sum to 100%, since each block is on or off independently.",
    measure=blocks_by_digit,
    draw=block_probability_heatmap,
)
BLOCKS_ON = Chart(
    "How many blocks does a digit have on?",
    "Each bar is the share of the test digits with so many blocks on, in one sample. The orange mark is what as many "
    "blocks chosen at random would show.",
    measure=blocks_on,
    draw=blocks_on_bars,
)
ERROR_BY_BLOCKS = Chart(
    "How much accuracy does leaving blocks off cost?",
    "Each mark is a network at one target, the mean of three seeds with a line from the best to the worst: lower is "
    "fewer errors, further left is fewer blocks to compute. The ring is the network on this page; each step on the "
    "error axis doubles the error.",
    measure=error_by_blocks,
    draw=error_against_blocks_on,
)
