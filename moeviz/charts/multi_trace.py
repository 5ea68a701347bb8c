"""Charts of several traces: of one text by several models, or by checkpoints of one training run. Not a topic."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.locality import MIXTRAL
from moeviz.metrics.multi_trace import (
    balance_of_several,
    information_of_several,
    repetition_of_several,
    sets_of_several,
)
from moeviz.metrics.routing_over_training import saturation_over_training

COLOURS = (*theme.PAIR, "#44AA99")
SHAPES = ("circle", "square", "triangle-up")
FURTHEST = 0.04  # depth that is left free before the first layer and after the last


def repetition_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Repetition beyond chance, by depth. Columns: those of `repetition_of_several`."""
    own, published = frame[frame["trace"] != MIXTRAL], frame[frame["trace"] == MIXTRAL]
    tips = {"over_chance": "beyond chance", "by_load": "by the load alone", "share": "share of pairs"}
    tips |= {"chance": "chance, uniform load"}
    figures = dict.fromkeys(("over_chance", "lowest", "highest", "share"), ".1%")
    theirs = alt.Chart(published).encode(x=_depth(), tooltip=theme.tooltip(trace="", layer="d", **figures))
    reach = theirs.mark_rule(color=theme.NOTE, strokeWidth=2).encode(y="lowest:Q", y2="highest:Q")
    points = theirs.mark_point(color=theme.NOTE, filled=True, shape="diamond", size=90, opacity=1)
    title, under = "first choice repeats, beyond chance", [reach, points.encode(y="over_chance:Q")]
    return _lines(own, "over_chance", "by_load", title, tips, axis=theme.share_axis(), under=under)


def information_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Information about the kind of text, by depth. Columns: those of `information_of_several`."""
    tips = {"information": "bits", "shuffled": "with labels shuffled", "shuffled_highest": "most of 100 shuffles"}
    return _lines(frame, "information", "shuffled", "bits about the kind of text", tips, ".3f")


def busiest_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of the busiest expert, by depth. Columns: those of `balance_of_several`."""
    tips = {"busiest": "× the mean", "by_lot": "at random"}
    return _lines(frame, "busiest", "by_lot", "load of the busiest expert, × the mean", tips, ".2f", "num_experts")


def sets_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Different sets of experts, by depth. Columns: those of `sets_of_several`."""
    axis = alt.Axis(tickCount=3, format=",d")  # powers of ten; otherwise the scale has lines for all between them
    tips = {"sets": "different sets", "by_lot": "at random", "possible": "possible sets", "tokens": "tokens"}
    scale = alt.Scale(type="log")
    return _lines(frame, "sets", "by_lot", "different sets of experts", tips, ",.0f", axis=axis, scale=scale)


def _lines(
    frame: pd.DataFrame,
    field: str,
    chance: str,
    title: str,
    tips: dict[str, str],
    form: str = ".1%",
    *more: str,
    axis: Any = alt.Undefined,
    scale: Any = alt.Undefined,
    under: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """Draw a line per trace, with its chance level dashed in the same colour, if known; `under` these, other marks."""
    names = list(frame["trace"].unique())
    colour = theme.colour("trace", names, _repeat(COLOURS, names))
    shape = theme.named(alt.Shape, "trace", names, _repeat(SHAPES, names))
    figures = theme.figures(form, **tips) + theme.figures("d", **{name: name.replace("_", " ") for name in more})
    base = alt.Chart(frame).encode(x=_depth(), color=colour, tooltip=[*theme.tooltip(trace="", layer="d"), *figures])
    y = alt.Y(f"{field}:Q", title=title, axis=axis, scale=scale)
    lines = [
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=70, opacity=1).encode(y=f"{field}:Q", shape=shape),
    ]
    if theme.known(frame, chance):
        lines.insert(0, base.mark_line(strokeDash=list(theme.DASH), strokeWidth=1.5).encode(y=f"{chance}:Q"))
    return theme.framed(theme.layered(*under, *lines), theme.MEDIUM)


def _depth() -> alt.X:
    words = "datum.value == 0 ? 'first layer' : datum.value == 1 ? 'last layer' : ''"
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], labelExpr=words)
    scale = alt.Scale(domain=[-FURTHEST, 1 + FURTHEST], nice=False)
    return alt.X("depth:Q", title="depth (dashed: chance)", axis=axis, scale=scale)


def _repeat(values: tuple[str, ...], names: list[str]) -> list[str]:
    return [values[at % len(values)] for at in range(len(names))]


REPETITION = Chart.row(repetition_lines, repetition_of_several)
INFORMATION = Chart.row(information_lines, information_of_several)
BUSIEST = Chart.row(busiest_lines, balance_of_several)
SETS = Chart.row(sets_lines, sets_of_several)
CHARTS = (REPETITION, INFORMATION, BUSIEST, SETS)


def saturation_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of the final experts by training tokens, a line per layer. Columns: those of `saturation_over_training`."""
    frame = frame[frame["choice"] == frame["choice"].iloc[0]]
    first = int(frame.loc[frame["training_tokens"] > 0, "training_tokens"].min()) if len(frame) > 1 else 1
    scale = alt.Scale(type="log", nice=False)
    if (frame["training_tokens"] == 0).any():  # as runs that were watched from their first step
        scale = alt.Scale(type="symlog", constant=first, nice=False)
    tokens = alt.X("training_tokens:Q", title="training tokens (dashed: chance)", scale=scale)
    lines = theme.lines(
        frame,
        {"point": True},
        x=tokens.axis(format="~s", grid=False),
        y=alt.Y("saturation:Q", title="share of the final experts", axis=theme.share_axis()),
        color=theme.layer_colour(),
        detail="layer:N",
        tooltip=theme.tooltip(
            training_tokens=("training tokens", ","),
            layer="d",
            saturation=("share of the final experts", ".1%"),
            chance=("at random", ".1%"),
            load_chance=("with tokens matched at random", ".1%"),
        ),
    )
    return theme.framed(theme.layered(lines, theme.reference(frame.head(1), "chance")), theme.MEDIUM)


SATURATION = Chart.row(saturation_curve, saturation_over_training)
