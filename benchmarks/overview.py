"""What does a long trace cost the browser? 4,096 tokens by 32 layers, in a real Chromium.

    python -m benchmarks.overview [--rounds N] [--experts E]

Each round takes another trace, with experts drawn at random, and opens one after the other on a page of their own:

    overview    the whole trace as one picture, as the app shows it
    cells       the same trace as most would draw it: long form, a rectangle a cell, ordinal axes, a list of tooltips
    window      the heat map of 256 of its tokens, as the app shows it
    page        what the app has on its Tokens page: overview, strip and the rest; then a brush in its overview

Printed are medians over the rounds: CPU time of the browser's main thread, which a busy machine does not inflate much,
and the time on the wall until the last frame is presented, which it does; then the largest message that the server
sent. A chart's first drawing in a visit also loads the chart library; that one is not counted. "A move" is one of
twenty in a row; its wall is from the pointer's move to the frame after it.
"""

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import altair as alt
import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.app import MILLISECONDS
from benchmarks.harness import main_thread, table
from moeviz.charts.overview import first_choice_overview, with_window
from moeviz.charts.token_layer_map import token_layer_map
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import token_choices, token_layer
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from tests.support.browser import chromium
from tests.support.servers import ROOT, served

LAYERS, TOKENS, WINDOW, MOVES = 32, 4096, 256, 20
OPENED = ("overview", "cells", "window", "page")
QUIET = 500  # milliseconds without a stroke on any canvas: the drawing is done
PAGE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import streamlit as st
from moeviz_app.session import session
from moeviz_app.views.topic import topic_page
from benchmarks.overview import DRAWN, trace_of

st.set_page_config(layout="wide")
choice = st.text_input("Show")
what, _, seed = choice.partition(" ")
if what in DRAWN:
    st.altair_chart(DRAWN[what](trace_of(int(seed))), key=choice)
elif what == "page":
    trace = trace_of(int(seed))
    if session.current_trace() is not trace:
        session.set_trace(trace)
    topic_page("Tokens")
"""
# When something began, when a canvas was last painted, and when the frame with that was presented.
WATCH = Path(__file__).with_name("overview.js").read_text("utf-8")
DONE = f"() => seen.stroke && performance.now() - seen.stroke > {QUIET} && seen.presented > seen.stroke - 1"


@lru_cache(maxsize=1)
def trace_of(seed: int) -> RoutingTrace:
    """A trace that is hard to draw: no expert is likelier than another."""
    experts = int(os.environ["EXPERTS"])
    small = sample_trace(layers=LAYERS, tokens=TOKENS, top_k=1, experts=1)
    lots = np.random.default_rng(seed).integers(0, experts, small.experts.shape, np.int16)
    return replace(small, model=replace(small.model, num_experts=(experts,) * LAYERS), experts=lots, logits=None)


def overview(trace: RoutingTrace) -> alt.LayerChart:
    """Draw what moeviz draws."""
    return with_window(first_choice_overview(modal_first_choice(trace)), range(WINDOW))


def cells(trace: RoutingTrace) -> alt.Chart:
    """Draw it without regard to size."""
    frame = token_layer(trace).astype({"token": int, "layer": int, "expert": int, "weight": float, "text": str})
    colour = alt.Color("expert:N") if frame["expert"].nunique() < 10 else alt.Color("expert:Q")
    tooltip = ["token", "layer", "expert", "weight", "text"]
    chart = alt.Chart(frame[[*tooltip]]).mark_rect().encode(x="token:O", y="layer:O", color=colour, tooltip=tooltip)
    return chart.properties(height=360, width="container")


def window(trace: RoutingTrace) -> alt.LayerChart:
    """The detail."""
    return token_layer_map(token_choices(trace.select(tokens=slice(0, WINDOW))))


DRAWN: dict[str, Callable[[RoutingTrace], alt.Chart | alt.LayerChart]] = {
    "overview": overview,
    "cells": cells,
    "window": window,
}


@dataclass
class TimedPage:
    """A page under a stopwatch, and what it measured: CPU and wall in milliseconds, largest message in bytes."""

    page: Page
    messages: list[int]
    found: dict[str, list[tuple[float, float, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.devtools = self.page.context.new_cdp_session(self.page)
        self.devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def measure(self, name: str, act: Callable[[], None]) -> None:
        """Do it, and keep what it took."""
        self.found[name].append(self.measured(act))

    def measured(self, act: Callable[[], None]) -> tuple[float, float, int]:
        """Do it, and wait until what it draws is on screen."""
        self.messages.clear()
        busy = main_thread(self.devtools)
        act()
        self.page.wait_for_function(DONE, timeout=MILLISECONDS)
        busy = main_thread(self.devtools) - busy
        wall = self.page.evaluate("seen.presented - seen.began")
        return 1000 * busy, wall, max(self.messages)

    def moves(self, name: str, start: float, end: float) -> None:
        """Move the pointer over the first chart, from one share of its width to another."""
        box = self.page.locator(".stVegaLiteChart canvas").first.bounding_box()
        self.page.evaluate("seen.frames.length = 0")
        busy = main_thread(self.devtools)
        for step in range(1, MOVES + 1):
            x = start + (end - start) * step / MOVES
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
            self.page.wait_for_function(f"() => seen.frames.length >= {step}")
        busy = main_thread(self.devtools) - busy
        self.found[name].append((1000 * busy / MOVES, statistics.median(self.page.evaluate("seen.frames")), 0))


def round_of(visit: TimedPage, seed: int) -> None:
    """Open each once, point at the overview, brush in it."""
    page, show = visit.page, visit.page.get_by_role("textbox", name="Show")

    def choose(what: str) -> None:
        show.fill(what)
        show.press("Enter")

    for what in OPENED:
        visit.measure(f"{what}, opened", lambda what=what: choose(f"{what} {seed}"))
        if what == "overview":
            visit.moves("overview, a move over it", 0.2, 0.8)
        if what != "page":
            choose("nothing")
            page.locator(".stVegaLiteChart").first.wait_for(state="detached")
    canvas = page.locator(".stVegaLiteChart canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    visit.moves("page, a move of the brush", 0.3, 0.4)
    visit.measure("page, brush let go", page.mouse.up)
    choose("nothing")
    page.locator(".stVegaLiteChart").first.wait_for(state="detached")


@contextmanager
def page_of(experts: int) -> Iterator[str]:
    """PAGE on a free port, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "page.py"
        script.write_text(PAGE, "utf-8")
        with served(str(script), EXPERTS=str(experts), STREAMLIT_SERVER_MAX_MESSAGE_SIZE="400") as server:
            yield server.url


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experts", type=int, default=8)
    options = parser.parse_args()
    messages = []
    with page_of(options.experts) as url, sync_playwright() as playwright:
        browser = chromium(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.add_init_script(WATCH)
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: messages.append(len(data))))
        page.goto(url)
        visit = TimedPage(page, messages)
        round_of(visit, 0)
        visit.found.clear()
        for seed in range(1, options.rounds + 1):
            round_of(visit, seed)
        version = browser.version
        browser.close()
    size = f"{TOKENS:,} tokens x {LAYERS} layers, {options.experts} experts"
    print(f"{size}, Chromium {version}, {os.cpu_count()} cores; median of {options.rounds}\n")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in visit.found.items()
    }
    rows = [(name, f"{busy:.1f}", f"{wall:.0f}", int(size) or "") for name, (busy, wall, size) in medians.items()]
    print(table(["", "main thread, ms", "wall, ms", "largest message, bytes"], rows))
    ratio = medians["cells, opened"][0] / medians["overview, opened"][0]
    print(f"\nThe cells take {ratio:.0f} times the overview's CPU time.")


if __name__ == "__main__":
    main()
