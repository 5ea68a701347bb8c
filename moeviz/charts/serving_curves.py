"""What a cache hits, a batch needs and a predictor names, as lines over how large it is."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.metrics.words import byte_unit, bytes_said

# What each line is called, with its colour and its dashes.
Lines = dict[str, tuple[str, str, tuple[int, ...]]]
SOLID, DOTS = (1, 0), (1, 3)
POLICIES: Lines = {
    "bound": ("bound", theme.NOTE, DOTS),
    "lru": ("LRU", theme.MAIN, SOLID),
    "static": ("fixed set, most used", theme.EXPERT_COLOURS[8], SOLID),
    "chance": ("fixed set, at random", theme.CHANCE, theme.DASH),
}
BATCHES: Lines = {
    "even": ("experts at random", theme.CHANCE, theme.DASH),
    "random": ("any tokens", theme.NOTE, DOTS),
    "sequences": ("different texts", theme.MAIN, SOLID),
    "consecutive": ("tokens in a row", theme.EXPERT_COLOURS[8], SOLID),
}
PREDICTORS: Lines = {
    "layer_before": ("layer before", theme.MAIN, SOLID),
    "previous_token": ("token before", theme.EXPERT_COLOURS[8], SOLID),
    "recency": ("last used", theme.EXPERT_COLOURS[2], SOLID),
    "popular": ("most used", theme.NOTE, DOTS),
    "chance": ("at random", theme.CHANCE, theme.DASH),
}
GIGABYTE = 1e9


def hit_rate_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Hit rate over the size of the cache, a line a policy; a mark at a chosen size. Columns: those of `hit_rates`."""
    known = frame["gigabytes"].notna().any()
    drawn, colour, dash = _lines(frame, "policy", POLICIES)
    tips = [
        alt.Tooltip("capacity:Q", title="experts kept in each layer", format="d"),
        alt.Tooltip("line:N", title="policy"),
        alt.Tooltip("rate:Q", title="hit rate", format=".1%"),
    ]
    if known:
        sizes = {"size": "gigabytes", "fetched_size": "gigabytes_a_token"}
        drawn = drawn.assign(**{name: (drawn[of] * GIGABYTE).map(bytes_said) for name, of in sizes.items()})
        tips += [alt.Tooltip("size:N", title="cache"), alt.Tooltip("fetched_size:N", title="fetched a token")]
    base = alt.Chart(drawn).encode(
        x=alt.X("capacity:Q", title=_size_title(frame), scale=_span(frame["capacity"]), axis=_whole()), tooltip=tips
    )
    rate = alt.Y("rate:Q", title="hit rate", scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis())
    layers = [base.mark_line(point=alt.OverlayMarkDef(size=16)).encode(y=rate, color=colour, strokeDash=dash)]
    if frame["chosen"].any():
        at = alt.Chart(frame[frame["chosen"]].head(1)).mark_rule(color=theme.ACCENT, strokeWidth=2)
        layers.append(at.encode(x="capacity:Q"))
    if not known:
        return theme.framed(alt.layer(*layers), theme.MEDIUM)
    return theme.framed(alt.layer(alt.layer(*layers), _fetched(drawn)).resolve_scale(y="independent"), theme.MEDIUM)


def _fetched(drawn: pd.DataFrame) -> alt.Chart:
    """The same height in bytes: an axis on the right, and no mark that is seen."""
    missed = drawn[drawn["rate"] < 1]
    most = float((missed["gigabytes_a_token"] / (1 - missed["rate"])).max()) * GIGABYTE if len(missed) else GIGABYTE
    unit, size = byte_unit(most)
    shown = drawn.assign(fetched=drawn["gigabytes_a_token"] * GIGABYTE / size)
    axis = alt.Axis(orient="right", title=f"{unit} fetched a token", format=",.3~r", tickCount=6, grid=False)
    y = alt.Y("fetched:Q", scale=alt.Scale(domain=[most / size, 0], nice=False), axis=axis)
    return alt.Chart(shown).mark_point(opacity=0).encode(x="capacity:Q", y=y)


def _size_title(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    if pd.isna(first["gigabytes"]):
        return "experts kept in each layer"
    one = bytes_said(first["gigabytes"] / first["capacity"] * GIGABYTE)
    return f"experts kept in each layer ({one} for one in each)"


def distinct_experts_curve(frame: pd.DataFrame) -> alt.Chart:
    """Distinct experts of a batch, the mean over layers, a line a kind of batch. Columns: those of `batch_coverage`."""
    means = _means(frame, "batch", BATCHES)
    drawn, colour, dash = _lines(means, "kind", BATCHES)
    x = alt.X(
        "batch:Q", title="tokens in a batch", scale=alt.Scale(type="log", base=2), axis=alt.Axis(format="d", grid=False)
    )
    chart = (
        alt.Chart(drawn)
        .mark_line(point=alt.OverlayMarkDef(size=16))
        .encode(
            x=x,
            y=alt.Y("mean:Q", title="distinct experts of a layer", scale=alt.Scale(zero=True)),
            color=colour,
            strokeDash=dash,
            tooltip=[alt.Tooltip("batch:Q", title="tokens", format="d"), *_spread("distinct experts", ".1f")],
        )
    )
    return theme.framed(chart, theme.MEDIUM)


def prefetch_curve(frame: pd.DataFrame) -> alt.Chart:
    """Recall over the number of experts named, a line a predictor. Columns: those of `prefetch_recall`."""
    means = _means(frame, "m", PREDICTORS)
    drawn, colour, dash = _lines(means, "kind", PREDICTORS)
    chart = (
        alt.Chart(drawn)
        .mark_line(point=alt.OverlayMarkDef(size=16))
        .encode(
            x=alt.X("m:Q", title="experts fetched ahead, of each layer", scale=_span(frame["m"]), axis=_whole()),
            y=alt.Y("mean:Q", title="of what a token needs", scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis()),
            color=colour,
            strokeDash=dash,
            tooltip=[alt.Tooltip("m:Q", title="experts fetched", format="d"), *_spread("recall", ".1%")],
        )
    )
    return theme.framed(chart, theme.MEDIUM)


def _lines(frame: pd.DataFrame, field: str, lines: Lines) -> tuple[pd.DataFrame, alt.Color, alt.StrokeDash]:
    """The rows with the names of their lines, without those that are not known; and how lines are told apart."""
    value = "rate" if "rate" in frame else "mean"
    names, colours, dashes = zip(*lines.values(), strict=True)
    drawn = frame[frame[value].notna()].assign(line=frame[field].map({key: row[0] for key, row in lines.items()}))
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=200, symbolType="stroke")
    colour = alt.Color("line:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend)
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=list(names), range=[list(row) for row in dashes]))
    return drawn, colour, dash


def _means(frame: pd.DataFrame, over: str, lines: Lines) -> pd.DataFrame:
    """The mean over layers, with the lowest and the highest layer."""
    long = frame.melt(["layer", over], list(lines), "kind", "value")
    found = long.groupby(["kind", over], sort=False)["value"].agg(mean="mean", lowest="min", highest="max")
    return found.reset_index()


def _spread(title: str, number: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("line:N", title="which"),
        alt.Tooltip("mean:Q", title=f"{title}, mean of layers", format=number),
        alt.Tooltip("lowest:Q", title="lowest layer", format=number),
        alt.Tooltip("highest:Q", title="highest layer", format=number),
    ]


def _span(sizes: pd.Series) -> alt.Scale:
    return alt.Scale(domain=[int(sizes.min()), max(int(sizes.max()), int(sizes.min()) + 1)], nice=False)


def _whole() -> alt.Axis:
    return alt.Axis(format="d", tickMinStep=1, grid=False)
