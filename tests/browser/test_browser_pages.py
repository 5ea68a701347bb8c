"""Every page in a real Chromium: on a desktop and a phone, light and dark, to read and to hear.

On no page may anything serious be in the way of a screen reader, a keyboard or weak eyes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from accessible import grave
from browser import BACKGROUND, SIZES, TO_THE_TOP, all_drawn, eventually, fits, go_to, in_colours, settled
from browser_pages import DRAWN, HOSTILE, PROMPT, run
from playwright.sync_api import Page, expect
from tabs import Visits

from moeviz.charts import TOPICS
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from moeviz_app.views.explore import OVERVIEW
from moeviz_app.views.menu import EXHIBIT, FIRST, GALLERY, ICONS, MENU, MORE, QUESTIONS, place_of

pytestmark = pytest.mark.browser
NAMES = [name for names in MENU.values() for name in names if name != FIRST]
LONGER = "\n".join([PROMPT, "The old captain walked along the shore; 12 + 7 = 19."] * 3)


@pytest.fixture(scope="module")
def walk(tabs, server) -> Iterator[Callable[[str], AbstractContextManager[Page]]]:
    """A visitor of a size, who has run a text, and goes from test to test; another one after a test that failed."""
    visits, pages = Visits(tabs, lambda: server), {}

    @contextmanager
    def on(size: str) -> Iterator[Page]:
        page = pages.pop(size, None)
        if page is None:
            page = visits(size=size)
            run(page, LONGER)
        yield page
        visits.check(f"pages on a {size}")
        pages[size] = page

    yield on
    visits.leave("pages")


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


def schemes(size: str, name: str) -> tuple[str, ...]:
    """Of the history there are many pages: each size in one of them."""
    if name in GALLERY:
        return ("dark",) if size == "desktop" else ("light",)
    return ("light", "dark")


OUT_OF_SIGHT = """(link) => {
  const [row, at] = [link.closest(".st-key-menu, .st-key-submenu"), link].map((part) => part.getBoundingClientRect());
  return at.left < row.left - 1 || at.right > row.right + 1;
}"""
BEYOND = """() => [...document.querySelectorAll(".st-key-menu, .st-key-submenu")]
  .map((row) => Math.max(row.scrollWidth - row.clientWidth, 0))"""


def says_where_one_is(page: Page, name: str, size: str) -> None:
    """The page has a name; its place and its tab are called current, and in sight; a desktop has room for both rows."""
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    place, phone = place_of(name), size == "phone"
    of_place, of_tab = (page.locator(f".st-key-{row} a[aria-current=page]:visible") for row in ("menu", "submenu"))
    expect(of_place).to_have_count(1)
    expect(of_place).to_contain_text(MORE if phone and place not in ICONS else place)
    expect(page.locator(".st-key-menu a:visible")).to_have_count(len(ICONS) + 1 if phone else len(MENU))
    if len(MENU[place]) > 1:
        expect(of_tab).to_have_text([EXHIBIT if name in GALLERY else name])
        assert not of_tab.evaluate(OUT_OF_SIGHT)
    assert not of_place.evaluate(OUT_OF_SIGHT)
    assert phone or not any(page.evaluate(BEYOND))


SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((shift) => (window.shifted += shift.value)))
    .observe({ type: "layout-shift" });
}"""
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
@pytest.mark.parametrize("path", ["/", "/load"])
def test_pictures_below_the_fold_come_when_they_are_scrolled_to_and_nothing_jumps(visit, size, path):
    page = visit(path, size=size)
    places = page.locator(PLACES)
    pictures = places.locator(DRAWN)
    expect(places).to_have_count(len(OVERVIEW) if path == "/" else len(TOPICS["Load"] + TOPICS["Coverage"]))
    eventually(
        page, lambda: page.evaluate(HAVE_THEIR_SIZE)
    )  # a place is as high as its picture once its script is there
    page.evaluate(FONTS)  # an icon is a wide word until its font is there
    settled(page)
    assert pictures.count() < places.count(), "what is far down waits"
    page.evaluate(SHIFTS)
    while not page.evaluate(IS_AT_END):
        page.evaluate(DOWN)
        settled(page)
    eventually(page, pictures.count, places.count())
    assert page.evaluate("window.shifted") <= 0.02
    page.evaluate(TO_THE_TOP)  # out of sight, what was kept for a picture becomes as high as the picture
    eventually(page, lambda: page.evaluate(TALLEST_GAP), lambda gap: gap < 20)
    fits(page)


def test_a_page_prints_without_menu_and_buttons_and_to_its_end_and_all_pictures_come_first(visit):
    page = visit("/load")
    page.emulate_media(media="print")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for gone in (page.locator(".st-key-menu a"), page.locator(".st-key-submenu a"), page.get_by_role("button")):
        expect(gone.locator("visible=true")).to_have_count(0)
    is_paper = "(main) => main.scrollHeight - main.clientHeight <= 1"
    eventually(page, lambda: page.get_by_test_id("stMain").evaluate(is_paper))  # all of it, and not a window
    page.emulate_media(media="screen")
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


@pytest.mark.parametrize("name", [FIRST, *NAMES])
@pytest.mark.parametrize("size", SIZES)
def test_a_page_is_drawn_and_has_no_grave_fault(walk, size, name):
    with walk(size) as page:
        go_to(page, name)
        settled(page)
        if name in TOPICS:
            expect(page.locator(DRAWN).first).to_be_visible()
        says_where_one_is(page, name, size)
        for scheme in schemes(size, name):
            in_colours(page, scheme)
            fits(page)
            assert not grave(page, colours_alone=scheme != schemes(size, name)[0]), scheme


def test_what_strangers_wrote_stays_text_on_every_page(visit, tmp_path):
    """Each hostile token twelve times, in two labelled texts, so that every topic has something to say of it."""
    texts = list(HOSTILE) * 12
    tokens = sample_trace(tokens=len(texts)).tokens
    half = np.arange(len(texts)) < len(texts) // 2
    tokens = tokens.assign(
        text=pd.Series(texts, dtype="str"),
        label=np.where(half, HOSTILE[1], HOSTILE[2]),
        sequence=np.where(half, 0, 1).astype(np.int32),
        position=(np.arange(len(texts)) % (len(texts) // 2)).astype(np.int32),
        phase=tokens["phase"].where(~half, "prompt"),
        token_id=np.arange(len(texts), dtype=np.int32) % len(HOSTILE),
    )
    trace = sample_trace(tokens=len(texts))
    file = tmp_path / "hostile.npz"
    write_trace(replace(trace, tokens=tokens, model=replace(trace.model, name=HOSTILE[1], caution=HOSTILE[0])), file)
    page = visit("/files")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("Opened.")).to_be_visible()
    for name in NAMES:
        go_to(page, name)
        settled(page)
        expect(page.locator("img[src='x'], img[src*='example.com'], a[href*='example.com']")).to_have_count(0)
        fits(page)
