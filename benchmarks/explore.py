"""How far down is the answer, and how long until it is there? The first page and the expert page, in a real Chromium.

    python -m benchmarks.explore [--before FOLDER] [--rounds N]

With the folder of an older checkout, both apps are served and take turns, round by round. Printed are medians:

    token, map, card    pixels from the top of the page to the first token, to the picture of all layers and to its
                        end, and to the card, once a prompt has run; on a desktop (1400x900) and a phone (390x844)
    open                a new visitor's address entered -> the map drawn, with nothing asked of the model
    run                 Run pressed -> the map of the new prompt drawn
    click               a token in the strip clicked -> what is said of it drawn: the next frame in the browser now, a
                        round trip to the server before
    expert              a link to an expert clicked -> its contexts drawn
    bytes               what the server sends for the first page, and for a click

and the same click on larger traces from files: 256 tokens x 48 layers of 128 experts, top-8; 4,096 x 32.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.app import MILLISECONDS, prompts
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from tests.browser import AGENT, Server, chromium, go_to, served

SCREENS = {"desktop": (1400, 900), "phone": (390, 844)}
LARGE = {
    "256 x 48 x 128, top-8": {"tokens": 256, "layers": 48, "experts": 128, "top_k": 8},
    "4,096 x 32": {"tokens": 4096, "layers": 32},
}
LONG = 900  # milliseconds until a choice has been told to the server too
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
window.until = (test, begin) => new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error(`Not there after a minute: ${test}`)), 60000);
  const done = () => resolve(performance.now() - begin, clearTimeout(late));
  const look = () => requestAnimationFrame(test() ? done : look);
  look();
});
"""
NOW = {  # what to look for in this app
    "token": ".strip .token",
    "map": ".map[data-drawn]",
    "card": ".card",
    "expert": "a.more",
    "context": ".kwic *",
}
THEN = {"token": ".strip .token", "map": ".stVegaLiteChart canvas"}  # and in one without an explorer
# A run is drawn when the address says so, which is written with the picture, and the picture is there.
RUN = """
([selector, prompt, begin]) => window.until(
  () => new URLSearchParams(location.search).get("prompt") === prompt && window.deep(selector), begin)
"""
# A click is answered when the map is drawn with it; before, when the server has answered, which the address says.
CLICK = """
async (place) => {
  const token = window.deep(".strip").querySelectorAll(".token")[place], begin = performance.now();
  const view = window.deep(".explorer")?.view;
  if (!view) {
    token.click();
    return window.until(() => new URLSearchParams(location.search).get("token") === String(place), begin);
  }
  token.click();
  await view.map.drawn;
  return window.until(() => view.token === place + view.strip.window[0], begin);
}
"""


@dataclass(eq=False)
class Visit:
    """A visitor of one app, on one screen."""

    server: Server
    page: Page
    found: dict[str, list[float]]
    sent: list[int] = field(default_factory=list)
    has_explorer: bool = True

    def run(self, prompt: str) -> float:
        """Milliseconds from Run to the map."""
        self.page.get_by_role("textbox", name="Prompt").fill(prompt)
        begin = self.page.evaluate("performance.now()")
        self.page.get_by_role("button", name="Run").first.click()
        selector = NOW["map"] if self.has_explorer else THEN["map"]
        return self.page.evaluate(RUN, [selector, prompt, begin])

    def note(self, what: str, value: float) -> None:
        """Keep a figure."""
        self.found[what].append(value)


def open_page(browser: Browser, server: Server, screen: str, found: dict[str, list[float]]) -> Visit:
    """A new visitor, until there is something to see."""
    width, height = SCREENS[screen]
    more = {"is_mobile": True, "has_touch": True, "user_agent": AGENT} if screen == "phone" else {}
    page = browser.new_context(viewport={"width": width, "height": height}, **more).new_page()
    page.set_default_timeout(MILLISECONDS)
    page.add_init_script(TOOLS)
    visit = Visit(server, page, found)
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: visit.sent.append(len(data))))
    begin = time.perf_counter()
    page.goto(server.url)
    page.get_by_role("button", name="Run").first.wait_for()
    visit.has_explorer = page.locator(".st-key-menu").count() > 0
    if visit.has_explorer:
        page.locator(NOW["map"]).wait_for()
        visit.note(f"open -> map, {screen}", 1000 * (time.perf_counter() - begin))
        visit.note(f"bytes of the first page, {screen}", sum(visit.sent))
    return visit


def places(visit: Visit, screen: str) -> None:
    """Where the parts of the answer stand."""
    for part in ("token", "map", "card") if visit.has_explorer else ("token", "map"):
        selector = (NOW if visit.has_explorer else THEN)[part]
        box = visit.page.locator(selector).first.bounding_box()
        visit.note(f"y of the {part}, {screen}", box["y"])
        if part == "map":
            visit.note(f"y of the map's end, {screen}", box["y"] + box["height"])


def clicks(visit: Visit, what: str) -> None:
    """Two tokens, one after the other."""
    for place in (3, 7):
        before = sum(visit.sent)
        visit.note(f"click, {what}", visit.page.evaluate(CLICK, place))
        visit.page.wait_for_timeout(LONG)
        visit.note(f"bytes of a click, {what}", sum(visit.sent) - before)


def expert(visit: Visit) -> None:
    """To the page of an expert."""
    if not visit.has_explorer:
        return
    begin = time.perf_counter()
    visit.page.locator(NOW["expert"]).first.click()
    visit.page.locator(NOW["context"]).first.wait_for()
    visit.note("expert link -> contexts", 1000 * (time.perf_counter() - begin))


def large(visit: Visit, what: str, folder: Path) -> None:
    """A trace from a file."""
    file = folder / f"{abs(hash(what))}.npz"
    write_trace(sample_trace(**LARGE[what]), file)
    go_to(visit.page, "Traces")
    visit.page.locator("input[type=file]").set_input_files(file)
    visit.page.get_by_text("Opened.").wait_for()
    go_to(visit.page, "Explore")
    visit.page.locator(NOW["map"]).wait_for()
    clicks(visit, what)


def round_of(browser: Browser, server: Server, prompt: str, found: dict[str, list[float]], files: bool) -> None:
    """Everything once."""
    for screen in SCREENS:
        visit = open_page(browser, server, screen, found)
        visit.note(f"run -> map, {screen}", visit.run(prompt))
        places(visit, screen)
        clicks(visit, f"64 tokens, {screen}")
        if screen == "desktop":
            expert(visit)
            if files and visit.has_explorer:
                with tempfile.TemporaryDirectory() as folder:
                    for what in LARGE:
                        large(visit, what, Path(folder))
        visit.page.context.close()


def servers(stack: ExitStack, before: Path | None) -> Iterator[tuple[str, Server]]:
    """This app and the older one, each on a port of its own."""
    yield "now", stack.enter_context(served())
    if before is not None:
        yield "before", stack.enter_context(served(str(before / "app" / "main.py"), PYTHONPATH=str(before)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    texts = prompts()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        apps = dict(servers(stack, given.before and given.before.resolve()))
        browser = chromium(stack.enter_context(sync_playwright()))
        for server in apps.values():
            round_of(browser, server, texts[-1], defaultdict(list), files=False)  # not counted: it loads the model
        for at in range(given.rounds):
            for name, server in apps.items():
                round_of(browser, server, texts[at % len(texts)], found[name], files=True)
        version = browser.version
        browser.close()
    print(f"Chromium {version}, {os.cpu_count()} cores; median of {given.rounds} rounds; ms, pixels and bytes\n")
    print(f"{'':42}" + "".join(f"{name:>12}" for name in apps))
    for what in dict.fromkeys(what for rows in found.values() for what in rows):
        medians = (found[name][what] for name in apps)
        print(f"{what:42}" + "".join(f"{statistics.median(rows):12,.0f}" if rows else f"{'-':>12}" for rows in medians))


if __name__ == "__main__":
    main()
