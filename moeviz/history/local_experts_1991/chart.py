"""The charts of the 1991 paper. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.local_experts_1991.picture import MIXTURE, NETWORK, decision_lines, error_by_epoch
from moeviz.history.shared.chart import formant_plane


def error_curves(frame: pd.DataFrame) -> alt.LayerChart:
    """Two falling curves, and the error at which both stop. Columns: those of `error_by_epoch`."""
    colour = alt.Color(
        "system:N",
        scale=alt.Scale(domain=[MIXTURE, NETWORK], range=list(theme.PAIR)),
        legend=alt.Legend(title=None, orient="top", columns=1, labelLimit=280),
    )
    curves = (
        alt.Chart(frame)
        .mark_line(strokeWidth=3)
        .encode(
            x=alt.X("epoch:Q", title="epoch"),
            y=alt.Y("squared_error:Q", title="average squared error", scale=alt.Scale(domainMin=0)),
            color=colour,
            tooltip=[
                alt.Tooltip("system:N"),
                alt.Tooltip("epoch:Q", format=",d"),
                alt.Tooltip("squared_error:Q", title="average squared error", format=".3f"),
            ],
        )
    )
    goal = alt.Chart(frame.head(1)).mark_rule(color=theme.NOTE, strokeDash=list(theme.DASH)).encode(y="goal:Q")
    return theme.framed(curves + goal, theme.MEDIUM)


DECISION_LINES = Chart(
    "How do the experts divide the plane?",
    "Each mark is one spoken vowel, in the colour of the expert that the gate gives it to, and each line is where "
    "that expert's answer changes. The dashed line is where the gate switches from one expert to the other; an expert "
    "without a mark has been given up.",
    measure=decision_lines,
    draw=formant_plane,
)

ERROR_CURVES = Chart(
    "Do the experts learn faster than one network?",
    "Each line is the error on the training speakers, epoch by epoch, of the mixture and of one network with about as "
    "many parameters, each with the step that suits it. The dashed line is the error at which both stop.",
    measure=error_by_epoch,
    draw=error_curves,
)
