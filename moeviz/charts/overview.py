"""A whole trace as one picture, to find a stretch in and choose it. Not a topic: the other charts draw the stretch.

Drawn as marks, more than about eight thousand cells take a browser seconds; as the pixels of an image, next to no time.
"""

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from jaxtyping import UInt8

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import NOT_RECORDED

BRUSH = "brush"  # the selection, by the columns' `start`
HOVERED = 512  # columns that can be pointed at: narrower than a finger or a mouse can hold
LETTERS = 40  # of a column's text that are shown
OTHERS = "other"
WINDOW = {"fill": None, "stroke": theme.ACCENT, "strokeWidth": 3, "tooltip": None}  # a frame around what is drawn below


def first_choice_overview(frame: pd.DataFrame) -> alt.LayerChart:
    """Token by layer of a whole trace, coloured by first choice. Columns: those of `modal_first_choice`."""
    colour, domain, range_, title = _colours(frame)
    layers = frame["layer"].unique()
    pixels = colour.to_numpy(np.uint8).reshape(-1, len(layers)).T
    length, last = int(frame["tokens"].iloc[0]), int((frame["token"] + frame["tokens"]).iloc[-1])
    whole = pd.DataFrame(
        {
            "url": [png(pixels, range_)],
            "start": [-0.5],
            "end": [pixels.shape[1] * length - 0.5],
        }  # may end past the last
    )
    x = alt.X(
        "start:Q",
        title="token of the trace",
        scale=alt.Scale(domain=[-0.5, last - 0.5], nice=False, zero=False),
        axis=alt.Axis(grid=False, tickMinStep=1, format="d", labelOverlap=True, labelFlush=True),
    )
    picture = (
        alt.Chart(whole)
        .mark_image(aspect=False, smooth=False, clip=True, tooltip=None)
        .encode(url="url:N", x=x, x2="end:Q", y=alt.YValue(0), y2=alt.Y2Value("height"))
    )
    chart = alt.layer(_rows(layers, domain, range_, title), picture, _columns(frame, x))
    return theme.framed(chart, min(theme.rows_height(len(layers)), theme.MEDIUM), canvas=True)


def _colours(frame: pd.DataFrame) -> tuple[pd.Series, list[str], list[str], str]:
    """Return the index of each cell's colour (0 = no expert), names and colours from 1 on, and the legend's title."""
    place, domain, colours, title = _colours_of_experts(frame)
    missing = frame["expert"] == NOT_RECORDED
    if missing.any():
        domain, colours = [*domain, theme.NOT_RECORDED], [*colours, theme.PALE]
        place = place.mask(missing, len(domain))
    return place, domain, colours, title


def _colours_of_experts(frame: pd.DataFrame) -> tuple[pd.Series, list[str], list[str], str]:
    num_experts = int(frame["num_experts"].max())
    if num_experts <= len(theme.EXPERT_COLOURS):
        domain = [str(expert) for expert in range(num_experts)]
        return frame["expert"] + 1, domain, theme.expert_colours(num_experts), "expert"
    domain = [*(str(place) for place in range(1, theme.FOCUS + 1)), OTHERS]
    colours = [*theme.EXPERT_COLOURS[: theme.FOCUS], theme.OTHER]
    return frame["rank"].clip(upper=len(domain)), domain, colours, "1 = the layer's busiest expert in the whole trace"


def _rows(layers: np.ndarray, domain: list[str], colours: list[str], title: str) -> alt.Chart:
    """Draw invisible marks that give the image its axis of layers, and its legend."""
    rows = pd.DataFrame({"layer": layers, "colour": domain[0]})
    colour = theme.colour("colour", domain, colours, **squares(title, domain))
    return alt.Chart(rows).mark_rect(opacity=0, tooltip=None).encode(y=theme.layer_rows(), color=colour)


def squares(title: str, names: Iterable[str]) -> dict[str, Any]:
    """Describe a legend that names experts by the colours of their cells."""
    columns = 5 if OTHERS in names else 9
    return {"title": title, "titleLimit": 330, "symbolType": "square", "symbolOpacity": 1, "columns": columns}


def _columns(frame: pd.DataFrame, x: alt.X) -> alt.Chart:
    """Draw transparent columns to point at, and the brush."""
    stretches = frame.drop_duplicates("token")
    texts, several = stretches["text"].tolist(), -(-len(stretches) // HOVERED)
    first = stretches["token"].to_numpy()[::several]
    last = np.append(first[1:] - 1, (stretches["token"] + stretches["tokens"]).iloc[-1] - 1).astype(np.int32)
    columns = pd.DataFrame(
        {
            "first": first,
            "last": last,
            "start": (first - 0.5).astype(np.float32),
            "end": (last + 0.5).astype(np.float32),
            "shown": [_shorten("".join(texts[i : i + several])) for i in range(0, len(texts), several)],
        }
    )
    brush = alt.selection_interval(name=BRUSH, encodings=["x"], zoom=False, mark=alt.BrushConfig(cursor="move"))
    return (
        alt.Chart(columns)
        .mark_rect(opacity=0, cursor="crosshair")
        .encode(
            x=x,
            x2="end:Q",
            # `shown`, since Vega makes an image or a heading of some names.
            tooltip=theme.tooltip(shown=("text", ""), first=("from token", "d"), last=("to token", "d")),
        )
        .add_params(brush)
    )


def _shorten(text: str) -> str:
    return visible(text[:LETTERS]) + ("…" if len(text) > LETTERS else "")


def png(pixels: UInt8[np.ndarray, "H W"], colours: Sequence[str]) -> str:
    """Return an image as a data URL: each pixel the place of its colour among `colours`, from 1; 0 is transparent.

    A colour is #rrggbb, or #rrggbbaa if it is partly transparent.

    Written here, since a PNG with a palette is four chunks and zlib, and an imaging library would be one more thing to
    install with the library. Source: PNG specification, third edition (W3C), sections 5 and 11.
    """
    height, width = pixels.shape
    parts_of = [bytes.fromhex(f"{colour.removeprefix('#')}ff"[:8]) for colour in colours]
    palette, alpha = bytes(3) + b"".join(part[:3] for part in parts_of), b"\0" + b"".join(part[3:] for part in parts_of)
    lines = np.pad(pixels, ((0, 0), (1, 0)))  # each line begins with its filter: 0, none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", alpha.rstrip(b"\xff")),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    )
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def with_window(chart: alt.LayerChart, rows: range) -> alt.LayerChart:
    """Draw the overview with a frame around the tokens that are drawn below it."""
    window = pd.DataFrame({"start": [rows.start - 0.5], "end": [rows.stop - 0.5]})
    return chart + alt.Chart(window).mark_rect(**WINDOW).encode(x="start:Q", x2="end:Q")


def linked_overview(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the overview for a page that holds its Vega view, and sets its width.

    Its choice is signals of the view: `token`, a row of the trace that a line stands on (-1: none), and `from` and
    `to`, between which a window has its frame; and `ink`, the page's own colour.
    """
    names = {"token": -1, "from": -0.5, "to": -0.5, "ink": theme.NOTE}
    token, start, end = (alt.datum(alt.ExprRef(name), type="quantitative") for name in ("token", "from", "to"))
    one, ink = alt.Chart(alt.InlineData(values=[{}])), alt.ExprRef("ink")
    line = one.mark_rule(strokeWidth=2, stroke=ink, tooltip=None)
    window = one.mark_rect(**WINDOW)
    words = {"labelColor": ink, "titleColor": ink}
    return (
        (
            first_choice_overview(frame)
            + line.encode(x=token, opacity=alt.OpacityValue(alt.ExprRef("token < 0 ? 0 : 1")))
            + window.encode(x=start, x2=end, opacity=alt.OpacityValue(alt.ExprRef("from < to ? 1 : 0")))
        )
        .add_params(*(alt.param(name=name, value=value) for name, value in names.items()))
        .properties(width=600)
        .configure_axis(**words)
        .configure_legend(**words)
        .configure_view(stroke=None)
    )


def brushed_window(brush: Sequence[float], tokens: int) -> range:
    """The rows that a brush covers in a trace of this many `tokens`: from its left edge on, and at most MAX_TOKENS.

    Its edges are fractions and may lie outside the picture. A token counts if its middle is covered, or if the brush is
    narrower than a token.

    >>> brushed_window([299.7, 350.2], 4096), brushed_window([-3.2, 4000.5], 4096), brushed_window([4095.9, 9e9], 4096)
    (range(300, 351), range(0, 256), range(4095, 4096))
    """
    left, right = sorted(float(edge) for edge in np.nan_to_num(np.asarray(brush, np.float64)))
    start = int(np.clip(np.ceil(left), 0, tokens - 1))
    stop = int(np.clip(np.floor(right) + 1, start + 1, min(start + theme.MAX_TOKENS, tokens)))
    return range(start, stop)


WHOLE_TRACE = Chart.row(first_choice_overview, modal_first_choice)


def described(frame: pd.DataFrame) -> Chart:
    """WHOLE_TRACE, with words for what a column is in this `frame` if it is more than one token."""
    if (length := int(frame["tokens"].max())) == 1:
        return WHOLE_TRACE
    what = f"Each column is {length:,} tokens one after another and each row a layer, coloured by their most frequent "
    what += "first choice."
    return replace(WHOLE_TRACE, reading=what + WHOLE_TRACE.reading.partition(".")[2])
