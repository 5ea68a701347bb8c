"""Charts of what happened to each token. A token's place on the axis is its number, never its text."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.tokens import token_expert, token_layer, token_routes, visible
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

OTHERS = "other"


def top_expert_grid(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, coloured by first choice. Columns: those of `token_layer`."""
    theme.at_most_max_tokens(frame)
    colour, domain, range_, title = _expert_colour(frame)
    cells, x = token_axis(frame.assign(colour=colour)[frame["expert"] != NO_EXPERT])
    expert: list[alt.Tooltip] = [_whole("expert")]
    if missing := bool((frame["expert"] == NOT_RECORDED).any()):
        cells = cells.assign(which=cells["expert"].astype(str).where(cells["expert"] >= 0, theme.NOT_RECORDED))
        expert = [alt.Tooltip("which:N", title="expert")]
    chart = alt.Chart(cells).mark_rect(stroke=None)
    encoding = {
        "x": x,
        "x2": "end:Q",
        "y": alt.Y("layer:O", title="layer"),
        "color": alt.Color(
            "colour:N",
            scale=alt.Scale(domain=domain, range=range_),
            legend=alt.Legend(
                title=title, orient="top", symbolType="square", columns=9 if OTHERS not in domain else 5, titleLimit=330
            ),
        ),
        "tooltip": [*token_tooltip(), _whole("layer"), *expert, *_weight_tooltip(frame)],
    }
    if frame["weight"].notna().any():
        scale = alt.Scale(domain=[0, float(frame["weight"].max())], range=[0.5, 1], clamp=True)
        opacity = alt.Opacity("weight:Q", scale=scale, legend=None)
        encoding["opacity"] = alt.condition("datum.expert < 0", alt.value(1), opacity) if missing else opacity
    cell = alt.selection_point(name="cell", fields=["token"], on="click", empty=False)
    chart = chart.encode(**encoding).add_params(cell)
    return theme.framed(chart, theme.grid_height(frame["layer"].nunique()), canvas=True)


def _expert_colour(frame: pd.DataFrame) -> tuple[pd.Series, list[str], list[str], str]:
    """A colour name for each cell, with the scale's domain and range, and the legend's title."""
    colour, domain, colours, title = _colours_of_experts(frame)
    missing = frame["expert"] == NOT_RECORDED
    if missing.any():
        colour, domain, colours = (
            colour.mask(missing, theme.NOT_RECORDED),
            [*domain, theme.NOT_RECORDED],
            [*colours, theme.PALE],
        )
    return colour, domain, colours, title


def _colours_of_experts(frame: pd.DataFrame) -> tuple[pd.Series, list[str], list[str], str]:
    num_experts = int(frame["num_experts"].max()) if len(frame) else 1
    if num_experts <= len(theme.EXPERT_COLOURS):
        domain = [str(expert) for expert in range(num_experts)]
        return frame["expert"].astype(str), domain, theme.expert_colours(num_experts), "expert"
    colour = pd.Series(OTHERS, index=frame.index, dtype="str")
    for _, cells in frame.groupby("layer", sort=False):
        places = {expert: str(place) for place, expert in enumerate(theme.focus(cells["expert"]), start=1)}
        colour.loc[cells.index] = cells["expert"].map(places).fillna(OTHERS)
    domain = [*(str(place) for place in range(1, theme.FOCUS + 1)), OTHERS]
    return colour, domain, [*theme.EXPERT_COLOURS[: theme.FOCUS], theme.OTHER], "1 = the layer's busiest expert here"


def token_axis(frame: pd.DataFrame) -> tuple[pd.DataFrame, alt.X]:
    """Cells from `start` to `end`, in small columns, and their axis: positions where there is one text."""
    one_text = frame["sequence"].nunique() <= 1
    start = frame["position" if one_text else "token"].astype(np.int32)
    sides = {"start": (start - 0.5).astype(np.float32), "end": (start + 0.5).astype(np.float32)}
    cells = frame.assign(**sides, shown=frame["text"].map(_visible_categories(frame["text"])))
    cells = cells.drop(columns=["text", "sequence", "num_experts"], errors="ignore")
    title = "position of the token in the text" if one_text else "token (all texts in a row)"
    scale = (
        alt.Scale(domain=[int(start.min()) - 0.5, int(start.max()) + 0.5], nice=False, zero=False)
        if len(start)
        else alt.Undefined
    )
    return cells, alt.X("start:Q", title=title, scale=scale, axis=alt.Axis(grid=False, tickMinStep=1, format="d"))


def _visible_categories(text: pd.Series) -> dict[str, str]:
    return {value: visible(value) for value in text.unique()}


def token_tooltip() -> list[alt.Tooltip]:
    """Which token a mark is about. The field is `shown`: Vega makes an image or a heading of some names."""
    return [alt.Tooltip("shown:N", title="token"), _whole("position"), alt.Tooltip("phase:N")]


def _whole(field: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=field, format="d")


def _weight_tooltip(frame: pd.DataFrame) -> list[alt.Tooltip]:
    return [alt.Tooltip("weight:Q", format=".3f")] if frame["weight"].notna().any() else []


def token_expert_grid(frame: pd.DataFrame) -> alt.Chart | alt.LayerChart:
    """Token by expert of one layer, coloured by weight. Columns: those of `token_expert`."""
    theme.at_most_max_tokens(frame)
    num_experts = int(frame["expert"].max()) + 1 if len(frame) else 1
    cells, x = token_axis(frame[frame["slot"] != -1].drop(columns="ordered"))
    cells = cells.assign(choice=cells["slot"] + 1, upper=cells["expert"] + 0.5, lower=cells["expert"] - 0.5)
    choice = [_whole("choice")] if frame["ordered"].all() else []
    missing = cells["slot"] == NOT_RECORDED
    weighted = frame["weight"].notna().any()
    legend = alt.Legend(title="weight", orient="top", gradientLength=160)
    colour = (
        alt.Color("weight:Q", scale=alt.Scale(scheme=theme.VIRIDIS), legend=legend)
        if weighted
        else alt.value(theme.MAIN)
    )
    chart = (
        alt.Chart(cells[~missing])
        .mark_rect(stroke=None)
        .encode(
            x=x,
            x2="end:Q",
            y=alt.Y(
                "lower:Q",
                title="expert",
                scale=alt.Scale(domain=[num_experts - 0.5, -0.5], nice=False, zero=False),
                axis=alt.Axis(grid=False, tickMinStep=1, format="d"),
            ),
            y2="upper:Q",
            color=colour,
            tooltip=[*token_tooltip(), _whole("expert"), *choice, *_weight_tooltip(frame)],
        )
    )
    if missing.any():
        chart = alt.layer(_missing_columns(cells[missing], x), chart)
    return theme.framed(chart, theme.grid_height(num_experts), canvas=True)


def _missing_columns(cells: pd.DataFrame, x: alt.X) -> alt.Chart:
    """A pale column for each token of which the trace does not say where it went."""
    columns = cells.drop_duplicates("token").assign(which=theme.NOT_RECORDED)
    tooltip = [*token_tooltip(), alt.Tooltip("which:N", title="expert")]
    x = x.title([x["title"], f"pale: {theme.NOT_RECORDED}"])
    return alt.Chart(columns).mark_rect(stroke=None, color=theme.PALE).encode(x=x, x2="end:Q", tooltip=tooltip)


def token_route(frame: pd.DataFrame) -> alt.LayerChart:
    """Layer by choice for one token, with the expert's id in each cell. Columns: those of `token_routes`."""
    weighted = frame["weight"].notna().any()
    title = "choice (1 = highest weight)" if weighted else "choice" if frame["ordered"].all() else "in no known order"
    cells = frame.assign(choice=frame["slot"] + 1, shown=frame["text"].map(_visible_categories(frame["text"])))
    cells = cells.drop(columns=["text", "sequence", "ordered"])
    x = alt.X("choice:O", title=title, axis=alt.Axis(labelAngle=0))
    y = alt.Y("layer:O", title="layer")
    base = alt.Chart(cells[cells["expert"] >= 0]).encode(
        x=x,
        y=y,
        tooltip=[*token_tooltip(), _whole("layer"), _whole("choice"), _whole("expert"), *_weight_tooltip(frame)],
    )
    without = _without_expert(cells[cells["expert"] < 0], x, y)
    if not weighted:
        marks = base.mark_rect(color=theme.OTHER), base.mark_text(color="black").encode(text="expert:Q")
        return theme.framed(alt.layer(*marks, *without), theme.rows_height(frame["layer"].nunique()))
    legend = alt.Legend(title="weight", orient="top", gradientLength=160)
    tiles = base.mark_rect().encode(color=alt.Color("weight:Q", scale=alt.Scale(scheme=theme.VIRIDIS), legend=legend))
    middle = float(frame["weight"].min() + frame["weight"].max()) / 2
    on_tile = alt.condition(alt.datum.weight > middle, alt.value("black"), alt.value("white"))
    ids = base.mark_text().encode(text="expert:Q", color=on_tile)
    return theme.framed(alt.layer(tiles, ids, *without), theme.rows_height(frame["layer"].nunique()), canvas=True)


def _without_expert(cells: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Words for the layers in which the token has no expert, or none that is known; no mark if there are no such."""
    if cells.empty:
        return []
    words = np.where(cells["expert"] == NOT_RECORDED, theme.NOT_RECORDED, "no expert")
    marks = alt.Chart(cells.assign(which=words)).mark_text(color=theme.NOTE)
    return [marks.encode(x=x, y=y, text="which:N", tooltip=[*token_tooltip(), _whole("layer"), "which:N"])]


CHARTS = (
    Chart(
        "Which expert did each token go to, layer by layer?",
        "Each cell is one token at one layer, coloured by the router's first choice and stronger if its weight is "
        "higher. The same colour in two layers is not the same expert.",
        measure=token_layer,
        draw=top_expert_grid,
        tokens="window",
    ),
    Chart(
        "Which experts of this layer did each token use?",
        "Each column is a token and each row an expert. A mark means that the router chose this expert, and its "
        "colour shows the weight, if the trace has weights.",
        measure=token_expert,
        draw=token_expert_grid,
        layers="one",
        tokens="window",
    ),
    Chart(
        "Which route did this token take through the model?",
        "Each row is a layer, and each number is the id of an expert that the token went to. Ids in different layers "
        "are unrelated.",
        measure=token_routes,
        draw=token_route,
        tokens="one",
    ),
)
