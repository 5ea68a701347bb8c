"""Charts as pictures that need no program to be seen: each a `data:` URI, in a wide and a narrow form.

A picture in an `<img>` runs nothing and fetches nothing, whatever is in it, and its ids meet no ids of the page.
"""

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
MANY_MARKS = 2_500  # of a vector picture; drawing fewer as a bitmap takes longer and hardly saves bytes, if at all
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
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
    return _svg(_compiled(chart)).encode()


def picture(chart: alt.Chart | alt.LayerChart, alternative: str) -> str:
    """Return the HTML of a chart: the narrow picture on a narrow page, else the wide one; `alternative` is its text."""
    compiled = _compiled(chart)
    wide, narrow = (_data_uri(compiled | {"width": width}) for width in (WIDE, NARROW))
    return (
        f'<picture><source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{escape(alternative)}"></picture>'
    )


def _compiled(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """Return a chart as Vega, which is the same for every width but for the number that says it."""
    import vl_convert

    spec: dict[str, Any] = chart.to_dict(validate=False)
    # With `aria` each mark has a name for screen readers: three times the bytes, and the page has a table of numbers.
    look = {"width": WIDE, "autosize": {"type": "fit", "contains": "padding"}}
    spec |= look | {"config": spec["config"] | {"aria": False}}
    compiled: dict[str, Any] = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE)
    return compiled


def _svg(compiled: dict[str, Any]) -> str:
    import vl_convert

    return vl_convert.vega_to_svg(compiled, allowed_base_urls=[])


def _data_uri(compiled: dict[str, Any]) -> str:
    import vl_convert

    drawn = _svg(compiled)
    if drawn.count("<path") < MANY_MARKS:
        return _uri("image/svg+xml", drawn.encode())
    bitmap = compressed(vl_convert.svg_to_png(drawn, scale=SHARPNESS))
    return min(_uri("image/svg+xml", drawn.encode()), _uri("image/png", bitmap), key=len)


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
