"""Every page in a real Chromium: on a desktop and a phone, light and dark, to read and to hear.

On no page may anything serious be in the way of a screen reader, a keyboard or weak eyes.
"""

import pytest
from browser import BACKGROUND, SIZES, TO_THE_TOP, all_drawn, eventually, fits, go_to, in_colours, settled
from browser_pages import DRAWN
from playwright.sync_api import expect

from moeviz_app.views.explore import OVERVIEW
from moeviz_app.views.menu import MORE, QUESTIONS

pytestmark = pytest.mark.browser
COLOURS = f"""() => [...document.querySelectorAll("{DRAWN}")].map((drawing) => drawing.tagName === "CANVAS"
  ? drawing.toDataURL()
  : [...new Set(drawing.innerHTML.match(/(fill|stroke)="[^"]*"/g))].sort().join())"""


def test_the_page_and_each_of_its_charts_follow_the_colours_of_the_system(visit):
    """Else the test below would look at the same colours twice."""
    page = visit("/load")
    charts = page.get_by_test_id("stVegaLiteChart")
    all_drawn(page)
    eventually(page, lambda: 1 < charts.count() == page.locator(DRAWN).count())
    seen = {}
    for scheme in ("light", "dark", "light"):
        in_colours(page, scheme)
        seen[scheme] = [page.evaluate(BACKGROUND), *page.evaluate(COLOURS)]
    assert len(seen["light"]) == len(seen["dark"]) == charts.count() + 1
    assert all(in_light != in_dark for in_light, in_dark in zip(seen["light"], seen["dark"], strict=True))


SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((shift) => (window.shifted += shift.value)))
    .observe({ type: "layout-shift" });
}"""
SCRIPT_OF_CHARTS = "**/ArrowVegaLiteChart.*.js"
DOWN = "() => document.querySelector('[data-testid=stMain]').scrollBy(0, innerHeight / 2)"
IS_AT_END = """() => {
  const main = document.querySelector("[data-testid=stMain]");
  return main.scrollTop + main.clientHeight > main.scrollHeight - 2;
}"""
PLACES = "[class*='st-key-place-of-']:not(.st-key-place-of-downloads)"
FONTS = "async () => { await Promise.all([...document.fonts].map((font) => font.load())); }"
TALLEST_GAP = f"""() => Math.max(...[...document.querySelectorAll("{PLACES}")].map((place) => {{
  const chart = place.querySelector(".stVegaLiteChart");
  return chart.getBoundingClientRect().height - chart.querySelector("canvas, svg.marks").getBoundingClientRect().height;
}}))"""
HAVE_THEIR_SIZE = f"""() => [...document.querySelectorAll("{PLACES}")].every(
  (place) => parseFloat(getComputedStyle(place).minHeight) > 0 || place.querySelector("canvas, svg.marks")
)"""


@pytest.mark.parametrize("size", SIZES)
def test_pictures_below_the_fold_come_when_they_are_scrolled_to_and_nothing_jumps(visit, size):
    page = visit(size=size)
    places = page.locator(PLACES)
    pictures = places.locator(DRAWN)
    expect(places).to_have_count(len(OVERVIEW))
    eventually(
        page, lambda: page.evaluate(HAVE_THEIR_SIZE)
    )  # a place is as high as its picture once its script is there
    page.evaluate(FONTS)  # an icon is a wide word until its font is there
    settled(page)
    assert pictures.count() < places.count(), "what is far down waits"
    scripts = []  # of charts, which are kept waiting until the words beside the first one are there
    page.route(SCRIPT_OF_CHARTS, lambda script: scripts.append(script))
    page.evaluate(SHIFTS)
    places.first.evaluate("(place) => place.scrollIntoView()")
    expect(places.first.get_by_text(OVERVIEW[0].reading)).to_be_attached()
    (script,) = scripts
    script.continue_()
    while not page.evaluate(IS_AT_END):
        page.evaluate(DOWN)
        settled(page)
    eventually(page, pictures.count, places.count())
    assert page.evaluate("window.shifted") <= 0.02
    page.evaluate(TO_THE_TOP)  # out of sight, what was kept for a picture becomes as high as the picture
    eventually(page, lambda: page.evaluate(TALLEST_GAP), lambda gap: gap < 20)
    fits(page)


@pytest.mark.parametrize("size", SIZES)
def test_buttons_of_files_stand_where_their_places_were_however_late_their_script_comes(visit, size):
    page, scripts = visit(size=size), []
    row = page.locator(".st-key-downloads")
    page.route("**/DownloadButton.*.js", lambda script: scripts.append(script))
    page.locator(".st-key-place-of-downloads").scroll_into_view_if_needed()
    eventually(page, lambda: scripts and row.get_by_test_id("stSkeleton").count() > 5)
    settled(page)
    page.evaluate(SHIFTS)
    scripts[0].continue_()
    expect(row.get_by_role("button")).to_have_count(7)
    expect(row.get_by_test_id("stSkeleton")).to_have_count(0)
    settled(page)
    assert page.evaluate("window.shifted") == 0
    fits(page)


def test_a_page_prints_without_menu_and_buttons_and_to_its_end_and_all_pictures_come_first(visit):
    page = visit("/load")
    page.emulate_media(media="print")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for gone in (page.locator(".st-key-menu a"), page.locator(".st-key-submenu a"), page.get_by_role("button")):
        expect(gone.locator("visible=true")).to_have_count(0)
    is_paper = "(main) => main.scrollHeight - main.clientHeight <= 1"
    eventually(page, lambda: page.get_by_test_id("stMain").evaluate(is_paper))  # all of it, and not a window
    page = visit()
    eventually(page, lambda: page.evaluate(HAVE_THEIR_SIZE))  # their script is there, which prints
    page.evaluate(f"""() => {{ window.moevizPrint = () => (window.printed =
      document.querySelectorAll("{PLACES} .stVegaLiteChart").length) }}""")
    page.keyboard.press("Control+p")
    eventually(page, lambda: page.evaluate("window.printed"), page.locator(PLACES).count())


def test_a_phone_has_four_places_at_the_thumb_and_the_rest_behind_more(visit):
    page = visit("/losses", size="phone")
    bar = page.locator(".st-key-menu")
    box = bar.bounding_box()
    assert box["y"] + box["height"] == pytest.approx(SIZES["phone"]["viewport"]["height"], abs=1)
    assert box["width"] == SIZES["phone"]["viewport"]["width"]
    bar.get_by_role("link", name=MORE).tap()
    expect(page.get_by_role("heading", name=MORE)).to_be_visible()
    expect(page.get_by_text(QUESTIONS["Train"])).to_be_visible()
    fits(page)
    go_to(page, "Train")
