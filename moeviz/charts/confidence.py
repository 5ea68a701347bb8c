"""Charts of how confident the routers are."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.tokens import token_axis, token_tooltip
from moeviz.metrics.confidence import entropy_caption, margin_caption, router_entropy, token_entropy, top_margin


def entropy_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Spread of the router entropy over tokens, layer by layer. Columns: those of `router_entropy`."""
    quantiles = _quantiles_by_layer(
        frame,
        "entropy / ln E",
        theme.tooltip(share=("mean", ".3f"), entropy=("mean, nats", ".3f"), maximum=("ln E, nats", ".3f")),
    )
    undecided = theme.named_reference(pd.DataFrame({"top": [1.0]}), "top", "all experts equally likely", below=True)
    return theme.framed(theme.layered(*quantiles, undecided), theme.MEDIUM)


def margin_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Spread of the top-1 to top-2 margin over tokens, layer by layer. Columns: those of `top_margin`."""
    means = theme.tooltip(margin=("mean", ".3f"), top=("mean probability of the most probable expert", ".3f"))
    quantiles = _quantiles_by_layer(frame, "lead in probability", means)
    return theme.framed(theme.layered(*quantiles, theme.reference(pd.DataFrame({"tie": [0.0]}), "tie")), theme.MEDIUM)


def _quantiles_by_layer(frame: pd.DataFrame, axis_title: str, means: list[alt.Tooltip]) -> list[alt.Chart]:
    """Draw a line for the middle 80% of tokens, a bar for the middle half and a tick for the median, per layer."""
    quantiles = theme.figures(".3f", q10="10%", q25="25%", q50="median", q75="75%", q90="90%")
    tooltip = [*theme.tooltip(layer="d"), *means, *quantiles]
    base = alt.Chart(frame).encode(x=theme.layer_axis(), tooltip=tooltip)
    y = alt.Y("q10:Q", title=axis_title, scale=alt.Scale(domain=[0, 1]))
    reach = base.mark_rule(color=theme.MAIN, strokeWidth=2).encode(y=y, y2="q90:Q")
    half = base.mark_bar(color=theme.MAIN, width=alt.RelativeBandSize(0.5)).encode(y="q25:Q", y2="q75:Q")
    median = base.mark_tick(color="white", thickness=2, opacity=1, width=alt.RelativeBandSize(0.5)).encode(y="q50:Q")
    return [reach, half, median]


def entropy_grid(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, coloured by router entropy. Columns: those of `token_entropy`."""
    theme.at_most_max_tokens(frame)
    cells, x = token_axis(frame)
    chart = theme.cells(
        cells.astype({"share": "float32", "entropy": "float32"}),
        x=x,
        x2="end:Q",
        y=theme.layer_rows(),
        color=theme.gradient("share", "entropy / ln E (1 = undecided)", {"domain": [0, 1]}),
        tooltip=[
            *token_tooltip(),
            *theme.tooltip(layer="d", share=("entropy / ln E", ".3f"), entropy=("entropy, nats", ".3f")),
        ],
    )
    return theme.framed(chart, theme.grid_height(frame["layer"].nunique()), canvas=True)


CHARTS = (
    Chart.row(entropy_by_layer, router_entropy, entropy_caption),
    Chart.row(margin_by_layer, top_margin, margin_caption),
    # No caption: some token is always the most undecided, which is not a finding.
    Chart.row(entropy_grid, token_entropy, tokens="window"),
)
