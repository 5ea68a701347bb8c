"""Token by layer for a page that is linked to it: the chart says which token and which layer are chosen by two params.

Whoever holds the chart's Vega view sets the signals `token` and `layer` (places, from 0), `ink` and `paper` (the page's
colours), and finds the place under a pointer on the scales `x` and `y`. No topic: it is drawn by `report/view.py`.
"""

from typing import Any

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.tokens import token_layer, visible
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

GUTTER = 44  # pixels left of the cells, for layers
ABOVE = 2  # room for a frame
WORDS, NUMBERS = 64, 26  # pixels under the cells, for tokens: their texts, or positions alone
LOWEST_ROW, HIGHEST_ROW, MAX_ROWS = 5, 28, 380  # pixels of a layer's row, and of all of them
FAINTEST = 0.55  # opacity of the smallest weight
WITH_IDS = 64  # tokens of a text whose cells may be wide enough for an id
WIDEST = 1400  # pixels of a page, about
WORD, ID = 12, 13  # pixels of a cell from which a token's text fits under it, and an id into it
APART = 34  # pixels between two positions on the axis
LETTERS = 9  # of a token on the axis
NARROWEST = 10  # pixels of the frame around a cell
ONE_ROW = alt.InlineData(values=[{}])  # for a mark whose place is what the params say
INK, PAPER = "#1f2328", "#ffffff"


def row_height(layers: int) -> int:
    """Pixels of one layer's row where there are so many."""
    return int(max(LOWEST_ROW, min(HIGHEST_ROW, MAX_ROWS / layers)))


def map_height(layers: int, tokens: int) -> int:
    """Pixels of the whole picture."""
    return ABOVE + row_height(layers) * layers + _labels(tokens)


def _labels(tokens: int) -> int:
    return WORDS if tokens * WORD <= WIDEST else NUMBERS


def linked_expert_grid(frame: pd.DataFrame) -> alt.LayerChart:
    """Token by layer, coloured by first choice, with a frame around the choice. Columns: those of `token_layer`."""
    theme.at_most_max_tokens(frame)
    layers, tokens = frame["layer"].unique().tolist(), frame.drop_duplicates("token")
    cells = _cells(frame)
    x, y = _places(len(tokens), layers)
    parts = [_tiles(cells, row_height(len(layers)), len(tokens)).encode(x=x, x2="end:Q", y=y, y2="below:Q")]
    if len(tokens) <= WITH_IDS and row_height(len(layers)) >= ID:
        parts.append(_ids(cells, len(tokens)))
    parts += [_beginnings(tokens), *_frames(len(tokens)), _chosen_text(len(tokens))]
    facts = {"names": [_short(text) for text in tokens["text"]], "positions": tokens["position"].tolist()}
    return (
        alt.layer(*parts)
        .add_params(
            *(alt.param(name=name, value=value) for name, value in facts.items()),
            *(alt.param(name=name, value=0) for name in ("token", "layer")),
            alt.param(name="ink", value=INK),
            alt.param(name="paper", value=PAPER),
        )
        # Nothing is laid out anew at a click, and the cells begin where the padding says.
        .properties(
            width=600,
            height=row_height(len(layers)) * len(layers),
            autosize=alt.AutoSizeParams(type="none"),
            padding={"left": GUTTER, "top": ABOVE, "right": 2, "bottom": _labels(len(tokens))},
        )
        .configure_view(stroke=None)
    )


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= LETTERS else shown[: LETTERS - 1] + "…"


def _cells(frame: pd.DataFrame) -> alt.Chart:
    """One row a cell that is not empty: token and layer by their places, expert, colour, and how strong it is."""
    highest = frame["weight"].max()
    strength = FAINTEST + (1 - FAINTEST) * frame["weight"] / highest if highest > 0 else pd.Series(1.0, frame.index)
    cells = pd.DataFrame(
        {
            "column": pd.factorize(frame["token"])[0],
            "row": pd.factorize(frame["layer"])[0],
            "expert": frame["expert"],
            "colour": _colours(frame),
            "strength": strength.round(2).where(frame["expert"] >= 0, 1.0),
        }
    )
    return alt.Chart(cells[frame["expert"] != NO_EXPERT])


def _colours(frame: pd.DataFrame) -> pd.Series:
    """The colour of each row's expert, layer by layer: ids of different layers are unrelated."""
    colour = pd.Series("", index=frame.index, dtype="str").mask(frame["expert"] == NOT_RECORDED, theme.PALE)
    for _, rows in frame[frame["expert"] >= 0].groupby("layer", sort=False):
        colours = theme.expert_colours(int(rows["num_experts"].iloc[0]), theme.focus(rows["expert"]))
        colour.loc[rows.index] = [colours[expert] for expert in rows["expert"]]
    return colour


def _tiles(cells: alt.Chart, height: int, tokens: int) -> alt.Chart:
    """The cells themselves, with a pixel between those that are large enough."""
    beside, under = alt.ExprRef(f"width / {tokens} > 6 ? -1 : 0"), -1 if height > 8 else 0
    return (
        cells.transform_calculate(end="datum.column + 1", below="datum.row + 1")
        .mark_rect(stroke=None, x2Offset=beside, y2Offset=under, tooltip=None)
        .encode(color=alt.Color("colour:N", scale=None), opacity=alt.Opacity("strength:Q", scale=None))
    )


def _ids(cells: alt.Chart, tokens: int) -> alt.Chart:
    """Ids of experts, where the page is wide enough: black or white, by the tile's colour over the page's."""
    if (cells.data["expert"] < 0).any():
        cells = cells.transform_filter("datum.expert >= 0")
    seen = "datum.strength * luminance(datum.colour) + (1 - datum.strength) * luminance(paper)"
    return (
        cells.transform_filter(f"width / {tokens} >= {ID} + (datum.expert > 99 ? 8 : 0)")
        .transform_calculate(
            middle="datum.column + 0.5", centre="datum.row + 0.5", on=f"{seen} > 0.179 ? '#000' : '#fff'"
        )
        .mark_text(fontSize=11, tooltip=None)
        .encode(x="middle:Q", y="centre:Q", text="expert:Q", color=alt.Color("on:N", scale=None))
    )


def _beginnings(tokens: pd.DataFrame) -> alt.Chart:
    """A line where generated tokens begin, and one where the next of several texts does."""
    changed = [tokens[column] != tokens[column].shift() for column in ("sequence", "phase")]
    first = [place for place, new in enumerate(changed[0] | changed[1]) if new and place]
    lines = alt.Chart(pd.DataFrame({"place": pd.Series(first, dtype="float64")}))
    return lines.mark_rule(color=alt.ExprRef("ink"), strokeWidth=2, tooltip=None).encode(x="place:Q")


def _frames(tokens: int) -> list[alt.Chart]:
    """A frame around the chosen column, and one around the chosen cell, which is seen where cells are thin too."""
    beside = f"max(0, {NARROWEST / 2} * {tokens} / width - 0.5)"
    frame = alt.Chart(ONE_ROW).mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=2.5, tooltip=None)
    return [
        frame.encode(x=_at("token"), x2=_at("token + 1"), y=alt.value(0), y2=alt.value("height")),
        frame.encode(x=_at(f"token - {beside}"), x2=_at(f"token + 1 + {beside}"), y=_at("layer"), y2=_at("layer + 1")),
    ]


def _chosen_text(tokens: int) -> alt.Chart:
    """The text of the chosen token under its column, where the texts of all columns do not fit."""
    text = alt.ExprRef(f"width / {tokens} >= {WORD} ? '' : names[token]")
    align = alt.ExprRef(f"token < {tokens} / 12 ? 'left' : token > {tokens} * 11 / 12 ? 'right' : 'center'")
    mark = alt.Chart(ONE_ROW).mark_text(
        align=align, baseline="top", dy=6, fontSize=12, fontWeight="bold", color=alt.ExprRef("ink"), tooltip=None
    )
    return mark.encode(x=_at("token + 0.5"), y=alt.value("height"), text=alt.value(text))


def _at(expression: str) -> dict[str, Any]:
    return alt.datum(alt.ExprRef(expression), type="quantitative")


def _places(tokens: int, layers: list[int]) -> tuple[alt.X, alt.Y]:
    """Cells from their place to the next: tokens from left to right, layers from top to bottom."""
    across, down = alt.Scale(domain=[0, tokens], nice=False), alt.Scale(domain=[len(layers), 0], nice=False)
    return alt.X("column:Q", scale=across, axis=_token_axis(tokens)), alt.Y(
        "row:Q", scale=down, axis=_layer_axis(layers)
    )


def _token_axis(tokens: int) -> alt.Axis:
    """The tokens' texts where there is room for them, else positions, but none near the chosen token's text."""
    place, words = "floor(datum.value)", f"width / {tokens} >= {WORD}"
    between = f"ceil({APART} * {tokens} / width)"
    return _axis(
        title=None,
        values=alt.ExprRef(f"sequence(0.5, {tokens}, {words} ? 1 : {between})"),
        labelExpr=f"{words} ? names[{place}] : abs({place} - token) < 2 * {between} ? '' : positions[{place}]",
        labelFontWeight=_bold(f"{place} == token"),
        labelAngle=alt.ExprRef(f"{words} ? -56 : 0"),
        labelAlign=alt.ExprRef(f"{words} ? 'right' : 'center'"),
        labelBaseline="top",
        labelLimit=WORDS,
    )


def _layer_axis(layers: list[int]) -> alt.Axis:
    """The model's own index of each layer, or of some where rows are thin, and of the chosen one always."""
    place, every = "floor(datum.value)", -(-13 // row_height(len(layers)))
    seen = f"{place} == layer || {place} % {every} == 0 && abs({place} - layer) >= {every}"
    return _axis(
        title="layer",
        values=[row + 0.5 for row in range(len(layers))],
        labelExpr=f"{seen} ? {layers}[{place}] : ''",
        labelFontWeight=_bold(f"{place} == layer"),
    )


def _axis(**own: Any) -> alt.Axis:
    bare = {"grid": False, "domain": False, "ticks": False, "titleColor": alt.ExprRef("ink"), "titleFontWeight": 400}
    every = {"labelOverlap": False, "labelFlush": False, "tickCount": 9999}  # fewer would be thinned out
    return alt.Axis(labelColor=alt.ExprRef("ink"), labelFontSize=12, labelPadding=6, **bare, **every, **own)


def _bold(test: str) -> dict[str, Any]:
    return {"condition": {"test": test, "value": 700}, "value": 400}


LINKED = Chart(
    "Which expert did each token go to, layer by layer?",
    "Each cell is one token at one layer, coloured by the router's first choice and stronger where its weight is "
    "higher; the same colour at two layers is not the same expert.",
    measure=token_layer,
    draw=linked_expert_grid,
    tokens="window",
)
