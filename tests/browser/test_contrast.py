"""All that is written on a chart can be read, on a light and on a dark page: contrasts of what Chromium draws."""

import pytest
import vl_convert
from chart_cases import fitted, repeated, sized
from labels import labelled

from moeviz.charts import TOPICS, vocabulary
from moeviz.charts.balance import BALANCE
from moeviz.report.pictures import VEGA_LITE, Unchecked
from moeviz.report.plots import with_data_inside
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser
PAGES = {False: "#FDFDFB", True: "#14161D"}
READABLE = 4.5  # WCAG 2.2, AA
# Of each text of a picture: its words, and the contrast of its colour to what lies under its middle, coat by coat.
CONTRASTS = """pictures => pictures.flatMap(picture => {
  const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const coat = (paint, opacity, under) => {
    const [r, g, b, alpha = 1] = paint.match(/[\\d.]+/g).map(Number);
    return [r, g, b].map((value, at) => value * alpha * opacity + under[at] * (1 - alpha * opacity));
  };
  picture.scrollIntoView();
  const page = coat(getComputedStyle(picture).backgroundColor, 1, [0, 0, 0]);
  return [...picture.querySelectorAll("text")].filter((text) => text.textContent.trim()).map((text) => {
    const { left, top, width, height } = text.getBoundingClientRect();
    const under = document.elementsFromPoint(left + width / 2, top + height / 2).filter((mark) =>
      picture.contains(mark) && ["path", "rect", "line"].includes(mark.tagName) &&
      !(text.compareDocumentPosition(mark) & Node.DOCUMENT_POSITION_FOLLOWING));
    const behind = under.reverse().reduce((colour, mark) => {
      const look = getComputedStyle(mark), isLine = mark.tagName === "line" || look.fill === "none";
      const paint = isLine ? look.stroke : look.fill;
      const opacity = look.opacity * (isLine ? look.strokeOpacity : look.fillOpacity);
      return paint === "none" ? colour : coat(paint, opacity, colour);
    }, page);
    const look = getComputedStyle(text), own = coat(look.fill, look.opacity * look.fillOpacity, behind);
    const [low, high] = [luminance(own), luminance(behind)].sort((one, other) => one - other);
    return [text.textContent, (high + 0.05) / (low + 0.05)];
  });
})"""


def drawn(chart, dark: bool) -> str:
    """A chart of the sample trace, as the app draws it on such a page."""
    part = fitted(labelled(sized(sample_trace())), chart)
    frame = chart.measure(repeated(part) if chart in vocabulary.CHARTS else part)
    spec = Unchecked(with_data_inside(chart.picture(frame, dark=dark)), dark).to_dict()
    svg = vl_convert.vegalite_to_svg({"width": 800} | spec | {"background": None}, vl_version=VEGA_LITE)
    return f'<div class="picture" style="background: {PAGES[dark]}">{svg}</div>'


def test_what_is_written_on_charts_stands_out(browser):
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    charts = [BALANCE, *(chart for charts in TOPICS.values() for chart in charts)]
    pictures = "".join(drawn(chart, dark) for chart in charts for dark in PAGES)
    page.set_content(f"<style>* {{ pointer-events: auto !important }}</style>{pictures}")
    found = page.eval_on_selector_all(".picture", CONTRASTS)
    assert len(found) > 1_000
    assert not [(words, contrast) for words, contrast in found if contrast < READABLE]
    page.close()
