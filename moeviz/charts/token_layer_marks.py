"""Marks on and around the cells of a token by layer map: ids, frames, lines, and the axes of its places.

All of it reads the params that `token_layer_map` names; `tokens` is how many there are, and `across` and `down` are the
pixels of one cell.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from moeviz.charts import theme
from moeviz.charts.overview import png
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

GUTTER, ABOVE, BESIDE = 44, 2, 2  # pixels left of the cells, for layers; and room for a frame
UNDER = 26  # pixels under the cells: for lines of the text, texts of tokens, or positions
LOWEST_ROW, HIGHEST_ROW, MAX_ROWS = 5, 28, 380  # pixels of a layer's row, and of all of them
WIDEST, USUAL = 1400, 640  # pixels of a page, about; and of a picture that does not know how wide it is
WORD, ID, ID_HEIGHT = 64, 13, 11  # pixels of a cell from which a token's text fits under it, and an id into it
LINED = 116  # tokens; of more, lines are too narrow to be read
FEWEST_PIXELS = 26  # of a line that has words
LONGER_ID = 8  # pixels that an id of three digits takes more
APART = 34  # pixels between two positions on the axis
NARROWEST = 10  # pixels of the frame around a cell
MOVED = "#d9660a"  # a dot where a first choice is another one than before
DIM = 0.18  # opacity of stripes that are not of the hot expert
CHOSEN = "max(token, 0)"  # without a choice, invisible marks stay within the picture, or it would shrink
ONE_ROW = alt.InlineData(values=[{}])  # for a mark whose place is what the params say
LEAST = 1e-6  # weight of a choice with none: only where all have none, their parts are equal


def row_height(layers: int) -> int:
    """Return the height in pixels of each layer's row."""
    return int(max(LOWEST_ROW, min(HIGHEST_ROW, MAX_ROWS / layers)))


def map_height(layers: int) -> int:
    """Pixels of the whole picture that `map_of` makes."""
    return ABOVE + row_height(layers) * layers + UNDER


def has_lines(tokens: int) -> bool:
    """Return whether lines of the text stand under the cells, instead of positions."""
    return tokens <= LINED


def lit() -> alt.OpacityValue:
    """Opacity of a stripe and its id."""
    hot = "hot[0] < 0 || datum.layer == hot[0] && datum.expert == hot[1]"
    return alt.OpacityValue(alt.ExprRef(f"{hot} ? 1 : {DIM}"))


def ids(cells: alt.Chart) -> alt.Chart:
    """Ids of experts where there is room, black or white, whichever can be read."""
    room = f"across >= {ID} + (datum.expert > 99 ? {LONGER_ID} : 0)"
    return (
        cells.transform_filter(f"datum.expert >= 0 && {room} && (datum.bottom - datum.top) * down >= {ID_HEIGHT}")
        .transform_calculate(
            middle="(datum.top + datum.bottom) / 2",
            on=f"luminance(datum.colour) > {theme.DARK_ENOUGH} ? '#000' : '#fff'",
        )
        .mark_text(fontSize=11, tooltip=None)
        .encode(x="token:Q", y="middle:Q", text="expert:Q", color=alt.Color("on:N", scale=None), opacity=lit())
    )


def image(images: Sequence[str]) -> alt.Chart:
    """All cells as the pixels of an image, by first choice and split where these are two."""
    rows = alt.Chart(alt.InlineData(values=[{"url": url, "split": place} for place, url in enumerate(images)]))
    if len(images) > 1:
        rows = rows.transform_filter("datum.split == split")
    return rows.mark_image(aspect=False, smooth=False, tooltip=None).encode(
        url="url:N",
        x=alt.XValue(0),
        x2=alt.X2Value("width"),
        y=alt.YValue(0),
        y2=alt.Y2Value("height"),
        opacity=alt.OpacityValue(alt.ExprRef(f"hot[0] < 0 ? 1 : {DIM}")),
    )


def beginnings(places: alt.Data) -> list[alt.Chart]:
    """Draw a line where generated tokens begin, and one where the next of several texts does; it is seen on any colour.

    Column of `places`: place.
    """
    lines = alt.Chart(places).encode(x="place:Q")
    return [
        lines.mark_rule(color=alt.ExprRef(colour), strokeWidth=width, tooltip=None)
        for colour, width in (("paper", 4), ("ink", 2))
    ]


def frames() -> list[alt.Chart]:
    """Draw a frame around the chosen column, and one around the chosen cell, which is seen where cells are thin too."""
    half = f"max(0.5, {NARROWEST / 2} / across)"
    whole = alt.YValue(0), alt.Y2Value("height")
    layer = "max(layer, 0)"
    row = alt.YDatum(alt.ExprRef(layer), type="quantitative"), alt.Y2Datum(alt.ExprRef(f"{layer} + 1"))
    return [_frame("token < 0", "0.5", whole), _frame("token < 0 || layer < 0", half, row)]


def _frame(unseen: str, half: str, down: tuple[alt.SchemaBase, alt.SchemaBase]) -> alt.Chart:
    mark = alt.Chart(ONE_ROW).mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=2.5, tooltip=None)
    across = _at(f"{CHOSEN} - {half}"), alt.X2Datum(alt.ExprRef(f"{CHOSEN} + {half}"))
    return mark.encode(*across, *down, alt.OpacityValue(alt.ExprRef(f"{unseen} ? 0 : 1")))


def text_lines(lines: alt.Data) -> list[alt.Chart]:
    """Lines of the text under their columns, each as wide as its tokens, if the tokens' own texts do not fit.

    Columns of `lines`: start and end (places) · line (text).
    """
    rows = alt.Chart(lines).transform_filter(f"across < {WORD}")
    ends = alt.X("start:Q"), alt.YValue("height")
    wide = "(datum.end - datum.start) * across"
    text = rows.transform_calculate(shown=f"{wide} < {FEWEST_PIXELS} ? '' : datum.line").mark_text(
        align="left",
        baseline="top",
        dx=2,
        dy=8,
        fontSize=12,
        limit=alt.ExprRef(f"{wide} - 5"),
        color=alt.ExprRef("ink"),
        tooltip=None,
    )
    rule = rows.mark_rule(
        yOffset=4, xOffset=2, x2Offset=-3, strokeWidth=1.5, opacity=0.35, color=alt.ExprRef("ink"), tooltip=None
    )
    return [rule.encode(*ends, x2="end:Q"), text.encode(*ends, text="shown:N")]


def moved(places: alt.Data) -> alt.Chart:
    """Draw a dot in each of these cells. Columns: token and layer (places)."""
    dot = alt.Chart(places).transform_calculate(middle="datum.layer + min(0.5, 5 / down)", right="datum.token + 0.5")
    return dot.mark_circle(
        size=34, opacity=1, xOffset=-4, color=MOVED, stroke=alt.ExprRef("paper"), strokeWidth=1, tooltip=None
    ).encode(x="right:Q", y="middle:Q")


def chosen_text() -> alt.Chart:
    """Draw the text of the chosen token under its column, if the texts of all columns do not fit."""
    text = alt.ExprRef(f"token < 0 || across >= {WORD} ? '' : names[token]")
    align = alt.ExprRef("token < tokens / 12 ? 'left' : token > tokens * 11 / 12 ? 'right' : 'center'")
    mark = alt.Chart(ONE_ROW).mark_text(
        align=align, baseline="top", dy=6, fontSize=12, fontWeight="bold", color=alt.ExprRef("ink"), tooltip=None
    )
    return mark.encode(_at(CHOSEN), alt.YValue("height"), alt.TextValue(text))


def _at(token: str) -> alt.XDatum:
    return alt.XDatum(alt.ExprRef(token), type="quantitative")


def places(layers: int, lined: bool) -> tuple[alt.X, alt.Y]:
    """Tokens from left to right, each around its place; layers from top to bottom, each from its place to the next."""
    across = alt.Scale(domain=[-0.5, alt.ExprRef("tokens - 0.5")], nice=False, zero=False)
    down = alt.Scale(domain=[layers, 0], nice=False, zero=False)
    return alt.X("start:Q", scale=across, axis=_token_axis(lined)), alt.Y("top:Q", scale=down, axis=_layer_axis(layers))


def _token_axis(lined: bool) -> alt.Axis:
    """Label tokens with their texts if they fit, else with positions, never near the chosen token's text."""
    words, between = f"across >= {WORD}", f"ceil({APART} / across)"
    crowded = f"token >= 0 && abs(datum.value - token) < 2 * {between}"
    otherwise = "''" if lined else f"{crowded} ? '' : positions[datum.value]"
    return _axis(
        title=None,
        values=alt.ExprRef(f"sequence(0, tokens, {words} ? 1 : {between})"),
        labelExpr=f"{words} ? names[datum.value] : {otherwise}",
        labelFontWeight=_bold("datum.value == token"),
        labelBaseline="top",
        labelLimit=WORD,
    )


def _layer_axis(layers: int) -> alt.Axis:
    """Label layers with the model's own index: all, or some if rows are thin, and always the chosen one."""
    place, every = "floor(datum.value)", "ceil(13 / down)"
    seen = f"{place} == layer || {place} % {every} == 0 && (layer < 0 || abs({place} - layer) >= {every})"
    return _axis(
        title="layer",
        values=alt.ExprRef(f"sequence(0.5, {layers})"),
        labelExpr=f"{seen} ? layers[{place}] : ''",
        labelFontWeight=_bold(f"{place} == layer"),
    )


def _axis(**own: Any) -> alt.Axis:
    bare = {"grid": False, "domain": False, "ticks": False, "titleColor": alt.ExprRef("ink"), "titleFontWeight": 400}
    every = {"labelOverlap": False, "labelFlush": False, "tickCount": 9999}  # fewer would be thinned out
    return alt.Axis(labelColor=alt.ExprRef("ink"), labelFontSize=12, labelPadding=6, **bare, **every, **own)


def _bold(test: str) -> dict[str, Any]:
    return {"condition": {"test": test, "value": 700}, "value": 400}


def cell_images(frame: pd.DataFrame, colours: Sequence[Sequence[str]], row: int) -> list[str]:
    """All cells of a frame of `token_choices`, in PNGs with `row` pixels a layer: by first choice, and split by weight.

    One image where these are the same, or where no order of the choices is known.
    """
    experts, shares = _dense(frame)
    ends = np.cumsum(shares, axis=-1) / np.maximum(shares.sum(axis=-1, keepdims=True), LEAST)
    inside = row - (row > 8)
    levels = (np.arange(inside) + 0.5) / inside
    slot = np.stack([(ends < level).sum(axis=-1) for level in levels])  # rows of a cell x L x T
    first_alone = [np.zeros_like(slot)] if frame["ordered"].all() and experts.shape[-1] > 1 else []
    return [_png(_chosen(experts, which), colours, row) for which in (*first_alone, slot)]


def _dense(frame: pd.DataFrame) -> tuple[Int[np.ndarray, "L T K"], Float[np.ndarray, "L T K"]]:
    """List experts and their parts of a cell from top to bottom. Nothing is 0 high."""
    if not frame["ordered"].all():
        frame = frame.sort_values(["token", "layer", "expert"])
        frame = frame.assign(slot=frame.groupby(["token", "layer"]).cumcount())
    at = pd.factorize(frame["layer"], sort=True)[0], pd.factorize(frame["token"])[0], frame["slot"].to_numpy()
    shape = tuple(int(places.max()) + 1 for places in at)
    experts, shares = np.full(shape, NO_EXPERT), np.zeros(shape)
    weight = frame["weight"].to_numpy(np.float64)
    experts[at], shares[at] = frame["expert"], np.where(np.isnan(weight), 1, np.maximum(weight, LEAST))
    return experts, shares


def _chosen(experts: Int[np.ndarray, "L T K"], slot: Int[np.ndarray, "R L T"]) -> Int[np.ndarray, "R L T"]:
    slots = slot.clip(max=experts.shape[-1] - 1)[..., None]
    chosen: np.ndarray = np.take_along_axis(experts[None], slots, axis=-1)[..., 0]
    return chosen


def _png(chosen: Int[np.ndarray, "R L T"], colours: Sequence[Sequence[str]], row: int) -> str:
    palette = [*theme.EXPERT_COLOURS, theme.OTHER, theme.PALE]
    place = np.zeros((len(colours), max(map(len, colours)) + 2), np.uint8)  # 0 is transparent: no expert, the last
    place[:, NOT_RECORDED] = palette.index(theme.PALE) + 1
    for layer, own in enumerate(colours):
        place[layer, : len(own)] = [palette.index(colour) + 1 for colour in own]
    pixels: UInt8[np.ndarray, "R L T"] = place[np.arange(len(colours))[:, None], chosen]
    whole = np.pad(pixels, ((0, row - len(pixels)), (0, 0), (0, 0))).swapaxes(0, 1)  # a gap under each cell
    return png(whole.reshape(-1, whole.shape[-1]), palette)
