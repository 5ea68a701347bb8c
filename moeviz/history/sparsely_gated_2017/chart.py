"""The charts of the sparsely-gated mixture of 2017. Not topics, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.sparsely_gated_2017.picture import balance_by_step, beside_paper

OURS, PAPER = "16 experts, here", "256 experts, paper"
HEADINGS = {
    "CV(importance)": "CV(importance)",
    "CV(load)": "CV(load)",
    "max / mean load": "max / mean load − 1",
}
TICKS = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
ENDS = ("lowest", "highest")
ROW = 22  # pixels


def balance_dots(frame: pd.DataFrame) -> alt.LayerChart:
    """How far from uniform the experts are, by loss weights, here and in the paper. Columns: of `beside_paper`."""
    headings = frame["measure"].map(HEADINGS)
    placed = frame.assign(row=headings + "|" + frame["setting"], whose=OURS, uneven=frame["ours"] - frame["even"])
    placed = placed.assign(
        **{f"{end}_seed": frame[end] for end in ENDS}, **{end: frame[end] - frame["even"] for end in ENDS}
    )
    theirs = placed.assign(whose=PAPER, uneven=frame["paper"] - frame["even"])
    rows = [row for heading, part in placed.groupby("measure", sort=False) for row in _block(HEADINGS[heading], part)]
    y = alt.Y("row:N", title=None, scale=alt.Scale(domain=rows), axis=_rows_axis())
    scale = alt.Scale(type="log", domain=[TICKS[0] * 0.8, TICKS[-1]], nice=False)
    axis = alt.Axis(values=TICKS, format="~g", labelOverlap=True)
    x = alt.X("uneven:Q", title="distance from uniform (uniform is 0, far left)", scale=scale, axis=axis)
    between = alt.Chart(placed.assign(theirs=theirs["uneven"])).mark_rule(color=theme.NOTE, opacity=0.5)
    ranges = alt.Chart(placed).mark_rule(color=theme.PAIR[0], strokeWidth=5, opacity=0.5)
    marks = alt.Chart(pd.concat([placed, theirs])).mark_point(filled=True, size=70, opacity=1)
    kinds = {"domain": [OURS, PAPER]}
    legend = alt.Legend(title=None, orient="top", columns=1)
    return theme.framed(
        alt.layer(
            between.encode(x=x, x2="theirs:Q", y=y),
            ranges.encode(x=alt.X("lowest:Q", scale=scale), x2="highest:Q", y=y),
            marks.encode(
                x=x,
                y=y,
                color=alt.Color("whose:N", scale=alt.Scale(range=list(theme.PAIR), **kinds), legend=legend),
                shape=alt.Shape("whose:N", scale=alt.Scale(range=["circle", "diamond"], **kinds), legend=legend),
                tooltip=_tooltip(),
            ),
        ),
        ROW * len(rows) + 110,
    )


def _block(heading: str, part: pd.DataFrame) -> list[str]:
    """A measure's name on a row of its own, then its settings."""
    return [f"{heading}|", *part["row"]]


def _rows_axis() -> alt.Axis:
    named = "split(datum.label, '|')[1] ? split(datum.label, '|')[1] : split(datum.label, '|')[0]"
    bold = alt.condition("split(datum.value, '|')[1] == ''", alt.value("bold"), alt.value("normal"))
    return alt.Axis(labelExpr=named, labelFontWeight=bold, labelLimit=140, labelFlush=False, ticks=False, domain=False)


def _tooltip() -> list[alt.Tooltip]:
    numbers = {
        "ours": OURS,
        "lowest_seed": "lowest of the seeds",
        "highest_seed": "highest",
        "paper": PAPER,
        "even": "even",
    }
    return [
        alt.Tooltip("measure:N"),
        alt.Tooltip("setting:N", title="losses"),
        *(alt.Tooltip(f"{field}:Q", title=title, format=".2f") for field, title in numbers.items()),
        alt.Tooltip("seeds:Q", title="seeds", format="d"),
    ]


def busiest_over_steps(frame: pd.DataFrame) -> alt.LayerChart:
    """How busy the busiest expert is during training, by smooth load and by words. Columns: of `balance_by_step`."""
    measures = list(frame["measure"].unique())
    lines = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="training step (dashed: uniform)", scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title="busiest expert / mean", scale=alt.Scale(domainMin=1)),
            color=alt.Color(
                "measure:N",
                scale=alt.Scale(domain=measures, range=[*theme.PAIR, theme.OTHER][: len(measures)]),
                legend=alt.Legend(title=None, orient="top", columns=2, labelLimit=280),
            ),
            tooltip=[
                alt.Tooltip("measure:N"),
                alt.Tooltip("step:Q", title="up to step", format="d"),
                alt.Tooltip("value:Q", title="busiest / mean", format=".2f"),
            ],
        )
    )
    return theme.framed(lines + theme.reference(frame[["even"]].head(1), "even", theme.NOTE), theme.MEDIUM)


BALANCE_TABLE = Chart(
    "Which losses keep the experts equally busy?",
    "Each row is a pair of loss weights; the further left its marks, the more uniform the experts' loads. The scale "
    "is logarithmic, and the pale bar spans our seeds. We have 16 experts and the paper's table 6 has 256, so compare "
    "the order of the rows and not the numbers.",
    measure=beside_paper,
    draw=balance_dots,
)
BUSIEST_EXPERT = Chart(
    "Does the gate keep its experts equally busy?",
    "Each line is the busiest expert divided by the mean expert, over the words of ten steps: by the smooth load that "
    "the loss sees, and by the words that the experts were given; 1 is uniform. Gates start at 0, so that words are "
    "spread at random at first. Then the gate learns; the grey line shows where that leads without losses, in a run "
    "with seed 0 and otherwise the default settings.",
    measure=balance_by_step,
    draw=busiest_over_steps,
)
