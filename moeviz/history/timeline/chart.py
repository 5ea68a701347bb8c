"""The Mixture-of-Experts systems since 1991, with what was published about their size: a table that ships."""

from collections.abc import Callable
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.parameters import BILLIONS, written

TABLE = Path(__file__).with_name("timeline.csv")
SOFT = "a soft gate runs every expert"  # a remark of the table
NUMBERS = ("total", "active", "experts", "top_k")


def timeline() -> pd.DataFrame:
    """Return the systems since 1991, by date, with their published sizes and the sources.

    Active parameters are those that one input runs through, by each maker's own convention: makers differ on whether
    embeddings count. Nothing is filled in: if no source gives a number, it is missing.

    `status` says how the least checked number of the row was checked: "read" means in the primary text, "secondary" in
    a text that quotes it, "memory" not at all. A page that may change is given with the day on which it was read.

    One row per system. Columns: date str ("2017-01", or "1991" if the month is not known) · year float64 (decimal; the
    middle of the month, or the year itself) · name, family str · total, active float64 (parameters) · experts float64
    (routed experts in one MoE layer) · top_k float64 (experts that one input runs through) · source, status str ·
    remark str (what the numbers leave out, or where the sources disagree; may be empty). Missing numbers are NaN.

    Source: the papers and announcements named in the column `source`.
    """
    frame = pd.read_csv(TABLE, dtype=dict.fromkeys(NUMBERS, np.float64) | {"date": "str"})
    frame["remark"] = frame["remark"].fillna("")
    frame.insert(1, "year", frame["date"].map(_decimal))
    words = frame.columns.difference([*NUMBERS, "year"])
    return frame.astype(dict.fromkeys(words, "str"))


def experts_at_work() -> pd.DataFrame:
    """The systems of the timeline whose number of experts is published, with how many of them one input runs through.

    Behind a soft gate those are all. Systems that switch each expert by itself, or do not say, are left out.

    One row per system. Columns: those of `timeline` · at_work float64 (experts).

    Source: the papers and announcements named in the column `source`.
    """
    frame = timeline()
    soft = frame["remark"].str.contains(SOFT)
    at_work = frame["top_k"].where(~soft, frame["experts"])
    return frame.assign(at_work=at_work)[frame["experts"].notna() & at_work.notna()].reset_index(drop=True)


def _decimal(date: str) -> float:
    """Return a date as a decimal year.

    >>> _decimal("1991"), _decimal("2017-07")
    (1991.0, 2017.5416666666667)
    """
    year, _, month = date.partition("-")
    return int(year) + ((int(month) - 0.5) / 12 if month else 0.0)


KINDS = {"total": "all", "active": "active for one input"}
# Corners of the two axes, between which they are even, and where they lie, in parts of the width and the height. Most
# systems are of the last three years and above a billion parameters; 1991's have 24 and 48.
YEARS, ACROSS = [1990, 2016, 2023, 2027], [0, 0.1, 0.38, 1]
PARAMETERS, UP = [10, 1e9, 1e13], [1, 0.82, 0]
YEAR_TICKS = [1991, 2017, 2020, 2023, 2024, 2025, 2026]
EXPERT_TICKS = [1, 4, 16, 64, 256, 1024, 8192, 131072]
PARAMETER_TICKS = [100, 1e9, 1e10, 1e11, 1e12, 1e13]
SOURCED = {"source": "", "status": "", "remark": ""}  # the last lines of a tooltip
APART = 0.06  # years between systems of one month, which stand side by side
HEIGHT = 520
SQUEEZED = "parameters (logarithmic; squeezed below 1B)"
KNOWN = ("Mixtral 8x7B", "DeepSeek-V3")  # named too: between the leaps, and the only ones in their months
LEAP = 1.5  # a system is named if it is this many times as large as any before it


def parameters_over_time(frame: pd.DataFrame) -> alt.LayerChart:
    """Total and active parameters of each system by its date. Columns: those of `timeline`.

    Systems without a published total are left out. Those at least half as large again as any before them are named, and
    two that stand for what came between.
    """
    sized = frame[frame["total"].notna()].sort_values("year", kind="stable")
    words = {f"{kind}_text": sized[kind].map(_or_unknown(written)) for kind in KINDS}
    words |= {f"{number}_text": sized[number].map(_or_unknown("{:,.0f}".format)) for number in ("experts", "top_k")}
    sized = sized.assign(**words, year=_side_by_side(sized))
    base = alt.Chart(sized).encode(x=_year_axis(), color=_family_colour(sized), tooltip=_tooltip())
    rules = base.mark_rule(opacity=0.6).encode(y=alt.Y("active:Q", scale=_scale()), y2="total:Q")
    return theme.framed(rules.transform_filter("isValid(datum.active)") + _marks(sized) + _names(sized), HEIGHT)


def _marks(sized: pd.DataFrame) -> alt.Chart:
    carried = [name for name in sized.columns if name not in KINDS]
    melted = sized.rename(columns=KINDS).melt(carried, list(KINDS.values()), "kind", "parameters")
    legend = {"orient": "bottom", "symbolFillColor": theme.NOTE, "symbolStrokeColor": theme.NOTE}
    return theme.points(
        melted[melted["parameters"].notna()],
        {"filled": False, "size": 60, "strokeWidth": 1.5, "opacity": 1},
        x=_year_axis(),
        y=alt.Y(
            "parameters:Q", title=SQUEEZED, scale=_scale(), axis=alt.Axis(values=PARAMETER_TICKS, labelExpr=BILLIONS)
        ),
        color=_family_colour(sized),
        fill=_family_colour(sized),
        fillOpacity=_unless_from_memory(),
        shape=theme.named(alt.Shape, "kind", KINDS.values(), ["circle", "diamond"], **legend),
        tooltip=_tooltip(),
    )


def _unless_from_memory() -> dict:
    return alt.condition("datum.status == 'memory'", alt.value(0), alt.value(1))


def _names(sized: pd.DataFrame) -> alt.Chart:
    leaps = sized["total"] >= LEAP * sized["total"].cummax().shift(fill_value=0)
    named = sized[leaps | sized["name"].isin(KNOWN)].drop_duplicates("date", keep="last")
    inward = alt.ExprRef("datum.year < 2000 ? 'left' : datum.year < 2020 ? 'center' : 'right'")
    return (
        alt.Chart(named)
        .mark_text(color=theme.NOTE, align=inward, baseline="bottom", dy=-7)
        .encode(x=_year_axis(), y=alt.Y("total:Q", scale=_scale()), text="name:N")
    )


def _side_by_side(sized: pd.DataFrame) -> pd.Series:
    months = sized.groupby("date")["date"]
    return sized["year"] + APART * (months.cumcount() - (months.transform("size") - 1) / 2)


def _year_axis() -> alt.X:
    scale = alt.Scale(domain=YEARS, range=[alt.ExprRef(f"{place} * width") for place in ACROSS])
    axis = alt.Axis(values=YEAR_TICKS, format="d", grid=False, labelOverlap=True)
    return alt.X("year:Q", title=f"year (wider from {YEARS[2]} on)", axis=axis, scale=scale)


def _scale() -> alt.Scale:
    places = [alt.ExprRef(f"{place} * height") for place in UP]
    return alt.Scale(type="log", domain=PARAMETERS, range=places, nice=False)


def _family_colour(sized: pd.DataFrame) -> alt.Color:
    families = [*dict.fromkeys(sized["family"][sized["family"] != "others"]), "others"]
    colours = [*theme.EXPERT_COLOURS[: len(families) - 1], theme.OTHER]
    return theme.colour("family", families, colours, columns=3, symbolOpacity=1)


def _tooltip() -> list[alt.Tooltip]:
    return theme.tooltip(
        name="",
        date="",
        total_text=("parameters", ""),
        active_text=("active for one input", ""),
        experts_text=("experts", ""),
        top_k_text=("top-k", ""),
        **SOURCED,
    )


def _or_unknown(write: Callable[[float], str]) -> Callable[[float], str]:
    return lambda number: "–" if pd.isna(number) else write(number)


def experts_over_time(frame: pd.DataFrame) -> alt.LayerChart:
    """All experts of a layer, and those at work for one input, by date. Columns: those of `experts_at_work`."""
    frame = frame.assign(year=_side_by_side(frame), share=frame["at_work"] / frame["experts"])
    base = alt.Chart(frame).encode(x=_year_axis(), color=_family_colour(frame), tooltip=_expert_tooltip())
    rules = base.mark_rule(opacity=0.6).encode(y=_experts_axis("at_work"), y2="experts:Q")
    dots = [
        base.mark_point(filled=False, shape=shape, size=60, strokeWidth=1.5, opacity=1).encode(
            y=_experts_axis(field), fill=_family_colour(frame), fillOpacity=_unless_from_memory()
        )
        for field, shape in (("experts", "circle"), ("at_work", "diamond"))
    ]
    return theme.framed(alt.layer(rules, *dots), HEIGHT - 140)


def turns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the systems at which the number of experts in a layer turns: most before Mixtral, Mixtral, most since.

    Columns: those of `experts_at_work`, of which `frame` has the rows.
    """
    (mixtral,) = frame.index[frame["name"] == KNOWN[0]]
    before, since = frame.loc[: mixtral - 1, "experts"], frame.loc[mixtral + 1 :, "experts"]
    return frame.loc[[before.idxmax(), mixtral, since.idxmax()]]


def in_words(turning: pd.DataFrame) -> str:
    """Say how many experts per layer there are at each turn, and how many of them work."""
    most, few, many = (
        f"{row.experts:,.0f} with {row.at_work:.0f} at work in {int(row.year)}" for row in turning.itertuples()
    )
    return f"Since 2017 the number has not climbed but fallen and risen again: {most}, {few}, {many}."


def _experts_axis(field: str) -> alt.Y:
    scale = alt.Scale(type="log", domain=[1, 2e5], nice=False)
    title = "experts in a layer (logarithmic)"
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=EXPERT_TICKS, format=",d"))


def _expert_tooltip() -> list[alt.Tooltip]:
    return theme.tooltip(
        name="",
        date="",
        experts=",d",
        at_work=("at work for one input", ",d"),
        share=("share of them", ".2%"),
        **SOURCED,
    )


EXPERTS_AT_WORK = Chart(
    "How many experts does a layer have, and how many work at a time?",
    "A circle is all experts of a layer, and the diamond below it those that one input runs through; where both are "
    f"at one height, all of them do. {in_words(turns(experts_at_work()))} Shared experts, which always work, are not "
    "counted; hollow marks are numbers from memory.",
    measure=experts_at_work,
    draw=experts_over_time,
)
TIMELINE = Chart(
    "How large have MoE systems been, and how much of each works at a time?",
    "A circle is all parameters of a system, and the diamond below it is the parameters that one input runs through, "
    "on a logarithmic axis. Hollow marks are numbers from memory; a circle without a diamond has no published active "
    "count.",
    measure=timeline,
    draw=parameters_over_time,
)
