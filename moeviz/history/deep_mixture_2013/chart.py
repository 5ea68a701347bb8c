"""The charts of the deep mixture of 2013. Not topics, since a topic is about one trace."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.deep_mixture_2013.moved_digits import MOVES, SHIFT
from moeviz.history.deep_mixture_2013.picture import FACTORS, factor_information, gate_by_factor, share_by_epoch

# One panel an expert, in units of a pixel that a digit may be moved: the names of layer and expert, the 9 × 9 places
# and below them the ten digits in two rows of five. All panels lie on one plane: facets do not grow with the page.
LAYER_NAME, NAMES, GAP, BESIDE, BELOW = 1.6, 3.2, 0.5, 1.2, 1.0
COLUMNS, DIGIT_COLUMNS, DIGIT_HEIGHT = 4, 5, 2.2
DIGIT_WIDTH = MOVES / DIGIT_COLUMNS
DIGITS_TOP = NAMES + MOVES + GAP
PANEL = DIGITS_TOP + 2 * DIGIT_HEIGHT + BELOW
SEAMLESS = 1.1  # of a place: each covers the edge of the next, or the page shows between them
UNIT = 8.5  # pixels, to the right as well as down: places are square on any page, and four panels fit a phone


def gates_by_place_and_digit(frame: pd.DataFrame) -> alt.LayerChart:
    """One panel per expert: its mean gate by position, and by digit below. Columns: those of `gate_by_factor`."""
    cells = _cells(frame)
    panels = cells.drop_duplicates(["layer", "expert"])
    rows = int(panels["row"].max()) + 1
    width = (MOVES + BESIDE) * min(COLUMNS, panels["expert"].nunique()) - BESIDE
    across = {"scale": alt.Scale(domain=[0, width], nice=False), "axis": None}
    along = {"scale": alt.Scale(domain=[PANEL * rows - BELOW, 0], nice=False), "axis": None}
    legend = alt.Legend(
        title="of its layer's highest gate", titleLimit=300, orient="top", format="%", gradientLength=200
    )
    where, what = (cells[cells["factor"] == factor] for factor in FACTORS)
    scale = alt.Scale(scheme=theme.VIRIDIS, domainMin=0)
    colour = alt.Color("of_layer:Q", scale=scale, legend=legend)
    place = {"x": alt.X("x:Q", **across), "x2": "x2:Q", "y": alt.Y("y:Q", **along), "y2": "y2:Q", "color": colour}
    in_middle = {"x": alt.X("middle:Q", **across), "y": alt.Y("centre:Q", **along)}
    on_cell = alt.condition(alt.datum.of_layer > theme.BLACK_ABOVE, alt.value("black"), alt.value("white"))
    picture = alt.layer(
        alt.Chart(where).mark_rect(stroke=None).encode(**place, tooltip=_tooltip("right", "down")),
        alt.Chart(what).mark_rect(stroke=None).encode(**place, tooltip=_tooltip("digit")),
        alt.Chart(what).mark_text(fontSize=11).encode(**in_middle, text="digit:Q", color=on_cell),
        _names(panels, "expert", "under_expert", across, along),
        _names(panels.drop_duplicates("layer"), "layer", "under_layer", across, along),
    )
    height = round(UNIT * (PANEL * rows - BELOW))
    size = {"width": round(UNIT * width), "autosize": alt.AutoSizeParams(type="pad")}  # the legend stands beside it
    return theme.framed(picture, height, canvas=True).properties(**size)


def _names(panels: pd.DataFrame, field: str, under: str, across: dict, along: dict) -> alt.Chart:
    words = panels.assign(words=field + " " + panels[field].astype(str))
    return (
        alt.Chart(words)
        .mark_text(fontSize=11, color=theme.NOTE, align="left", baseline="bottom", dy=-2)
        .encode(x=alt.X("left:Q", **across), y=alt.Y(f"{under}:Q", **along), text="words:N")
    )


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Where each cell lies on the plane of all panels: four experts side by side, layer 1 above layer 2."""
    rows_of_layer = int(frame["expert"].max()) // COLUMNS + 1
    row = (frame["layer"] - frame["layer"].min()) * rows_of_layer + frame["expert"] // COLUMNS
    left, top = frame["expert"] % COLUMNS * (MOVES + BESIDE), row * PANEL
    is_place = frame["factor"] == FACTORS[0]
    x = np.where(is_place, frame["right"] + SHIFT, frame["digit"] % DIGIT_COLUMNS * DIGIT_WIDTH)
    y = np.where(is_place, NAMES + frame["down"] + SHIFT, DIGITS_TOP + frame["digit"] // DIGIT_COLUMNS * DIGIT_HEIGHT)
    width, height = np.where(is_place, SEAMLESS, DIGIT_WIDTH), np.where(is_place, SEAMLESS, DIGIT_HEIGHT)
    x, y = x + left, y + top
    places = {"x": x, "x2": x + width, "y": y, "y2": y + height, "middle": x + width / 2, "centre": y + height / 2}
    tops = {"row": row, "left": left, "under_layer": top + LAYER_NAME, "under_expert": top + NAMES}
    of_layer = frame["gate"] / frame.groupby("layer")["gate"].transform("max")
    return theme.compact(frame.assign(of_layer=of_layer, **tops, **places))


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    titles = {"right": "pixels to the right", "down": "pixels down", "digit": "digit"}
    return [
        alt.Tooltip("layer:Q", format="d"),
        alt.Tooltip("expert:Q", format="d"),
        *(alt.Tooltip(f"{field}:Q", title=titles[field], format="d") for field in fields),
        alt.Tooltip("gate:Q", title="mean gate", format=".3f"),
        alt.Tooltip("uniform:Q", title="uniform share", format=".3f"),
    ]


def information_bars(frame: pd.DataFrame) -> alt.Chart:
    """What the gates of each layer tell about where and what, side by side. Columns: those of `factor_information`."""
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("layer:O", title="layer", axis=theme.ids_axis()),
            xOffset=alt.XOffset("factor:N", sort=list(FACTORS)),
            y=alt.Y("information:Q", title="information / ln E"),
            color=alt.Color(
                "factor:N",
                scale=alt.Scale(domain=list(FACTORS), range=list(theme.PAIR)),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=[
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("factor:N"),
                alt.Tooltip("information:Q", title="information / ln E", format=".3f"),
            ],
        )
    )
    return theme.framed(bars, theme.MEDIUM)


def shares_over_epochs(frame: pd.DataFrame) -> alt.LayerChart:
    """Each expert's share, a line per expert, solid in layer 1 and dashed in 2. Columns: those of `share_by_epoch`."""
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    lines = (
        alt.Chart(frame)
        .mark_line(interpolate="linear")
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False)),
            y=alt.Y("share:Q", title="mean gate (orange: uniform share)", axis=theme.share_axis()),
            color=alt.Color(
                "expert:N",
                scale=alt.Scale(domain=experts, range=theme.expert_colours(len(experts))),
                legend=alt.Legend(title="expert", orient="top"),
            ),
            strokeDash=alt.StrokeDash(
                "layer:N",
                scale=alt.Scale(domain=layers, range=[[1, 0], list(theme.DASH)]),
                legend=alt.Legend(title="layer", orient="top", symbolType="stroke", symbolStrokeColor=theme.NOTE),
            ),
            tooltip=[
                alt.Tooltip("epoch:Q", format="d"),
                alt.Tooltip("layer:Q", format="d"),
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("share:Q", title="mean gate", format=".1%"),
                alt.Tooltip("uniform:Q", title="uniform share", format=".1%"),
            ],
        )
    )
    even = theme.reference(frame[["uniform"]].head(1), "uniform")
    return theme.framed(alt.layer(lines, even, *_lifted(frame)), theme.MEDIUM)


def _lifted(frame: pd.DataFrame) -> list[alt.Chart]:
    """A line before the first epoch without the constraint, where there is one that had it."""
    if not frame["bound"].any() or frame["bound"].all():
        return []
    at = alt.Chart(pd.DataFrame({"epoch": [frame.loc[frame["bound"], "epoch"].max() + 0.5]})).encode(x="epoch:Q")
    words = {"text": "constraint lifted", "align": "right", "baseline": "bottom", "dx": -4, "dy": -4}
    return [at.mark_rule(color=theme.NOTE), at.mark_text(color=theme.NOTE, **words).encode(y=alt.value("height"))]


GATES_BY_PLACE_AND_DIGIT = Chart(
    "Does a gate respond to where a digit is, or to what it is?",
    "Each panel is an expert: the upper field shows how far and in which direction a digit was shifted, the ten cells "
    "below show which digit it is, and brighter is a higher mean gate, up to its layer's highest. A pattern in the "
    "upper field means that the expert responds to where the digit is, a pattern below that it responds to what it is.",
    measure=gate_by_factor,
    draw=gates_by_place_and_digit,
)
FACTOR_INFORMATION = Chart(
    "How much does each layer know about where, and about what?",
    "Each bar is how much the mean gates of a layer tell about the position of a digit (where) or about the digit "
    "itself (what): 0 is nothing, and 1 is the most that the choice of one expert could tell.",
    measure=factor_information,
    draw=information_bars,
)
SHARE_BY_EPOCH = Chart(
    "How did the experts come to divide the digits?",
    "Each line is an expert's mean gate over the training digits of an epoch, solid in layer 1 and dashed in layer 2. "
    "The lines of a layer sum to 100%; a line that comes close to it leaves nothing for the others to learn from.",
    measure=share_by_epoch,
    draw=shares_over_epochs,
)
