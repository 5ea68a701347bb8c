"""How long from one page of the app to the next, in a real Chromium?

    python -m benchmarks.pages [--rounds N]

A visitor runs a prompt of 64 tokens and walks through the pages of the topics, again and again; then the same with a
trace of 48 layers x 128 experts from a file. Printed are medians over the rounds: CPU time of the browser's main
thread, the time on the wall from the click in the menu to the frame with the last stroke on a canvas of the page, and
the largest message that the server sent. Pages whose charts are all of few marks have no canvas, and are left out. And
how long a new visitor waits for the first page.
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.app import MILLISECONDS, prompts
from benchmarks.overview import WATCH, Visit
from moeviz.charts import TOPICS
from moeviz.errors import MoevizError
from moeviz.formats.exports import write_trace
from moeviz.samples import sample_trace
from tests.browser import Server, chromium, drawn, go_to, served

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


def walk(page: Page, visit: Visit, of: str) -> None:
    """Open the page of each topic."""
    for topic in on_canvas():
        visit.measure(f"{of}: {topic}", partial(go_to, page, topic))


def open_big(page: Page) -> None:
    """A trace of many layers and experts, through the Traces page."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "big.npz"
        write_trace(sample_trace(**BIG), file)
        go_to(page, "Traces")
        page.locator("input[type=file]").set_input_files(file)
        page.get_by_text("Opened.").wait_for()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    messages: list[int] = []
    with served() as server, sync_playwright() as playwright:
        browser = chromium(playwright)
        first_page(browser, server)  # not counted: after it the server loads the model
        waits = [first_page(browser, server) for _ in range(rounds)]
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.add_init_script(WATCH)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: messages.append(len(data))))
        page.goto(server.url)
        visit = Visit(page, messages)
        drawn(page)
        page.get_by_role("textbox", name="Prompt", exact=True).fill(prompts()[0])
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url("**prompt=**")
        drawn(page)
        for of in ("64 tokens", "48 x 128"):
            walk(page, visit, of)
            for name in [name for name in visit.found if name.startswith(of)]:
                del visit.found[name]  # the first walk is not counted
            for _ in range(rounds):
                walk(page, visit, of)
            open_big(page)
        version = browser.version
        browser.close()
    print(f"Chromium {version}, {os.cpu_count()} cores; median of {rounds}\n")
    print(f"a new visitor's first page, ms  {statistics.median(waits):.0f}\n")
    print(f"{'':28}{'main thread, ms':>18}{'wall, ms':>12}{'largest message, bytes':>26}")
    for name, rows in visit.found.items():
        busy, wall, size = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:28}{busy:18.0f}{wall:12.0f}{int(size):>26}")


if __name__ == "__main__":
    main()
