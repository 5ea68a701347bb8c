"""The gate of a mixture of hidden Markov models as somebody speaks. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.hmm_experts_1996.picture import gate_over_time, settling
from moeviz.history.hmm_experts_1996.smyth import shipped_accuracies

FRAME = "frames heard"
LINES = {"right": "with its speaker's expert", "settled": "with its final expert"}


def gate_areas(frame: pd.DataFrame) -> alt.LayerChart:
    """The shares of the gate, stacked, the speaker's own expert at the bottom. Columns: those of `gate_over_time`."""
    frame = frame.assign(
        speaks=frame["speaker"].map(lambda who: f"speaker {who}" if who else "nobody"),
        height=(~frame["own"]).astype(int),
    )
    own = frame[frame["own"]]
    whose = f"orange: expert {own['expert'].iloc[0]}, the speaker's" if len(own) else "no expert is the speaker's"
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    x = alt.X("frame:Q", title=f"{FRAME} ({whose})", axis=axis, scale=alt.Scale(nice=False))
    areas = (
        alt.Chart(frame)
        .mark_area(opacity=0.85)
        .encode(
            x=x,
            y=alt.Y("share:Q", title="share of the gate", stack="zero", axis=theme.share_axis()),
            color=_expert_colour(frame),
            order=alt.Order("height:Q"),
            tooltip=[
                alt.Tooltip("frame:Q", title=FRAME, format="d"),
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("speaks:N", title="matched to"),
                alt.Tooltip("share:Q", title="share of the gate", format=".1%"),
            ],
        )
    )
    edge = alt.Chart(own).mark_line(color=theme.ACCENT, strokeWidth=3).encode(x=x, y="share:Q")
    return theme.framed(areas + edge, theme.MEDIUM)


def _expert_colour(frame: pd.DataFrame) -> alt.Color:
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    busiest = frame.groupby("expert")["share"].sum().sort_values(ascending=False, kind="stable").index
    colours = theme.expert_colours(len(experts), tuple(busiest[: theme.FOCUS]))
    legend = alt.Legend(title="expert", orient="top", columns=6)
    return alt.Color("expert:N", scale=alt.Scale(domain=experts, range=colours), legend=legend)


def settling_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of utterances that are right, and that are settled, by frames heard. Columns: those of `settling`."""
    lines = frame.rename(columns=LINES).melt(["frame", "speaking", "chance"], list(LINES.values()), "what", "share")
    colour = alt.Color(
        "what:N",
        scale=alt.Scale(domain=list(LINES.values()), range=list(theme.PAIR)),
        legend=alt.Legend(title=None, orient="top", direction="vertical"),
    )
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    drawn = (
        alt.Chart(lines)
        .mark_line(point=True)
        .encode(
            x=alt.X("frame:Q", title=FRAME, axis=axis, scale=alt.Scale(nice=False, zero=False)),
            y=alt.Y("share:Q", title="share of utterances", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1])),
            color=colour,
            tooltip=[
                alt.Tooltip("frame:Q", title=FRAME, format="d"),
                alt.Tooltip("what:N", title="utterance"),
                alt.Tooltip("share:Q", title="share of utterances", format=".1%"),
                alt.Tooltip("chance:Q", title="right at random", format=".1%"),
                alt.Tooltip("speaking:Q", title="utterances at least this long", format="d"),
            ],
        )
    )
    return theme.framed(drawn + theme.named_reference(frame.head(1), "chance", "right at random"), theme.MEDIUM)


def soft_and_hard(frame: pd.DataFrame) -> alt.LayerChart:
    """Accuracy of each data set, by assignment and start. Columns: those of `smyth.accuracies`."""
    rows = frame.assign(way=frame["assignment"] + ", " + frame["start"])
    ways = list(dict.fromkeys(rows["way"]))
    title = "sequences grouped correctly (dashed: at random)"
    many = rows.groupby(["way", "assignment", "start", "accuracy"], as_index=False).size()
    dots = (
        alt.Chart(many)
        .mark_circle(opacity=0.75)
        .encode(
            x=alt.X("accuracy:Q", title=title, axis=theme.share_axis(), scale=alt.Scale(zero=False)),
            y=alt.Y("way:N", title=None, sort=ways),
            color=alt.Color(
                "assignment:N", scale=alt.Scale(domain=["soft", "hard"], range=list(theme.PAIR)), legend=None
            ),
            size=alt.Size(
                "size:Q",
                scale=alt.Scale(domain=[0, int(many["size"].max())], range=[0, 500]),
                legend=alt.Legend(title="data sets", orient="top", values=[1, 5, 10], symbolFillColor=theme.NOTE),
            ),
            tooltip=[
                alt.Tooltip("assignment:N"),
                alt.Tooltip("start:N"),
                alt.Tooltip("accuracy:Q", title="sequences grouped correctly", format=".1%"),
                alt.Tooltip("size:Q", title="data sets", format="d"),
            ],
        )
    )
    lot = alt.Chart(pd.DataFrame({"accuracy": [0.5]})).mark_rule(
        color=theme.CHANCE, strokeDash=list(theme.DASH), strokeWidth=2
    )
    return theme.framed(dots + lot.encode(x="accuracy:Q"), theme.rows_height(len(ways)))


GATE_OVER_TIME = Chart(
    "How does the gate make up its mind?",
    "The height of each colour is the gate's share for that expert after so many frames (6.4 ms each). The orange "
    "line is the top of the expert that is matched to this speaker; at 0 nothing has been heard yet.",
    measure=gate_over_time,
    draw=gate_areas,
)
SETTLING = Chart(
    "How soon is the gate sure?",
    "The lines show what share of the 370 test utterances is with the right expert, and what share with the one that "
    "they will keep, after so many frames. An utterance that has ended counts as it ended.",
    measure=settling,
    draw=settling_lines,
)
SOFT_AND_HARD = Chart(
    "What is lost when each sequence goes to only one expert?",
    "Each dot is one or more of 20 data sets made by two hidden Markov models, and shows what share of its 40 "
    "sequences a mixture of two groups correctly: divided by the posterior (soft) or given to the best expert (hard).",
    measure=shipped_accuracies,
    draw=soft_and_hard,
)
