"""What goes with the load of a run: loss, aux loss, logits, the probe set, gradients. A part of `training`."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.training import CELLS, LOW, RunChart, along, axis_of, run_colour, when
from moeviz.training.recorded.captions import (
    aux_loss_caption,
    change_caption,
    gradients_caption,
    logits_caption,
    loss_caption,
)
from moeviz.training.recorded.figures_over_steps import (
    aux_over_steps,
    change_over_steps,
    gradients_over_steps,
    logits_over_steps,
    loss_over_steps,
)

CHANGED = "choices that changed"
OF_LAYERS, OF_MODEL = "measured: the worst layer (even: 1)", "as the model computed it"
POINTS = alt.OverlayMarkDef(aria=False)  # without values they would be a picture without a name


def loss_curve(frame: pd.DataFrame) -> alt.Chart:
    """The loss of each run. Columns: those of `loss_over_steps`."""
    known = frame.dropna(subset=["loss"])
    lines = alt.Chart(known[["run", axis_of(frame), "loss", "aux_coefficient"]]).mark_line(point=_points(known))
    lines = lines.encode(
        x=along(frame),
        y=alt.Y("loss:Q", title="loss, as logged", scale=alt.Scale(zero=False)),
        color=run_colour(frame),
        tooltip=[alt.Tooltip("run:N"), when(frame), alt.Tooltip("loss:Q", format=".4f")],
    )
    return theme.framed(lines, LOW)


def aux_loss_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """The aux loss, measured and as computed. Columns: those of `aux_over_steps`."""
    over = axis_of(frame)
    long = frame.rename(columns={"aux_worst": OF_LAYERS, "aux_loss": OF_MODEL}).melt(
        ["run", over, "aux_coefficient"], [OF_LAYERS, OF_MODEL], "which", "value"
    )
    long = long.dropna(subset=["value"]).assign(even=1.0)
    lines = (
        alt.Chart(long)
        .mark_line(point=_points(long))
        .encode(
            x=along(frame),
            y=alt.Y("value:Q", title="aux loss, without its coefficient", scale=alt.Scale(zero=False)),
            color=run_colour(frame),
            strokeDash=_dashes([OF_LAYERS, OF_MODEL]),
            tooltip=[
                alt.Tooltip("run:N"),
                when(frame),
                alt.Tooltip("which:N"),
                alt.Tooltip("value:Q", title="aux loss", format=".3f"),
                alt.Tooltip("aux_coefficient:Q", title="coefficient", format="~g"),
            ],
        )
    )
    return theme.framed(alt.layer(lines, theme.reference(long.head(1), "even", theme.NOTE)), LOW)


def z_loss_curve(frame: pd.DataFrame) -> alt.Chart:
    """z-loss and root mean square of logits. Columns: those of `logits_over_steps`."""
    lines = (
        alt.Chart(frame[frame["worst"] > 0])
        .mark_line(point=_points(frame))
        .encode(
            x=along(frame),
            y=alt.Y(
                "worst:Q",
                title="of the worst layer (log scale)",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(grid=False),
            ),
            color=run_colour(frame),
            strokeDash=_dashes(["z-loss", "logit RMS"], "figure"),
            tooltip=[
                alt.Tooltip("run:N"),
                when(frame),
                alt.Tooltip("figure:N"),
                alt.Tooltip("worst:Q", title="worst layer", format=".3~g"),
                alt.Tooltip("mean:Q", title="mean of layers", format=".3~g"),
            ],
        )
    )
    return theme.framed(lines, LOW)


def probe_change_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Routing that changed between snapshots. Columns: those of `change_over_steps`."""
    base = alt.Chart(frame).encode(x=along(frame), color=run_colour(frame))
    y = alt.Y("mean:Q", title=CHANGED, axis=theme.share_axis())
    band = base.mark_area(opacity=0.13).encode(y=alt.Y("least:Q", title=CHANGED), y2="most:Q")
    tips = [alt.Tooltip("run:N"), when(frame), alt.Tooltip("mean:Q", title="mean of layers", format=".1%")]
    tips += [alt.Tooltip("most:Q", title="most in one layer", format=".1%")]
    tips += [alt.Tooltip("most_layer:Q", title="which is layer", format="d")]
    return theme.framed(alt.layer(band, base.mark_line(point=POINTS).encode(y=y, tooltip=tips)), LOW)


def router_gradient_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Norm of each router's gradient over steps. Columns: those of `gradients_over_steps`."""
    over = axis_of(frame)
    legend = alt.Legend(title="norm of the gradient", orient="top", gradientLength=160, format=".1~e")
    kind = "log" if (frame["router_grad_norm"] > 0).all() else "symlog"
    cells = (
        alt.Chart(theme.compact(frame))
        .mark_rect(**CELLS)
        .encode(
            x=along(frame, field="after"),
            x2=f"{over}:Q",
            y=alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("router_grad_norm:Q", scale=alt.Scale(type=kind, scheme=theme.VIRIDIS), legend=legend),
            tooltip=[
                when(frame),
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("router_grad_norm:Q", title="norm of the gradient", format=".3~e"),
                alt.Tooltip("experts_without_grad:Q", title="experts without a gradient", format="d"),
            ],
        )
    )
    return theme.framed(cells, theme.rows_height(frame["layer"].nunique()), canvas=True)


def _points(frame: pd.DataFrame) -> alt.OverlayMarkDef | bool:
    """Few logs are dots too: one alone would be no line."""
    return POINTS if len(frame) <= 24 else False


def _dashes(names: list[str], field: str = "which") -> alt.StrokeDash:
    # Below, in a column: on a phone there is no room beside the legend of the runs.
    legend = alt.Legend(title=None, orient="bottom", direction="vertical", symbolType="stroke", labelLimit=300)
    scale = alt.Scale(domain=names, range=[[1, 0], list(theme.DASH)])
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=legend)


LOSS = RunChart(
    "Does the loss show it?",
    "Each line is a run's loss as it was logged, with the aux loss in it where the trainer adds that. Routers can "
    "collapse while it falls.",
    measure=loss_over_steps,
    draw=loss_curve,
    say=loss_caption,
    drawn_columns=("loss",),
    lacks="no loss",
)
AUX = RunChart(
    "Is the aux loss on, and does it keep the load even?",
    "The solid line is measured, of the worst layer, and is 1, the grey line, where load is even. The dashed line in "
    "the same colour is what the model returned: models of transformers pool their layers, so theirs is k where load "
    "is even.",
    measure=aux_over_steps,
    draw=aux_loss_curve,
    say=aux_loss_caption,
    drawn_columns=("aux_worst", "aux_loss"),
    lacks="no aux loss",
)
LOGITS = RunChart(
    "Do the routers' logits grow?",
    "The solid line is the z-loss and the dashed one the root mean square of the logits, of the worst layer. A z-loss "
    "that doubles within 100 steps raises an alarm.",
    measure=logits_over_steps,
    draw=z_loss_curve,
    say=logits_caption,
    drawn_columns=("worst",),
    lacks="no figures of its logits",
)
CHANGE = RunChart(
    "How much of the probe set's routing still changes?",
    "Each point is a snapshot: the share of choices that differ from the snapshot before. The line is the mean of the "
    "layers, the band reaches from the one that changed least to the one that changed most.",
    measure=change_over_steps,
    draw=probe_change_curve,
    say=change_caption,
    drawn_columns=("mean",),
    lacks="fewer than two snapshots of a probe set",
)
GRADIENTS = Chart(
    "Which routers learn?",
    "Each cell is the norm of the gradient of a layer's router. A dark row learns little; the tooltip says how many "
    "experts had no gradient at all.",
    measure=gradients_over_steps,
    draw=router_gradient_heatmap,
    say=gradients_caption,
)
