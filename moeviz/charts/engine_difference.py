"""Charts of two recordings of the same text. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.token_layer_map import first_letters, shown_texts
from moeviz.metrics.effect import OTHER as OTHER_FIRST
from moeviz.metrics.effect import SAME as SAME_FIRST
from moeviz.metrics.engine_difference import engine_difference
from moeviz.metrics.engine_tokens import APART, ORDER, OTHER, SAME, margins_of_both, token_differences

LINES = {"equal_sets": ("the same experts", theme.PAIR[0]), "equal_ids": ("in the same order too", theme.PAIR[1])}
COLOURS = {SAME: "#8a98e540", ORDER: "#8a98e5", OTHER: theme.CHANCE, APART: theme.PALE}
COLOURS |= {SAME_FIRST: COLOURS[SAME], OTHER_FIRST: COLOURS[OTHER]}
LEFT_OF_ALL = 0.5  # of the smallest margin: where ties stand on a scale without 0


def agreement_by_layer(frame: pd.DataFrame) -> alt.Chart:
    """Share of tokens with equal sets and equal ids. Columns: those of `engine_difference`."""
    drawn = frame.melt(["layer", "tokens", "chosen", "different"], list(LINES), "line", "share").dropna(subset="share")
    drawn = drawn.assign(line=drawn["line"].map({key: row[0] for key, row in LINES.items()}))
    names, colours = zip(*LINES.values(), strict=True)
    one_share = drawn["share"].nunique() == 1  # with nothing to tell apart, the axis is of all shares
    scale = alt.Scale(domain=[0, 1]) if one_share else alt.Scale(zero=False)
    lines = theme.lines(
        drawn,
        {"point": True},
        x=theme.layer_axis(),
        y=alt.Y("share:Q", title="share of tokens", axis=theme.share_axis(), scale=scale),
        color=theme.colour("line", names, colours, labelLimit=200),
        tooltip=theme.tooltip(
            line=("tokens with", ""),
            layer="d",
            share=("share of tokens", ".2%"),
            tokens=("tokens compared", ","),
            chosen=("experts in the first", ","),
            different=("of these, not in the second", ","),
        ),
    )
    return theme.framed(lines, theme.MEDIUM)


def differences_map(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, coloured by what becomes of it. Columns: those of `token_differences`."""
    columns = {
        "kind": ("in the second", ""),
        "experts": ("experts in the first", ""),
        "other_experts": ("experts in the second", ""),
    }
    if frame["margin"].notna().any():
        columns["margin"] = ("margin in the first", ".3g")
    return places_map(frame, columns)


def places_map(frame: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> alt.Chart:
    """Token by layer, coloured by `kind`; in the tooltip these columns too, by title and format."""
    theme.at_most_max_tokens(frame.rename(columns={"place": "token"}))
    tokens = frame.drop_duplicates("place")
    names = {str(place): first_letters(text) for place, text in zip(tokens["place"], tokens["text"], strict=True)}
    drawn = theme.compact(frame.assign(shown=shown_texts(frame["text"])).drop(columns="text"))
    some = [kind for kind in COLOURS if (frame["kind"] == kind).any()]
    chart = (
        alt.Chart(drawn, params=[alt.VariableParameter("names", value=names)])
        .mark_rect(stroke=None)
        .encode(
            x=alt.X(
                "place:O",
                title="token",
                axis=alt.Axis(labelExpr="names[datum.value]", labelAngle=-90, labelOverlap=True, labelFontSize=9),
            ),
            y=theme.layer_rows(),
            color=theme.colour("kind", some, [COLOURS[kind] for kind in some], symbolOpacity=1, columns=2),
            tooltip=theme.tooltip(shown=("token", ""), sequence="d", position="d", layer="d", **columns),
        )
    )
    return theme.framed(chart, theme.grid_height(frame["layer"].nunique()), canvas=True)


def margins_curve(frame: pd.DataFrame) -> alt.Chart:
    """Share of tokens up to a margin, one line a kind. Columns: those of `margins_of_both`."""
    some = frame["margin"][frame["margin"] > 0]
    left = LEFT_OF_ALL * float(some.min()) if len(some) else 1.0
    kinds = [kind for kind in (OTHER, SAME) if (frame["kind"] == kind).any()]
    lines = theme.lines(
        frame.assign(at=frame["margin"].clip(lower=left)),
        {"interpolate": "step-after", "strokeWidth": 2.5},
        x=alt.X(
            "at:Q",
            title="margin in the first, logits (far left: a tie)",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(format="~g", tickCount=6, labelOverlap=True),
        ),
        y=alt.Y("share:Q", title="tokens with that margin or less", axis=theme.share_axis()),
        color=theme.colour(
            "kind", kinds, [theme.CHANCE if kind == OTHER else theme.MAIN for kind in kinds], symbolType="stroke"
        ),
        tooltip=theme.tooltip(
            kind=("tokens with", ""),
            margin=".3g",
            share=("that margin or less", ".1%"),
            rows=("of so many, over all layers", ","),
        ),
    )
    return theme.framed(lines, theme.MEDIUM)


AGREEMENT = Chart.row(agreement_by_layer, engine_difference)
PLACES = Chart.row(differences_map, token_differences)
MARGINS = Chart.row(margins_curve, margins_of_both)
CHARTS = (AGREEMENT, PLACES, MARGINS)
