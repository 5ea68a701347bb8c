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
    forms = {"switch": "Switch's form (uniform: 1)", "first_choice": "the same, first choices"}
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
        alt.Tooltip("even:Q", title="the loss under a uniform load", format=".0f"),
    ]
    y = alt.Y(f"{field}:Q", title="auxiliary loss")
    colour = alt.Color("what:N", scale=scale, legend=names)
    return alt.Chart(frame).mark_bar().encode(x=x, y=y, color=colour, tooltip=[*tooltip, *others])


def z_loss_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Router z-loss of each layer, with its value if all logits were 0. Columns: those of `z_loss`."""
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: all logits 0"),
        tooltip=[
            alt.Tooltip("layer:Q", format="d"),
            alt.Tooltip("z_loss:Q", title="z-loss", format=".3f"),
            alt.Tooltip("logsumexp:Q", title="mean log-sum-exp, nats", format=".3f"),
            alt.Tooltip("zero_logits:Q", title="if all logits were 0", format=".3f"),
        ],
    )
    bars = base.mark_bar(color=theme.MAIN).encode(y=alt.Y("z_loss:Q", title="z-loss, nats²"))
    zero = base.mark_tick(color=theme.CHANCE, thickness=3, opacity=1, width=alt.RelativeBandSize(0.9))
    return theme.framed(bars + zero.encode(y="zero_logits:Q"), theme.MEDIUM)


CHARTS = (
    Chart(
        "How large is the load-balancing loss of each layer?",
        "Each bar is the auxiliary loss of one layer, as transformers computes it. The dashed line is its value under "
        "a perfectly uniform load: k. The grey bar is what transformers reports for the whole model, where layers with "
        "opposite imbalances cancel out.",
        measure=aux_loss,
        draw=aux_loss_by_layer,
        say=aux_loss_caption,
    ),
    Chart(
        "Do the routers' logits stay small?",
        "Each bar is the z-loss of one layer: the mean squared log-sum-exp of its logits. The orange mark is its "
        "value if all logits were 0; a much higher bar is a warning of large logits, which make training in low "
        "precision unstable.",
        measure=z_loss,
        draw=z_loss_by_layer,
        say=z_loss_caption,
    ),
)
