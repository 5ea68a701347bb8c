"""The time until a page of the app is there, its cost, and the bytes sent, in a real Chromium.

    python -m benchmarks.pages [changes | first] [--rounds N] [--before FOLDER]

changes    a visitor runs a prompt of 64 tokens, goes to each page by the menu and chooses a layer on the first, again
           and again; then the same with a trace of 48 layers x 128 experts from a file. CPU time of the browser's main
           thread from the click until the page is at rest, or in the 600 ms after a layer is chosen.
first      the first page on a desktop and a phone: opened, where its parts stand, a prompt run, a token clicked, an
           expert's contexts; and that click on larger traces from files

Printed are medians, with the lowest and the highest. "CPU s" are the seconds of the browser's main thread and of the
server, which a busy machine inflates less than seconds; "MB sent" is what the server sends in the tab's web socket,
before compression. With an older checkout's folder, both apps take turns.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.harness import Figures, TimedTab, apps_and_browser, compared, take_turns
from moeviz.capture.models.load import load_model
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from moeviz_app.jobs.recorded import EXAMPLES
from moeviz_app.views.menu import GALLERY, MENU
from tests.support.browser import go_to, settled
from tests.support.servers import Server

PROMPT = 64  # tokens
AFTER_CLICK = 600  # milliseconds, in which the server may send more
PAGES = [name for names in MENU.values() for name in names if name not in GALLERY]
LARGE = {
    "256 tokens x 48 x 128 experts": {"tokens": 256, "layers": 48, "experts": 128, "top_k": 8},
    "4,096 tokens x 32": {"tokens": 4096, "layers": 32},
}
# Finds an element in the components' shadow trees, and waits frame by frame for something to be true.
TOOLS = """
window.deep = (selector, root = document) => {
  const found = root.querySelector(selector);
  if (found) return found;
  for (const host of root.querySelectorAll("*")) {
    const inside = host.shadowRoot && window.deep(selector, host.shadowRoot);
    if (inside) return inside;
  }
  return null;
};
"""
LAYER = "place => window.deep('.explorer').view.choose({ layer: place })"
MAP, CONTEXTS = "() => window.deep('.map[data-drawn]')", "() => window.deep('.kwic > *')"
# The address says which prompt ran, which is written with the picture.
RAN = "prompt => new URLSearchParams(location.search).get('prompt') === prompt && window.deep('.map[data-drawn]')"
# Milliseconds from a click on a token to the frame in which the map is drawn with it.
CLICK = """
async (place) => {
  const view = window.deep(".explorer").view, begin = performance.now();
  window.deep(".strip").querySelectorAll(".token")[place].click();
  await view.map.drawn;
  while (view.token !== place + view.strip.window[0]) await new Promise(requestAnimationFrame);
  return performance.now() - begin;
}
"""


def prompts() -> list[str]:
    """Texts of PROMPT tokens, each with another beginning, so that no answer comes from a cache."""
    count = load_model().count_tokens
    words = " ".join(EXAMPLES.values()).split(" ")
    texts = (" ".join(words[start:] + words) for start in range(len(words)))
    cut = (next((t[:end] for end in range(len(t)) if count(t[:end]) == PROMPT), None) for t in texts)
    return [text for text in cut if text is not None]


def of_first_page(browser: Browser, server: Server, screen: str, prompt: str, files: bool) -> Figures:
    """Measure the first page: opened, a prompt run, a token clicked; with `files`, that click on larger traces too."""
    tab = TimedTab(browser, server, screen, TOOLS)
    tab.open()
    opened = tab.until(MAP)
    found = opened.of(f"{screen}: open to the map") | {f"{screen}: open, MB sent": opened.sent}
    tab.page.get_by_role("textbox", name="Prompt").fill(prompt)
    tab.begin()
    tab.page.get_by_role("button", name="Run").first.click()
    found |= tab.until(RAN, prompt).of(f"{screen}: run to the map")
    for part, selector in {"first token": ".strip .token", "map": ".map[data-drawn]", "card": ".card"}.items():
        found[f"{screen}: {part}, pixels from the top"] = tab.page.locator(selector).first.bounding_box()["y"]
    found[f"{screen}: click on a token, ms"] = tab.page.evaluate(CLICK, 3)
    if files:
        tab.begin()
        tab.page.locator(".card a[href*=expert]").first.click()
        found |= tab.until(CONTEXTS).of(f"{screen}: link of an expert to its contexts")
        for what, size in LARGE.items():
            _open_file(tab.page, size)
            go_to(tab.page, "Explore")
            tab.until(MAP)
            found[f"{screen}: click on a token, {what}, ms"] = tab.page.evaluate(CLICK, 3)
    tab.close()
    return found


def _open_file(page: Page, size: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.npz"
        write_trace(sample_trace(**size), file)
        go_to(page, "Files")
        page.locator("input[type=file]").set_input_files(file)
        page.get_by_text("Opened.").wait_for()


class PageWalk:
    """Somebody who has run a prompt of 64 tokens, and goes from page to page."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.tab = TimedTab(browser, server, "desktop", TOOLS)
        self.tab.open()
        self.tab.until(MAP)
        self.tab.page.get_by_role("textbox", name="Prompt", exact=True).fill(prompts()[0])
        self.tab.page.get_by_role("button", name="Run").first.click()
        self.tab.until(RAN, prompts()[0])
        settled(self.tab.page)

    def changes(self, of: str) -> Figures:
        """Go to each page by the menu; and choose layers on the first."""
        found: Figures = {}
        for name in PAGES:
            self.tab.begin()
            go_to(self.tab.page, name)
            settled(self.tab.page)
            found[f"{of}: to {name}, browser CPU ms"] = 1000 * self.tab.now().browser
        go_to(self.tab.page, "Explore")
        self.tab.until(MAP)
        settled(self.tab.page)
        for place in (0, 1):
            self.tab.begin()
            self.tab.page.evaluate(LAYER, place)
            self.tab.page.wait_for_timeout(AFTER_CLICK)
            found[f"{of}: layer chosen on Explore, browser CPU ms"] = 1000 * self.tab.now().browser
        return found


def changes(rounds: int, before: Path | None) -> None:
    """Print what each page takes."""
    with apps_and_browser(before) as (apps, browser):
        visitors = {name: PageWalk(browser, server) for name, server in apps.items()}
        for of in ("64 tokens", "48 x 128"):
            arms = {name: lambda _, visitor=visitor, of=of: visitor.changes(of) for name, visitor in visitors.items()}
            print(compared(take_turns(arms, rounds), digits=0), end="\n\n")
            for visitor in visitors.values():
                _open_file(visitor.tab.page, LARGE["256 tokens x 48 x 128 experts"])


def first(rounds: int, before: Path | None) -> None:
    """Print what the first page takes."""
    texts = prompts()
    with apps_and_browser(before) as (apps, browser):

        def visit(server: Server, number: int) -> Figures:
            text = texts[number % len(texts)]
            # An older app has another menu, by which the larger traces are not reached.
            desktop = of_first_page(browser, server, "desktop", text, files=before is None)
            return desktop | of_first_page(browser, server, "phone", text, files=False)

        print(compared(take_turns({name: partial(visit, server) for name, server in apps.items()}, rounds)))


PARTS = {"changes": changes, "first": first}


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables of a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="changes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an older checkout")
    given = parser.parse_args(words)
    print(f"{given.part}: {os.cpu_count()} cores; median of {given.rounds} rounds (lowest to highest)\n")
    PARTS[given.part](given.rounds, given.before)


if __name__ == "__main__":
    main()
