"""Charts as SVG files: in light and dark, for a wide and for a narrow page. Drawn by vl-convert, without a network."""

import html
import re
import shutil
from pathlib import Path

import altair as alt

from moeviz.report.pictures import as_vega, at_width
from moeviz.report.plots import with_data_inside

FOLDER = Path(__file__).parents[2] / "build" / "docs-pictures"  # where no site is built; else a folder of the site
WIDTHS = {"": 720, "-narrow": 340}  # pixels
TEXT, LINES, GRID = "#1c2030", "#8d8f96", "#e0dfd9"  # on a light page
ON_DARK = {TEXT: "#e9e8e3", LINES: "#7c7f8a", GRID: "#33363f"}
AXIS = {"labelColor": TEXT, "titleColor": TEXT, "domainColor": LINES, "tickColor": LINES, "gridColor": GRID}
CONFIG = {
    "aria": False,
    "background": None,
    "view": {"stroke": GRID},
    "axis": AXIS,
    "legend": {"labelColor": TEXT, "titleColor": TEXT},
    "header": {"labelColor": TEXT, "titleColor": TEXT},
    "title": {"color": TEXT, "subtitleColor": TEXT},
    "text": {"color": TEXT},
}
SIZE = re.compile(r'width="[\d.]+" height="[\d.]+"')


def picture(
    chart: alt.Chart | alt.LayerChart, key: str, alternative: str, dark: alt.Chart | alt.LayerChart | None = None
) -> str:
    """The HTML that shows a chart, whose files are written beside the pages; `alternative` for who sees none.

    It is for a page in a folder of the site: the files are one level up. `dark` is the chart for a dark page, where
    more than the colours of words and lines differ.
    """
    vega, on_dark = _vega(chart), _vega(dark) if dark else None
    sizes, like = {}, None
    for suffix, width in WIDTHS.items():
        drawn = at_width(vega, width, like)
        like = like or (drawn, width)
        sizes[suffix] = SIZE.search(drawn)[0]
        write(f"{key}{suffix}.svg", drawn)
        drawn = at_width(on_dark, width, like) if on_dark else drawn
        for light, other in ON_DARK.items():
            drawn = drawn.replace(f'"{light}"', f'"{other}"')
        write(f"{key}{suffix}-dark.svg", drawn)
    return f'<div class="chart">{"".join(_shown(key, theme, alternative, sizes) for theme in ("", "-dark"))}</div>'


def write(name: str, text: str) -> None:
    """A file that is shown by a page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(text, encoding="utf-8")


def begin(app) -> None:
    """Draw into the site that is built, without pictures of an earlier build. Called by Sphinx (`builder-inited`)."""
    global FOLDER
    FOLDER = Path(app.outdir) / "pictures"
    shutil.rmtree(FOLDER, ignore_errors=True)
    if (own := Path(app.srcdir) / "pictures").exists():
        shutil.copytree(own, FOLDER)


def _vega(chart: alt.Chart | alt.LayerChart) -> dict:
    return as_vega(with_data_inside(chart).to_dict(), WIDTHS[""], CONFIG)


def _shown(key: str, theme: str, alternative: str, sizes: dict[str, str]) -> str:
    """With its size, so that nothing moves when it is loaded."""
    return (
        f'<picture class="only-{"dark" if theme else "light"}"><source media="(max-width: 640px)" '
        f'srcset="../pictures/{key}-narrow{theme}.svg" {sizes["-narrow"]}><img src="../pictures/{key}{theme}.svg" '
        f'{sizes[""]} alt="{html.escape(alternative)}" loading="lazy"></picture>'
    )
