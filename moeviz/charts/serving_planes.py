"""Placements on devices, and uses of cards, as marks on a plane."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.errors import MissingField
from moeviz.metrics.words import bytes_said

PLACEMENTS = {
    "contiguous": ("in order", theme.OTHER, "circle"),
    "balanced": ("balanced", theme.MAIN, "square"),
    "copies": ("with copies", theme.EXPERT_COLOURS[8], "triangle-up"),
    "coactive": ("used together", theme.EXPERT_COLOURS[2], "diamond"),
}
FEW = 3  # cards: more are one colour
GIGABYTE = 1e9


def placement_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """Devices reached against imbalance: a large mark a placement, a small one each layer. Columns: those of
    `serving_placement`."""
    if frame["reached"].isna().all():
        raise MissingField(
            "The devices that a token reaches need the experts of each token, and these are counts, or nothing is left "
            "to judge a plan on. Use a trace of two tokens or more."
        )
    named = frame.drop(columns="plan").assign(
        line=frame["placement"].map({key: row[0] for key, row in PLACEMENTS.items()})
    )
    numbers = ["reached", "imbalance", "step_imbalance"]
    means = named.groupby("line", sort=False)[numbers].mean().reset_index()
    worst = named.groupby("line")["imbalance"].max().rename("worst")
    names, colours, shapes = zip(*PLACEMENTS.values(), strict=True)
    legend = alt.Legend(title=None, orient="top", columns=2, symbolOpacity=1)
    marks = {
        "color": alt.Color("line:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend),
        "shape": alt.Shape("line:N", scale=alt.Scale(domain=list(names), range=list(shapes)), legend=legend),
        "x": alt.X(
            "reached:Q",
            title=f"devices that a token reaches, of {frame['devices'].iloc[0]}",
            scale=alt.Scale(zero=False, padding=12),
        ),
        "y": alt.Y("imbalance:Q", title="busiest device, × mean", scale=alt.Scale(zero=False, padding=12)),
    }
    tips = [
        alt.Tooltip("line:N", title="placement"),
        alt.Tooltip("reached:Q", title="devices reached", format=".2f"),
        alt.Tooltip("imbalance:Q", title="busiest device, × mean", format=".2f"),
        alt.Tooltip("step_imbalance:Q", title="in steps of 64 tokens", format=".2f"),
    ]
    small = alt.Chart(named).mark_point(filled=True, size=24, opacity=0.35)
    large = alt.Chart(means.merge(worst, on="line")).mark_point(filled=True, size=160, opacity=1)
    of_layer = [alt.Tooltip("layer:Q", format="d"), *tips]
    of_all = [*tips, alt.Tooltip("worst:Q", title="in the worst layer", format=".2f")]
    return theme.framed(
        alt.layer(small.encode(**marks, tooltip=of_layer), large.encode(**marks, tooltip=of_all)), theme.MEDIUM
    )


def cards_that_fit(frame: pd.DataFrame) -> alt.LayerChart:
    """Cards by use, with how many of them it takes. Columns: those of `what_fits`."""
    card = frame["card"].str.replace(" 80GB", "") + " · " + frame["card_gb"].astype("str") + " GB"
    use = frame["batch"].astype("str") + " × " + (frame["context"] // 1024).astype("str") + "k"
    parts = {"weights": "weights", "keys_and_values": "keys and values", "step": "a step", "together": "together"}
    said = {part: (frame[part] * GIGABYTE).map(bytes_said) for part in parts}
    shown = frame.assign(row=card, use=use, few=frame["cards"].clip(upper=FEW + 1), **said)
    base = alt.Chart(shown).encode(
        x=alt.X("use:N", title="sequences × tokens of each", sort=None, axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("row:N", title=None, sort=None),
        tooltip=[
            alt.Tooltip("row:N", title="card"),
            alt.Tooltip("batch:Q", title="sequences", format="d"),
            alt.Tooltip("context:Q", title="tokens of each", format=",d"),
            alt.Tooltip("cards:Q", title="cards needed", format="d"),
            *(alt.Tooltip(f"{part}:N", title=title) for part, title in parts.items()),
        ],
    )
    scale = alt.Scale(domain=[1, 2, FEW, FEW + 1], range=["#44AA99", "#9CC3E4", "#F3B26B", "#9a9a9a"])
    cells = base.mark_rect().encode(color=alt.Color("few:O", scale=scale, legend=None))
    words = base.mark_text(color="black").encode(text=alt.Text("cards:Q", format=",d"))
    return theme.framed(alt.layer(cells, words), theme.rows_height(frame["card"].nunique()))
