"""Charts as pictures that need no program to be seen: each a `data:` URI, wide and, if it fits a phone, narrow.

A picture in an `<img>` runs nothing and fetches nothing, whatever is in it, and its ids meet no ids of the page.
"""

import re
import zlib
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from struct import pack, unpack
from typing import Any

import altair as alt
from altair.utils.schemapi import disable_debug_mode

from moeviz.charts.chart import DATA
from moeviz.charts.theme import NOTE, ON_DARK
from moeviz.errors import MoevizError

WIDE, NARROW = 860, 330  # pixels, of a page on a desk and on a phone
BESIDE, ABOVE = 60, 70  # pixels that axes, legend and titles take of them, about
LEAST = 120  # pixels of what is plotted
FAR_OFF = 1.1  # times the width that was asked for
MANY_MARKS = 2_500  # of a vector picture; drawing fewer as a bitmap takes longer and hardly saves bytes, if at all
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
# With `aria` each mark has a name for screen readers: three times the bytes, and the page has a table of numbers.
UNNAMED = {"aria": False}
SHARPNESS = 2  # pixels of a bitmap per pixel of the page


def check_installed() -> None:
    """Raise `MoevizError` if the optional converter is missing."""
    if not installed():
        raise MoevizError('Drawing the charts of a report needs vl-convert-python: run `pip install "moeviz[report]"`.')


def installed() -> bool:
    """True if the optional converter is installed."""
    return find_spec("vl_convert") is not None


def svg(chart: alt.Chart | alt.LayerChart) -> bytes:
    """Return a chart as SVG, as wide as a page on a desk. Its data must be inside (`plots.with_data_inside`)."""
    check_installed()
    return _svg(as_vega(chart.to_dict(validate=False), limit=True)).encode()


def picture(chart: alt.Chart | alt.LayerChart, alternative: str) -> str:
    """Return the HTML of a chart, wide and, for a narrow page, narrow; `alternative` is its text.

    A chart of many marks is drawn wide only: a phone's width has no room for them, so there it scrolls.
    """
    vega = as_vega(chart.to_dict(validate=False))
    wide, text = at_width(vega | {"height": vega["height"] - ABOVE}, WIDE), escape(alternative)
    if wide.count("<path") >= MANY_MARKS:
        image = f'<img src="{_smaller(wide)}" width="{_width(wide)}" alt="{text}">'
        return f'<picture class="many" tabindex="0">{image}</picture>'
    narrow = at_width(vega, NARROW, like=(wide, WIDE))
    return (
        f'<picture><source media="(max-width: 640px)" srcset="{_svg_uri(narrow)}">'
        f'<img src="{_svg_uri(wide)}" alt="{text}"></picture>'
    )


def at_width(vega: dict[str, Any], width: int, like: tuple[str, int] | None = None) -> str:
    """Return a chart as SVG, about as wide as that: its words take what those of `like` take, drawn at that width.

    The size of a chart is that of what is plotted, and the words come on top: they are laid out once, and twice where
    the whole must fit.
    """
    beside = BESIDE if like is None else _width(like[0]) - like[1] + BESIDE
    drawn = _svg(vega | {"autosize": "pad", "width": max(width - beside, LEAST)})
    is_far_off = like is None and _width(drawn) > FAR_OFF * width
    return at_width(vega, width, like=(drawn, width)) if is_far_off else drawn


def _width(drawn: str) -> int:
    found = re.search(r'<svg[^>]*? width="(\d+)', drawn)
    return int(found[1]) if found else WIDE


def as_vega(
    spec: dict[str, Any], width: int = WIDE, config: dict[str, Any] = UNNAMED, limit: bool = False
) -> dict[str, Any]:
    """Return a chart in Vega-Lite as Vega, in the looks of `config` where it does not choose its own.

    Its labels are cut where it says so, and with `limit` where they are very long: that measures each a second time,
    and to measure words is most of what a picture costs.
    """
    import vl_convert

    look = {"width": width, "autosize": {"type": "fit", "contains": "padding"}}
    guides = {} if limit else {part: {"labelLimit": 0} | config.get(part, {}) for part in ("axis", "legend")}
    found: dict[str, Any] = vl_convert.vegalite_to_vega(spec | look, vl_version=VEGA_LITE, config=config | guides)
    return found


def _svg(vega: dict[str, Any]) -> str:
    import vl_convert

    return vl_convert.vega_to_svg(vega, allowed_base_urls=[])


def _smaller(drawn: str) -> str:
    """Return a picture as vectors or as a bitmap, whichever is smaller."""
    import vl_convert

    bitmap = compressed(vl_convert.svg_to_png(drawn, scale=SHARPNESS))
    return min(_svg_uri(drawn), _uri("image/png", bitmap), key=len)


def _svg_uri(drawn: str) -> str:
    return _uri("image/svg+xml", drawn.encode())


def _uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{b64encode(data).decode()}"


def compressed(png: bytes) -> bytes:
    """Compress a PNG without loss: the converter hardly does. A chunk is length, kind, body, checksum."""
    kept, pixels, at = [png[:8]], b"", 8
    while at < len(png):
        (size,) = unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        at += size + 12
        if kind == b"IDAT":
            pixels += body
            continue
        if kind == b"IEND":
            kept.append(_chunk(b"IDAT", zlib.compress(zlib.decompress(pixels))))
        kept.append(_chunk(kind, body))
    return b"".join(kept)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body))


@dataclass(frozen=True, slots=True)
class Unchecked:
    """All that Streamlit asks of a chart."""

    chart: alt.TopLevelMixin
    dark: bool = False  # whether it stands on a dark page

    def to_dict(self) -> dict[str, Any]:
        """Return the chart as Vega-Lite, in the colours of its page."""
        spec: dict[str, Any] = self.chart.to_dict(validate=False)
        own = spec.get("config", {})  # Streamlit's own words have a contrast of 3.7
        spec["config"] = own | {part: WORDS | own.get(part, {}) for part in ("axis", "legend", "header")}
        return _on_dark(spec) if self.dark else spec


WORDS = {"labelColor": NOTE, "titleColor": NOTE}  # of axes and legends
SMALL = 92  # pixels of the height of a small picture
SIDES = ("top", "right", "bottom", "left")


class Small(Unchecked):
    """A chart as a small picture: without axes, legends, tooltips and text."""

    def to_dict(self) -> dict[str, Any]:
        """Return the chart as Vega-Lite, as wide as its place."""
        look = {"height": SMALL, "config": {"view": {"stroke": None}}, "padding": dict.fromkeys(SIDES, 2)}
        look |= {"usermeta": {"embedOptions": {"renderer": "canvas"}}}  # no mark of it speaks to a screen reader
        spec: dict[str, Any] = _bare(Unchecked.to_dict(self))
        return spec | look


def _bare(part: Any) -> Any:
    if isinstance(part, list):
        return [_bare(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: value if name in DATA else _bare(value) for name, value in part.items()}
    if "layer" in found:
        found["layer"] = [each for each in found["layer"] if not _is_text(each)] or found["layer"]
    if isinstance(channels := found.get("encoding"), dict):
        found["encoding"] = {name: _without_guides(name, channel) for name, channel in channels.items()}
    return found


def _is_text(part: dict[str, Any]) -> bool:
    mark = part.get("mark")
    return mark == "text" or (isinstance(mark, dict) and mark.get("type") == "text")


def _without_guides(name: str, channel: Any) -> Any:
    if not isinstance(channel, dict) or name in ("tooltip", "text", "x2", "y2", "xOffset", "order", "detail"):
        return {"value": None} if name == "tooltip" else channel
    return channel | ({"axis": None} if name in ("x", "y") else {"legend": None})


def _on_dark(part: Any) -> Any:
    """Return a part of a chart in the colours of a dark page; its data stay as they are."""
    if isinstance(part, dict):
        return {name: value if name in DATA else _on_dark(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_on_dark(each) for each in part]
    return ON_DARK.get(part, part) if isinstance(part, str) else part


def without_checks() -> None:
    """From now on no part of a chart is checked when it is made, in all of this process."""
    disable_debug_mode()
