"""Token by layer, each cell split among its experts: one drawing for pages, reports, notebooks and exports.

A chart's choice is some of its params, which are signals for whoever holds its Vega view:

    token, layer   the chosen places, from 0; -1: none
    hot            the place of a layer and one of its experts, whose stripes stay while all others dim; [-1, -1]: none
    split          1: all choices of a token; 0: its first choice alone
    ink, paper     colours of the page

Its scales `x` and `y` turn a pixel back into a place: a token's column has its place in the middle, a layer's row
begins at its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.token_layer_images import LEAST, cell_images
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

MOST_STRIPES = 4_000  # of more, a browser needs seconds, and they are the pixels of images
GUTTER, ABOVE, BESIDE = 44, 2, 2  # pixels left of the cells, for layers; and room for a frame
WORDS, NUMBERS = 64, 26  # pixels under the cells, for tokens: their texts, or positions alone
LOWEST_ROW, HIGHEST_ROW, MAX_ROWS = 5, 28, 380  # pixels of a layer's row, and of all of them
WIDEST, USUAL = 1400, 640  # pixels of a page, about; and of a picture that does not know how wide it is
WORD, ID, ID_HEIGHT = 12, 13, 11  # pixels of a cell from which a token's text fits under it, and an id into it
LONGER_ID = 8  # pixels that an id of three digits takes more
APART = 34  # pixels between two positions on the axis
LETTERS = 9  # of a token on the axis
NARROWEST = 10  # pixels of the frame around a cell
DIM = 0.18  # opacity of stripes that are not of the hot expert
ONE_ROW = alt.InlineData(values=[{}])  # for a mark whose place is what the params say
PAPER = "#ffffff"


@dataclass(frozen=True)
class MapFacts:
    """What a map shows besides its cells. Tokens and layers go by their places, from 0."""

    layers: list[int]  # the model's own indices
    names: list[str]  # texts of the tokens, made visible and cut
    positions: list[int]
    colours: list[list[str]]  # by layer and expert
    beginnings: list[int]  # tokens at which the next of several texts begins, or what was generated
    slots: int
    ordered: bool  # whether slot 0 is the first choice


def facts_of(frame: pd.DataFrame) -> MapFacts:
    """The facts for a frame of `token_choices`."""
    tokens, ordered = frame.drop_duplicates("token"), bool(frame["ordered"].all())
    changed = (tokens[["sequence", "phase"]].astype(str) != tokens[["sequence", "phase"]].astype(str).shift()).any(
        axis=1
    )
    coloured = frame if not ordered else frame[frame["slot"] == 0]
    colours = [
        theme.expert_colours(int(rows["num_experts"].iloc[0]), theme.focus(rows["expert"]))
        for _, rows in coloured.groupby("layer")
    ]
    return MapFacts(
        layers=sorted(frame["layer"].unique().tolist()),
        names=[_short(text) for text in tokens["text"]],
        positions=tokens["position"].tolist(),
        colours=colours,
        beginnings=[place for place, new in enumerate(changed) if new and place],
        slots=int(frame["slot"].max()) + 1,
        ordered=ordered,
    )


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= LETTERS else shown[: LETTERS - 1] + "…"


def row_height(layers: int) -> int:
    """Pixels of one layer's row where there are so many."""
    return int(max(LOWEST_ROW, min(HIGHEST_ROW, MAX_ROWS / layers)))


def map_height(layers: int, tokens: int) -> int:
    """Pixels of the whole picture that `map_of` makes."""
    return ABOVE + row_height(layers) * layers + _labels(tokens)


def _labels(tokens: int) -> int:
    return WORDS if tokens * WORD <= WIDEST else NUMBERS


def token_layer_map(frame: pd.DataFrame) -> alt.LayerChart:
    """Token by layer, each cell split among its experts. Columns: those of `token_choices`."""
    theme.at_most_max_tokens(frame)
    facts = facts_of(frame)
    cells, images = cells_of(frame), images_of(frame, facts)
    chart = _layered(facts, cells.iloc[:0] if images else cells, images)
    height = row_height(len(facts.layers)) * len(facts.layers) + theme.AROUND
    return theme.framed(chart + _legend(facts, bool((frame["expert"] == NOT_RECORDED).any())), height, canvas=True)


def images_of(frame: pd.DataFrame, facts: MapFacts) -> list[str]:
    """The cells of a frame of `token_choices` as images for `map_of`, if they are too many to be marks; else none."""
    layers = len(facts.layers)
    if len(facts.names) * layers * min(facts.slots, 2) <= MOST_STRIPES:
        return []
    return cell_images(frame, facts.colours, row_height(layers))


def cells_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that `map_of` draws, for a frame of `token_choices`; and what a tooltip says of each."""
    shown = {text: visible(text) for text in frame["text"].unique()}
    return pd.DataFrame(
        {
            "token": pd.factorize(frame["token"])[0].astype(np.int16),
            "layer": pd.factorize(frame["layer"], sort=True)[0].astype(np.int16),
            "slot": frame["slot"],
            "expert": frame["expert"],
            "weight": frame["weight"],
            "shown": frame["text"].map(shown),
            "position": frame["position"],
            "phase": frame["phase"],
        }
    )[frame["expert"].to_numpy() != NO_EXPERT]


def map_of(facts: MapFacts, cells: pd.DataFrame | alt.NamedData, images: Sequence[str] = ()) -> alt.LayerChart:
    """The map for a page that is linked to it, and sets its width.

    Columns of `cells`: token and layer (places) · slot · expert (-2: not recorded) · weight, if there are weights. With
    `images` (see `images_of`) they are those of the hot layer alone.
    """
    many, row = len(facts.layers), row_height(len(facts.layers))
    return _layered(facts, cells, images).properties(
        width=600,
        height=row * many,
        # Nothing is laid out anew at a click, and the cells begin where the padding says.
        autosize=alt.AutoSizeParams(type="none"),
        padding={"left": GUTTER, "top": ABOVE, "right": BESIDE, "bottom": _labels(len(facts.names))},
    )


def _layered(facts: MapFacts, cells: pd.DataFrame | alt.NamedData, images: Sequence[str]) -> alt.LayerChart:
    tokens, layers = len(facts.names), len(facts.layers)
    x, y = _places(tokens, layers)
    whole, tips = _parts(facts, cells), isinstance(cells, pd.DataFrame) and "shown" in cells and not images
    if images:
        whole = whole.transform_filter("datum.layer == hot[0] && datum.expert == hot[1]")
    parts = [_stripes(whole, tips).encode(x=x, x2="end:Q", y=y, y2="bottom:Q")]
    if images:
        parts.insert(0, _image(images))
    elif tokens * ID <= WIDEST and row_height(layers) >= ID_HEIGHT:
        parts.append(_ids(whole))
    parts += [_beginnings(facts.beginnings), *_frames(), _chosen_text(tokens)]
    return alt.layer(*parts).add_params(*_params(facts)).properties(view=alt.ViewBackground(stroke=None))


def _params(facts: MapFacts) -> list[alt.Parameter]:
    """The choice, what the marks know of the trace, and the pixels of one cell."""
    split = 1 if facts.slots <= 2 or not facts.ordered else 0  # eight stripes a cell say less than one colour
    state = {"token": -1, "layer": -1, "hot": [-1, -1], "split": split, "ink": theme.NOTE, "paper": PAPER}
    own = [{str(e): colour for e, colour in enumerate(row) if colour != theme.OTHER} for row in facts.colours]
    known = {"names": facts.names, "positions": facts.positions, "layers": facts.layers, "colours": own}
    layers, tokens = len(facts.layers), len(facts.names)
    size = {  # width and height are 0 where the map is one of several pictures
        "across": f"(width || {USUAL}) / {tokens}",
        "down": f"(height || {row_height(layers) * layers}) / {layers}",
    }
    return [
        *(alt.param(name=name, value=value) for name, value in (state | known).items()),
        *(alt.param(name=name, expr=expr) for name, expr in size.items()),
    ]


def _parts(facts: MapFacts, cells: pd.DataFrame | alt.NamedData) -> alt.Chart:
    """Each choice from `top` to `bottom`, in its colour: the parts of a cell lie on each other, and leave it a gap."""
    of_expert = f"colours[datum.layer][datum.expert] || '{theme.OTHER}'"
    inside = "(down > 8 ? 1 - 1 / down : 1)"
    return (
        alt.Chart(cells)
        .transform_filter("split || datum.slot == 0")
        .transform_calculate(share=f"isValid(datum.weight) ? max(datum.weight, {LEAST}) : 1")
        .transform_stack(
            stack="share",
            as_=["from", "to"],
            groupby=["layer", "token"],
            sort=[alt.SortField("slot" if facts.ordered else "expert")],
            offset="normalize",
        )
        .transform_calculate(
            start="datum.token - 0.5",
            end="datum.token + 0.5",
            top=f"datum.layer + datum.from * {inside}",
            bottom=f"datum.layer + datum.to * {inside}",
            colour=f"datum.expert < 0 ? '{theme.PALE}' : {of_expert}",
        )
    )


def _lit() -> dict[str, Any]:
    hot = "hot[0] < 0 || datum.layer == hot[0] && datum.expert == hot[1]"
    return alt.value(alt.ExprRef(f"{hot} ? 1 : {DIM}"))


def _stripes(cells: alt.Chart, tips: bool) -> alt.Chart:
    """The parts themselves, with a pixel between columns that are wide enough."""
    if tips:
        cells = cells.transform_calculate(
            at="layers[datum.layer]", which=f"datum.expert < 0 ? '{theme.NOT_RECORDED}' : datum.expert"
        )
    return cells.mark_rect(stroke=None, x2Offset=alt.ExprRef("across > 6 ? -1 : 0"), tooltip=None).encode(
        color=alt.Color("colour:N", scale=None), opacity=_lit(), **({"tooltip": _tooltip()} if tips else {})
    )


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("shown:N", title="token"),  # so called, since Vega makes an image or a heading of some names
        alt.Tooltip("position:Q", format="d"),
        alt.Tooltip("phase:N"),
        alt.Tooltip("at:Q", title="layer", format="d"),
        alt.Tooltip("which:N", title="expert"),
        alt.Tooltip("weight:Q", format=".3f"),
    ]


def _ids(cells: alt.Chart) -> alt.Chart:
    """Ids of experts where there is room, black or white, whichever can be read."""
    room = f"across >= {ID} + (datum.expert > 99 ? {LONGER_ID} : 0)"
    return (
        cells.transform_filter(f"datum.expert >= 0 && {room} && (datum.bottom - datum.top) * down >= {ID_HEIGHT}")
        .transform_calculate(
            middle="(datum.top + datum.bottom) / 2", on="luminance(datum.colour) > 0.179 ? '#000' : '#fff'"
        )
        .mark_text(fontSize=11, tooltip=None)
        .encode(x="token:Q", y="middle:Q", text="expert:Q", color=alt.Color("on:N", scale=None), opacity=_lit())
    )


def _image(images: Sequence[str]) -> alt.Chart:
    """All cells as the pixels of an image, by first choice and split where these are two."""
    rows = alt.Chart(alt.InlineData(values=[{"url": url, "split": place} for place, url in enumerate(images)]))
    if len(images) > 1:
        rows = rows.transform_filter("datum.split == split")
    return rows.mark_image(aspect=False, smooth=False, tooltip=None).encode(
        url="url:N",
        x=alt.value(0),
        x2=alt.value("width"),
        y=alt.value(0),
        y2=alt.value("height"),
        opacity=alt.value(alt.ExprRef(f"hot[0] < 0 ? 1 : {DIM}")),
    )


def _beginnings(places: list[int]) -> alt.Chart:
    """A line where generated tokens begin, and one where the next of several texts does."""
    lines = alt.Chart(alt.InlineData(values=[{"place": place - 0.5} for place in places]))
    return lines.mark_rule(color=alt.ExprRef("ink"), strokeWidth=2, tooltip=None).encode(x="place:Q")


def _frames() -> list[alt.Chart]:
    """A frame around the chosen column, and one around the chosen cell, which is seen where cells are thin too."""
    half = f"max(0.5, {NARROWEST / 2} / across)"
    column = {"x": _at("token - 0.5"), "x2": _at("token + 0.5"), "y": alt.value(0), "y2": alt.value("height")}
    cell = {"x": _at(f"token - {half}"), "x2": _at(f"token + {half}"), "y": _at("layer"), "y2": _at("layer + 1")}
    return [_frame("token < 0", **column), _frame("token < 0 || layer < 0", **cell)]


def _frame(unseen: str, **place: Any) -> alt.Chart:
    mark = alt.Chart(ONE_ROW).mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=2.5, tooltip=None)
    return mark.encode(**place, opacity=alt.value(alt.ExprRef(f"{unseen} ? 0 : 1")))


def _chosen_text(tokens: int) -> alt.Chart:
    """The text of the chosen token under its column, where the texts of all columns do not fit."""
    text = alt.ExprRef(f"token < 0 || across >= {WORD} ? '' : names[token]")
    align = alt.ExprRef(f"token < {tokens} / 12 ? 'left' : token > {tokens} * 11 / 12 ? 'right' : 'center'")
    mark = alt.Chart(ONE_ROW).mark_text(
        align=align, baseline="top", dy=6, fontSize=12, fontWeight="bold", color=alt.ExprRef("ink"), tooltip=None
    )
    return mark.encode(x=_at("token"), y=alt.value("height"), text=alt.value(text))


def _at(expression: str) -> dict[str, Any]:
    return alt.datum(alt.ExprRef(expression), type="quantitative")


def _places(tokens: int, layers: int) -> tuple[alt.X, alt.Y]:
    """Tokens from left to right, each around its place; layers from top to bottom, each from its place to the next."""
    across = alt.Scale(domain=[-0.5, tokens - 0.5], nice=False, zero=False)
    down = alt.Scale(domain=[layers, 0], nice=False, zero=False)
    return alt.X("start:Q", scale=across, axis=_token_axis(tokens)), alt.Y(
        "top:Q", scale=down, axis=_layer_axis(layers)
    )


def _token_axis(tokens: int) -> alt.Axis:
    """The tokens' texts where there is room for them, else positions, but none near the chosen token's text."""
    words, between = f"across >= {WORD}", f"ceil({APART} / across)"
    crowded = f"token >= 0 && abs(datum.value - token) < 2 * {between}"
    return _axis(
        title=None,
        values=alt.ExprRef(f"sequence(0, {tokens}, {words} ? 1 : {between})"),
        labelExpr=f"{words} ? names[datum.value] : {crowded} ? '' : positions[datum.value]",
        labelFontWeight=_bold("datum.value == token"),
        labelAngle=alt.ExprRef(f"{words} ? -56 : 0"),
        labelAlign=alt.ExprRef(f"{words} ? 'right' : 'center'"),
        labelBaseline="top",
        labelLimit=WORDS,
    )


def _layer_axis(layers: int) -> alt.Axis:
    """The model's own index of each layer, or of some where rows are thin, and of the chosen one always."""
    place, every = "floor(datum.value)", "ceil(13 / down)"
    seen = f"{place} == layer || {place} % {every} == 0 && (layer < 0 || abs({place} - layer) >= {every})"
    return _axis(
        title="layer",
        values=[row + 0.5 for row in range(layers)],
        labelExpr=f"{seen} ? layers[{place}] : ''",
        labelFontWeight=_bold(f"{place} == layer"),
    )


def _axis(**own: Any) -> alt.Axis:
    bare = {"grid": False, "domain": False, "ticks": False, "titleColor": alt.ExprRef("ink"), "titleFontWeight": 400}
    every = {"labelOverlap": False, "labelFlush": False, "tickCount": 9999}  # fewer would be thinned out
    return alt.Axis(labelColor=alt.ExprRef("ink"), labelFontSize=12, labelPadding=6, **bare, **every, **own)


def _bold(test: str) -> dict[str, Any]:
    return {"condition": {"test": test, "value": 700}, "value": 400}


def _legend(facts: MapFacts, missing: bool) -> alt.Chart:
    """What the colours are, by marks that nobody sees. No colour has one name where some layers have few experts."""
    many = [len(row) > len(theme.EXPERT_COLOURS) for row in facts.colours]
    ranks = [str(place) for place in range(1, theme.FOCUS + 1)]
    if all(many):
        title, named = "1 = the layer's busiest expert here", dict(zip(ranks, theme.EXPERT_COLOURS, strict=False))
        named["other"] = theme.OTHER
    else:
        title = "expert"
        named = {str(e): colour for e, colour in enumerate(max(facts.colours, key=len))} if not any(many) else {}
    named |= {theme.NOT_RECORDED: theme.PALE} if missing else {}
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    legend = alt.Legend(
        title=title,
        orient="top",
        symbolType="square",
        symbolOpacity=1,
        columns=9 if "other" not in named else 5,
        titleLimit=330,
    )
    rows = alt.Chart(alt.InlineData(values=[{"named": name} for name in named]))
    return rows.mark_rect(opacity=0, tooltip=None).encode(
        fill=alt.Fill("named:N", scale=scale, legend=legend if named else None)
    )
