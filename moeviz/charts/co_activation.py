"""Charts of which experts of a layer are chosen together for the same token."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.co_activation import co_activation, co_activation_caption, strongest_pairs_caption

MAX_EXPERTS = 64  # in one heat map: 4,032 cells, each still seen on a phone
MAX_PAIRS = 12


def co_activation_heatmap(frame: pd.DataFrame) -> alt.Chart:
    """Draw expert by partner of one layer, coloured by co-activation. Columns: those of `co_activation`."""
    ids, left_out = _choose_experts(frame)
    cells = frame[frame["expert"].isin(ids) & frame["partner"].isin(ids) & frame["co_activation"].notna()]
    scale, axis = alt.Scale(domain=ids), theme.ids_axis()
    title = "share of the row expert's tokens"
    chart = theme.cells(
        cells.drop(columns="chance_tokens"),
        x=alt.X("partner:O", title=["partner", *left_out], scale=scale, axis=axis),
        y=alt.Y("expert:O", title="expert", scale=scale, axis=axis),
        color=theme.gradient("co_activation", title, {"domainMin": 0, "nice": False}, format="%", titleLimit=330),
        tooltip=theme.tooltip(
            expert="d",
            partner="d",
            tokens=("tokens routed to both", ","),
            expert_tokens=("tokens routed to the expert", ","),
            co_activation=("co-activation", ".1%"),
            chance=("expected at random", ".1%"),
            lift=("times what is expected", ".2f"),
        ),
    )
    return theme.framed(chart, theme.grid_height(len(ids)), canvas=True)


def _choose_experts(frame: pd.DataFrame) -> tuple[list[int], list[str]]:
    """Return the experts that fit into a heat map, from the commonest pairs on, and a note on the others."""
    every = frame["expert"].unique()
    if len(every) <= MAX_EXPERTS:
        return sorted(int(expert) for expert in every), []
    common = frame.sort_values("tokens", ascending=False, kind="stable")[["expert", "partner"]]
    ids = sorted(int(expert) for expert in pd.unique(common.to_numpy().ravel())[:MAX_EXPERTS])
    shown = frame["tokens"].where(frame["expert"].isin(ids) & frame["partner"].isin(ids), 0).sum()
    hidden = 1 - shown / max(frame["tokens"].sum(), 1)
    return ids, [
        f"{len(ids)} of {len(every)} experts with tokens: those in the most frequent pairs",
        f"not shown: {hidden:.1%} of all co-activations",
    ]


def strongest_pairs(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the pairs of one layer furthest above chance, with what chance gives. Columns: those of `co_activation`."""
    pairs = _pairs_above_chance(frame)
    base = alt.Chart(pairs).encode(
        y=alt.Y("pair:N", title="pair of experts", sort=None, axis=alt.Axis(labelLimit=100)),
        tooltip=theme.tooltip(
            pair=("experts", ""),
            tokens=("tokens routed to both", ","),
            chance_tokens=("tokens expected at random", ",.1f"),
            lift=("times what is expected", ".2f"),
            co_activation=("share of the first expert's tokens", ".1%"),
            of_partner=("share of the second expert's tokens", ".1%"),
        ),
    )
    bars = base.mark_bar(color=theme.MAIN, height=alt.RelativeBandSize(0.6)).encode(
        x=alt.X(
            "tokens:Q",
            title="tokens routed to both (orange: expected at random)",
            axis=alt.Axis(tickCount=6, tickMinStep=1),
        )
    )
    chance = base.mark_tick(color=theme.CHANCE, thickness=4, opacity=1, height=alt.RelativeBandSize(0.9)).encode(
        x="chance_tokens:Q"
    )
    return theme.framed(theme.layered(bars, chance), theme.rows_height(len(pairs)))


def _pairs_above_chance(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each pair once, with co-activation in both directions; only those above chance, furthest first."""
    turned = frame[["expert", "partner", "co_activation"]].set_axis(["partner", "expert", "of_partner"], axis=1)
    once = frame[(frame["expert"] < frame["partner"]) & (frame["lift"] > 1)].merge(turned, on=["expert", "partner"])
    most = np.argsort((once["chance_tokens"] - once["tokens"]).to_numpy(), kind="stable")[:MAX_PAIRS]
    once = once.iloc[most]
    pairs = once["expert"].astype(str) + " + " + once["partner"].astype(str)
    return once.assign(pair=pairs).drop(columns=["layer", "expert", "partner", "expert_tokens", "chance"])


CHARTS = (
    Chart.row(co_activation_heatmap, co_activation, co_activation_caption, expert="expert", layers="one"),
    Chart.row(strongest_pairs, co_activation, strongest_pairs_caption, layers="one"),
)
