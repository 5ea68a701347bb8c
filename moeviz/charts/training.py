"""How routing went while a model trained: of one run, or of two on the same axes. Not a topic: no trace has it."""

from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.load import load_against_importance
from moeviz.metrics.load import importance_caption
from moeviz.training.recorded.at_end import importance_at_end
from moeviz.training.recorded.captions import (
    effective_experts_caption,
    lacking_caption,
    load_over_steps_caption,
    violation_caption,
)
from moeviz.training.recorded.over_steps import balance_over_steps, load_over_steps, violation_over_steps
from moeviz.training.recorded.run import ALIVE, runs_of

# Of a canvas: a description of each mark would be written for nobody, and none is left out that has no value.
CELLS = {"stroke": None, "aria": False, "invalid": None}
HATCH = "M-1,1L1,-1"
STROKES = 70  # of a hatching, across the whole picture
LOW = 280  # pixels
NAMED_STRETCHES = 8  # past which the words would cover each other
VIOLATION, EFFECTIVE_SHARE = "MaxVio (busiest / uniform share − 1)", "effective experts, of all"
AXES = {"step": "steps", "tokens": "training tokens"}


@dataclass(frozen=True, slots=True)
class RunChart(Chart):
    """A chart that draws several runs together, and can say which of them it cannot draw."""

    drawn_columns: tuple[str, ...] = ()  # where they are all empty, the run is not drawn
    lacks: str = ""  # what such a run has, in words: "no loss"

    def lacking(self, frame: pd.DataFrame) -> str | None:
        """Name the runs that are not drawn; None if all are, or none."""
        return lacking_caption(frame, self.drawn_columns, self.lacks)


def axis_of(frame: pd.DataFrame) -> str:
    """The column of the axis."""
    return "tokens" if "tokens" in frame else "step"


def along(frame: pd.DataFrame, note: str = "", field: str = "") -> alt.X:
    """Steps, or tokens, from left to right; `field` is where marks begin that are as long as their steps."""
    over = axis_of(frame)
    form = "~s" if over == "tokens" else ",d"
    axis = alt.Axis(format=form, grid=False, tickMinStep=1, labelOverlap=True)
    title = f"{AXES[over]} ({note})" if note else AXES[over]
    return alt.X(f"{field or over}:Q", title=title, axis=axis, scale=alt.Scale(nice=False, zero=False))


def when(frame: pd.DataFrame) -> alt.Tooltip:
    """The same in a tooltip."""
    over = axis_of(frame)
    return alt.Tooltip(f"{over}:Q", title="up to step" if over == "step" else "up to training tokens", format=",d")


def run_colour(frame: pd.DataFrame) -> alt.Color:
    """A colour for each run, whether it has a row or not, and a legend where there are two."""
    names = runs_of(frame)
    legend = (
        alt.Legend(title=None, orient="top", symbolType="stroke", symbolOpacity=1, labelLimit=300)
        if len(names) > 1
        else None
    )
    return alt.Color("run:N", scale=alt.Scale(domain=names, range=list(theme.PAIR)[: len(names)]), legend=legend)


def expert_steps_heatmap(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Experts of a layer over steps, the busiest at the end on top. Columns: those of `load_over_steps`."""
    over, experts = axis_of(frame), int(frame["place"].max()) + 1 if len(frame) else 1
    height = theme.grid_height(experts)
    order = frame.drop_duplicates("place").sort_values("place")["expert"].tolist()
    # Rows are places, which are in order, and a label says whose place it is: an order of 128 experts would be a
    # comparison with each of them for every cell, which takes a browser longer than all the rest.
    axis = alt.Axis(labelOverlap=True, labelExpr=f"{order}[datum.value]")
    base = alt.Chart(theme.compact(frame.dropna(subset=["times_even"]))).encode(
        y=alt.Y("place:O", title="expert (hatched: dead)", axis=axis),
        tooltip=[
            when(frame),
            alt.Tooltip("expert:Q", format="d"),
            alt.Tooltip("assignments:Q", format=",d"),
            alt.Tooltip("times_even:Q", title="times the uniform share", format=".2f"),
            alt.Tooltip("dead_since:Q", title="dead since step (−1: alive)", format="d"),
        ],
    )
    cells = base.mark_rect(**CELLS).encode(x=along(frame, field="after"), x2=f"{over}:Q")
    cells = cells.encode(color=theme.times_colour("times_even", "load, × uniform share", dark))
    side = min((height - theme.AROUND) / experts, 14) * 0.7
    hatch = alt.Chart(hatched(frame)).mark_point(
        aria=False,  # a container without marks would be a picture without a name
        shape=HATCH,
        size=max(side, 3) ** 2,
        color=theme.ON_LEAST,
        strokeWidth=1.2 if side > 6 else 0.7,
    )
    row = alt.Y("place:O")
    layers = [cells, hatch.encode(x="middle:Q", y=row)]
    begun = dead_stretches(frame)
    for late in (False, True) if len(begun) <= NAMED_STRETCHES else ():
        words = alt.Chart(begun[begun["late"] == late]).encode(x="after:Q", y=row, text="words:N")
        side_of = {"align": "right" if late else "left", "dx": -4 if late else 4, "fontWeight": "bold"}
        behind = words.mark_text(**side_of, stroke=theme.LESS_TO_MORE["light"][0], strokeWidth=4)
        layers += [behind, words.mark_text(**side_of, color=theme.ON_LEAST)]
    return theme.framed(alt.layer(*layers), height, canvas=True)


def hatched(frame: pd.DataFrame) -> pd.DataFrame:
    """Where the strokes are of which stretches of death are hatched: at least so many across the whole picture."""
    over = axis_of(frame)
    dead = frame.loc[frame["dead_since"] != ALIVE, ["place", "after", over]]
    width = (dead[over] - dead["after"]).to_numpy(float)
    span = float(frame[over].max() - frame["after"].min()) if len(frame) else 1.0
    strokes = np.maximum((width * STROKES / max(span, 1e-9)).astype(int), 1)
    which = np.repeat(np.arange(len(dead)), strokes)
    inside = np.arange(len(which)) - np.repeat(strokes.cumsum() - strokes, strokes)
    middle = dead["after"].to_numpy(float)[which] + (inside + 0.5) * (width / strokes)[which]
    return pd.DataFrame({"place": dead["place"].to_numpy()[which], "middle": middle.astype(np.float32)})


def dead_stretches(frame: pd.DataFrame) -> pd.DataFrame:
    """The first cell of each stretch in which an expert was dead, what is written there, and whether it is late."""
    over = axis_of(frame)
    rows = frame.sort_values(["place", "after"])
    before = rows.groupby("place", sort=False)["dead_since"].shift(fill_value=ALIVE)
    begun = rows[(rows["dead_since"] != ALIVE) & (before != rows["dead_since"])]
    late = begun["after"] > (frame["after"].min() + frame[over].max()) / 2
    return begun[["after", "place"]].assign(words=[f"dead since step {n:,}" for n in begun["dead_since"]], late=late)


def layer_steps_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """MaxVio of every layer over steps. Columns: those of `violation_over_steps`."""
    over = axis_of(frame)
    cells = alt.Chart(theme.compact(frame.dropna(subset=["max_violation"]))).mark_rect(**CELLS)
    legend = alt.Legend(title="MaxVio", orient="top", gradientLength=160, gradientThickness=10)
    cells = cells.encode(
        x=along(frame, field="after"),
        x2=f"{over}:Q",
        y=alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True)),
        color=alt.Color("max_violation:Q", scale=alt.Scale(scheme=theme.VIRIDIS, zero=True), legend=legend),
        tooltip=[
            when(frame),
            alt.Tooltip("layer:Q", format="d"),
            alt.Tooltip("assignments:Q", format=",d"),
            alt.Tooltip("max_violation:Q", title="MaxVio", format=".2f"),
            alt.Tooltip("chance:Q", title="by luck alone", format=".2f"),
            alt.Tooltip("effective:Q", title="effective experts", format=".1f"),
        ],
    )
    return theme.framed(cells, theme.rows_height(frame["layer"].nunique()), canvas=True)


def violation_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """MaxVio of the worst layer and the median one, with chance. Columns: those of `balance_over_steps`."""
    base = alt.Chart(frame).encode(x=along(frame, "dashed: luck alone"), color=run_colour(frame))
    y = alt.Y("worst:Q", title=VIOLATION)
    band = base.mark_area(opacity=0.13).encode(y=alt.Y("best:Q", title=VIOLATION), y2="worst:Q")
    tips = [alt.Tooltip("run:N"), when(frame), alt.Tooltip("worst:Q", title="worst layer", format=".2f")]
    tips += [alt.Tooltip("worst_layer:Q", title="which is layer", format="d")]
    tips += [alt.Tooltip("median:Q", title="median layer", format=".2f")]
    tips += [alt.Tooltip("chance:Q", title="by luck alone", format=".2f")]
    worst = base.mark_line(
        strokeWidth=2.2, point=alt.OverlayMarkDef(aria=False) if len(frame) <= 2 * frame["run"].nunique() else False
    ).encode(y=y, tooltip=tips)
    median = base.mark_line(strokeWidth=1, opacity=0.8).encode(y=alt.Y("median:Q", title=VIOLATION))
    chance = base.mark_line(strokeDash=list(theme.DASH), color=theme.NOTE).encode(
        y=alt.Y("chance:Q", title=VIOLATION), color=alt.value(theme.NOTE), detail="run:N"
    )
    dots = base.mark_point(size=120, opacity=0, aria=False).encode(y=y, tooltip=tips)
    return theme.framed(alt.layer(band, worst, median, chance, dots), theme.MEDIUM)


def effective_experts_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Effective experts of the worst and the median layer. Columns: those of `balance_over_steps`."""
    known = frame.dropna(subset=["fewest"]).assign(even=1.0, collapsed=0.5)
    base = alt.Chart(known).encode(x=along(known, "dashed: collapse"), color=run_colour(frame))
    y = alt.Y("fewest:Q", title=EFFECTIVE_SHARE, axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1]))
    tips = [alt.Tooltip("run:N"), when(known), alt.Tooltip("fewest:Q", title="worst layer", format=".0%")]
    tips += [alt.Tooltip("fewest_layer:Q", title="which is layer", format="d")]
    tips += [alt.Tooltip("median_effective:Q", title="median layer", format=".0%")]
    worst = base.mark_line(
        strokeWidth=2.2, point=alt.OverlayMarkDef(aria=False) if len(known) <= 2 * frame["run"].nunique() else False
    ).encode(y=y)
    median = base.mark_line(strokeWidth=1, opacity=0.8).encode(y=alt.Y("median_effective:Q", title=EFFECTIVE_SHARE))
    dots = base.mark_point(size=120, opacity=0, aria=False).encode(y=y, tooltip=tips)
    half = theme.reference(known.head(1), "collapsed", theme.NOTE)  # the other colour is of a run
    return theme.framed(alt.layer(worst, median, dots, half), LOW)


def trusted_and_used(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of each expert against its mean probability. Columns: those of `importance_at_end`."""
    drawn = load_against_importance(frame)
    drawn.layer[0].encoding.color = alt.value(theme.MAIN)  # of one layer, so no legend says which
    return drawn


HEATMAP = Chart(
    "Which experts of this layer did the work, and which died?",
    "Each row is an expert, the busiest at the end on top, and each column is a stretch of training: orange is more "
    "than a uniform share and blue is less. A hatched stretch is one in which the expert was dead: it got no token.",
    measure=load_over_steps,
    draw=expert_steps_heatmap,
    say=load_over_steps_caption,
    themed=True,
)
LAYERS = Chart(
    "In which layer, and when, should I look?",
    "Each cell is the MaxVio of a layer in a stretch of training: 0 is even, 1 means that the busiest expert had twice "
    "its share. A bright row is a layer to look into.",
    measure=violation_over_steps,
    draw=layer_steps_heatmap,
)
BALANCE = RunChart(
    "How uneven is the load, and is it more than luck?",
    "The thick line is the worst layer, the thin one the median, and the band reaches to the best. The dashed line is "
    "what luck alone gives with as many tokens: small steps are uneven in every run.",
    measure=balance_over_steps,
    draw=violation_curve,
    say=violation_caption,
    drawn_columns=("worst",),
    lacks="no figures of its layers",
)
EFFECTIVE = RunChart(
    "How many experts share the work in effect?",
    "So many experts, used evenly, would be as uneven as the layer is: 100% is all of them. The thick line is the "
    "worst layer, the thin one the median. Below the dashed line, at half, the alarm says collapse.",
    measure=balance_over_steps,
    draw=effective_experts_curve,
    say=effective_experts_caption,
    drawn_columns=("fewest",),
    lacks="no counts of its experts",
)
IMPORTANCE = Chart(
    "Which experts does the router trust, but not use?",
    "Each dot is an expert of this layer at the end of the run: to the right the router finds it more probable, "
    "further up it does more of the work. Far below the dashed line is trusted but not used.",
    measure=importance_at_end,
    draw=trusted_and_used,
    say=importance_caption,
)
