"""The chart of a router's logits in parts. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.direct_attribution import direct_caption, direct_parts

FIRST, ALSO = "first choice", "also chosen"


def direct_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """A bar for what each part wrote of the first choice, a dot for each other choice. Columns: `direct_parts`."""
    is_first = frame["slot"] == frame["slot"].min()
    told = frame.assign(which=is_first.map({True: FIRST, False: ALSO}))
    rows = frame.drop_duplicates("place")["part"].tolist()
    base = {
        "y": alt.Y("part:N", sort=rows, title=None, axis=alt.Axis(labelLimit=220)),
        "x": alt.X("above_mean:Q", title="logit, above the mean of all experts", axis=alt.Axis(format="~g")),
        "color": theme.colour("which", [FIRST, ALSO], [theme.MAIN, theme.CHANCE]),
        "tooltip": theme.tooltip(
            part="",
            expert="d",
            logit=("part of its logit", "+.3f"),
            above_mean=("above the mean of all experts", "+.3f"),
        ),
    }
    parts = [theme.bars(told[is_first], **base)]
    if not is_first.all():
        parts.append(theme.points(told[~is_first], {"filled": True, "size": 45, "opacity": 1}, **base))
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=theme.NOTE).encode(x="zero:Q")
    return theme.framed(theme.layered(*parts, zero), theme.rows_height(len(rows)))


DIRECT = Chart(
    "Which parts of the model wrote this choice, directly?",
    "Bars: what each part before the router wrote of the first choice's logit, above what it wrote for experts on "
    "average; dots: the other choices. The parts add up, with the norm's scale as it was. They do not predict which "
    "change would move the choice (AUC .56 to .66 beyond layer 0): for that, ask which word decided.",
    measure=direct_parts,
    draw=direct_bars,
    say=direct_caption,
)
CHARTS = (DIRECT,)
