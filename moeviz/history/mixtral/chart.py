"""The charts of what was published of Mixtral. Not topics, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.mixtral.picture import CHOICES, KINDS, published_load, published_repetition


def mixtral_load(frame: pd.DataFrame) -> alt.LayerChart:
    """Three bars an expert, a kind of text each, and the uniform share. Columns: those of `published_load`."""
    colour = alt.Color(
        "label:N",
        scale=alt.Scale(domain=list(KINDS.values()), range=theme.EXPERT_COLOURS[: len(KINDS)]),
        legend=alt.Legend(title=None, orient="top"),
    )
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("expert:O", title="expert (dashed: uniform share)", axis=theme.ids_axis()),
            xOffset=alt.XOffset("label:N", sort=list(KINDS.values())),
            y=alt.Y("share:Q", title="share of assignments", axis=theme.share_axis()),
            color=colour,
            tooltip=[
                alt.Tooltip("label:N", title="kind of text"),
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("assignments:Q", format=","),
                alt.Tooltip("share:Q", title="share of its assignments", format=".1%"),
            ],
        )
    )
    return theme.framed(bars + theme.reference(frame[["uniform"]].head(1), "uniform", theme.NOTE), theme.MEDIUM)


def mixtral_repetition(frame: pd.DataFrame) -> alt.LayerChart:
    """A dot per data set and layer, with chance as a dashed line. Columns: those of `published_repetition`."""
    colour = alt.Color(
        "choice:N",
        scale=alt.Scale(domain=list(CHOICES), range=list(theme.PAIR)),
        legend=alt.Legend(title=None, orient="top", columns=1),
    )
    dots = (
        alt.Chart(frame)
        .mark_point(filled=True, size=50, opacity=0.7)
        .encode(
            x=alt.X("layer:O", title="layer (dashed: chance)", axis=theme.ids_axis()),
            y=alt.Y("share:Q", title="pairs of neighbouring tokens", axis=theme.share_axis()),
            color=colour,
            tooltip=[
                alt.Tooltip("data_set:N", title="data set"),
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("choice:N"),
                alt.Tooltip("share:Q", title="share of pairs", format=".1%"),
                alt.Tooltip("chance:Q", format=".1%"),
            ],
        )
    )
    chance = (
        alt.Chart(frame.drop_duplicates("choice"))
        .mark_rule(strokeDash=list(theme.DASH), strokeWidth=2)
        .encode(y="chance:Q", color=colour)
    )
    return theme.framed(dots + chance, theme.MEDIUM)


MIXTRAL_LOAD = Chart(
    "Does Mixtral send code, books and the web to different experts?",
    "Each bar is the share of a kind of text that goes to an expert. Where the three bars of every expert are of one "
    "height, all kinds are routed alike.",
    measure=published_load,
    draw=mixtral_load,
)
MIXTRAL_REPETITION = Chart(
    "Do neighbouring tokens of Mixtral share experts?",
    "Each dot is a data set: the share of tokens with the same first choice as the token before, and with an expert in "
    "common with it. At layer 0 that is hardly more than chance; deeper it is clearly more.",
    measure=published_repetition,
    draw=mixtral_repetition,
)
