"""The picture of the page Balance: experts with more of the work, or less, than chance explains."""

import json
from collections.abc import Iterator

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.balance import balance_sentence, load_beside_luck
from moeviz.metrics.captions import times_said
from moeviz.metrics.words import short

HASHED = " (by token id)"
NUMBERS_UP_TO = 10  # experts: of more, a cell has no place for a number
ROWS_WITH_NUMBERS = 40
ROW, LOW_ROW, LEAST_ROW, MAP_HEIGHT = 40, 22, 3, 480  # pixels; a low one where several parts stand under each other


def balance_map(frame: pd.DataFrame, dark: bool = False) -> alt.LayerChart:
    """Layer by expert, coloured if the load is beyond chance. Columns: those of `load_beside_luck`."""
    rows = frame[["part", "group", "layer", "by_token_id"]].drop_duplicates(ignore_index=True)
    rows = rows.assign(
        row=rows.index, of=[short(name) if part else "all" for part, name in rows[["part", "group"]].to_numpy()]
    )
    several = rows["part"].nunique() > 1
    begins = ~rows["of"].duplicated()
    names = [
        (f"{row.of} · layer {row.layer}" if several and begins[row.Index] else f"{row.layer}")
        + (HASHED if row.by_token_id else "")
        for row in rows.itertuples()
    ]
    axis = alt.Axis(
        labelExpr=f"{json.dumps(names)}[datum.value]",
        labelOverlap=len(rows) > ROWS_WITH_NUMBERS,
        labelLimit=130,
        grid=False,
    )
    written = bool(frame["expert"].max() < NUMBERS_UP_TO and len(rows) <= ROWS_WITH_NUMBERS)
    drawn = frame.drop(columns="by_token_id").merge(rows.drop(columns="by_token_id"), on=["part", "group", "layer"])
    if written:
        drawn = drawn.assign(written=drawn["times_uniform"].map(_in_cell, na_action="ignore"))
    drawn = theme.compact(drawn.drop(columns=["part", "group", "counted"] + ["of"] * (not several)))
    base = alt.Chart(drawn).encode(
        x=theme.expert_axis("×: no token; pale: within chance"),
        y=alt.Y("row:O", title=None if several else "layer", axis=axis),
        tooltip=theme.tooltip(
            **{"of": ("tokens", "")} if several else {},
            layer="d",
            expert="d",
            tokens=("tokens routed to it", ",d"),
            times_uniform=("times its share", ".3f"),
            luck_low=("by chance, from", ".3f"),
            luck_high=("to", ".3f"),
        ),
    )
    apart = alt.Chart(rows.loc[begins & (rows.index > 0), ["row"]]).mark_rule(color=theme.NOTE, aria=False)
    apart = apart.encode(y=alt.Y("row:O", bandPosition=0), x=alt.XValue(0), x2=alt.X2Value("width"))
    row = max(min(LOW_ROW if several else ROW, MAP_HEIGHT / max(len(rows), 1)), LEAST_ROW)
    return theme.framed(
        theme.layered(*_cells(base, written, dark), *([apart] if several else [])),
        int(row * len(rows)) + theme.AROUND,
        canvas=True,
    )


def _cells(base: alt.Chart, written: bool, dark: bool) -> Iterator[alt.Chart]:
    """Yield the cells within chance and beyond it, their numbers if `written`, and a cross in an unused one."""
    yield base.transform_filter("!datum.beyond_luck").mark_rect(fill=None, stroke=theme.PALE, strokeWidth=1)
    beyond = base.transform_filter("datum.beyond_luck").mark_rect(stroke=None)
    yield beyond.encode(color=theme.times_colour("times_uniform", "load, × uniform", dark))
    if written:
        number = base.mark_text(fontSize=12).encode(text="written:N")
        some = number.transform_filter("datum.tokens > 0 && datum.beyond_luck")
        yield some.encode(color=theme.ink_on("times_uniform"))
        pale = number.transform_filter("datum.tokens > 0 && !datum.beyond_luck")
        yield pale.encode(color=alt.ColorValue(theme.ink(dark)))
    unused = base.transform_filter("datum.tokens === 0").mark_point(shape=theme.CROSS, size=30, strokeWidth=1.5)
    yield unused.encode(color=alt.condition("datum.beyond_luck", alt.value(theme.ON_LEAST), alt.value(theme.NOTE)))


def _in_cell(times: float) -> str:
    return f"{times:.1f}" if times >= 0.095 else times_said(times)


BALANCE = Chart.row(balance_map, load_beside_luck, balance_sentence, expert="expert", themed=True)
