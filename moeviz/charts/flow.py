"""Charts of how tokens flow from layer to layer. Altair has no Sankey diagram: a ribbon is an area of 16 points."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.flow import (
    consecutive_information,
    consecutive_information_caption,
    consecutive_transitions,
    information_between_layers,
    information_between_layers_caption,
    transitions_caption,
)

MAX_LAYERS, MAX_EXPERTS, MAX_RIBBONS = 12, 16, 1_000  # in one picture
THIN = 0.004  # of the height: over a pixel, and a thinner ribbon is left out
REST = np.iinfo(np.int16).max  # id of the band of all experts that have none of their own: after every other
GAPS = 0.15  # of the height, between the experts of a layer
READABLE = 0.028  # of the height: a thinner band has no room for its id
POINTS = 16


def flow_ribbons(frame: pd.DataFrame) -> alt.LayerChart:
    """Experts of each layer as bands, tokens between them as ribbons. Columns: of `consecutive_transitions`."""
    steps, notes = _choose_steps(frame)
    layers = sorted({int(layer) for layer in steps[["from_layer", "to_layer"]].to_numpy().ravel()})
    bands = _bands(steps)
    ribbons, hidden = _ribbons(steps, bands, layers)
    if theme.OTHER in set(bands["colour"]):
        notes = [*notes, f"grey: all but the layer's {theme.FOCUS} busiest experts"]
    if hidden:
        notes = [*notes, f"not drawn: {hidden:.1%} of the steps, whose ribbons would be too thin"]
    x = alt.X(
        "x:Q",
        title=["layer", *notes],
        scale=alt.Scale(domain=[-0.04 * len(layers), max(len(layers) - 1, 1) + 0.04 * len(layers)], nice=False),
        axis=alt.Axis(values=list(range(len(layers))), labelExpr=f"{layers}[datum.value]", grid=False, ticks=False),
    )
    bands = bands.assign(x=bands["layer"].map(layers.index).astype(float))
    picture = theme.layered(_areas(ribbons, x), *_named_bands(bands, x))
    rows = int(bands.groupby("layer").size().max()) if len(bands) else 1
    return theme.framed(picture, max(theme.rows_height(rows), theme.MEDIUM), canvas=True)


def _choose_steps(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the steps of the layers that fit, small experts merged, and a note on what was merged."""
    layers = np.unique(frame[["from_layer", "to_layer"]])
    steps, notes = frame[frame["to_layer"].isin(layers[:MAX_LAYERS])], []
    if len(layers) > MAX_LAYERS:
        notes.append(f"the first {MAX_LAYERS} of {len(layers)} MoE layers")
    busy = _busy_experts(steps)
    named = {side: [pair in busy for pair in zip(*_ends(steps, side), strict=True)] for side in ("from", "to")}
    if not all(map(all, named.values())):
        notes.append(f"rest: all but the layer's {MAX_EXPERTS - 1} busiest experts")
        steps = _merge_small(steps, named)
    return steps, notes


def _ends(steps: pd.DataFrame, side: str) -> tuple[pd.Series, pd.Series]:
    return steps[f"{side}_layer"], steps[f"{side}_expert"]


def _loads(steps: pd.DataFrame) -> pd.Series:
    """Sum the tokens of each layer's experts: those that come or those that go on, whichever are more."""
    ends = [steps.groupby([f"{side}_layer", f"{side}_expert"])["tokens"].sum() for side in ("from", "to")]
    loads = pd.concat([end.rename_axis(["layer", "expert"]) for end in ends])
    return loads.groupby(level=["layer", "expert"]).max()


def _busy_experts(steps: pd.DataFrame) -> set[tuple[int, int]]:
    """List the layer and id of every expert that has a band of its own."""
    busy = set()
    for _, loads in _loads(steps).groupby(level="layer"):
        room = len(loads) if len(loads) <= MAX_EXPERTS else MAX_EXPERTS - 1
        busy |= set(loads.sort_values(ascending=False, kind="stable").index[:room])
    return busy


def _merge_small(steps: pd.DataFrame, named: dict[str, list[bool]]) -> pd.DataFrame:
    """Return the steps with one band, REST, for the experts without a name, and shares and lift to match."""
    ids = {f"{side}_expert": _ends(steps, side)[1].where(kept, REST) for side, kept in named.items()}
    keys = ["from_layer", "to_layer", "from_expert", "to_expert"]
    merged = steps.assign(**ids).groupby(keys, as_index=False)["tokens"].sum()
    tokens = merged["tokens"]
    comes, goes = (
        merged.groupby(["from_layer", f"{side}_expert"])["tokens"].transform("sum") for side in ("to", "from")
    )
    merged["share"] = tokens / goes
    merged["chance"] = comes / merged.groupby("from_layer")["tokens"].transform("sum")
    return merged.assign(lift=merged["share"] / merged["chance"])


def _bands(steps: pd.DataFrame) -> pd.DataFrame:
    """Place a band for each expert of each layer, from the lowest id down. Heights are shares of the picture's."""
    bands = _loads(steps).reset_index()
    whole = max(bands.groupby("layer")["tokens"].sum().max(), 1) if len(bands) else 1
    height = bands["tokens"] / whole * (1 - GAPS)
    layer = bands["layer"]
    place, others = bands.groupby("layer").cumcount(), layer.map(layer.value_counts()) - 1
    top = height.groupby(layer).cumsum() - height + place * GAPS / others.clip(lower=1)
    name = bands["expert"].astype(str).where(bands["expert"] != REST, "rest")
    bands = bands.assign(top=top, bottom=top + height, middle=top + height / 2, scale=(1 - GAPS) / whole, name=name)
    return bands.assign(
        share=bands["tokens"] / bands.groupby("layer")["tokens"].transform("sum"), colour=_colours(bands)
    )


def _colours(bands: pd.DataFrame) -> pd.Series:
    """Colour by id if every expert has a colour; otherwise colour the busiest of each layer, and the others grey."""
    colours = pd.Series(theme.OTHER, index=bands.index, dtype="str")
    named = bands[bands["expert"] != REST]
    few = bands["expert"].max() < len(theme.EXPERT_COLOURS)
    for _, experts in named.groupby("layer"):
        ids = experts["expert"] if few else experts["tokens"].rank(ascending=False, method="first").astype(int) - 1
        palette = theme.EXPERT_COLOURS if few else theme.EXPERT_COLOURS[: theme.FOCUS]
        colours.loc[experts.index] = ids.map(dict(enumerate(palette))).fillna(theme.OTHER)
    return colours


def _ribbons(steps: pd.DataFrame, bands: pd.DataFrame, layers: list[int]) -> tuple[pd.DataFrame, float]:
    """Return the ends of each ribbon that is wide enough, and the share of steps in the others."""
    ribbons = steps.reset_index(drop=True)
    at = {side: bands.add_prefix(f"{side}_") for side in ("from", "to")}
    for side in ("from", "to"):
        ribbons = ribbons.merge(at[side].drop(columns=f"{side}_tokens"), on=[f"{side}_layer", f"{side}_expert"])
    ribbons["height"] = ribbons["tokens"] * ribbons["from_scale"]
    for side, other in (("from", "to"), ("to", "from")):
        ribbons = ribbons.sort_values(["from_layer", f"{side}_expert", f"{other}_expert"], ignore_index=True)
        before = ribbons.groupby(["from_layer", f"{side}_expert"])["height"].cumsum() - ribbons["height"]
        ribbons[f"{side}_y"] = ribbons[f"{side}_top"] + before
    ribbons["left"] = ribbons["from_layer"].map(layers.index).astype(float)
    ribbons["ribbon"] = ribbons.index
    widest = ribbons[ribbons["height"] >= THIN].nlargest(MAX_RIBBONS, "tokens")
    hidden = 1 - widest["tokens"].sum() / max(ribbons["tokens"].sum(), 1)
    return widest.rename(columns={"from_colour": "colour"}), float(hidden)


def _areas(ribbons: pd.DataFrame, x: alt.X) -> alt.Chart:
    """Draw one row per ribbon; the browser makes its points. Those with more tokens than by chance are stronger."""
    columns = ["ribbon", "from_layer", "to_layer", "from_name", "to_name", "tokens", "share", "chance", "lift"]
    places = ["left", "from_y", "to_y", "height", "colour"]
    ease = "datum.step * datum.step * (3 - 2 * datum.step)"
    return (
        alt.Chart(ribbons[columns + places])
        .transform_calculate(step=f"sequence({POINTS})")
        .transform_flatten(["step"])
        .transform_calculate(step=f"datum.step / {POINTS - 1}")
        .transform_calculate(x="datum.left + datum.step", upper=f"datum.from_y + (datum.to_y - datum.from_y) * {ease}")
        .transform_calculate(lower="datum.upper + datum.height")
        .mark_area()
        .encode(
            x=x,
            y=_height("upper"),
            y2="lower:Q",
            detail="ribbon:N",
            color=alt.Color("colour:N", scale=None),
            opacity=alt.Opacity("lift:Q", scale=alt.Scale(domain=[0.5, 2], range=[0.15, 0.8], clamp=True), legend=None),
            tooltip=theme.tooltip(
                from_layer=("from layer", "d"),
                from_name=("expert there", ""),
                to_layer=("to layer", "d"),
                to_name=("expert next", ""),
                tokens=",",
                share=("share of the first expert's tokens", ".1%"),
                chance=("share if the layers were independent", ".1%"),
                lift=("times that", ".2f"),
            ),
        )
    )


def _height(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", axis=None, scale=alt.Scale(domain=[1, 0], nice=False, zero=False))


def _named_bands(bands: pd.DataFrame, x: alt.X) -> tuple[alt.Chart, alt.Chart]:
    """Draw a band per expert, as wide as the page allows, with its id if the band is large enough."""
    layers = max(bands["layer"].nunique(), 1)
    columns = ["layer", "expert", "name", "tokens", "share", "top", "bottom", "middle", "colour", "x"]
    base = alt.Chart(bands[columns]).encode(
        x=x,
        tooltip=theme.tooltip(
            layer="d",
            name=("expert", ""),
            tokens=("tokens (first choices)", ","),
            share=("share of the layer's tokens", ".1%"),
        ),
    )
    wide = alt.expr(f"clamp(width / {2.2 * layers:.1f}, 10, 24)")
    marks = base.mark_rule(strokeWidth=wide, strokeCap="butt").encode(
        y=_height("top"), y2="bottom:Q", color=alt.Color("colour:N", scale=None)
    )
    ink = theme.black_or_white("datum.colour")
    room = bands.loc[bands["bottom"] - bands["top"] >= READABLE, columns]
    size = alt.expr(f"clamp(width / {4 * layers}, 7, 11)")
    names = base.properties(data=room).mark_text(baseline="middle", fontSize=size)
    return marks, names.encode(y=_height("middle"), text="name:N", color=ink)


def flow_information(frame: pd.DataFrame) -> alt.LayerChart:
    """Bits of each layer about the next, with shuffled and maximum. Columns: those of
    `consecutive_information`."""
    title = ["layer (predicting the next MoE layer)", "(orange: shuffled, grey: maximum)"]
    base = alt.Chart(frame).encode(
        x=alt.X("from_layer:O", title=title, axis=theme.ids_axis()),
        tooltip=[
            *theme.tooltip(from_layer=("layer", "d"), to_layer=("next layer", "d"), tokens=","),
            *theme.figures(
                ".3f", information="bits about the next layer", shuffled="with tokens shuffled", maximum="maximum"
            ),
        ],
    )
    bars = base.mark_bar(color=theme.MAIN).encode(y=alt.Y("information:Q", title="bits"))
    luck = [theme.ticks(base, "shuffled")] if theme.known(frame, "shuffled") else []
    return theme.framed(theme.layered(bars, theme.ticks(base, "maximum", theme.NOTE), *luck), theme.MEDIUM)


def flow_of_two_layers(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the flow between two layers, however far apart. Columns: those of `consecutive_transitions`."""
    return flow_ribbons(frame)


def flow_between_layers(frame: pd.DataFrame) -> alt.Chart:
    """Draw layer by later layer, by the bits of one about the other. Columns: those of `information_between_layers`."""
    layers = [int(layer) for layer in np.unique(frame[["from_layer", "to_layer"]])]
    bits = {"information": "bits", "shuffled": "with tokens shuffled", "above": "above that", "maximum": "maximum"}
    scale, axis = alt.Scale(domain=layers), theme.ids_axis()
    title = "bits about the later layer, above shuffled tokens"
    chart = theme.cells(
        theme.compact(frame),
        x=alt.X("to_layer:O", title="later layer", scale=scale, axis=axis),
        y=alt.Y("from_layer:O", title="layer", scale=scale, axis=axis),
        color=theme.gradient("above", title, {"domainMin": 0}, titleLimit=330),
        tooltip=[
            *theme.tooltip(from_layer=("layer", "d"), to_layer=("later layer", "d"), tokens=","),
            *theme.figures(".3f", **bits),
        ],
    )
    return theme.framed(chart, theme.grid_height(len(layers)), canvas=True)


CHARTS = (
    Chart.row(flow_between_layers, information_between_layers, information_between_layers_caption, two_layers=True),
    Chart.row(flow_of_two_layers, consecutive_transitions, transitions_caption, layers="two", expert="expert"),
    Chart.row(flow_ribbons, consecutive_transitions, transitions_caption, expert="expert"),
    Chart.row(flow_information, consecutive_information, consecutive_information_caption),
)
