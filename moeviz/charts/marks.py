"""Marks that many charts are made of. What is on their axes, and what their colours mean, each chart says itself."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from moeviz.charts import theme

Look = dict[str, Any]  # properties of a mark that are the same for all rows


class Layers(alt.LayerChart):
    """Layers of one picture, put together without Altair's copies: it copies and hashes every part at each step."""

    def __init__(self, data: Any = alt.Undefined, layer: Sequence[Any] = (), **given: Any) -> None:
        alt.TopLevelLayerSpec.__init__(self, data=data, layer=list(layer), **given)


def layered(*parts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Draw these over each other. What they all draw is said once, as `alt.layer` does; none may have selections."""
    data = parts[0].data
    if any(part.data is not data for part in parts):
        return Layers(layer=parts)
    parts = tuple(part.copy(deep=False) for part in parts)
    for part in parts:
        part.data = alt.Undefined
    return Layers(data, parts)


def bars(frame: pd.DataFrame, **channels: Any) -> alt.Chart:
    """Draw a bar for each row, in the one colour where no column has a colour."""
    look = {} if "color" in channels else {"color": theme.MAIN}
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


def ticks(base: alt.Chart, field: str, color: str = theme.CHANCE) -> alt.Chart:
    """Mark a height across each bar of `base`: that of chance, or another in the colour for it."""
    tick = base.mark_tick(color=color, thickness=3, opacity=1, width=alt.RelativeBandSize(0.9))
    return tick.encode(y=f"{field}:Q")


def reference(frame: pd.DataFrame, field: str, color: str = theme.CHANCE, axis: str = "y") -> alt.Chart:
    """Draw a dashed line at `frame[field]`: the uniform share, or chance, in the colour for these.

    It is horizontal, or vertical on the axis "x".
    """
    line = alt.Chart(frame).mark_rule(color=color, strokeDash=list(theme.DASH), strokeWidth=2)
    return line.encode(**{axis: f"{field}:Q"})


def even_reference() -> alt.Chart:
    """Draw a dashed horizontal line at 1, the load of every expert if all had the same."""
    return reference(pd.DataFrame({"even": [1.0]}), "even")


def named_reference(frame: pd.DataFrame, field: str, label: str, below: bool = False) -> alt.LayerChart:
    """Draw a dashed horizontal line with its name above it, or below: where no bar can be behind the words."""
    line = alt.Chart(frame).encode(y=f"{field}:Q")
    place = {"baseline": "top", "dy": 5} if below else {"baseline": "bottom", "dy": -3}
    name = line.mark_text(color=theme.NOTE, align="right", dx=-4, **place)
    return layered(reference(frame, field, theme.NOTE), name.encode(x=alt.XValue("width"), text=alt.TextValue(label)))


def diagonal(says: str, end: float = 1.0, fields: tuple[str, str] = ("x", "y"), color: str = theme.CHANCE) -> alt.Chart:
    """Draw a dashed line from 0 to `end` of both axes, on which they are equal; `says` is its tooltip."""
    x, y = fields
    look = {"color": color, "strokeDash": list(theme.DASH)}
    return lines(
        pd.DataFrame({x: [0.0, end], y: [0.0, end]}), look, x=f"{x}:Q", y=f"{y}:Q", tooltip=alt.TooltipValue(says)
    )
