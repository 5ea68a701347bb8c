"""How soon do the pages of a dataset have something to see, and how much do they send?

    python -m benchmarks.dataset_pages [--tokens 1048576] [--layers 32] [--experts 128] [--top-k 8] [--rounds 3]

Writes a made-up dataset with a seed, by the recipe of `benchmarks.corpus`, and opens it as `moeviz app FOLDER` does, in
Chromium. Each round has a server of its own, which has been visited before (the page Load of the example) and never
asked about this dataset, and then a second visitor, for whom the answers are known. "first chart" is from the request
of the page Corpus to its first picture, "all" to its last; "page" is from a click that leads to an expert to its page,
"contexts" to the lines of text, and "tokens" to the bars of its tokens, for which all rows of a layer are read. "sent"
is what the server sends to that tab, in its web socket, before compression. "example" is the page Load of the example,
in a browser as new as that of the corpus: what any page of the app takes on this machine. "CPU" are the seconds of the
browser's main thread and of the server until then, which a busy machine inflates less.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.corpus_data import write_made_up
from benchmarks.training_page import cpu_of
from tests.browser import SIZES, chromium
from tests.servers import Server, served

CHART = "[data-testid=stVegaLiteChart] :is(canvas, svg)"
IDLE = "() => !document.querySelector('[data-testid=stStatusWidget]')"
LAYER, EXPERT = 3, 5


class Tab:
    """A page that counts what it is sent, and what time it is."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.context, self._server = browser.new_context(**SIZES["desktop"]), server
        self.page: Page = self.context.new_page()
        self._tools = self.context.new_cdp_session(self.page)
        self._tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.sent, self.start, self._spent = 0, 0.0, 0.0
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, frame: str | bytes) -> None:
        self.sent += len(frame)

    def begin(self) -> None:
        """Count from here."""
        self.sent, self.start, self._spent = 0, time.perf_counter(), self._cpu()

    def spent(self) -> float:
        """CPU seconds since then, of the browser's main thread and of the server."""
        return self._cpu() - self._spent

    def _cpu(self) -> float:
        metrics = {row["name"]: row["value"] for row in self._tools.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"]) + cpu_of(self._server)

    def until(self, condition: str) -> float:
        """Seconds until this holds."""
        self.page.wait_for_function(condition, timeout=120_000)
        return time.perf_counter() - self.start


def visit(browser: Browser, server: Server, name: str) -> dict[str, float]:
    """One visitor, who looks at the corpus and then at an expert."""
    tab, other, found, url = Tab(browser, server), Tab(browser, server), {}, server.url
    other.begin()
    other.page.goto(f"{url}/load")
    found["example, first chart"] = other.until(f"() => document.querySelector('{CHART}')")
    found["example, CPU"] = other.spent()
    other.context.close()
    tab.begin()
    tab.page.goto(f"{url}/corpus?dataset={name}")
    found["first chart"] = tab.until(f"() => document.querySelector('{CHART}')")
    found["first chart, CPU"] = tab.spent()
    found["corpus, all"] = tab.until(f"() => document.querySelectorAll('{CHART}').length >= 4 && ({IDLE})()")
    found["corpus, MB sent"] = tab.sent / 1e6
    tab.page.get_by_role("button", name="Go to an expert").click()
    go = tab.page.get_by_test_id("stPopoverBody").get_by_role("button", name="Go", exact=True)
    go.wait_for()
    tab.begin()
    go.click()
    found["expert, page"] = tab.until("() => /expert \\d+/.test(document.querySelector('h1')?.textContent)")
    lines = "() => [...document.querySelectorAll('*')].some(e => e.shadowRoot?.querySelector('.kwic > *'))"
    found["expert, contexts"] = tab.until(f"() => document.querySelector('.kwic > *') || ({lines})()")
    found["expert, contexts CPU"] = tab.spent()
    found["expert, tokens"] = tab.until("() => document.body.innerText.includes('Which tokens keep to it?')")
    found["expert, all"] = tab.until(IDLE)
    found["expert, MB sent"] = tab.sent / 1e6
    for topic in ("load", "co-activation", "flow"):
        tab.begin()
        tab.page.goto(f"{url}/{topic}?dataset={name}&layer={LAYER}")
        tab.until(f"() => document.querySelector('{CHART}')")
        found[f"{topic}, all"] = tab.until(IDLE)
        found[f"{topic}, MB sent"] = tab.sent / 1e6
    tab.context.close()
    return found


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("tokens", 2**20), ("layers", 32), ("experts", 128), ("top-k", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--folder", type=Path, help="write the dataset here, or open the one that is here")
    wanted = parser.parse_args()
    visits: list[list[dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = wanted.folder or Path(place) / "corpus"
        if not folder.exists():
            write_made_up(folder, wanted.tokens, wanted.layers, wanted.experts, wanted.top_k, "none")
        browser = chromium(playwright)
        for _ in range(wanted.rounds):
            with served(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as server:
                warm = Tab(browser, server)
                warm.page.goto(f"{server.url}/load")
                warm.until(f"() => document.querySelector('{CHART}')")
                warm.context.close()
                visits.append([visit(browser, server, folder.name) for _ in range(2)])
        browser.close()
    sys.stdout.write(
        f"{wanted.tokens:,} tokens x {wanted.layers} layers x {wanted.top_k} of {wanted.experts} experts; median of "
        f"{wanted.rounds} (lowest to highest): first visitor, second visitor\n"
    )
    for name in visits[0][0]:
        sides = [[visitor[at][name] for visitor in visits] for at in range(2)]
        spread = [f"{statistics.median(side):6.2f} ({min(side):.2f} to {max(side):.2f})" for side in sides]
        sys.stdout.write(f"{name:24} {spread[0]:30} {spread[1]}\n")


if __name__ == "__main__":
    main()
