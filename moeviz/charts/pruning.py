"""Charts of what it costs to cut experts. Not a topic, since they are about texts that a model read many times."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.pruning import CRITERIA, RANDOM, cost_by_kind, cost_of_cuts

NAMES = {name: says.removeprefix("by ") for name, says in CRITERIA.items()}  # in the words of a legend
COLOURS = ("#4a8fd0", "#228833", "#cc7722", "#aa3377", "#ccbb44", "#999999")
LOSS = "loss increase, nats per token"


def cost_of_cuts_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Loss against experts cut, a line per criterion. Columns: those of `cost_of_cuts`."""
    ends = {"least": frame["loss_increase"] - frame["sd"], "most": frame["loss_increase"] + frame["sd"]}
    rows = frame.assign(by=frame["criterion"].map(NAMES), **ends)
    present = [name for name in CRITERIA if name in set(frame["criterion"])]
    colours = [COLOURS[[*CRITERIA].index(name)] for name in present]
    base = alt.Chart(rows).encode(
        x=alt.X("cut:Q", title="experts cut from each layer", axis=theme.whole_axis()),
        y=alt.Y("loss_increase:Q", title=LOSS),
        color=theme.colour("by", [NAMES[name] for name in present], colours, columns=3),
        tooltip=theme.tooltip(
            by="",
            cut=("experts cut from each layer", "d"),
            share=("share of its experts", ".0%"),
            loss_increase=(LOSS, "+.3f"),
            sd=("standard deviation of the draws", ".3f"),
            loss=("loss", ".3f"),
        ),
    )
    draws = base.mark_rule(strokeWidth=5, opacity=0.35).encode(y="least:Q", y2="most:Q")
    drawn = draws.transform_filter(alt.datum.criterion == RANDOM)
    return theme.framed(theme.layered(drawn, base.mark_line(strokeWidth=2), base.mark_circle(size=70)), theme.MEDIUM)


def cost_by_kind_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the loss of each kind of text, next to a cut at random. Columns: those of `cost_by_kind`."""
    tips = theme.tooltip(
        kind=("kind of text", ""),
        tokens=("tokens that judged", ",d"),
        loss_increase=(LOSS, "+.3f"),
        at_random=("at random", "+.3f"),
    )
    base = alt.Chart(frame).encode(y=alt.Y("kind:N", title=None, sort=frame["kind"].tolist()), tooltip=tips)
    bars = base.mark_bar(color=theme.PAIR[0]).encode(x=alt.X("loss_increase:Q", title=LOSS))
    chance = base.mark_tick(color=theme.PAIR[1], thickness=3).encode(x="at_random:Q")
    return theme.framed(theme.layered(bars, chance), theme.rows_height(frame["kind"].nunique()))


COST = Chart.row(cost_of_cuts_curve, cost_of_cuts)
KINDS = Chart.row(cost_by_kind_bars, cost_by_kind)
