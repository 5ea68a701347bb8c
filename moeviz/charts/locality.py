"""Charts of how often consecutive tokens go to the same experts."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics.locality import (
    FIRST_CHOICE,
    MIXTRAL,
    THIS_TRACE,
    any_choice_caption,
    first_choice_caption,
    locality_beside_mixtral,
)

PUBLISHED = "published "  # before the index of a layer of another model, on the axis of this one's layers


def repeated_first_choice(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of tokens with the first choice of the token before. Columns: those of `locality_beside_mixtral`."""
    first = frame[frame["choice"] == FIRST_CHOICE]
    if not (first["routing"] == THIS_TRACE).any():
        raise MissingField(
            "This chart compares first choices, and this trace does not say which of a token's experts has the highest "
            "weight. Use the chart of shared experts: it needs no order."
        )
    return _bars(first, "pairs with the same first choice")


def repeated_any_choice(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of tokens that share an expert with the token before. Columns: those of `locality_beside_mixtral`."""
    several = frame[frame["choice"] != FIRST_CHOICE]
    if several.empty:
        raise MoevizError(
            "This chart compares all the experts of a token, and in this trace each token has only one. Use the chart "
            "of first choices: it shows everything there is."
        )
    return _bars(several, "pairs with an expert in common")


def _bars(frame: pd.DataFrame, title: str) -> alt.LayerChart:
    """Draw a bar per layer with both chances, and grey bars of published layers if the frame has them."""
    place = frame["layer"].astype("str")
    frame = frame.assign(place=place.where(frame["routing"] == THIS_TRACE, PUBLISHED + place))
    own, published = (frame[frame["routing"] == routing] for routing in (THIS_TRACE, MIXTRAL))
    gap = [""] if len(published) else []
    x = alt.X(
        "place:O",
        title="layer (orange: chance, dashed: uniform chance)",
        scale=alt.Scale(domain=[*own["place"], *gap, *published["place"]]),
        axis=alt.Axis(labelAngle=0, labelOverlap=True, labelExpr=f"replace(datum.label, '{PUBLISHED}', '')"),
    )
    base = alt.Chart(own).encode(x=x, tooltip=_tooltip({"load_chance": "chance", "uniform_chance": "uniform chance"}))
    luck = [theme.ticks(base, "load_chance")] if theme.known(own, "load_chance") else []
    uniform = [_uniform(own, x)] if theme.known(own, "uniform_chance") else []
    layers = [_bar(base, title, legend=bool(gap)), *luck, *uniform]
    if gap:
        spread = {"lowest": "lowest data set", "highest": "highest data set", "uniform_chance": "uniform chance"}
        theirs = alt.Chart(published).encode(x=x, tooltip=_tooltip(spread))
        reach = theirs.mark_rule(color=theme.NOTE, strokeWidth=2).encode(y="lowest:Q", y2="highest:Q")
        layers += [_bar(theirs, title, legend=True), reach, _uniform(published, x)]
    return theme.framed(theme.layered(*layers), theme.MEDIUM)


def _bar(base: alt.Chart, title: str, legend: bool) -> alt.Chart:
    colour = theme.colour("routing", [THIS_TRACE, MIXTRAL], [theme.MAIN, theme.OTHER])
    return base.mark_bar().encode(
        y=alt.Y("share:Q", title=title, axis=theme.share_axis()), color=colour if legend else colour.legend(None)
    )


def _uniform(frame: pd.DataFrame, x: alt.X) -> alt.Chart:
    """Draw a dashed line over the whole band of each layer, since layers may differ in their number of experts."""
    line = alt.Chart(frame).mark_rule(color=theme.CHANCE, strokeDash=list(theme.DASH), strokeWidth=2)
    return line.encode(x=x.bandPosition(0), x2=alt.X2("place", bandPosition=1), y="uniform_chance:Q")


def _tooltip(shares: dict[str, str]) -> list[alt.Tooltip]:
    pairs = theme.tooltip(pairs=("pairs of tokens", ",")) if "load_chance" in shares else []
    return [*theme.tooltip(routing="", layer="d"), *theme.figures(".1%", share="share of pairs", **shares), *pairs]


CHARTS = (
    Chart.row(repeated_first_choice, locality_beside_mixtral, first_choice_caption),
    Chart.row(repeated_any_choice, locality_beside_mixtral, any_choice_caption),
)
