"""Charts of the auxiliary losses that keep routers balanced and stable."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.losses import aux_loss, aux_loss_caption, z_loss, z_loss_caption

ONE, POOLED = "one layer", "all layers pooled"


def aux_loss_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Load-balancing loss of each layer, in transformers' form, and of all pooled. Columns: those of `aux_loss`."""
    layers = frame.assign(place=frame["layer"].astype("str"), what=ONE)
    pooled = frame[["pooled", "even"]].head(1).dropna().assign(place="all", what=POOLED)
    x = alt.X(
        "place:O",
        title="layer (dashed: uniform load)",
        scale=alt.Scale(domain=[*layers["place"], *(["", "all"] if len(pooled) else [])]),
        axis=theme.ids_axis(),
    )
    others = theme.figures(".3f", switch="Switch's form (uniform: 1)", first_choice="the same, first choices")
    bars = [_bars(layers, x, "transformers", others, legend=len(pooled) > 0)]
    bars += [_bars(pooled, x, "pooled", [], legend=True)] * len(pooled)
    return theme.framed(theme.layered(*bars, theme.reference(frame[["even"]].head(1), "even")), theme.MEDIUM)


def _bars(frame: pd.DataFrame, x: alt.X, field: str, others: list[alt.Tooltip], legend: bool) -> alt.Chart:
    colour = theme.colour("what", [ONE, POOLED], [theme.MAIN, theme.OTHER])
    tooltip = theme.tooltip(
        place=("layer", ""), **{field: ("auxiliary loss", ".3f")}, even=("the loss under a uniform load", ".0f")
    )
    return theme.bars(
        frame,
        x=x,
        y=alt.Y(f"{field}:Q", title="auxiliary loss"),
        color=colour if legend else colour.legend(None),
        tooltip=[*tooltip, *others],
    )


def z_loss_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Router z-loss of each layer, with its value if all logits were 0. Columns: those of `z_loss`."""
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: all logits 0"),
        tooltip=theme.tooltip(
            layer="d",
            z_loss=("z-loss", ".3f"),
            logsumexp=("mean log-sum-exp, nats", ".3f"),
            zero_logits=("if all logits were 0", ".3f"),
        ),
    )
    bars = base.mark_bar(color=theme.MAIN).encode(y=alt.Y("z_loss:Q", title="z-loss, nats²"))
    return theme.framed(theme.layered(bars, theme.ticks(base, "zero_logits")), theme.MEDIUM)


CHARTS = (Chart.row(aux_loss_by_layer, aux_loss, aux_loss_caption), Chart.row(z_loss_by_layer, z_loss, z_loss_caption))
