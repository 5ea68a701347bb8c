"""The chart of each expert's contribution against its load. Not a topic: few traces have outputs."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.contribution import contribution, contribution_caption
from moeviz.metrics.expert_names import UNNAMED
from moeviz.metrics.expert_table import BROAD, NARROW, breadth
from moeviz.metrics.tokens import visible

BREADTHS = {NARROW: "#cc6699", BROAD: "#4a8fd0", UNNAMED: theme.OTHER}
SUPER = "Super Expert"
CHOSEN, ADDS = "how often it is chosen, × a uniform share", "adds each time, × its layer’s mean"
PLAIN = alt.Axis(grid=False, format=",.2~f")
WIDE = 30.0  # times the least: of more, an axis shows ratios
FEW = 400  # experts: of more, dots are smaller and drawn as pixels
HIGH = 520  # pixels
LETTERS = 60  # of a name in a tooltip


def contribution_points(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw a point for each expert: how often it is chosen, and how much it adds. Columns: those of `contribution`."""
    words, shape = breadth(frame), frame["super"].map({True: SUPER})
    rows = frame.drop(columns=["super", "role"]).assign(
        breadth=words, kind=shape.fillna("expert"), name=[visible(name)[:LETTERS] for name in frame["name"]]
    )
    tips = [
        *theme.tooltip(layer="d", expert="d"),
        *theme.tooltip(name=("name", ""), breadth=("takes", "")),
        *theme.tooltip(tokens=("tokens", ","), times_uniform=("chosen, × uniform", ".2f")),
        *theme.tooltip(added_times=("adds, × its layer’s mean", ".2f"), added=("gate × norm", ".3g")),
    ]
    present = [name for name in BREADTHS if name in set(words)]
    few = len(rows) <= FEW
    points = theme.points(
        rows,
        {"filled": True, "size": 70 if few else 18, "opacity": 0.85 if few else 0.6, "cursor": "pointer"},
        x=alt.X("times_uniform:Q", title=CHOSEN, axis=PLAIN, scale=_scale(rows["times_uniform"])),
        y=alt.Y("added_times:Q", title=ADDS, axis=PLAIN, scale=_scale(rows["added_times"])),
        color=theme.colour("breadth", present, [BREADTHS[name] for name in present], title=None, columns=4),
        tooltip=tips,
    )
    if (rows["kind"] == SUPER).any():
        legend = alt.Legend(title=None, orient="top", values=[SUPER], symbolFillColor=theme.NOTE, symbolStrokeWidth=0)
        scale = alt.Scale(domain=["expert", SUPER], range=["circle", "diamond"])
        points = points.encode(shape=alt.Shape("kind:N", scale=scale, legend=legend))
    one = pd.DataFrame({"one": [1.0]})
    lines = theme.reference(one, "one"), theme.reference(one, "one", axis="x")
    return theme.framed(theme.layered(*lines, points), theme.MEDIUM if few else HIGH, canvas=not few)


def _scale(values: pd.Series) -> alt.Scale:
    least, most = values.min(), values.max()
    return alt.Scale(type="log" if most > WIDE * least > 0 else "linear", zero=False)


CONTRIBUTION = Chart.row(contribution_points, contribution, contribution_caption, expert="expert")
