"""The charts of the Switch Transformer of 2021. Not topics, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.switch_2021.picture import OTHERS, THIS_RUN, drop_rates, dropped_by_place, expert_queues

DASHES = ([1, 0], [6, 4], [2, 3])  # of the capacity factors, lowest first
FATES = ("served", "dropped")


def queues_of_experts(frame: pd.DataFrame) -> alt.LayerChart:
    """Words routed to each expert, served and dropped, with its capacity. Columns: those of `expert_queues`."""
    fate = alt.Scale(domain=list(FATES), range=list(theme.PAIR))
    bars = (
        alt.Chart(frame.assign(order=frame["fate"].map(FATES.index)))
        .mark_bar()
        .encode(
            x=alt.X("expert:O", title="expert (dashed: its capacity)", axis=theme.ids_axis()),
            y=alt.Y("words:Q", title="words routed to it"),
            color=alt.Color("fate:N", scale=fate, legend=alt.Legend(title=None, orient="top")),
            order="order:Q",
            tooltip=[
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("fate:N"),
                alt.Tooltip("words:Q", format=","),
                alt.Tooltip("share:Q", title="share of all words", format=".1%"),
                alt.Tooltip("capacity:Q", title="capacity, words", format=","),
                alt.Tooltip("even:Q", title="uniform share, words", format=",.0f"),
            ],
        )
    )
    room = theme.reference(frame[["capacity"]].head(1), "capacity", theme.NOTE)
    return theme.framed(bars + room, theme.MEDIUM)


def drop_rate_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of dropped words over training, by capacity factor and aux weight. Columns: those of `drop_rates`."""
    others, mine = (frame[frame["run"] == run] for run in (OTHERS, THIS_RUN))
    factors, weights = sorted(others["capacity_factor"].unique()), sorted(others["aux_weight"].unique(), reverse=True)
    colour = alt.Color(
        "aux_weight:N",
        scale=alt.Scale(domain=weights, range=list(theme.PAIR)),
        legend=alt.Legend(title="aux weight", orient="top"),
    )
    dash = alt.StrokeDash(
        "capacity_factor:N",
        scale=alt.Scale(domain=factors, range=list(DASHES)),
        legend=alt.Legend(title="capacity factor", orient="top", symbolStrokeColor=theme.NOTE),
    )
    lines = _over_steps(others).mark_line(strokeWidth=2).encode(color=colour, strokeDash=dash)
    wide = _over_steps(mine).mark_line(strokeWidth=7, color=theme.NOTE, opacity=0.6)
    by_lot = theme.reference(mine[["by_lot"]].head(1), "by_lot", theme.NOTE)
    return theme.framed(alt.layer(wide, lines, by_lot), theme.MEDIUM + 60)


def _over_steps(frame: pd.DataFrame) -> alt.Chart:
    return alt.Chart(frame).encode(
        x=alt.X("step:Q", title="training step (dashed grey: at random)", scale=alt.Scale(nice=False)),
        y=alt.Y("dropped:Q", title="share of words dropped", axis=theme.share_axis()),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("capacity_factor:Q", title="capacity factor"),
            alt.Tooltip("aux_weight:Q", title="aux weight"),
            alt.Tooltip("step:Q", title="from step", format="d"),
            alt.Tooltip("dropped:Q", title="words dropped", format=".1%"),
            alt.Tooltip("by_lot:Q", title="at random", format=".1%"),
        ],
    )


def dropped_by_place_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of dropped words by place in the batch, early and late, with the means. Columns: of `dropped_by_place`."""
    stages = alt.Scale(domain=list(frame["stage"].unique()), range=list(reversed(theme.PAIR)))
    legend = alt.Legend(title=None, orient="top")
    base = alt.Chart(frame).encode(color=alt.Color("stage:N", scale=stages, legend=legend))
    lines = base.mark_line(strokeWidth=2, point=True).encode(
        x=alt.X("sequence:Q", title="place of the sequence in the batch (dashed: mean)", scale=alt.Scale(nice=False)),
        y=alt.Y("dropped:Q", title="share of its words dropped", axis=theme.share_axis()),
        tooltip=[
            alt.Tooltip("stage:N"),
            alt.Tooltip("sequence:Q", title="place", format="d"),
            alt.Tooltip("dropped:Q", title="words dropped", format=".1%"),
            alt.Tooltip("mean:Q", title="mean over all places", format=".1%"),
        ],
    )
    means = base.mark_rule(strokeDash=list(theme.DASH), strokeWidth=2).encode(y="mean:Q")
    return theme.framed(lines + means, theme.MEDIUM)


EXPERT_QUEUES = Chart(
    "Which words find their expert full?",
    "Each bar is the words routed to an expert, out of about 1,000 held-out words routed as one batch. What is above "
    "the dashed line, the expert's capacity, came too late: it goes to no expert and passes through unchanged.",
    measure=expert_queues,
    draw=queues_of_experts,
)
DROP_RATES = Chart(
    "What keeps words from being dropped?",
    "Each line is the share of a batch's words that were dropped during training: blue with the auxiliary loss and "
    "orange without it, by capacity factor. The wide grey line is the run on this page, and the dashed line is what "
    "it would drop if each word's expert were chosen at random.",
    measure=drop_rates,
    draw=drop_rate_lines,
)
DROPPED_BY_PLACE = Chart(
    "Are the last words of a batch dropped most often?",
    "Each point is the share of dropped words in the sequence at this place in the batch. Experts serve a batch in "
    "order, so if there are too many words, the late ones are dropped.",
    measure=dropped_by_place,
    draw=dropped_by_place_lines,
)
