"""How long from one page of the app to the next, in a real Chromium?

    python -m benchmarks.pages [--rounds N] [--before FOLDER]

A visitor runs a prompt of 64 tokens and walks through the pages of the topics, again and again; then the same with a
trace of 48 layers x 128 experts from a file. Printed are medians over the rounds: CPU time of the browser's main
thread, the time on the wall from the click in the menu to the frame with the last stroke on a canvas of the page, and
the largest message that the server sent. Pages whose charts are all of few marks have no canvas, and are left out. And
how long a new visitor waits for the first page. With an older checkout's folder, visitors of both apps take turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.app import MILLISECONDS, prompts
from benchmarks.overview import WATCH, Visit
from moeviz.charts import TOPICS
from moeviz.errors import MoevizError
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from tests.browser import Server, chromium, go_to, served, settled

BIG = {"layers": 48, "tokens": 256, "top_k": 8, "experts": 128}


def on_canvas() -> list[str]:
    """Topics with a chart that is drawn on a canvas."""
    trace, found = sample_trace(), []
    for topic, charts in TOPICS.items():
        for chart in (chart for chart in charts if chart.layers == "all" and chart.tokens != "one"):
            try:
                if "usermeta" in chart.draw(chart.measure(trace)).to_dict():
                    found.append(topic)
                    break
            except MoevizError:
                continue
    return found


def first_page(browser: Browser, server: Server) -> float:
    """Milliseconds until a new visitor sees the example's tokens at every layer."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, start = context.new_page(), time.perf_counter()
    page.goto(server.url)
    page.locator(".map[data-drawn] canvas").wait_for(timeout=MILLISECONDS)
    context.close()
    return 1000 * (time.perf_counter() - start)


def go_to_before(page: Page, name: str) -> None:
    """The same in an app whose menu was Streamlit's own, with drop-down parts."""
    for part in page.get_by_test_id("stTopNavSection").all():
        part.click()
        if (entry := page.get_by_role("menuitem", name=name, exact=True)).count():
            return entry.click()
        page.keyboard.press("Escape")
    raise RuntimeError(f"There is no page {name!r} in the menu.")


@dataclass
class Visitor:
    """Somebody who has run a prompt of 64 tokens, and walks through the pages."""

    browser: Browser
    server: Server
    go: Callable[[Page, str], None] = go_to

    def __post_init__(self) -> None:
        messages: list[int] = []
        page = self.browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.add_init_script(WATCH)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: messages.append(len(data))))
        page.goto(self.server.url)
        self.page, self.visit = page, Visit(page, messages)
        page.get_by_role("textbox", name="Prompt", exact=True).wait_for()
        settled(page)
        page.get_by_role("textbox", name="Prompt", exact=True).fill(prompts()[0])
        page.get_by_role("button", name="Run").first.click()
        page.wait_for_url("**prompt=**")
        settled(page)

    def walk(self, of: str) -> None:
        """Open the page of each topic."""
        for topic in on_canvas():
            self.visit.measure(f"{of}: {topic}", partial(self.go, self.page, topic))

    def forget(self) -> None:
        """What was measured so far does not count."""
        self.visit.found.clear()

    def open_big(self) -> None:
        """A trace of many layers and experts, through the Traces page."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "big.npz"
            write_trace(sample_trace(**BIG), file)
            self.go(self.page, "Traces")
            self.page.locator("input[type=file]").set_input_files(file)
            self.page.get_by_text("Opened.").wait_for()


def medians(found: dict[str, list]) -> dict[str, tuple[float, float, int]]:
    """Of each column, by page."""
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in found.items()}


def measure(visitors: list[Visitor], rounds: int) -> list[dict[str, tuple[float, float, int]]]:
    """What each of them measures, who take turns."""
    measured: list[dict] = [{} for _ in visitors]
    for of in ("64 tokens", "48 x 128"):
        for visitor in visitors:
            visitor.walk(of)
            visitor.forget()
        for _ in range(rounds):
            for visitor in visitors:
                visitor.walk(of)
        for visitor, found in zip(visitors, measured, strict=True):
            found |= medians(visitor.visit.found)
            visitor.open_big()
    return measured


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="a checkout from before the menu was a row of links")
    given = parser.parse_args()
    with ExitStack() as stack:
        apps = [(stack.enter_context(served()), go_to)]
        if given.before is not None:
            home = given.before.resolve()
            before = stack.enter_context(served(str(home / "app" / "main.py"), PYTHONPATH=f"{home}:{home / 'kernels'}"))
            apps.append((before, go_to_before))
        browser = chromium(stack.enter_context(sync_playwright()))
        first_page(browser, apps[0][0])  # not counted: after it the server loads the model
        waits = [first_page(browser, apps[0][0]) for _ in range(given.rounds)]
        measured = measure([Visitor(browser, *app) for app in apps], given.rounds)
        version = browser.version
        browser.close()
    print(f"Chromium {version}, {os.cpu_count()} cores; median of {given.rounds}, in brackets before\n")
    print(f"a new visitor's first page, ms  {statistics.median(waits):.0f}\n")
    print(f"{'':28}{'main thread, ms':>20}{'wall, ms':>20}{'largest message, bytes':>28}")
    for name in measured[0]:
        columns = zip(*(found[name] for found in measured), strict=True)
        cells = (f"{now:,.0f}" + "".join(f" ({old:,.0f})" for old in before) for now, *before in columns)
        print(f"{name:28}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (20, 20, 28), strict=True)))


if __name__ == "__main__":
    main()
