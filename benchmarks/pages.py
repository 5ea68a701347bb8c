"""How long until a page of the app is there, what does it cost, and how much is sent? In a real Chromium.

    python -m benchmarks.pages [topics | first | dataset | training | experts | answers] [--rounds N] [--before FOLDER]

topics     a visitor runs a prompt of 64 tokens and walks through the pages of the topics, again and again; then the
           same with a trace of 48 layers x 128 experts from a file. CPU time of the browser's main thread, the time on
           the wall from the click in the menu to the frame with the last stroke on a canvas of the page, and the
           largest message that the server sent. Pages whose charts are all of few marks have no canvas, and are left
           out. And how long a new visitor waits for the first page.
first      the first page on a desktop and a phone: opened, where its parts stand, a prompt run, a token clicked, an
           expert's contexts; and that click on larger traces from files
dataset    the pages of a made-up dataset (by the recipe of `benchmarks.corpus`) and of an expert of it, on a server
           that was never asked of this dataset; then for a second visitor, for whom answers are known
training   the page Training of a made-up run, and of the pair of runs that ships
experts    the atlas of the held-out texts, and of as many tokens through 48 layers x 128 experts: script until all is
           drawn, a search, and what is sent
answers    Balance, Serve and Training of a first visitor: the answer, the first chart, and all

Printed are medians, with the lowest and the highest. "CPU s" are the seconds of the browser's main thread and of the
server, which a busy machine inflates less than seconds; "MB sent" is what the server sends in the tab's web socket,
before compression. With an older checkout's folder, both apps take turns.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.app import MILLISECONDS, prompts
from benchmarks.corpus_data import write_made_up
from benchmarks.harness import Figures, Tab, apps_and_browser, compared, take_turns
from benchmarks.overview import WATCH, Visit
from benchmarks.visits import of_answer, of_dataset, of_experts, of_first_page, of_page, write_labelled, write_run
from moeviz.charts import TOPICS
from moeviz.errors import MoevizError
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from tests.support.browser import go_to, settled
from tests.support.servers import Server

BIG = {"layers": 48, "tokens": 256, "top_k": 8, "experts": 128}
DATASET = (2**20, 32, 128, 8)  # tokens, layers, experts, top-k
ATLAS = (48, 9654, 8, 128)  # layers, tokens, top-k, experts
RUN = (48, 128, 1000)  # layers, experts, logs
# What is opened of a run, and how many charts there are at least: those of the part that is open at first.
OF_TRAINING = {"training": 1, "training?run=aux-off&beside=aux-on": 2, "load": 4}
# Pages that begin with an answer, and what they were called before.
ANSWERS = {"balance": "counts", "serve": "serve", "training": "training"}


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


def waits(browser: Browser, server: Server) -> Figures:
    """Until a new visitor sees the example's tokens at every layer."""
    tab = Tab(browser, server)
    tab.open()
    tab.page.locator(".map[data-drawn] canvas").wait_for()
    moment = tab.now()
    tab.close()
    return moment.of("a new visitor's first page")


class Visitor:
    """Somebody who has run a prompt of 64 tokens, and walks through the pages."""

    def __init__(self, browser: Browser, server: Server) -> None:
        messages: list[int] = []
        self.page = page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.add_init_script(WATCH)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: messages.append(len(data))))
        page.goto(server.url)
        self.visit = Visit(page, messages)
        page.get_by_role("textbox", name="Prompt", exact=True).wait_for()
        settled(page)
        page.get_by_role("textbox", name="Prompt", exact=True).fill(prompts()[0])
        page.get_by_role("button", name="Run").first.click()
        page.wait_for_url("**prompt=**")
        settled(page)

    def walk(self, of: str) -> Figures:
        """Open the page of each topic."""
        found: Figures = {}
        for topic in on_canvas():
            busy, wall, largest = self.visit.measured(partial(go_to, self.page, topic))
            name = f"{of}: {topic}"
            found |= {f"{name}, main thread ms": busy, f"{name}, wall ms": wall, f"{name}, largest message": largest}
        return found

    def open_big(self) -> None:
        """A trace of many layers and experts, through the Traces page."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "big.npz"
            write_trace(sample_trace(**BIG), file)
            go_to(self.page, "Traces")
            self.page.locator("input[type=file]").set_input_files(file)
            self.page.get_by_text("Opened.").wait_for()


def topics(rounds: int, before: Path | None) -> None:
    """Print what the pages of the topics take."""
    with apps_and_browser(before) as (apps, browser):
        arms = {name: lambda _, server=server: waits(browser, server) for name, server in apps.items()}
        print(compared(take_turns(arms, rounds)), end="\n\n")
        visitors = {name: Visitor(browser, server) for name, server in apps.items()}
        for of in ("64 tokens", "48 x 128"):
            arms = {name: lambda _, visitor=visitor, of=of: visitor.walk(of) for name, visitor in visitors.items()}
            print(compared(take_turns(arms, rounds), digits=0), end="\n\n")
            for visitor in visitors.values():
                visitor.open_big()


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


def dataset(rounds: int, before: Path | None) -> None:
    """Print what the pages of a dataset take. Each round has servers of its own."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "corpus"
        write_made_up(folder, *DATASET, "none")
        for _ in range(rounds):
            with apps_and_browser(before, MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as (apps, browser):
                for server in apps.values():
                    of_page(browser, server, "load", 1)  # not counted: nothing is imported yet
                for visitor in ("first", "second"):
                    for name, server in apps.items():
                        for what, value in of_dataset(browser, server, folder.name).items():
                            found[f"{name}, {visitor} visitor"][what].append(value)
    print(compared(found))


def training(rounds: int, before: Path | None) -> None:
    """Print what the page Training takes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        write_run(folder, *RUN)
        with apps_and_browser(before, MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as (apps, browser):
            for address, charts in OF_TRAINING.items():
                arms = {
                    name: lambda _, server=server, of=(address, charts): of_page(browser, server, *of)
                    for name, server in apps.items()
                }
                print(f"/{address}\n{compared(take_turns(arms, rounds))}\n")


def experts(rounds: int, before: Path | None) -> None:
    """Print what the page Experts takes, of the held-out texts and of 48 layers x 128 experts."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "atlas.npz"
        write_labelled(file, *ATLAS)
        with apps_and_browser(before, MOEVIZ_OPEN=str(file)) as (apps, browser):
            arms = {name: lambda _, server=server: of_experts(browser, server) for name, server in apps.items()}
            print(compared(take_turns(arms, rounds)))


def answers(rounds: int, before: Path | None) -> None:
    """Print how soon pages answer their question."""
    with apps_and_browser(before) as (apps, browser):
        for now, once in ANSWERS.items():
            address = {"now": now, "before": once}
            arms = {
                name: lambda _, server=server, page=address[name], of=now: of_answer(browser, server, page, of)
                for name, server in apps.items()
            }
            print(f"{compared(take_turns(arms, rounds))}\n")


PARTS = {
    "topics": topics,
    "first": first,
    "dataset": dataset,
    "training": training,
    "experts": experts,
    "answers": answers,
}


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables of a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="topics")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an older checkout")
    given = parser.parse_args(words)
    print(f"{given.part}: {os.cpu_count()} cores; median of {given.rounds} rounds (lowest to highest)\n")
    PARTS[given.part](given.rounds, given.before)


if __name__ == "__main__":
    main()
