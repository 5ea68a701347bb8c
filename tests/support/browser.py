"""The app in a real Chromium: for tests, benchmarks and pictures."""

import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, ViewportSize, expect
from playwright.sync_api import Error as PlaywrightError

from moeviz_app.views.menu import EXHIBIT, FIRST, GALLERY, ICONS, MENU, MORE
from tests.support.waiting import SECONDS

AGENT = "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"
SIZES = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "user_agent": AGENT},
}
PHONE = 640  # the most pixels across that make the menu a phone's, as in its style
OWN = {"127.0.0.1", "localhost"}
LONGEST = SECONDS / 3  # 60 s for what a page does: with a third of that, all passed beside seven busy processes
MILLISECONDS = 1000 * LONGEST
expect.set_options(timeout=MILLISECONDS)
LOOK_EVERY = 50  # ms: looking in each frame costs as much as what is waited for
AT_REST = """() => {
  const rests = document.querySelector("[data-test-script-state=notRunning]") !== null;
  window.looksAtRest = rests ? window.looksAtRest + 1 : 0;
  return window.looksAtRest > 4;
}"""
# Where something has been for a while; null where it has been taken off the page, or does not come to rest.
STANDS = """(what) => new Promise((done) => {
  let before = null, same = 0, looks = 0;
  const look = () => {
    const { x, y, width, height } = what.getBoundingClientRect();
    const now = [x, y, width, height].join();
    same = now === before ? same + 1 : 0;
    before = now;
    if (same > 6 && width && height && what.isConnected) done({ x, y, width, height });
    else if (!what.isConnected || ++looks > 600) done(null);
    else requestAnimationFrame(look);
  };
  look();
})"""
BACKGROUND = """() => getComputedStyle(document.querySelector("[data-testid=stApp]")).backgroundColor"""
WATCH_CHANGES = """() => {
  window.looksUnchanged = 0;
  window.changes?.disconnect();
  window.changes = new MutationObserver(() => (window.looksUnchanged = 0));
  window.changes.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
}"""
A_MOMENT = "(moment) => new Promise((done) => setTimeout(done, moment))"
OVERFLOW = """() => Math.max(
  ...[...document.querySelectorAll("html, [data-testid=stMain]")].map((part) => part.scrollWidth - part.clientWidth)
)"""
# Brings the next part into sight that is not drawn yet; whether there was none.
TO_THE_NEXT = """() => {
  const isDrawn = (place) => place.querySelector(".stVegaLiteChart :is(canvas, svg.marks), .stDownloadButton");
  const next = [...document.querySelectorAll("[class*='st-key-place-of-']")].find((place) => !isDrawn(place));
  next?.scrollIntoView({ block: "center" });
  return !next;
}"""
TO_THE_TOP = "() => document.querySelector('[data-testid=stMain]').scrollTo(0, 0)"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium(playwright: Playwright) -> Browser:
    """The Chromium named by CHROMIUM, the system's, or Playwright's own; an error says how to get one."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        return playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else [], timeout=MILLISECONDS
        )
    except PlaywrightError as error:
        raise RuntimeError(
            f"No Chromium started ({path or 'none on this machine'}). Run `make browser`, or set CHROMIUM to the path "
            f"of one. {error}"
        ) from error


def eventually(page: Page, look: Callable[[], Any], wanted: Any = bool) -> Any:
    """Look at a live page until what is seen is as wanted, a value or a condition, by default true; what was seen.

    Raises AssertionError with what was seen last, once nothing more can be hoped for.
    """
    end, moment = time.monotonic() + LONGEST, 10  # ms
    while True:
        try:
            seen = look()
            if wanted(seen) if callable(wanted) else seen == wanted:
                return seen
        except PlaywrightError as error:  # the page was being left, or what was looked at was drawn anew
            seen = error
        if time.monotonic() > end:
            raise AssertionError(f"Seen last: {seen!r}; wanted: {wanted!r}")
        page.evaluate(A_MOMENT, moment)
        moment = min(2 * moment, 500)


def stands(what: Locator) -> dict[str, float]:
    """Where it is in the window, once nothing moves it any more: what is above it may still be laid out."""
    expect(what).to_be_visible()
    box: dict[str, float] = eventually(what.page, lambda: what.evaluate(STANDS), lambda found: found is not None)
    return box


def click_at(what: Locator, across: float, down: float) -> None:
    """Click into a drawing, at shares of its width and height, once it stands still."""
    what.scroll_into_view_if_needed()
    box = stands(what)
    what.click(position={"x": across * box["width"], "y": down * box["height"]})


def is_below(lower: Locator, upper: Locator) -> bool:
    """True if one is under the other at this moment."""
    top, box = lower.bounding_box(), upper.bounding_box()
    return bool(top and box and top["y"] >= box["y"] + box["height"])


def in_colours(page: Page, scheme: str) -> None:
    """The page as a system shows it that is set to light or dark, once it and its charts have followed."""
    page.evaluate(WATCH_CHANGES)
    page.emulate_media(color_scheme=scheme)
    eventually(page, lambda: page.evaluate(BACKGROUND), is_dark if scheme == "dark" else is_light)
    page.wait_for_function("() => ++window.looksUnchanged > 4", polling=LOOK_EVERY)
    settled(page)


def is_dark(colour: str) -> bool:
    """True if a colour is nearer to black.

    >>> is_dark("rgb(14, 17, 23)"), is_dark("rgb(255, 255, 255)")
    (True, False)
    """
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) < 3 * 128


def is_light(colour: str) -> bool:
    """True if a colour is nearer to white."""
    return not is_dark(colour)


def settled(page: Page) -> None:
    """Wait until no script has run for a while: what is being drawn anew is pale, and a click on it may be lost.

    For a while, as a script that asks for another run is over before that run begins.
    """
    page.evaluate("window.looksAtRest = 0")
    page.wait_for_function(AT_REST, polling=LOOK_EVERY)


def all_drawn(page: Page) -> None:
    """Scroll through a page until all its pictures are drawn, and back to its top."""
    settled(page)  # a page that is only beginning has no place for a picture yet, and would look drawn
    eventually(page, lambda: page.evaluate(TO_THE_NEXT))
    page.evaluate(TO_THE_TOP)
    settled(page)


def drawn(page: Page) -> None:
    """Wait until the first page shows a trace."""
    expect(page.locator(".map[data-drawn] canvas")).to_be_visible()
    settled(page)


def arrived(page: Page) -> None:
    """Wait until a page of the app is there, by its address the first or another."""
    if re.fullmatch(r"https?://[^/]+/?([?#].*)?", page.url):
        drawn(page)
    else:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        settled(page)


def fits(page: Page) -> None:
    """Wait until the page is no wider than the screen."""
    eventually(page, lambda: page.evaluate(OVERFLOW), 0)


def is_fault(said: ConsoleMessage) -> bool:
    """Whether it is an error; but under any address but the first, Streamlit asks for two files that are not there."""
    return said.type == "error" and re.search(r"/[^/]+/_stcore/(health|host-config)$", said.location["url"]) is None


def is_foreign(url: str) -> bool:
    """True if an address is on another machine."""
    return urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname not in OWN


def go_to(page: Page, name: str) -> None:
    """By the links of the menu: the place that a page is in, unless it is open, then its tab; an exhibit is chosen."""
    (place,) = (place for place, names in MENU.items() if name in names)
    places, tabs = page.locator(".st-key-menu"), page.locator(".st-key-submenu")
    first, tab = MENU[place][0], EXHIBIT if name in GALLERY else name
    link = places.get_by_role("link", name=place, exact=True)
    is_open = places.locator("a[aria-current]", has_text=place).count()
    if name == first or not is_open:
        # By the width of the screen: after a reload the links may not be there yet, and one look would miss them.
        if cast("ViewportSize", page.viewport_size)["width"] <= PHONE and place not in ICONS:
            places.get_by_role("link", name=MORE, exact=True).click()
            expect(page.get_by_role("heading", name=MORE, exact=True)).to_be_visible()
            link = page.get_by_test_id("stMain").get_by_role("link", name=place, exact=True).last
        link.click()
        # Before it is drawn anew, with another place open, a click on it may be lost.
        expect(places.locator("a[aria-current]", has_text=place)).to_have_count(1)
        if name != first:
            expect(tabs.locator("a[aria-current]")).to_have_text([first])
            settled(page)  # what a page offers to download is asked for as it is drawn, and is gone with the page
    if name != first:
        tabs.get_by_role("link", name=tab, exact=True).click()
    if name in GALLERY:
        settled(page)
        page.get_by_role("combobox", name="Exhibit").click()
        page.get_by_role("option", name=re.compile(rf" · {re.escape(name)}$")).click()
    if name == FIRST:
        drawn(page)
    else:
        said = re.compile("experts do$") if name == "Experts" else name  # how many there are stands in its heading
        expect(page.get_by_role("heading", name=said, exact=True)).to_be_visible()
