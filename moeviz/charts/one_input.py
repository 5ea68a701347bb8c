"""One input and all experts: a box for each, filled where it is computed. Not a topic: the history is told with it."""

from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from moeviz.charts import marks, theme
from moeviz.charts.chart import Chart
from moeviz.metrics.one_input import experts_of_one

LEAST = 8  # boxes that a row has a place for: a few experts look few
MANY = 16  # boxes of a row that are numbered; more are too narrow on a phone
SIDE = 0.42  # half of a box, as a share of its place
HIGH = (84, 60, 48, 48)  # pixels that a box is high, where a drawing has one row, two …
THIN = 30  # and where it has more
NAME, ID, BETWEEN, HANGING, NUMBER = 18, 15, 12, 40, 16  # pixels: a row's name, ids, between rows, below a box …
FILLED = 0.28  # opacity of a box that is computed
BELOW_ZERO = theme.PAIR[1]  # bars of negative weights


class Row(NamedTuple):
    """Where the parts of a row lie, in pixels from the top of the drawing."""

    named: int  # the middle of its name
    numbered: int  # and of the ids
    top: int  # of its boxes
    bottom: int
    lowest: int  # of what hangs below them


def expert_boxes(frame: pd.DataFrame) -> alt.LayerChart:
    """A row of boxes for each layer, in the order of the frame. Columns: those of `experts_of_one`.

    A box is filled where the expert is computed, and the bar in it is its weight: full at 1, and of another colour
    below 0. Where there is a `load`, it hangs below the box: in an outline as long as the expert's capacity or, without
    one, beside a dashed line where all would end if all had the same. A cross is where an expert was full, and refused
    the input. A row of fewer experts than the longest has wider boxes, as in a tree.
    """
    laid = _laid_out(frame)
    busy, refused = laid[laid["load"].notna()], laid[laid["refused"]]
    parts = [*_boxes(laid), *_words(laid)]
    if not busy.empty:
        parts += _hanging(busy)
    if not refused.empty:
        parts.append(_crosses(refused))
    return theme.framed(marks.layered(*parts).configure_view(stroke=None), int(laid["height"].max()))


def _laid_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the place of everything: across in boxes, down in pixels."""
    rows = _rows(frame)
    places = pd.DataFrame([rows[name] for name in frame["row"]], columns=list(Row._fields), index=frame.index)
    longest, most = int(frame["experts"].max()), float(frame[["load", "capacity"]].max(axis=None))
    span = longest / frame["experts"]
    middle = (frame["expert"] + 0.5) * span
    hangs, long = places["bottom"] + 3, HANGING / most if most > 0 else 0.0
    return frame.assign(
        **places,
        boxes=max(LEAST, longest),
        height=places["lowest"].max() + 2,
        middle=middle,
        left=middle - SIDE * span,
        right=middle + SIDE * span,
        bar=places["bottom"] - (places["bottom"] - places["top"]) * frame["weight"].abs().clip(upper=1),
        hangs=hangs,
        load_end=hangs + long * frame["load"],
        capacity_end=hangs + long * frame["capacity"],
        uniform_end=hangs + long * frame.groupby("row")["load"].transform("mean"),
    )


def _rows(frame: pd.DataFrame) -> dict[str, Row]:
    names = list(dict.fromkeys(frame["row"]))
    hung = frame.groupby("row")["load"].count() > 0
    narrow = int(frame["experts"].max()) > MANY
    high, y, rows = THIN if narrow else dict(enumerate(HIGH, 1)).get(len(names), THIN), 0, {}
    for name in names:
        top = y + NAME + ID
        lowest = top + high + (3 + HANGING + NUMBER) * int(hung[name])
        rows[name] = Row(y + NAME // 2, y + NAME + ID // 2 - 1, top, top + high, lowest)
        y = rows[name].lowest + BETWEEN
    return rows


def _boxes(laid: pd.DataFrame) -> list[alt.Chart]:
    boxes = _rect(laid, "top", "bottom", fill=theme.MAIN, stroke=theme.NOTE, strokeWidth=1, cornerRadius=3)
    boxes = boxes.encode(fillOpacity=alt.condition("datum.computed", alt.value(FILLED), alt.value(0)))
    if not laid["computed"].any():
        return [boxes]
    sign = alt.condition("datum.weight < 0", alt.value(BELOW_ZERO), alt.value(theme.MAIN))
    return [boxes, _rect(laid[laid["computed"]], "bar", "bottom", cornerRadius=2).encode(fill=sign)]


def _words(laid: pd.DataFrame) -> list[alt.Chart]:
    """The name of each row, and above each box its expert's id."""
    names = laid.groupby("row", sort=False).first().reset_index()
    words = [_text(names.assign(middle=names["left"]), "row:N", align="left", fontSize=12)]
    few = laid[laid["experts"] <= MANY]
    return words if few.empty else [*words, _text(few.assign(named=few["numbered"]), "expert:Q", fontSize=10)]


def _hanging(busy: pd.DataFrame) -> list[alt.Chart]:
    """How busy each expert is: a bar and its number, with the expert's capacity or, without one, the uniform share."""
    parts = [_rect(busy, "hangs", "load_end", fill=theme.OTHER, cornerRadius=2)]
    few = busy[busy["experts"] <= MANY]
    if not few.empty:
        parts.append(_text(few.assign(named=few["lowest"] - NUMBER // 2), "load:Q", fontSize=10, format=",.0f"))
    if busy["capacity"].notna().any():
        return [*parts, _rect(busy, "hangs", "capacity_end", filled=False, stroke=theme.NOTE, strokeWidth=2)]
    even = alt.Chart(busy).mark_rule(color=theme.CHANCE, strokeDash=list(theme.DASH), strokeWidth=2)
    return [*parts, even.encode(x=_across(busy, "left"), x2="right:Q", y=_down(busy, "uniform_end"))]


def _crosses(refused: pd.DataFrame) -> alt.Chart:
    cross = alt.Chart(refused.assign(named=(refused["top"] + refused["bottom"]) / 2)).mark_point(
        shape=theme.CROSS, size=220, stroke=theme.ACCENT, strokeWidth=4, opacity=1
    )
    return cross.encode(x=_across(refused, "middle"), y=_down(refused, "named"), tooltip=_tooltip())


def _rect(laid: pd.DataFrame, top: str, bottom: str, **look: Any) -> alt.Chart:
    places = {"x": _across(laid, "left"), "x2": "right:Q", "y": _down(laid, top), "y2": f"{bottom}:Q"}
    return alt.Chart(laid).mark_rect(**look).encode(**places, tooltip=_tooltip())


def _text(laid: pd.DataFrame, field: str, fontSize: int, align: str = "center", format: str = "") -> alt.Chart:
    text = alt.Text(field, format=format) if format else alt.Text(field)
    marks = alt.Chart(laid).mark_text(color=theme.NOTE, baseline="middle", align=align, fontSize=fontSize)
    return marks.encode(x=_across(laid, "middle"), y=_down(laid, "named"), text=text)


def _across(laid: pd.DataFrame, field: str) -> alt.X:
    return alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, int(laid["boxes"].max())], nice=False))


def _down(laid: pd.DataFrame, field: str) -> alt.Y:
    scale = alt.Scale(domain=[0, int(laid["height"].max())], reverse=True, nice=False)
    return alt.Y(f"{field}:Q", axis=None, scale=scale)


def _tooltip() -> list[alt.Tooltip]:
    return theme.tooltip(row=("in", ""), expert="d", computed="", weight=".3f", load=",.3~g", capacity=",d")


def described(frame: pd.DataFrame) -> str:
    """The drawing in words, for those who do not see it.

    >>> from moeviz.testing import sample_trace
    >>> described(experts_of_one(sample_trace().select(layers=[0]), 0))
    'layer 0: 2 of 8 experts computed, with their weights 6 (0.55), 1 (0.45).'
    """
    return " ".join(_row_in_words(name, row) for name, row in frame.groupby("row", sort=False))


def _row_in_words(name: str, row: pd.DataFrame) -> str:
    computed = row[row["computed"]].sort_values("weight", ascending=False, kind="stable")
    counts = [f"{expert} ({weight:.2f})" for expert, weight in zip(computed["expert"], computed["weight"], strict=True)]
    said = [
        f"{len(computed)} of {len(row)} experts computed" + (f", with their weights {', '.join(counts)}" * bool(counts))
    ]
    if row["load"].notna().any():
        said.append(f"load from {row['load'].min():.3g} to {row['load'].max():.3g}")
    if row["capacity"].notna().any():
        said.append(f"capacity {row['capacity'].max():.0f}")
    if row["refused"].any():
        said.append(f"refused by expert {row.loc[row['refused'], 'expert'].iloc[0]}")
    return f"{name}: {'; '.join(said)}."


ONE_INPUT = Chart(
    "Which experts work on one input?",
    "Each box is an expert. A filled one is computed for this input, and the bar in it is its weight: how much its "
    "answer counts. What hangs below a box is how much it has to do in all, inside an outline where it has a capacity. "
    "A cross is where an expert was full, and refused the input.",
    measure=experts_of_one,
    draw=expert_boxes,
)
