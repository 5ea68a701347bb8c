"""Charts of what a routing costs to serve: caches, batches, prefetching, placement, and cards that hold a model."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.errors import MissingField
from moeviz.metrics.words import byte_unit, bytes_said
from moeviz.serving.batches import batch_coverage, batch_coverage_caption
from moeviz.serving.budget import hit_rates, hit_rates_caption
from moeviz.serving.memory import memory_on_cards, what_fits
from moeviz.serving.placement import devices_said, serving_placement, serving_placement_caption
from moeviz.serving.prefetch import prefetch_recall

# The name of each line, with its colour and its dashes.
Lines = dict[str, tuple[str, str, tuple[int, ...]]]
SOLID, DOTS = (1, 0), (1, 3)
POLICIES: Lines = {
    "bound": ("bound", theme.NOTE, DOTS),
    "lru": ("LRU", theme.MAIN, SOLID),
    "static": ("fixed set, most used", theme.EXPERT_COLOURS[8], SOLID),
    "others": ("most used by other labels", theme.EXPERT_COLOURS[8], theme.DASH),
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
DOTTED_LINE = {"point": alt.OverlayMarkDef(size=16)}
PLACEMENTS = {
    "contiguous": ("in order", theme.OTHER, "circle"),
    "balanced": ("balanced", theme.MAIN, "square"),
    "copies": ("with copies", theme.EXPERT_COLOURS[8], "triangle-up"),
    "coactive": ("used together", theme.EXPERT_COLOURS[2], "diamond"),
}
PARTS = {
    "experts": "routed experts",
    "other_weights": "other weights",
    "keys_and_values": "keys and values",
    "step": "buffers of a step",
}
PART_COLOURS = (theme.MAIN, theme.EXPERT_COLOURS[1], theme.EXPERT_COLOURS[2], theme.EXPERT_COLOURS[5])
WORDS_BELOW, MEMORY_HEIGHT, BAND = 4, 340, 30  # pixels
FEW = 3  # cards: more are one colour


def hit_rate_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Hit rate over the cache's size, a line per policy; a mark at a chosen size. Columns: those of `hit_rates`."""
    known = frame["gigabytes"].notna().any()
    drawn, colour, dash = _named_lines(frame, "policy", POLICIES)
    tips = theme.tooltip(capacity=("experts kept in each layer", "d"), line=("policy", ""), rate=("hit rate", ".1%"))
    if known:
        sizes = {"size": "gigabytes", "fetched_size": "gigabytes_a_token"}
        drawn = drawn.assign(**{name: (drawn[of] * GIGABYTE).map(bytes_said) for name, of in sizes.items()})
        tips += theme.tooltip(size=("cache", ""), fetched_size=("fetched a token", ""))
    base = alt.Chart(drawn).encode(
        x=alt.X("capacity:Q", title=_size_title(frame), scale=_span(frame["capacity"]), axis=theme.whole_axis()),
        tooltip=tips,
    )
    rate = alt.Y("rate:Q", title="hit rate", scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis())
    layers = [base.mark_line(**DOTTED_LINE).encode(y=rate, color=colour, strokeDash=dash)]
    if frame["chosen"].any():
        at = alt.Chart(frame[frame["chosen"]].head(1)).mark_rule(color=theme.ACCENT, strokeWidth=2)
        layers.append(at.encode(x="capacity:Q"))
    if not known:
        return theme.framed(theme.layered(*layers), theme.MEDIUM)
    return theme.framed(
        theme.layered(theme.layered(*layers), _fetched(drawn)).resolve_scale(y="independent"), theme.MEDIUM
    )


def _fetched(drawn: pd.DataFrame) -> alt.Chart:
    """Draw an axis in bytes on the right for the same heights, with invisible marks."""
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
    """Draw the distinct experts of a batch, one line per kind of batch. Columns: those of `batch_coverage`."""
    axis = alt.Axis(format="d", grid=False)
    x = alt.X("batch:Q", title="tokens in a batch", scale=alt.Scale(type="log", base=2), axis=axis)
    y = alt.Y("mean:Q", title="distinct experts of a layer", scale=alt.Scale(zero=True))
    tips = [*theme.tooltip(batch=("tokens", "d")), *_spread("distinct experts", ".1f")]
    return _mean_lines(frame, "batch", BATCHES, x, y, tips)


def prefetch_curve(frame: pd.DataFrame) -> alt.Chart:
    """Recall over the number of experts named, a line a predictor. Columns: those of `prefetch_recall`."""
    title = "experts fetched ahead, of each layer"
    x = alt.X("m:Q", title=title, scale=_span(frame["m"]), axis=theme.whole_axis())
    y = alt.Y("mean:Q", title="of what a token needs", scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis())
    tips = [*theme.tooltip(m=("experts fetched", "d")), *_spread("recall", ".1%")]
    return _mean_lines(frame, "m", PREDICTORS, x, y, tips)


def _mean_lines(frame: pd.DataFrame, over: str, lines: Lines, x: alt.X, y: alt.Y, tips: list[alt.Tooltip]) -> alt.Chart:
    """Draw the mean over layers, a line for each of these columns."""
    drawn, colour, dash = _named_lines(_means(frame, over, lines), "kind", lines)
    chart = theme.lines(drawn, DOTTED_LINE, x=x, y=y, color=colour, strokeDash=dash, tooltip=tips)
    return theme.framed(chart, theme.MEDIUM)


def _named_lines(frame: pd.DataFrame, field: str, lines: Lines) -> tuple[pd.DataFrame, alt.Color, alt.StrokeDash]:
    """Return the rows with the names of their lines, without unknown values; and the channels that differ."""
    value = "rate" if "rate" in frame else "mean"
    lines = {key: row for key, row in lines.items() if (frame[field] == key).any()}
    names, colours, dashes = zip(*lines.values(), strict=True)
    drawn = frame[frame[value].notna()].assign(line=frame[field].map({key: row[0] for key, row in lines.items()}))
    colour = theme.colour("line", names, colours, columns=2, labelLimit=200, symbolType="stroke")
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=list(names), range=[list(row) for row in dashes]))
    return drawn, colour, dash


def _means(frame: pd.DataFrame, over: str, lines: Lines) -> pd.DataFrame:
    """Compute the mean over layers, with the lowest and the highest layer."""
    long = frame.melt(["layer", over], list(lines), "kind", "value")
    found = long.groupby(["kind", over], sort=False)["value"].agg(mean="mean", lowest="min", highest="max")
    return found.reset_index()


def _spread(title: str, number: str) -> list[alt.Tooltip]:
    return theme.tooltip(
        line=("which", ""),
        mean=(f"{title}, mean of layers", number),
        lowest=("lowest layer", number),
        highest=("highest layer", number),
    )


def _span(sizes: pd.Series) -> alt.Scale:
    return alt.Scale(domain=[int(sizes.min()), max(int(sizes.max()), int(sizes.min()) + 1)], nice=False)


def placement_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """Devices reached against imbalance: a large mark a placement, a small one each layer. Columns: those of
    `serving_placement`."""
    if frame["reached"].isna().all():
        raise MissingField(
            "The devices that a token reaches need the experts of each token, and these are counts, or nothing is left "
            "to judge a plan on. Use a trace of two tokens or more."
        )
    named = frame.drop(columns="plan").assign(
        line=frame["placement"].map({key: row[0] for key, row in PLACEMENTS.items()})
    )
    numbers = ["reached", "imbalance", "step_imbalance"]
    means = named.groupby("line", sort=False)[numbers].mean().reset_index()
    worst = named.groupby("line")["imbalance"].max().rename("worst")
    names, colours, shapes = zip(*PLACEMENTS.values(), strict=True)
    legend = {"columns": 2, "symbolOpacity": 1}
    apart = alt.Scale(zero=False, padding=12)
    title = f"devices that a token reaches, of {devices_said(frame)}"
    channels = {
        "color": theme.colour("line", names, colours, **legend),
        "shape": theme.named(alt.Shape, "line", names, shapes, **legend),
        "x": alt.X("reached:Q", title=title, scale=apart),
        "y": alt.Y("imbalance:Q", title="busiest device, × mean", scale=apart),
    }
    tips = theme.tooltip(
        line=("placement", ""),
        reached=("devices reached", ".2f"),
        imbalance=("busiest device, × mean", ".2f"),
        step_imbalance=("in steps of 64 tokens", ".2f"),
    )
    layer, worst_layer = theme.tooltip(layer="d", worst=("in the worst layer", ".2f"))
    small = {"filled": True, "size": 24, "opacity": 0.35}
    large = {"filled": True, "size": 160, "opacity": 1}
    of_layers = theme.points(named, small, **channels, tooltip=[layer, *tips])
    of_all = theme.points(means.merge(worst, on="line"), large, **channels, tooltip=[*tips, worst_layer])
    return theme.framed(theme.layered(of_layers, of_all), theme.MEDIUM)


def cards_that_fit(frame: pd.DataFrame) -> alt.LayerChart:
    """Cards by use, with how many of them it takes. Columns: those of `what_fits`."""
    card = frame["card"].str.replace(" 80GB", "") + " · " + frame["card_gb"].astype("str") + " GB"
    use = frame["batch"].astype("str") + " × " + (frame["context"] // 1024).astype("str") + "k"
    parts = {"weights": "weights", "keys_and_values": "keys and values", "step": "a step", "together": "together"}
    said = {part: (frame[part] * GIGABYTE).map(bytes_said) for part in parts}
    shown = frame.assign(row=card, use=use, few=frame["cards"].clip(upper=FEW + 1), **said)
    base = alt.Chart(shown).encode(
        x=alt.X("use:N", title="sequences × tokens of each", sort=None, axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("row:N", title=None, sort=None),
        tooltip=[
            *theme.tooltip(
                row=("card", ""),
                batch=("sequences", "d"),
                context=("tokens of each", ",d"),
                cards=("cards needed", "d"),
            ),
            *theme.figures("", **parts),
        ],
    )
    scale = alt.Scale(domain=[1, 2, FEW, FEW + 1], range=["#44AA99", "#9CC3E4", "#F3B26B", "#9a9a9a"])
    cells = base.mark_rect().encode(color=alt.Color("few:O", scale=scale, legend=None))
    words = base.mark_text(color="black").encode(text=alt.Text("cards:Q", format=",d"))
    return theme.framed(theme.layered(cells, words), theme.rows_height(frame["card"].nunique()))


def memory_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw a model's memory at each precision, part by part, against the cards. Columns: those of `memory_on_cards`."""
    named = frame.rename(columns=PARTS).assign(precision=frame["weight_bits"].astype("str") + " bits")
    long = named.melt("precision", list(PARTS.values()), "part", "gigabytes")
    long = long.assign(
        size=(long["gigabytes"] * GIGABYTE).map(bytes_said), order=long["part"].map(list(PARTS.values()).index)
    )
    most = float(max(frame["together"].max(), frame["usable"].max()))
    unit, size = byte_unit(most * GIGABYTE)
    scale = alt.Scale(domain=[0, most * GIGABYTE / size * 1.02], nice=False)
    apart = alt.Scale(paddingInner=0.5, paddingOuter=0.3)
    y = alt.Y("precision:N", title=None, sort=None, axis=alt.Axis(grid=False), scale=apart)
    bars = theme.bars(
        long.assign(taken=long["gigabytes"] * GIGABYTE / size),
        y=y,
        x=alt.X("taken:Q", title=f"{unit} (line: what the cards hold)", scale=scale, axis=alt.Axis(tickCount=6)),
        color=theme.colour("part", PARTS.values(), PART_COLOURS, columns=2),
        order="order:Q",
        tooltip=theme.tooltip(precision=("weights in", ""), part="", size=""),
    )
    limit = alt.Chart(named[["precision"]].assign(usable=frame["usable"] * GIGABYTE / size))
    line = limit.mark_tick(color=theme.ACCENT, thickness=4, size=BAND).encode(x=alt.X("usable:Q", scale=scale), y=y)
    words = [
        f"{bytes_said(row.together * GIGABYTE)}: "
        + ("fits" if row.together <= row.usable else f"{max(row.fit, 0)} of {row.num_experts} experts per layer fit")
        for row in frame.itertuples()
    ]
    written = alt.Chart(named[["precision"]].assign(words=words)).mark_text(
        align="left", baseline="top", dy=WORDS_BELOW, color=theme.NOTE
    )
    return theme.framed(
        theme.layered(
            bars,
            line,
            written.encode(y=alt.Y("precision:N", sort=None, bandPosition=1), x=alt.XValue(0), text="words:N"),
        ),
        MEMORY_HEIGHT,
    )


# No caption: it is arithmetic on the model's sizes, and `fit_sentence` words it.
MEMORY = Chart.row(memory_bars, memory_on_cards)
CACHE = Chart.row(hit_rate_curve, hit_rates, hit_rates_caption)
BATCH = Chart.row(distinct_experts_curve, batch_coverage, batch_coverage_caption)
# No caption: shares without counts, and of a short text a predictor does well by chance.
PREFETCH = Chart.row(prefetch_curve, prefetch_recall)
PLANE = Chart.row(placement_plane, serving_placement, serving_placement_caption)
# No caption: it is arithmetic on the model's sizes: every cell is an answer.
FITS = Chart.row(cards_that_fit, what_fits)
OF_TRACES = (CACHE, PLANE, BATCH, PREFETCH)  # without a budget, rates by experts; on as many devices as is usual
CHARTS = (*OF_TRACES, FITS)
