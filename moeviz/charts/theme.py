"""Colours, sizes, axes and marks of all charts, and nothing about any one of them.

Text, axes and background are left to the page, which may be light or dark. Whatever is set here reads on both.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import altair as alt
import numpy as np
import pandas as pd

from moeviz.errors import MoevizError

# Paul Tol's muted palette, which stays apart under the usual colour blindnesses. Its first colour, indigo #332288, is
# lighter here: the original has a contrast of 1.5 on a dark page. Smallest CIEDE2000 distance 11.5, as before.
EXPERT_COLOURS = ("#8a98e5", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
OTHER = "#9a9a9a"  # experts beyond the focus
NOT_RECORDED = "not recorded"  # the name of tokens without a record, in legends and tooltips
PALE = "#80808040"  # its cells, on a light page and on a dark one
FOCUS = 8  # experts that keep a colour if there are more than EXPERT_COLOURS
CHANCE = "#cc7722"  # even-share and chance lines, seen on MAIN too
NOTE = "#6e6e6e"  # other lines and their names: a contrast over 4.5 on light pages and panels, over 3 on dark ones
ON_DARK = {NOTE: "#a3a3a3"}  # what takes the place of a colour on a page that is known to be dark
ACCENT = "#e8590c"  # a frame around what is selected; no expert has this colour
MAIN = "#4a8fd0"  # the colour of charts that need only one
PAIR = ("#4a8fd0", "#cc7722")  # two layers, two kinds
DASH = (5, 4)
SOLID_AND_DASHED = ([1, 0], list(DASH))  # of two kinds of line
CROSS = "M-1,-1L1,1M-1,1L1,-1"  # an expert without a token
# Viridis without its darkest fifth, which drowns in a dark page.
VIRIDIS = alt.SchemeParams(name="viridis", extent=[0.2, 1])
DARK_ENOUGH = 0.179  # luminance at which black and white stand out alike
# "× as much as …": orange is more, blue is less, and 1× is the page's own grey, so that what is uniform recedes. On a
# dark page the end of "less" is dim: unused experts must not shine. Apart under every colour blindness.
LESS_TO_MORE = {
    "light": ("#3B78B8", "#9CC3E4", "#F1EFE8", "#F3B26B", "#B04A00"),
    "dark": ("#3F7FBF", "#2F5278", "#2B2F3B", "#8F5115", "#FFB060"),
}
ON_LEAST = "#ffffff"  # what is written on the colour of least, on a light page and on a dark one
TIMES = (0.25, 0.5, 1, 2, 4)  # where those colours stand: half and twice are equally far from 1
INK = {"light": "#1C2030", "dark": "#E9E8E3"}  # numbers in cells and frames around them

Channel = TypeVar("Channel", bound=alt.SchemaBase)

MAX_TOKENS = 256  # in one picture: more cells take over a second to draw
SHORT, MEDIUM, MAX_HEIGHT = 220, 360, 760
AROUND = 160  # pixels of a chart's height that its axis and legend take


def focus(experts: np.ndarray | pd.Series) -> tuple[int, ...]:
    """Choose the experts that keep a colour if a layer has too many: the most frequent first, ties to the lower id."""
    ids, counts = np.unique(np.asarray(experts), return_counts=True)
    ids, counts = ids[ids >= 0], counts[ids >= 0]
    return tuple(int(i) for i in ids[np.argsort(-counts, kind="stable")][:FOCUS])


def expert_colours(num_experts: int, focus: Sequence[int] = ()) -> list[str]:
    """Give each expert id of one layer a colour.

    Up to nine experts have a colour each. Of more, the `focus` ids have one each, in their order, and the rest are
    grey: no palette keeps 64 apart, so an id is always written too.
    """
    if num_experts <= len(EXPERT_COLOURS):
        return list(EXPERT_COLOURS[:num_experts])
    colours = [OTHER] * num_experts
    for colour, expert in zip(EXPERT_COLOURS[:FOCUS], focus, strict=False):
        colours[expert] = colour
    return colours


def rows_height(rows: int) -> int:
    """Return the height in pixels of a chart with a readable band for each row."""
    return int(np.clip(22 * rows + AROUND, SHORT, MAX_HEIGHT))


def grid_height(rows: int) -> int:
    """Return the height in pixels of a picture of cells, whose rows may be thin."""
    return int(np.clip(12 * rows + AROUND, MEDIUM, MAX_HEIGHT))


def compact(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert numbers to small dtypes: a picture of tens of thousands of cells goes to a browser in one message."""
    small = {"float64": np.float32, "int64": np.int32}
    kinds = {name: small[str(kind)] for name, kind in frame.dtypes.items() if str(kind) in small}
    return frame.astype(kinds)


def known(frame: pd.DataFrame, field: str) -> bool:
    """Return True if a column has anything to draw: marks of missing values would be a picture without a name."""
    return bool(frame[field].notna().any()) or frame.empty


def framed(chart: alt.Chart | alt.LayerChart, height: int, canvas: bool = False) -> alt.Chart | alt.LayerChart:
    """Give a chart that was just made its size: as wide as the page allows.

    `canvas` for charts of many marks, since SVG is slow past about two thousand; and for those with a gradient as their
    legend: two SVGs of one page give their gradients the same name, and one stays without.
    """
    chart.width, chart.height = "container", height  # set, since `properties` would copy all of it
    if canvas:
        chart.usermeta = {"embedOptions": {"renderer": "canvas"}}
    return chart


def at_most_max_tokens(frame: pd.DataFrame) -> None:
    """Raise `MoevizError` if a token-by-token chart would get more tokens than can be drawn or read."""
    if (tokens := frame["token"].nunique()) > MAX_TOKENS:
        raise MoevizError(
            f"This chart shows at most {MAX_TOKENS} tokens, and got {tokens}. Choose a stretch of the text."
        )


def tooltip(**lines: str | tuple[str, str]) -> list[alt.Tooltip]:
    """Make the lines of a tooltip, by the column that each shows: the format of a number, or its title and its format.

    A column without a format ("") is text. Without a title, a line is called what its column is called.

    >>> layer, load, text = tooltip(layer="d", load=("share of assignments", ".2%"), text="")
    >>> load.to_dict()
    {'field': 'load', 'format': '.2%', 'title': 'share of assignments', 'type': 'quantitative'}
    """
    return [_tooltip_line(field, *(line if isinstance(line, tuple) else ("", line))) for field, line in lines.items()]


def _tooltip_line(field: str, title: str, form: str) -> alt.Tooltip:
    given = {name: value for name, value in (("title", title), ("format", form)) if value}
    return alt.Tooltip(f"{field}:{'Q' if form else 'N'}", **given)


def figures(form: str, **titles: str) -> list[alt.Tooltip]:
    """Make the lines of a tooltip that have one format, by the column that each shows: its title."""
    return tooltip(**{field: (title, form) for field, title in titles.items()})


def share_axis() -> alt.Axis:
    """Label percentages, with few enough labels for a phone."""
    return alt.Axis(format="%", tickCount=6)


def whole_axis() -> alt.Axis:
    """Label whole numbers, such as positions and steps, without lines behind the marks."""
    return alt.Axis(format="d", tickMinStep=1, grid=False)


def ids_axis() -> alt.Axis:
    """Label ids of experts or layers, as many as fit."""
    return alt.Axis(labelAngle=0, labelOverlap=True)


def layer_axis(note: str = "") -> alt.X:
    """Put layers from left to right, each by the model's own index; `note` says what else the chart shows."""
    return alt.X("layer:O", title=f"layer ({note})" if note else "layer", axis=ids_axis())


def layer_rows() -> alt.Y:
    """Put layers from top to bottom, each a row of cells."""
    return alt.Y("layer:O", title="layer", axis=alt.Axis(labelOverlap=True))


def expert_axis(note: str = "") -> alt.X:
    """Put experts from left to right by their ids; `note` says what else the chart shows."""
    return alt.X("expert:O", title=f"expert ({note})" if note else "expert", axis=ids_axis())


def named(channel: type[Channel], field: str, names: Iterable[Any], values: Iterable[Any], **legend: Any) -> Channel:
    """Give each name a value of its own on a channel, such as `alt.Shape`.

    A legend stands above the chart, without a title if `legend` has none.
    """
    scale = alt.Scale(domain=list(names), range=list(values))
    return channel(f"{field}:N", scale=scale, legend=alt.Legend(**{"title": None, "orient": "top"} | legend))


def colour(field: str, names: Iterable[Any], colours: Iterable[str], **legend: Any) -> alt.Color:
    """Tell names apart by a colour each, with a legend above the chart: see `named`."""
    return named(alt.Color, field, names, colours, **legend)


def gradient(field: str, title: str, scale: dict[str, Any] | None = None, **legend: Any) -> alt.Color:
    """Colour numbers, brighter where they are higher, with a legend above the chart.

    `scale` and `legend` are further properties of these. A chart with a gradient is drawn on a canvas: see `framed`.
    """
    above = alt.Legend(**{"title": title, "orient": "top", "gradientLength": 200} | legend)
    return alt.Color(f"{field}:Q", scale=alt.Scale(**{"scheme": VIRIDIS} | (scale or {})), legend=above)


def difference_colour(field: str, title: str, most: float, dark: bool = False) -> alt.Color:
    """Colour differences from -`most` to `most`: orange above 0, blue below, and 0 recedes into the page.

    The chart is drawn on a canvas: see `framed`.
    """
    most = most or 1.0
    scale = alt.Scale(domain=[-most, -most / 2, 0, most / 2, most], range=list(LESS_TO_MORE[_page(dark)]))
    legend = alt.Legend(title=title, orient="top", gradientLength=200, titleLimit=330)
    return alt.Color(f"{field}:Q", scale=scale, legend=legend)


def ink_on(field: str) -> dict[str, Any]:
    """Write in black or white on the colour that a chart's scale gives a number: a contrast of 4.5 or more."""
    return black_or_white(f"scale('color', datum.{field})")


def black_or_white(colour: str) -> dict[str, Any]:
    """Write in black or white on a colour, given as Vega's expression: a contrast of 4.5 or more on any."""
    return alt.condition(f"luminance({colour}) < {DARK_ENOUGH}", alt.value("#ffffff"), alt.value("#000000"))


def layer_colour() -> alt.Color:
    """Colour layers from first to last, where each is a line or a dot."""
    legend = alt.Legend(title="layer", orient="top", gradientLength=160, format="d", tickMinStep=1)
    return alt.Color("layer:Q", scale=alt.Scale(scheme=VIRIDIS), legend=legend)


def times_colour(field: str, title: str | None = None, dark: bool = False) -> alt.Color:
    """Colour "times as much as …" on a log2 scale around 1; below ¼ and above 4 the colour is that of the end.

    `field` holds the times themselves, 0 included. A legend stands above the chart where there is a `title`; a chart
    with one is drawn on a canvas (see `framed`).
    """
    scale = alt.Scale(
        type="log", base=2, domain=list(TIMES), range=list(LESS_TO_MORE[_page(dark)]), clamp=True, interpolate="lab"
    )
    words = "{'0.25': '¼×', '0.5': '½×'}[datum.value] || datum.value + '×'"
    legend = alt.Legend(
        title=title,
        titleLimit=420,
        orient="top",
        gradientLength=160,
        gradientThickness=10,
        values=list(TIMES),
        labelExpr=words,
    )
    return alt.Color(field, type="quantitative", scale=scale, legend=legend if title else None)


def ink(dark: bool) -> str:
    """Return the colour of numbers in cells and of frames around them."""
    return INK[_page(dark)]


def _page(dark: bool) -> str:
    return "dark" if dark else "light"


Look = dict[str, Any]  # properties of a mark that are the same for all rows


class Layers(alt.LayerChart):
    """Layers of one picture, put together without Altair's copies: it copies and hashes every part at each step."""

    def __init__(self, data: Any = alt.Undefined, layer: Sequence[Any] = (), **given: Any) -> None:
        alt.TopLevelLayerSpec.__init__(self, data=data, layer=list(layer), **given)


def layered(*parts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Draw charts over each other. Data that all share is kept once, as in `alt.layer`; none may have selections."""
    data = parts[0].data
    if any(part.data is not data for part in parts):
        return Layers(layer=parts)
    parts = tuple(part.copy(deep=False) for part in parts)
    for part in parts:
        part.data = alt.Undefined
    return Layers(data, parts)


def bars(frame: pd.DataFrame, **channels: Any) -> alt.Chart:
    """Draw a bar for each row, in the one colour where no column has a colour."""
    look = {} if "color" in channels else {"color": MAIN}
    return alt.Chart(frame).mark_bar(**look).encode(**channels)


def lines(frame: pd.DataFrame, look: Look | None = None, **channels: Any) -> alt.Chart:
    """Draw a line through the rows, or one for each colour or detail."""
    return alt.Chart(frame).mark_line(**look or {}).encode(**channels)


def points(frame: pd.DataFrame, look: Look | None = None, **channels: Any) -> alt.Chart:
    """Draw a point for each row."""
    return alt.Chart(frame).mark_point(**look or {}).encode(**channels)


def cells(frame: pd.DataFrame, **channels: Any) -> alt.Chart:
    """Draw a cell of a heat map for each row, without lines between them."""
    return alt.Chart(frame).mark_rect(stroke=None).encode(**channels)


def ticks(base: alt.Chart, field: str, color: str = CHANCE) -> alt.Chart:
    """Mark a height across each bar of `base`: by default in the colour of chance."""
    tick = base.mark_tick(color=color, thickness=3, opacity=1, width=alt.RelativeBandSize(0.9))
    return tick.encode(y=f"{field}:Q")


def reference(frame: pd.DataFrame, field: str, color: str = CHANCE, axis: str = "y") -> alt.Chart:
    """Draw a dashed line at `frame[field]`: the uniform share, or chance, in the colour for these.

    It is horizontal, or vertical on the axis "x".
    """
    line = alt.Chart(frame).mark_rule(color=color, strokeDash=list(DASH), strokeWidth=2)
    return line.encode(**{axis: f"{field}:Q"})


def even_reference() -> alt.Chart:
    """Draw a dashed horizontal line at 1, the load of every expert if all had the same."""
    return reference(pd.DataFrame({"even": [1.0]}), "even")


def named_reference(frame: pd.DataFrame, field: str, label: str, below: bool = False) -> alt.LayerChart:
    """Draw a dashed horizontal line with its name above it, or below: where no bar can be behind the words."""
    line = alt.Chart(frame).encode(y=f"{field}:Q")
    place = {"baseline": "top", "dy": 5} if below else {"baseline": "bottom", "dy": -3}
    name = line.mark_text(color=NOTE, align="right", dx=-4, **place)
    return layered(reference(frame, field, NOTE), name.encode(x=alt.XValue("width"), text=alt.TextValue(label)))


def diagonal(says: str, end: float = 1.0, fields: tuple[str, str] = ("x", "y"), color: str = CHANCE) -> alt.Chart:
    """Draw a dashed line from 0 to `end` of both axes, on which they are equal; `says` is its tooltip."""
    x, y = fields
    look = {"color": color, "strokeDash": list(DASH)}
    return lines(
        pd.DataFrame({x: [0.0, end], y: [0.0, end]}), look, x=f"{x}:Q", y=f"{y}:Q", tooltip=alt.TooltipValue(says)
    )
