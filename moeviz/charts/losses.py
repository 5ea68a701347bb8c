"""Pictures of the losses that keep routers in order."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.losses import aux_loss, z_loss

ONE, POOLED = "one layer", "all layers pooled"


def aux_loss_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Balancing loss of each layer, in transformers' form, and pooled over all. Columns: those of `aux_loss`."""
    layers = frame.assign(place=frame["layer"].astype("str"), what=ONE)
    pooled = frame[["pooled", "even"]].head(1).dropna().assign(place="all", what=POOLED)
    x = alt.X(
        "place:O",
        title="layer (dashed: even load)",
        scale=alt.Scale(domain=[*layers["place"], *(["", "all"] if len(pooled) else [])]),
        axis=theme.ids_axis(),
    )
    forms = {"switch": "Switch's form (even: 1)", "first_choice": "the same, first choices"}
    others = [alt.Tooltip(f"{field}:Q", title=title, format=".3f") for field, title in forms.items()]
    bars = [_bars(layers, x, "transformers", others, legend=len(pooled) > 0)]
    bars += [_bars(pooled, x, "pooled", [], legend=True)] * len(pooled)
    return theme.framed(alt.layer(*bars, theme.reference(frame[["even"]].head(1), "even")), theme.MEDIUM)


def _bars(frame: pd.DataFrame, x: alt.X, field: str, others: list[alt.Tooltip], legend: bool) -> alt.Chart:
    scale = alt.Scale(domain=[ONE, POOLED], range=[theme.MAIN, theme.OTHER])
    names = alt.Legend(title=None, orient="top") if legend else None
    tooltip = [
        alt.Tooltip("place:N", title="layer"),
        alt.Tooltip(f"{field}:Q", title="auxiliary loss", format=".3f"),
        alt.Tooltip("even:Q", title="even load", format=".0f"),
    ]
    y = alt.Y(f"{field}:Q", title="auxiliary loss")
    colour = alt.Color("what:N", scale=scale, legend=names)
    return alt.Chart(frame).mark_bar().encode(x=x, y=y, color=colour, tooltip=[*tooltip, *others])


def z_loss_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Router z-loss of each layer, with that of logits of 0. Columns: those of `z_loss`."""
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: logits of 0"),
        tooltip=[
            alt.Tooltip("layer:Q", format="d"),
            alt.Tooltip("z_loss:Q", title="z-loss", format=".3f"),
            alt.Tooltip("logsumexp:Q", title="mean log-sum-exp, nats", format=".3f"),
            alt.Tooltip("zero_logits:Q", title="with logits of 0", format=".3f"),
        ],
    )
    bars = base.mark_bar(color=theme.MAIN).encode(y=alt.Y("z_loss:Q", title="z-loss, nats²"))
    zero = base.mark_tick(color=theme.CHANCE, thickness=3, opacity=1, width=alt.RelativeBandSize(0.9))
    return theme.framed(bars + zero.encode(y="zero_logits:Q"), theme.MEDIUM)


CHARTS = (
    Chart(
        "How large is each layer's balancing loss?",
        "Each bar is the auxiliary loss of one layer, in the form that transformers computes (an even load gives k, "
        "the dashed line); the grey bar is what it reports for the whole model, where layers that lean to opposite "
        "sides cancel out.",
        measure=aux_loss,
        draw=aux_loss_by_layer,
    ),
    Chart(
        "Do the routers' logits stay small?",
        "Each bar is the z-loss of one layer, the mean squared log-sum-exp of its logits; the orange mark is that of "
        "logits of 0, and a much higher bar warns of large logits, which make training in low precision unstable.",
        measure=z_loss,
        draw=z_loss_by_layer,
    ),
)
