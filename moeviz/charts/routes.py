"""Charts of routes: what tokens lose on others, who chooses well, and experts in a plane. Not a topic."""

from typing import Any

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.atlas import kind_colours
from moeviz.charts.chart import Chart
from moeviz.charts.tokens import token_axis, token_tooltip
from moeviz.metrics.paths import ExpertMap
from moeviz.metrics.routes import CHANCE, TIE, RouteRegret, by, whose_route
from moeviz.metrics.tokens import visible

FEW = 100  # experts: of more, dots are small, without clouds and ids
HIGH = 560  # pixels
COLUMNS = ["sequence", "position", "token", "layer", "text", "spread", "gain", "loss", "mean", "better"]


def expert_map_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """Experts in a plane, lines to their true neighbours, and clouds of resamples. Columns: those of `rows`."""
    rows = frame.assign(kind=frame["kind"].map(visible))
    experts = rows.drop_duplicates(["layer", "expert"])
    experts = experts.assign(id=experts["layer"].astype("str") + "·" + experts["expert"].astype("str"))
    few, kinds = len(experts) <= FEW, rows["kind"].drop_duplicates().tolist()
    scale = alt.Scale(zero=False, nice=False)
    own = {"x": alt.X("x:Q", axis=None, scale=scale), "y": alt.Y("y:Q", axis=None, scale=scale)}
    to = {"x": alt.X("to_x:Q", axis=None, scale=scale), "y": alt.Y("to_y:Q", axis=None, scale=scale)}
    color = theme.colour("kind", kinds, kind_colours(len(kinds)), title="takes most of", columns=4, symbolOpacity=1)
    near = rows[rows["what"] == "neighbour"]
    tips = theme.tooltip(layer="d", other=("nearest in truth", ""), distance=("distance", ".2f"))
    lines = alt.Chart(near).mark_rule(color=theme.NOTE, opacity=0.5 if few else 0.15)
    lines = lines.encode(**own, x2="to_x:Q", y2="to_y:Q", tooltip=tips)
    others = near.groupby(["layer", "expert"], sort=False)["other"].agg(", ".join).rename("near")
    experts = experts.merge(others, on=["layer", "expert"])
    look = {"filled": True, "opacity": 1, "size": 380 if few else 24, "cursor": "pointer"}
    tips = [
        *theme.tooltip(layer="d", expert="d"),
        *theme.tooltip(kind=("takes most of", ""), near=("nearest in truth", "")),
        *theme.tooltip(spread=("root mean square over resamples", ".3f")),
    ]
    columns = ["layer", "expert", "kind", "x", "y", "spread", "near", "id"]
    dots = theme.points(experts[columns], look, **own, color=color, tooltip=tips)
    parts = [lines, dots]
    if few:
        clouds = rows.loc[rows["what"] == "resample", ["kind", "to_x", "to_y"]]
        parts.insert(0, theme.points(clouds, {"filled": True, "opacity": 0.12, "size": 60}, **to, color=color))
        text = alt.Chart(experts[columns]).mark_text(fontSize=10, color="black", cursor="pointer")
        parts.append(text.encode(**own, text="id:N", tooltip=tips))
    return theme.framed(alt.layer(*parts), HIGH, canvas=True)


def _token_map(frame: pd.DataFrame, color: alt.Color) -> alt.Chart:
    own = frame.assign(token=frame.groupby(["sequence", "position"]).ngroup())
    cells, x = token_axis(own[[name for name in (*COLUMNS, "more") if name in own]])
    tips = theme.tooltip(
        layer="d",
        spread=("at stake: standard deviation over routes, nats", ".3f"),
        loss=("loss of the next token, nats", ".3f"),
        mean=("on the other routes", ".3f"),
        better=("share of them that is better", ".0%"),
    )
    cells = theme.cells(cells, x=x, y=theme.layer_rows(), color=color, tooltip=[*token_tooltip()[:2], *tips])
    return theme.framed(cells.encode(x2="end:Q"), theme.grid_height(frame["layer"].nunique()), canvas=True)


def stake_map(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, brighter where more depends on the route. Columns: those of `RouteRegret.cells`."""
    return _token_map(frame, theme.gradient("spread", "at stake, nats", {"domainMin": 0}))


def gain_map(frame: pd.DataFrame, dark: bool = False) -> alt.Chart:
    """Token by layer, by what the route taken costs next to the others. Columns: those of `RouteRegret.cells`."""
    frame = frame.assign(more=-frame["gain"])
    most = float(frame["more"].abs().quantile(0.95))
    title = "nats more than the other routes on average"
    return _token_map(frame, theme.difference_colour("more", title, most, dark))


def route_bars(frame: pd.DataFrame) -> alt.Chart:
    """Draw a bar for each route of one token at one layer: its loss less that of the route taken. Columns: of `at`."""
    names = [" + ".join(map(str, experts)) for experts in frame["experts"]]
    rows = frame.drop(columns="experts").assign(route=names, taken=range(len(frame)))
    rows["taken"] = rows["taken"] == 0
    color = theme.colour(
        "taken", [True, False], theme.PAIR[::-1], labelExpr="datum.label == 'true' ? 'taken' : 'another'"
    )
    marks = alt.Chart(rows.sort_values("more", kind="stable")).mark_tick(thickness=4, bandSize=14)
    marks = marks.encode(
        x=alt.X("route:N", sort=None, title="experts of the route, best first", axis=alt.Axis(labelAngle=-90)),
        y=alt.Y("more:Q", title="nats more than the route taken"),
        color=color,
        tooltip=theme.tooltip(route="", loss=("loss of the next token, nats", ".3f"), more=("nats more", "+.3f")),
    )
    return theme.framed(marks, theme.MEDIUM)


def rank_dots(frame: pd.DataFrame) -> alt.LayerChart:
    """Groups of tokens by the share of other routes that are better, with bands. Columns: those of `by`."""
    names = {"rank": "as it is", "rank_ties": f"up to {TIE:g} nats are ties"}
    ends = {"rank": ("low", "high"), "rank_ties": ("low_ties", "high_ties")}
    parts = [
        frame[["what", "tokens", "texts"]].assign(
            kind=words, value=frame[name], low=frame[ends[name][0]], high=frame[ends[name][1]]
        )
        for name, words in names.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows["what"] = rows["what"].map(visible)
    color = theme.colour("kind", names.values(), [theme.MAIN, theme.NOTE])
    return _dots(rows, "share of the other routes that are better", color, CHANCE, ".0%")


def gain_dots(frame: pd.DataFrame) -> alt.LayerChart:
    """Groups of tokens by the nats that other routes cost more, with bands. Columns: those of `by`."""
    rows = frame[["what", "tokens", "texts"]].assign(
        value=frame["gain"], low=frame["low_gain"], high=frame["high_gain"], what=frame["what"].map(visible)
    )
    return _dots(rows, "nats that the other routes cost more", alt.value(theme.MAIN), 0.0, ".3f")


def _dots(rows: pd.DataFrame, title: str, color: Any, chance: float, form: str) -> alt.LayerChart:
    y = {"y": alt.Y("what:N", sort=None, title=None, axis=alt.Axis(labelLimit=180))}
    if "kind" in rows:
        y["yOffset"] = alt.YOffset("kind:N")
    tips = theme.tooltip(what=("tokens", ""), value=(title, form), low=("95% from", form), high=("to", form))
    tips += theme.tooltip(tokens=("tokens", ","), texts=("texts", ","))
    x = alt.X("value:Q", title=title, axis=alt.Axis(format="%" if "%" in form else ".2~f"), scale=alt.Scale(zero=False))
    base = alt.Chart(rows)
    bands = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=color, **y)
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, color=color, tooltip=tips, **y)
    line = theme.reference(pd.DataFrame({"chance": [chance]}), "chance", axis="x")
    return theme.framed(theme.layered(bands, dots, line), theme.rows_height(len(rows)))


def whose_bars(frame: pd.DataFrame) -> alt.Chart:
    """A bar for each kind of route, by what it costs more than the token's own. Columns: those of `whose_route`."""
    tips = theme.tooltip(route="", more=("nats more than its own", ".3f"), gained=("of what the router gains", ".0%"))
    tips += theme.tooltip(rank=("share of routes that are better", ".0%"))
    y = alt.Y("route:N", sort=None, title=None, axis=alt.Axis(labelLimit=220))
    bars = theme.bars(frame, x=alt.X("more:Q", title="nats more than the token's own route"), y=y, tooltip=tips)
    return theme.framed(bars, theme.rows_height(len(frame)))


# No single cell is misrouted: each is one draw, and of routes at random half would do worse than the others.
STAKE = Chart.row(stake_map, RouteRegret.at_stake)
WELL = Chart.row(gain_map, RouteRegret.at_stake, themed=True)
ROUTES = Chart.row(route_bars, RouteRegret.at)
RANKS = Chart.row(rank_dots, by)
GAINS = Chart.row(gain_dots, by)
WHOSE = Chart.row(whose_bars, whose_route)
MAP = Chart.row(expert_map_plane, ExpertMap.rows, expert="expert")
