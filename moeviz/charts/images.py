"""Charts of an image: its patches in the colours of their first experts, layer by layer; and the kinds side by side."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.image_tokens import IMAGE, TEXT

SIDE = 168  # pixels of the longer side of a panel
COLUMNS = 4
NUMBERS = 10  # pixels of a patch from which on it has its expert's number
PICTURE = "picture"


def patch_panels(
    frame: pd.DataFrame, size: tuple[int, int], experts: int, picture: str = "", underneath: bool = False
) -> alt.FacetChart:
    """Draw `moeviz.metrics.images.patches`, a panel for each layer. Pointing at a patch marks it in all of them.

    size        width and height of the image in pixels.
    experts     of a layer, at most: of more than nine, the most frequent have a colour.
    picture     the image as a data address; with it, the first panel is the image itself.
    underneath  whether the image shows through the colours.
    """
    width, height = (max(round(side * SIDE / max(size)), 8) for side in size)
    shown = [_coloured(part, experts) for _, part in frame.groupby("layer", sort=True)]
    if picture:
        shown.insert(0, shown[0].assign(panel=PICTURE, fill=0.0))
    drawn = pd.concat(shown, ignore_index=True)
    if underneath:
        drawn["fill"] = np.minimum(drawn["fill"], 0.45)
    pointed = alt.selection_point(on="pointerover", fields=["token"], clear="pointerout", empty=False)
    scales = [alt.Scale(domain=[0, size[0]], nice=False), alt.Scale(domain=[size[1], 0], nice=False)]
    place = {
        "x": alt.X("x0:Q", scale=scales[0], axis=None),
        "x2": "x1:Q",
        "y": alt.Y("y0:Q", scale=scales[1], axis=None),
        "y2": "y1:Q",
    }
    boxes = (
        alt.Chart()
        .mark_rect()
        .encode(
            **place,
            color=alt.Color("colour:N", scale=None),
            fillOpacity=alt.FillOpacity("fill:Q", scale=None),
            stroke=alt.condition(pointed, alt.value(theme.ACCENT), alt.value("transparent")),
            strokeWidth=alt.value(3),
            tooltip=theme.tooltip(panel=("where", ""), token="d", expert="d", weight=("weight", ".2f")),
        )
        .add_params(pointed)
    )
    layers: list[alt.Chart] = [boxes]
    patch = float((frame["x1"] - frame["x0"]).median()) * width / size[0]
    if patch >= NUMBERS:
        middle = {"x": alt.X("x:Q", scale=scales[0], axis=None), "y": alt.Y("y:Q", scale=scales[1], axis=None)}
        numbers = (
            alt.Chart()
            .transform_filter("datum.fill > 0")
            .transform_calculate(x="(datum.x0 + datum.x1) / 2", y="(datum.y0 + datum.y1) / 2")
        )
        layers.append(numbers.mark_text(fontSize=min(patch * 0.55, 11), color="#000").encode(**middle, text="expert:Q"))
    if picture:
        seen = alt.Chart(alt.Data(values=[{"url": picture}]))
        under = seen.mark_image(width=width, height=height, align="left", baseline="top", aspect=False)
        layers.insert(0, under.encode(url="url:N", x=alt.value(0), y=alt.value(0)))
    panels = alt.layer(*layers, data=drawn).properties(width=width, height=height)
    order = list(dict.fromkeys(drawn["panel"]))
    facet = alt.Facet("panel:N", sort=order, title=None, header=alt.Header(labelPadding=4))
    drawing = {"embedOptions": {"renderer": "canvas"}}  # SVG is slow past two thousand patches
    return panels.facet(facet=facet, columns=COLUMNS).properties(bounds="flush", usermeta=drawing)


def _coloured(part: pd.DataFrame, experts: int) -> pd.DataFrame:
    colours = theme.expert_colours(experts, theme.focus(part["expert"]))
    has = part["expert"] >= 0
    return part.assign(
        panel=f"layer {part['layer'].iloc[0]}",
        colour=[colours[expert] if expert >= 0 else theme.PALE for expert in part["expert"]],
        fill=np.where(has, 1.0, 0.3),
    )


def kind_bars(frame: pd.DataFrame) -> alt.Chart:
    """Draw `moeviz.metrics.images.shares_of_kinds` of one layer: for each expert a bar of images and one of text."""
    long = frame.melt(["layer", "expert"], [IMAGE, TEXT], var_name="tokens", value_name="share")
    chart = theme.bars(
        long,
        x=alt.X("expert:O", title="expert", axis=theme.ids_axis()),
        xOffset=alt.XOffset("tokens:N", sort=[IMAGE, TEXT]),
        y=alt.Y("share:Q", title="share of the tokens of a kind", axis=theme.share_axis()),
        color=theme.colour("tokens", (IMAGE, TEXT), theme.PAIR),
        tooltip=theme.tooltip(expert="d", tokens="", share=("share", ".1%")),
    )
    return chart.properties(height=theme.MEDIUM)


def untrained_in_words(frame: pd.DataFrame) -> str:
    """Say in how many layers the routers tell image tokens from text better than each of the untrained ones."""
    own, untrained = frame["information"], frame["mean"]
    better = int((own > frame["most"]).sum())
    return (
        f"In {better} of {len(frame)} layers the routers tell image tokens from text better than each untrained router "
        f"that was drawn. Over all layers it is {own.mean():.2f} bits on average, and "
        f"{untrained.mean():.2f} untrained; 1 bit is a full separation."
    )


def kinds_in_words(frame: pd.DataFrame) -> str:
    """Say of which expert of a layer the two shares differ most."""
    row = frame.loc[(frame[IMAGE] - frame[TEXT]).abs().idxmax()]
    if f"{row[IMAGE]:.0%}" == f"{row[TEXT]:.0%}":
        return (
            f"Layer {row['layer']:.0f}: every expert takes about the same share of image tokens as of tokens of text."
        )
    return (
        f"Layer {row['layer']:.0f}: expert {row['expert']:.0f} takes {row[IMAGE]:.0%} of the image tokens and "
        f"{row[TEXT]:.0%} of the tokens of text, the largest difference of this layer."
    )
