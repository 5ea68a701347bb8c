"""Charts of routing while a model trains: of one run, or of two on the same axes. Not a topic: no trace has it."""

from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.load import load_against_importance
from moeviz.metrics.load import importance_caption
from moeviz.training.recorded.claims import (
    aux_loss_caption,
    change_caption,
    effective_experts_caption,
    gradients_caption,
    lacking_caption,
    load_over_steps_caption,
    logits_caption,
    loss_caption,
    violation_caption,
)
from moeviz.training.recorded.over_steps import (
    aux_over_steps,
    balance_over_steps,
    change_over_steps,
    gradients_over_steps,
    health_over_steps,
    importance_at_end,
    load_over_steps,
    logits_over_steps,
    loss_over_steps,
)
from moeviz.training.recorded.run import ALIVE, axis_of, runs_of

# On a canvas nobody reads a description of each mark; marks without a value are drawn too.
CELLS = {"stroke": None, "aria": False, "invalid": None}
HATCH = "M-1,1L1,-1"
STROKES = 70  # of a hatching, across the whole picture
LOW = 280  # pixels
NAMED_STRETCHES = 8  # past which the words would cover each other
VIOLATION, EFFECTIVE_SHARE = "MaxVio (busiest / uniform share − 1)", "effective experts, of all"
AXES = {"step": "steps", "tokens": "training tokens"}
CHANGED = "choices that changed"
OF_LAYERS, OF_MODEL = "measured: the worst layer (even: 1)", "as the model computed it"
WITHOUT_AUX, LOGGED = "without the aux loss", "as it was logged"
TIMELINE, LEAST_LAYER, MOST_LAYER, LOAD_PART = 400, 8, 60, 0.6  # pixels of all rows and of one; part of it
NAMED_LAYER, NAMED_PART, NAMED_BAR = 56, 0.4, 10.0  # pixels of a row in which alarms have their names; and of a bar
WORD = 90  # pixels that the name of an alarm takes, of about WIDTH
WIDTH = 600
LEGEND = 60  # pixels
LAYER_OR_RUN = "datum.value < 0 ? 'run' : datum.value"
ALARM_WORDS = {
    "collapse": "collapse",
    "dead": "no token",
    "load": "uneven",
    "aux_off": "aux loss off",
    "confidence": "no exploring",
    "logits": "growing logits",
}
ALARM_COLOURS = {
    "collapse": "#D6392B",
    "no token": "#882255",
    "uneven": "#E0A526",
    "aux loss off": "#8d8f99",
    "no exploring": "#44AA99",
    "growing logits": "#4a8fd0",
}
ON_DARK_BARS = {"collapse", "no token"}  # whose names are white
NAMED_LANES = {"collapse": 0.79, "load": 0.79, "dead": 0.95, "aux_off": 0.5, "confidence": 0.05, "logits": 0.21}
LANES = {"collapse": 0.87, "load": 0.87, "dead": 0.97, "aux_off": 0.5, "confidence": 0.03, "logits": 0.13}
BAND, THIN = {"opacity": 0.13}, {"strokeWidth": 1, "opacity": 0.8}  # all layers, and the median one
UNSEEN = {"size": 120, "opacity": 0, "aria": False}  # marks that are pointed at
POINTS = alt.OverlayMarkDef(aria=False)  # without values they would be a picture without a name


@dataclass(frozen=True, slots=True)
class RunChart(Chart):
    """A chart that draws several runs together, and can say which of them it cannot draw."""

    drawn_columns: tuple[str, ...] = ()  # if they are all empty, the run is not drawn
    lacks: str = ""  # what such a run has, in words: "no loss"

    def lacking(self, frame: pd.DataFrame) -> str | None:
        """Name the runs that are not drawn; None if all are, or none."""
        return lacking_caption(frame, self.drawn_columns, self.lacks)


def along(frame: pd.DataFrame, note: str = "", field: str = "") -> alt.X:
    """Steps, or tokens, from left to right; `field` is where marks begin that are as long as their steps."""
    over = axis_of(frame)
    form = "~s" if over == "tokens" else ",d"
    axis = alt.Axis(format=form, grid=False, tickMinStep=1, labelOverlap=True)
    title = f"{AXES[over]} ({note})" if note else AXES[over]
    return alt.X(f"{field or over}:Q", title=title, axis=axis, scale=alt.Scale(nice=False, zero=False))


def when(frame: pd.DataFrame) -> list[alt.Tooltip]:
    """Make the line of a tooltip that says when: up to which step, or how many training tokens."""
    over = axis_of(frame)
    return theme.tooltip(**{over: ("up to step" if over == "step" else "up to training tokens", ",d")})


def run_tooltip(frame: pd.DataFrame, **lines: str | tuple[str, str]) -> list[alt.Tooltip]:
    """Make a tooltip that says in which run, when, and then what `theme.tooltip` makes of `lines`."""
    return [*theme.tooltip(run=""), *when(frame), *theme.tooltip(**lines)]


def run_colour(frame: pd.DataFrame) -> alt.Color:
    """Give each run a colour, whether it has a row or not, and a legend if there are two."""
    names = runs_of(frame)
    look = {"symbolType": "stroke", "symbolOpacity": 1, "labelLimit": 300}
    colour = theme.colour("run", names, theme.PAIR[: len(names)], **look)
    return colour if len(names) > 1 else colour.legend(None)


def expert_steps_heatmap(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Draw a layer's load over steps, the busiest expert of the end on top. Columns: those of `load_over_steps`."""
    over, experts = axis_of(frame), int(frame["place"].max()) + 1 if len(frame) else 1
    height = theme.grid_height(experts)
    order = frame.drop_duplicates("place").sort_values("place")["expert"].tolist()
    # Rows are places, which are in order, and a label says whose place it is: an order of 128 experts would be a
    # comparison with each of them for every cell, which takes a browser longer than all the rest.
    axis = alt.Axis(labelOverlap=True, labelExpr=f"{order}[datum.value]")
    base = alt.Chart(theme.compact(frame.dropna(subset=["times_uniform"]))).encode(
        y=alt.Y("place:O", title="expert (hatched: dead)", axis=axis),
        tooltip=[
            *when(frame),
            *theme.tooltip(
                expert="d",
                assignments=",d",
                times_uniform=("times the uniform share", ".2f"),
                dead_since=("dead since step (−1: alive)", "d"),
            ),
        ],
    )
    cells = base.mark_rect(**CELLS).encode(x=along(frame, field="after"), x2=f"{over}:Q")
    cells = cells.encode(color=theme.times_colour("times_uniform", "load, × uniform share", dark))
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
    return theme.framed(theme.layered(*layers), height, canvas=True)


def hatched(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the places of the strokes that hatch dead stretches: about STROKES across the whole picture."""
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
    """Return the first cell of each stretch in which an expert was dead, what is written there, and whether it is late.

    It has been dead *since* a step only where the stretch reaches the end.
    """
    over = axis_of(frame)
    rows = frame.sort_values(["place", "after"])
    before = rows.groupby("place", sort=False)["dead_since"].shift(fill_value=ALIVE)
    begun = rows[(rows["dead_since"] != ALIVE) & (before != rows["dead_since"])]
    late = begun["after"] > (frame["after"].min() + frame[over].max()) / 2
    stays = begun["dead_since"] == begun["place"].map(rows.groupby("place")["dead_since"].last())
    words = [f"dead {'since' if on else 'from'} step {n:,}" for on, n in zip(stays, begun["dead_since"], strict=True)]
    return begun[["after", "place"]].assign(words=words, late=late)


def health_timeline(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """The busiest expert of every layer over steps, and a bar for each alarm. Columns: those of `health_over_steps`."""
    load, alarms = frame[(frame["alarm"] == "") & frame["busiest"].notna()], frame[frame["alarm"] != ""]
    rows = sorted(frame["layer"].unique().tolist())
    row = min(max(TIMELINE / max(len(rows), 1), LEAST_LAYER), MOST_LAYER)
    named = row >= NAMED_LAYER
    axis = alt.Axis(labelOverlap=True, labelExpr=LAYER_OR_RUN)
    y = alt.Y("layer:O", title="layer", axis=axis, scale=alt.Scale(domain=rows))
    colour = theme.times_colour("busiest", "busiest expert, × uniform", dark)
    tips = theme.tooltip(layer="d", busiest=("busiest, × uniform", ".2f"), effective=("experts in effect", ".1f"))
    cells = alt.Chart(theme.compact(load.drop(columns=["alarm", "says"])))
    cells = cells.mark_rect(**CELLS, height=alt.RelativeBandSize(NAMED_PART if named else LOAD_PART)).encode(
        x=along(frame, field="after"), x2=f"{axis_of(frame)}:Q", y=y, color=colour, tooltip=[*when(frame), *tips]
    )
    lanes = list(_lanes(alarms, NAMED_BAR if named else max(row * (1 - LOAD_PART) / 4, 2), named))
    lanes += _names(alarms) if named and len(alarms) else []
    together = [theme.layered(*lanes)] if lanes else []
    drawn = theme.layered(cells, *together).resolve_scale(color="independent")
    legend = LEGEND * (len(together) - named * len(together))
    return theme.framed(drawn, int(row * len(rows)) + theme.AROUND + legend, canvas=True)


def _lanes(alarms: pd.DataFrame, thick: float, named: bool) -> Iterator[alt.Chart]:
    """Draw the bars of each kind of alarm, side by side within the row of their layer, `thick` pixels each.

    Without a legend if the bars are `named`.
    """
    columns = ["layer", "after", axis_of(alarms), "what", "alarm", "says"]
    bars = alt.Chart(alarms.assign(what=alarms["alarm"].map(ALARM_WORDS))[columns])
    names = [word for kind, word in ALARM_WORDS.items() if (alarms["alarm"] == kind).any()]
    strokes = {"symbolType": "stroke", "symbolStrokeWidth": 4, "columns": 2, "orient": "bottom"}
    kinds = theme.colour("what", names, [ALARM_COLOURS[word] for word in names], **strokes)
    kinds = kinds.legend(None) if named else kinds
    for kind in dict.fromkeys(alarms["alarm"]):
        lane = bars.transform_filter(alt.datum.alarm == kind)
        yield lane.mark_rule(strokeWidth=thick, strokeCap="butt" if named else "round", aria=False).encode(
            x=along(alarms, field="after"),
            x2=f"{axis_of(alarms)}:Q",
            y=alt.Y("layer:O", bandPosition=(NAMED_LANES if named else LANES)[kind]),
            color=kinds,
            tooltip=theme.tooltip(what=("alarm", ""), says=("it said", "")),
        )


def _names(alarms: pd.DataFrame) -> Iterator[alt.Chart]:
    """Write what each alarm is on its bar, or next to a bar that is too short."""
    over = axis_of(alarms)
    named = alarms.assign(what=alarms["alarm"].map(ALARM_WORDS))[["layer", "after", over, "alarm", "what"]]
    span = max(int(alarms[over].max()) - int(alarms["after"].min()), 1)
    short = (alarms[over] - alarms["after"]) * WIDTH < WORD * span
    late = (alarms["after"] - alarms["after"].min()) * WIDTH > WORD * span
    for kind, word in ALARM_WORDS.items():
        for rows, at, look in (
            (~short, "after", {"align": "left", "dx": 4, "color": "white" if word in ON_DARK_BARS else "black"}),
            (short & ~late, over, {"align": "left", "dx": 4, "color": theme.NOTE}),
            (short & late, "after", {"align": "right", "dx": -4, "color": theme.NOTE}),
        ):
            some = named[rows & (named["alarm"] == kind)]
            if len(some):
                yield (
                    alt.Chart(some)
                    .mark_text(aria=False, fontSize=10, **look)
                    .encode(
                        x=along(alarms, field=at),
                        y=alt.Y("layer:O", bandPosition=NAMED_LANES[kind]),
                        text="what:N",
                    )
                )


def violation_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """MaxVio of the worst layer and the median one, with chance. Columns: those of `balance_over_steps`."""
    base = alt.Chart(frame).encode(x=along(frame, "dashed: luck alone"), color=run_colour(frame))
    band = base.mark_area(**BAND).encode(y=alt.Y("best:Q", title=VIOLATION), y2="worst:Q")
    tips = run_tooltip(
        frame,
        worst=("worst layer", ".2f"),
        worst_layer=("which is layer", "d"),
        median=("median layer", ".2f"),
        chance=("by luck alone", ".2f"),
    )
    y = alt.Y("worst:Q", title=VIOLATION)
    worst = _thick(base, len(frame) <= 2 * frame["run"].nunique()).encode(y=y, tooltip=tips)
    dots = base.mark_point(**UNSEEN).encode(y=y, tooltip=tips)
    median = base.mark_line(**THIN).encode(y=alt.Y("median:Q", title=VIOLATION))
    chance = base.mark_line(strokeDash=list(theme.DASH), color=theme.NOTE).encode(
        y=alt.Y("chance:Q", title=VIOLATION), color=alt.ColorValue(theme.NOTE), detail="run:N"
    )
    return theme.framed(theme.layered(band, worst, median, chance, dots), theme.MEDIUM)


def effective_experts_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Effective experts of the worst and the median layer. Columns: those of `balance_over_steps`."""
    known = frame.dropna(subset=["fewest"]).assign(even=1.0, collapsed=0.5)
    base = alt.Chart(known).encode(x=along(known, "dashed: collapse"), color=run_colour(frame))
    y = alt.Y("fewest:Q", title=EFFECTIVE_SHARE, axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1]))
    tips = run_tooltip(
        known,
        fewest=("worst layer", ".0%"),
        fewest_layer=("which is layer", "d"),
        median_effective=("median layer", ".0%"),
    )
    worst = _thick(base, len(known) <= 2 * frame["run"].nunique()).encode(y=y)
    dots = base.mark_point(**UNSEEN).encode(y=y, tooltip=tips)
    median = base.mark_line(**THIN).encode(y=alt.Y("median_effective:Q", title=EFFECTIVE_SHARE))
    half = theme.reference(known.head(1), "collapsed", theme.NOTE)  # the other colour is of a run
    return theme.framed(theme.layered(worst, median, dots, half), LOW)


def _thick(base: alt.Chart, few: bool) -> alt.Chart:
    return base.mark_line(strokeWidth=2.2, point=POINTS if few else False)


def trusted_and_used(frame: pd.DataFrame) -> alt.LayerChart:
    """Load of each expert against its mean probability. Columns: those of `importance_at_end`."""
    drawn = load_against_importance(frame)
    drawn.layer[0].encoding.color = alt.value(theme.MAIN)  # of one layer, so no legend says which
    return drawn


HEALTH = Chart.row(health_timeline, health_over_steps, themed=True)
HEATMAP = Chart.row(expert_steps_heatmap, load_over_steps, load_over_steps_caption, themed=True)
BALANCE = RunChart.row(
    violation_curve, balance_over_steps, violation_caption, drawn_columns=("worst",), lacks="no figures of its layers"
)
EFFECTIVE = RunChart.row(
    effective_experts_curve,
    balance_over_steps,
    effective_experts_caption,
    drawn_columns=("fewest",),
    lacks="no counts of its experts",
)
IMPORTANCE = Chart.row(trusted_and_used, importance_at_end, importance_caption)


def loss_curve(frame: pd.DataFrame) -> alt.Chart:
    """Draw the loss of each run without the aux loss, and as it was logged. Columns: those of `loss_over_steps`."""
    logged = frame["loss"].where(frame["loss"] != frame["without_aux"])  # without an aux loss, one line is drawn
    long = frame.assign(**{WITHOUT_AUX: frame["without_aux"], LOGGED: logged})
    long = long.melt(["run", axis_of(frame)], [WITHOUT_AUX, LOGGED], "which", "value").dropna(subset=["value"])
    lines = theme.lines(
        long,
        {"point": _points(long)},
        x=along(frame),
        y=alt.Y("value:Q", title="loss", scale=alt.Scale(zero=False)),
        color=run_colour(frame),
        strokeDash=_dashes([name for name in (WITHOUT_AUX, LOGGED) if (long["which"] == name).any()]),
        tooltip=run_tooltip(frame, which="", value=("loss", ".4f")),
    )
    return theme.framed(lines, LOW)


def aux_loss_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the aux loss, measured and as computed. Columns: those of `aux_over_steps`."""
    over = axis_of(frame)
    long = frame.rename(columns={"aux_worst": OF_LAYERS, "aux_loss": OF_MODEL}).melt(
        ["run", over, "aux_coefficient"], [OF_LAYERS, OF_MODEL], "which", "value"
    )
    long = long.dropna(subset=["value"]).assign(even=1.0)
    lines = theme.lines(
        long,
        {"point": _points(long)},
        x=along(frame),
        y=alt.Y("value:Q", title="aux loss, without its coefficient", scale=alt.Scale(zero=False)),
        color=run_colour(frame),
        strokeDash=_dashes([OF_LAYERS, OF_MODEL]),
        tooltip=run_tooltip(frame, which="", value=("aux loss", ".3f"), aux_coefficient=("coefficient", "~g")),
    )
    return theme.framed(theme.layered(lines, theme.reference(long.head(1), "even", theme.NOTE)), LOW)


def z_loss_curve(frame: pd.DataFrame) -> alt.Chart:
    """z-loss and root mean square of logits. Columns: those of `logits_over_steps`."""
    title, axis = "of the worst layer (log scale)", alt.Axis(grid=False)
    lines = theme.lines(
        frame[frame["worst"] > 0],
        {"point": _points(frame)},
        x=along(frame),
        y=alt.Y("worst:Q", title=title, scale=alt.Scale(type="log"), axis=axis),
        color=run_colour(frame),
        strokeDash=_dashes(["z-loss", "logit RMS"], "figure"),
        tooltip=run_tooltip(frame, figure="", worst=("worst layer", ".3~g"), mean=("mean of layers", ".3~g")),
    )
    return theme.framed(lines, LOW)


def probe_change_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Routing that changed between snapshots. Columns: those of `change_over_steps`."""
    base = alt.Chart(frame).encode(x=along(frame), color=run_colour(frame))
    y = alt.Y("mean:Q", title=CHANGED, axis=theme.share_axis())
    band = base.mark_area(**BAND).encode(y=alt.Y("least:Q", title=CHANGED), y2="most:Q")
    tips = run_tooltip(
        frame, mean=("mean of layers", ".1%"), most=("most in one layer", ".1%"), most_layer=("which is layer", "d")
    )
    line = base.mark_line(point=POINTS).encode(y=y, tooltip=tips)
    return theme.framed(theme.layered(band, line), LOW)


def router_gradient_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Norm of each router's gradient over steps. Columns: those of `gradients_over_steps`."""
    kind = "log" if (frame["router_grad_norm"] > 0).all() else "symlog"
    look = {"gradientLength": 160, "format": ".1~e"}
    tips = theme.tooltip(
        layer="d",
        router_grad_norm=("norm of the gradient", ".3~e"),
        experts_without_grad=("experts without a gradient", "d"),
    )
    cells = alt.Chart(theme.compact(frame)).mark_rect(**CELLS)
    cells = cells.encode(
        x=along(frame, field="after"),
        x2=f"{axis_of(frame)}:Q",
        y=theme.layer_rows(),
        color=theme.gradient("router_grad_norm", "norm of the gradient", {"type": kind}, **look),
        tooltip=[*when(frame), *tips],
    )
    return theme.framed(cells, theme.rows_height(frame["layer"].nunique()), canvas=True)


def _points(frame: pd.DataFrame) -> alt.OverlayMarkDef | bool:
    """Draw few logs as dots too: a single one would not be a line."""
    return POINTS if len(frame) <= 24 else False


def _dashes(names: list[str], field: str = "which") -> alt.StrokeDash:
    # Below, in a column: a phone has no space next to the legend of the runs.
    look = {"orient": "bottom", "direction": "vertical", "symbolType": "stroke", "labelLimit": 300}
    return theme.named(alt.StrokeDash, field, names, theme.SOLID_AND_DASHED[: len(names)], **look)


LOSS = RunChart.row(loss_curve, loss_over_steps, loss_caption, drawn_columns=("loss",), lacks="no loss")
AUX = RunChart.row(
    aux_loss_curve, aux_over_steps, aux_loss_caption, drawn_columns=("aux_worst", "aux_loss"), lacks="no aux loss"
)
LOGITS = RunChart.row(
    z_loss_curve, logits_over_steps, logits_caption, drawn_columns=("worst",), lacks="no figures of its logits"
)
CHANGE = RunChart.row(
    probe_change_curve,
    change_over_steps,
    change_caption,
    drawn_columns=("mean",),
    lacks="fewer than two snapshots of a probe set",
)
GRADIENTS = Chart.row(router_gradient_heatmap, gradients_over_steps, gradients_caption)
