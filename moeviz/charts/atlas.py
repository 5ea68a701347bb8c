"""The atlas: every layer by every token of many texts, the kinds of text on its axis. The cells are one image.

A page brings the rows, and whatever it chooses by the params, which are signals of its Vega view:

    hot          the place of the layer that is framed; -1: none
    narrow       whether kinds stand upright, as on a phone
    ink, paper   colours of the page
"""

from typing import Any

import altair as alt

from moeviz.charts import theme

KIND_COLOURS = (  # of kinds of text, which are always labelled: not everybody can distinguish this many
    "#7a86d8",
    "#5a6fb5",
    "#a6b0ee",
    "#E0A526",
    "#B56B13",
    "#F0C76B",
    "#D9812E",
    "#A8A032",
    "#6E7D1F",
    "#2F9E8F",
    "#17766B",
    "#7CCBBE",
    "#B4477F",
    "#DD7FA8",
    "#8B3A3A",
)
PICTURE, KINDS, LAYERS, UNLIT = "picture", "kinds", "layers", "unlit"  # the rows that a page brings
LEFT, UNDER, UPRIGHT = 30, 40, 104  # pixels left of the cells, for layers; under them, for kinds, and upright ones
FEW_LAYERS, ROWS, ROW, LEAST_ROW = 12, 222, 37, 4  # pixels of all rows; and of one, at most and at least
MANY_ROWS = 270  # pixels of the rows of more layers than a few
LEAST_LABEL, LEAST_UPRIGHT = 24, 9  # pixels of a kind's column from which on it is labelled
LEAST_GAP = 6  # and apart from the next
WIDE = "(datum.end - datum.start) * across"
PALE = 0.82  # of the page's colour, over what is not lit


def kind_colours(kinds: int) -> list[str]:
    """Return a colour for each kind of text; if there are many, some share one."""
    return [KIND_COLOURS[place % len(KIND_COLOURS)] for place in range(kinds)]


def row_height(layers: int) -> int:
    """Return the height in pixels of each layer's row."""
    if layers <= FEW_LAYERS:
        return min(ROWS // max(layers, 1), ROW)
    return max(LEAST_ROW, MANY_ROWS // layers)


def atlas_spec(layers: int, tokens: int) -> dict[str, Any]:
    """Return the atlas of this many layers and tokens as Vega-Lite, for rows that a page brings.

    picture   url (of the cells: a pixel a layer)
    kinds     start, end (places of tokens) · label · colour
    layers    place · name
    unlit     start, end: columns that a search leaves out
    """
    across = alt.Scale(domain=[0, max(tokens, 1)], nice=False, zero=False)
    x = alt.X("start:Q", scale=across, axis=None)
    down = alt.Scale(domain=[max(layers, 1), 0], nice=False, zero=False)
    pale = {"fill": alt.ExprRef("paper"), "opacity": PALE, "stroke": None, "tooltip": None}
    unlit = alt.Chart(alt.NamedData(UNLIT)).mark_rect(**pale)
    chart = alt.layer(
        _cells(),
        unlit.encode(x=x, x2="end:Q", y=alt.YValue(0), y2=alt.Y2Value("height")),
        *_gaps(layers, x, down),
        *_kinds(x, across),
        _names(down),
        _frame(down),
        params=[
            *(
                alt.VariableParameter(name, value=value)
                for name, value in {"hot": -1, "narrow": False, "ink": theme.NOTE, "paper": "#ffffff"}.items()
            ),
            alt.VariableParameter("across", expr=f"width / {max(tokens, 1)}"),
        ],
        view=alt.ViewBackground(stroke=None),
        width=600,
        height=row_height(layers) * layers,
        autosize=alt.AutoSizeParams(type="none"),
        padding={"left": LEFT, "top": 2, "right": 2, "bottom": UNDER},
    )
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return spec


def _cells() -> alt.Chart:
    return (
        alt.Chart(alt.NamedData(PICTURE))
        .mark_image(aspect=False, smooth=False, tooltip=None)
        .encode(url="url:N", x=alt.XValue(0), x2=alt.X2Value("width"), y=alt.YValue(0), y2=alt.Y2Value("height"))
    )


def _gaps(layers: int, x: alt.X, down: alt.Scale) -> list[alt.Chart]:
    """Draw lines in the page's colour between kinds of text, and between layers if there are few."""
    between = alt.Chart(alt.NamedData(KINDS)).transform_filter(f"datum.start > 0 && {WIDE} >= {LEAST_GAP}")
    line = {"color": alt.ExprRef("paper"), "tooltip": None}
    gaps = [between.mark_rule(strokeWidth=2, **line).encode(x=x, y=alt.YValue(0), y2=alt.Y2Value("height"))]
    if layers <= FEW_LAYERS:
        rows = alt.Chart(alt.NamedData(LAYERS)).transform_filter("datum.place > 0").mark_rule(strokeWidth=1.5, **line)
        gaps.append(rows.encode(y=alt.Y("place:Q", scale=down, axis=None), x=alt.XValue(0), x2=alt.X2Value("width")))
    return gaps


def _kinds(x: alt.X, across: alt.Scale) -> list[alt.Chart]:
    """Draw a bar in each kind's colour under its columns, and its name: on lines, or upright."""
    rows = alt.Chart(alt.NamedData(KINDS))
    bar = (
        rows.transform_filter(f"{WIDE} >= {LEAST_GAP}")
        .mark_rect(stroke=None, yOffset=2, y2Offset=5, x2Offset=-3, tooltip=None)
        .encode(
            x=x, x2="end:Q", y=alt.YValue("height"), y2=alt.Y2Value("height"), color=alt.Color("colour:N", scale=None)
        )
    )
    shown = f"{WIDE} >= (narrow ? {LEAST_UPRIGHT} : {LEAST_LABEL})"
    text = rows.transform_filter(shown).transform_calculate(at="narrow ? (datum.start + datum.end) / 2 : datum.start")
    label = text.mark_text(
        align="left",
        baseline=alt.ExprRef("narrow ? 'middle' : 'top'"),
        angle=alt.ExprRef("narrow ? 90 : 0"),
        dy=alt.ExprRef("narrow ? 0 : 8"),
        dx=alt.ExprRef("narrow ? 8 : 0"),
        limit=alt.ExprRef(f"narrow ? {UPRIGHT - 10} : {WIDE} - 3"),
        lineHeight=14,
        fontSize=alt.ExprRef("narrow ? 12 : 13"),
        color=alt.ExprRef("ink"),
        tooltip=None,
    )
    lines = alt.Text("lines:N")
    split = label.transform_calculate(lines="narrow ? datum.label : split(datum.label, ' ')")
    return [bar, split.encode(x=alt.X("at:Q", scale=across, axis=None), y=alt.YValue("height"), text=lines)]


def _names(down: alt.Scale) -> alt.Chart:
    text = alt.Chart(alt.NamedData(LAYERS)).transform_calculate(middle="datum.place + 0.5")
    mark = text.mark_text(align="right", dx=-7, fontSize=13, color=alt.ExprRef("ink"), tooltip=None)
    return mark.encode(x=alt.XValue(0), y=alt.Y("middle:Q", scale=down, axis=None), text="name:N")


def _frame(down: alt.Scale) -> alt.Chart:
    row = "max(hot, 0)"
    mark = alt.Chart(alt.InlineData(values=[{}])).mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=2.5)
    return mark.encode(
        x=alt.XValue(0),
        x2=alt.X2Value("width"),
        y=alt.YDatum(alt.ExprRef(row), type="quantitative", scale=down, axis=None),
        y2=alt.Y2Datum(alt.ExprRef(f"{row} + 1")),
        opacity=alt.OpacityValue(alt.ExprRef("hot < 0 ? 0 : 1")),
    )
