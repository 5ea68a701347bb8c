"""Charts of how the work falls on the devices that hold a layer's experts, under several placements."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.placement import HELD_OUT, JUDGED, PLACEMENTS, imbalance_caption, placement, placement_imbalance

COLOURS = (theme.OTHER, theme.MAIN, theme.EXPERT_COLOURS[8])  # of the placements
SHAPES = ("circle", "square", "triangle-up")
MOST_NUMBERS = 8  # devices: more would not leave a number its place on a phone
MANY_LAYERS = 24  # that leave little room for each
ROW, HALF_LINE = 40, 6  # pixels of a placement's two lines


def device_load_grid(frame: pd.DataFrame) -> alt.LayerChart:
    """Placement by device of one layer, coloured by the device's load. Columns: those of `placement`."""
    named = frame.assign(row=frame["placement"] + "|" + frame["judged_on"])
    height = ROW * named["row"].nunique() + theme.AROUND
    axis = alt.Axis(labelExpr="split(datum.label, '|')", labelOffset=-HALF_LINE)
    base = alt.Chart(named.drop(columns="layer")).encode(
        x=alt.X("device:O", title="device", axis=theme.ids_axis()), y=alt.Y("row:N", title=None, sort=None, axis=axis)
    )
    cells = base.mark_rect(stroke=None).encode(
        color=theme.gradient("times_uniform", "load, × uniform (1 = uniform)", {"domainMin": 0}),
        tooltip=theme.tooltip(
            placement="",
            judged_on=("judged on", ""),
            device="d",
            experts=("experts on it, including copies", "d"),
            load=("share of assignments", ".2%"),
            even=("uniform share", ".2%"),
            times_uniform=("times the uniform share", ".2f"),
        ),
    )
    numbers = base.mark_text().encode(
        text=alt.Text("times_uniform:Q", format=".2f"), color=theme.ink_on("times_uniform")
    )
    written = [numbers] if frame["device"].nunique() <= MOST_NUMBERS else []
    return theme.framed(theme.layered(cells, *written), height, canvas=True)


def imbalance_by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the busiest device of each layer, by placement and by tokens judged on. Columns: those of
    `placement_imbalance`."""
    hollow = alt.condition(alt.datum.judged_on == HELD_OUT, alt.value(0), alt.value(1))
    dots = theme.points(
        frame,
        {"size": 40 if frame["layer"].nunique() <= MANY_LAYERS else 20, "opacity": 1},
        x=theme.layer_axis("filled: same tokens, hollow: held-out"),
        xOffset=alt.XOffset("judged_on:N", sort=list(JUDGED)),
        y=alt.Y("imbalance:Q", title="load of the busiest device, × uniform", scale=alt.Scale(zero=False, padding=12)),
        stroke=theme.named(alt.Stroke, "placement", PLACEMENTS, COLOURS),
        fill=theme.named(alt.Fill, "placement", PLACEMENTS, COLOURS),
        shape=theme.named(alt.Shape, "placement", PLACEMENTS, SHAPES),
        fillOpacity=hollow,
        tooltip=theme.tooltip(
            layer="d",
            placement="",
            judged_on=("judged on", ""),
            devices="d",
            copies=("redundant copies", "d"),
            imbalance=("busiest device, × uniform", ".2f"),
        ),
    )
    return theme.framed(theme.layered(dots, theme.even_reference()), theme.MEDIUM)


CHARTS = (
    Chart.row(imbalance_by_layer, placement_imbalance, imbalance_caption),
    # No caption: shares without counts; the chart of all layers judges plans on other tokens.
    Chart.row(device_load_grid, placement, layers="one"),
)
