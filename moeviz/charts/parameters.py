"""Charts of how much of a model works on one token, and on a whole text."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.parameters import active_caption, parameter_split, parts_caption, touched_caption, touched_growth

BILLIONS = "replace(format(datum.value, '.3~s'), 'G', 'B')"  # SI says G where papers on models say B
KINDS = {"parameters": "all", "active": "active for one token"}
LINES = {"touched": "this text", "chance": "if experts were chosen at random"}
MAX_STEPS = 1_000


def parameters_by_part(frame: pd.DataFrame) -> alt.Chart:
    """Parameters of each part, all and active. Columns: those of `parameter_split`; drawn by convention 'all'."""
    everything = frame["convention"] == "all"
    parts = frame[everything & (frame["parameters"] > 0)]
    order = [part.replace("_", " ") for part in parts.sort_values("parameters", ascending=False)["part"]]
    bars = parts.assign(share=parts["active"] / parts["parameters"], part=parts["part"].str.replace("_", " "))
    bars = bars.rename(columns=KINDS).melt(["part", "share"], list(KINDS.values()), "kind", "parameters")
    bars = bars.assign(text=bars["parameters"].map(written))
    kinds = list(KINDS.values())
    chart = theme.bars(
        bars,
        y=alt.Y("part:N", sort=order, title=None, axis=alt.Axis(labelLimit=130)),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        x=alt.X("parameters:Q", title="parameters", axis=alt.Axis(labelExpr=BILLIONS, tickCount=5)),
        color=theme.colour("kind", kinds, [theme.OTHER, theme.MAIN]),
        tooltip=theme.tooltip(
            part="", kind=("which", ""), text=("parameters", ""), share=("active share of the part", ".1%")
        ),
    )
    return theme.framed(chart, theme.rows_height(2 * len(order) - 2))


def written(parameters: int | float | np.number) -> str:
    """Return a number of parameters as papers write it.

    >>> written(46_702_792_704), written(1_234_567), written(512)
    ('46.7B', '1.23M', '512')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return f"{parameters:.0f}"


def active_by_convention(frame: pd.DataFrame) -> alt.LayerChart:
    """Active parameters by each convention. Columns: those of `parameter_split`."""
    sums = frame.groupby("convention", sort=False)[["parameters", "active"]].sum().reset_index()
    sums = sums.assign(active_text=sums["active"].map(written), share=sums["active"] / sums["parameters"])
    base = alt.Chart(sums).encode(
        y=alt.Y("convention:N", sort=None, title="what is counted", axis=alt.Axis(labelLimit=180)),
        x=alt.X("active:Q", title="active parameters", axis=alt.Axis(labelExpr=BILLIONS, tickCount=5)),
        tooltip=theme.tooltip(convention="", active_text=("active", ""), share=("share of all parameters", ".1%")),
    )
    names = base.mark_text(align="right", dx=-6, color="black", fontWeight="bold").encode(text="active_text:N")
    return theme.framed(theme.layered(base.mark_bar(color=theme.MAIN), names), theme.SHORT)


def touched_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Parameters touched as the text goes on. Columns: those of `touched_growth`.

    For a text of more than MAX_STEPS tokens, only the tokens that touched something new are drawn, or, if these are
    still more, MAX_STEPS of all tokens, evenly spaced on the logarithmic axis; the first and the last always.
    """
    lines = _steps(frame).rename(columns=LINES).melt("tokens", list(LINES.values()), "line", "parameters")
    curve = theme.lines(
        lines.assign(text=lines["parameters"].map(written)),
        {"interpolate": "step-after"},
        x=alt.X(
            "tokens:Q",
            title="tokens so far",
            scale=alt.Scale(type="log", nice=False, domain=[1, max(len(frame), 2)]),
            axis=alt.Axis(format="~s", tickCount=6),
        ),
        y=alt.Y("parameters:Q", title="parameters touched", axis=alt.Axis(labelExpr=BILLIONS)),
        color=theme.colour("line", LINES.values(), [theme.MAIN, theme.CHANCE], labelLimit=220),
        tooltip=theme.tooltip(line=("what", ""), tokens=("tokens so far", ","), text=("parameters touched", "")),
    )
    return theme.framed(
        theme.layered(curve, _name_parts(frame, "total"), _name_parts(frame, "active", below=True)), theme.MEDIUM
    )


def _name_parts(frame: pd.DataFrame, field: str, below: bool = False) -> alt.LayerChart:
    label = " ".join([field, *frame[field].head(1).map(written)])
    return theme.named_reference(frame[[field]].head(1), field, label, below)


def _steps(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= MAX_STEPS:
        return frame
    rows = np.flatnonzero(frame["touched"].diff() != 0)
    if len(rows) > MAX_STEPS:
        rows = np.geomspace(1, len(frame), MAX_STEPS).astype(int) - 1
    return frame.iloc[np.unique([0, *rows, len(frame) - 1])]


CHARTS = (
    Chart.row(parameters_by_part, parameter_split, parts_caption),
    Chart.row(active_by_convention, parameter_split, active_caption),
    Chart.row(touched_curve, touched_growth, touched_caption),
)
