"""Charts of what happened to each token. A token's place on the axis is its number, never its text."""

import json

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.token_layer_map import first_letters, shown_texts, token_layer_map
from moeviz.metrics.tokens import token_choices, token_expert, token_routes
from moeviz.routing_trace import NOT_RECORDED

NO_ORDER = "its experts, in no known order"
WITH_TEXTS = 64  # tokens of a text that have room for their own names on an axis, in a chart as wide as a page
WORD, APART, CONCAT = 12, 34, 640  # pixels of a token that its name needs, between two positions, of a chart of several
STRAIGHT = 64  # pixels of a token from which its name need not slant; also the longest name


def token_axis(frame: pd.DataFrame) -> tuple[pd.DataFrame, alt.X]:
    """Cells from `start` to `end`, in small columns, and their axis: positions if there is one text."""
    one_text = frame["sequence"].nunique() <= 1
    start = frame["position" if one_text else "token"].astype(np.int32)
    sides = {"start": (start - 0.5).astype(np.float32), "end": (start + 0.5).astype(np.float32)}
    cells = frame.assign(**sides, shown=shown_texts(frame["text"]))
    cells = cells.drop(columns=["text", "sequence", "num_experts"], errors="ignore")
    title = "position of the token in the text" if one_text else "token (all texts in a row)"
    scale = (
        alt.Scale(domain=[int(start.min()) - 0.5, int(start.max()) + 0.5], nice=False, zero=False)
        if len(start)
        else alt.Undefined
    )
    names = dict(zip(start.tolist(), frame["text"], strict=True))
    if one_text and 0 < len(names) <= WITH_TEXTS:
        return cells, alt.X("start:Q", title="token of the text", scale=scale, axis=_texts_axis(names))
    return cells, alt.X("start:Q", title=title, scale=scale, axis=theme.whole_axis())


def _texts_axis(names: dict[int, str]) -> alt.Axis:
    """Label the axis with tokens that fit, else some positions. Each is a JSON string, since it is a stranger's."""
    shown = json.dumps({str(position): first_letters(text) for position, text in names.items()})
    wide = f"(width || {CONCAT}) / {len(names)}"  # pixels of a token; charts side by side have no width of their own
    slanting = f"{wide} >= {WORD} && {wide} < {STRAIGHT}"
    some = f"datum.value % ceil({APART} / ({wide})) ? '' : datum.value"
    return alt.Axis(
        grid=False,
        values=list(names),
        tickCount=len(names),
        ticks=False,
        labelExpr=f"{wide} >= {WORD} ? {shown}[datum.value] : {some}",
        labelAngle=alt.ExprRef(f"{slanting} ? -56 : 0"),
        labelAlign=alt.ExprRef(f"{slanting} ? 'right' : 'center'"),
        labelBaseline="top",
        labelLimit=STRAIGHT,
        labelOverlap=False,
    )


def token_tooltip() -> list[alt.Tooltip]:
    """Make a tooltip that names the token of a mark, as `shown`: Vega makes an image or a heading of some names."""
    return theme.tooltip(shown=("token", ""), position=("position", "d"), phase="")


def _whole(field: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=field, format="d")


def _weight_tooltip(frame: pd.DataFrame) -> list[alt.Tooltip]:
    return [alt.Tooltip("weight:Q", format=".3f")] if frame["weight"].notna().any() else []


def token_expert_grid(frame: pd.DataFrame) -> alt.Chart | alt.LayerChart:
    """Draw token by expert of one layer, coloured by weight. Columns: those of `token_expert`."""
    theme.at_most_max_tokens(frame)
    num_experts = int(frame["expert"].max()) + 1 if len(frame) else 1
    cells, x = token_axis(frame[frame["slot"] != -1].drop(columns="ordered"))
    cells = cells.assign(choice=cells["slot"] + 1, upper=cells["expert"] + 0.5, lower=cells["expert"] - 0.5)
    choice = [_whole("choice")] if frame["ordered"].all() else []
    missing = cells["slot"] == NOT_RECORDED
    if missing.any():
        x = x.title([x["title"], f"pale: {theme.NOT_RECORDED}"])
    weighted = frame["weight"].notna().any()
    chart = theme.cells(
        cells[~missing],
        x=x,
        x2="end:Q",
        y=alt.Y(
            "lower:Q",
            title="expert",
            scale=alt.Scale(domain=[num_experts - 0.5, -0.5], nice=False, zero=False),
            axis=theme.whole_axis(),
        ),
        y2="upper:Q",
        color=_weight_colour() if weighted else alt.value(theme.MAIN),
        tooltip=[*token_tooltip(), _whole("expert"), *choice, *_weight_tooltip(frame)],
    )
    if missing.any():
        chart = theme.layered(_missing_columns(cells[missing], x), chart)
    return theme.framed(chart, theme.grid_height(num_experts), canvas=True)


def _weight_colour() -> alt.Color:
    return theme.gradient("weight", "weight", gradientLength=160)


def _missing_columns(cells: pd.DataFrame, x: alt.X) -> alt.Chart:
    columns = cells.drop_duplicates("token").assign(which=theme.NOT_RECORDED)
    tooltip = [*token_tooltip(), *theme.tooltip(which=("expert", ""))]
    return alt.Chart(columns).mark_rect(stroke=None, color=theme.PALE).encode(x=x, x2="end:Q", tooltip=tooltip)


def token_route(frame: pd.DataFrame) -> alt.LayerChart:
    """Layer by choice for one token, with the expert's id in each cell. Columns: those of `token_routes`."""
    weighted = frame["weight"].notna().any()
    title = "choice (1 = highest weight)" if weighted else "choice" if frame["ordered"].all() else NO_ORDER
    cells = frame.assign(choice=frame["slot"] + 1, shown=shown_texts(frame["text"]))
    cells = cells.drop(columns=["text", "sequence", "ordered"])
    axis = alt.Axis(labelAngle=0) if title != NO_ORDER else alt.Axis(labels=False, ticks=False)
    x = alt.X("choice:O", title=title, axis=axis)
    y = alt.Y("layer:O", title="layer")
    choice = [_whole("choice")] if title != NO_ORDER else []
    base = alt.Chart(cells[cells["expert"] >= 0]).encode(
        x=x, y=y, tooltip=[*token_tooltip(), _whole("layer"), *choice, _whole("expert"), *_weight_tooltip(frame)]
    )
    without = _without_expert(cells[cells["expert"] < 0], x, y)
    if not weighted:
        grey = base.mark_rect(color=theme.OTHER), base.mark_text(color="black").encode(text="expert:Q")
        return theme.framed(theme.layered(*grey, *without), theme.rows_height(frame["layer"].nunique()))
    tiles = base.mark_rect().encode(color=_weight_colour())
    ids = base.mark_text().encode(text="expert:Q", color=theme.ink_on("weight"))
    return theme.framed(theme.layered(tiles, ids, *without), theme.rows_height(frame["layer"].nunique()), canvas=True)


def _without_expert(cells: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Draw words for layers where the token has no expert, or no known one; no mark without such layers."""
    if cells.empty:
        return []
    words = np.where(cells["expert"] == NOT_RECORDED, theme.NOT_RECORDED, "no expert")
    marks = alt.Chart(cells.assign(which=words)).mark_text(color=theme.NOTE)
    return [marks.encode(x=x, y=y, text="which:N", tooltip=[*token_tooltip(), _whole("layer"), "which:N"])]


CHARTS = (
    # No captions: the first two are the text itself, to look at, and one token has nothing to be compared with.
    # `moeviz.metrics.findings` reports what stands out.
    Chart.row(token_layer_map, token_choices, tokens="window"),
    Chart.row(token_expert_grid, token_expert, expert="expert", layers="one", tokens="window"),
    Chart.row(token_route, token_routes, expert="expert", tokens="one"),
)
