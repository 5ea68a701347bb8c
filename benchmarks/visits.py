"""Visits that `benchmarks.pages` measures: the first page, a dataset's pages, and a training run's."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Browser

from benchmarks.harness import Figures, Tab
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from moeviz.training.layer_metrics import SUMS, layer_metrics
from moeviz.training.writing import RunWriter
from tests.support.browser import go_to
from tests.support.servers import Server

CHART = "[data-testid=stVegaLiteChart] :is(canvas, svg)"
PLACE = "[class*=st-key-place-of-]"  # of a chart that may wait until it is scrolled to
FIRST_CHART = f"() => document.querySelector('{CHART}')"
IDLE = "() => !document.querySelector('[data-testid=stStatusWidget]')"
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
TOKENS, STEPS = 4096, 10  # of each log of a made-up run


def of_first_page(browser: Browser, server: Server, screen: str, prompt: str, files: bool) -> Figures:
    """The first page: opened, a prompt run, a token clicked; with `files`, that click on larger traces too."""
    tab = Tab(browser, server, screen, TOOLS)
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
        tab.page.locator("a.named").first.click()
        found |= tab.until(CONTEXTS).of(f"{screen}: link of an expert to its contexts")
        for what, size in LARGE.items():
            _open_file(tab, size)
            found[f"{screen}: click on a token, {what}, ms"] = tab.page.evaluate(CLICK, 3)
    tab.close()
    return found


def _open_file(tab: Tab, size: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.npz"
        write_trace(sample_trace(**size), file)
        go_to(tab.page, "Traces")
        tab.page.locator("input[type=file]").set_input_files(file)
        tab.page.get_by_text("Opened.").wait_for()
    go_to(tab.page, "Explore")
    tab.until(MAP)


def of_dataset(browser: Browser, server: Server, name: str) -> Figures:
    """The pages of an opened dataset, and of one of its experts; beside them the page Load of the example."""
    found = of_page(browser, server, "load", 1)
    tab = Tab(browser, server, script=TOOLS)
    tab.open(f"corpus?dataset={name}")
    found |= tab.until(FIRST_CHART).of("corpus: first chart")
    last = tab.until(IDLE)  # the charts on the screen: those below it wait
    found |= last.of("corpus: all") | {"corpus: MB sent": last.sent}
    tab.page.get_by_role("button", name="Go to an expert").click()
    go = tab.page.get_by_test_id("stPopoverBody").get_by_role("button", name="Go", exact=True)
    go.wait_for()
    tab.begin()
    go.click()
    found |= tab.until("() => /expert \\d+/.test(document.querySelector('h1')?.textContent)").of("expert: page")
    found |= tab.until(CONTEXTS).of("expert: contexts")
    found |= tab.until("() => document.body.innerText.includes('Which tokens keep to it?')").of("expert: tokens")
    last = tab.until(IDLE)
    tab.close()
    return found | last.of("expert: all") | {"expert: MB sent": last.sent}


def of_page(browser: Browser, server: Server, address: str, charts: int) -> Figures:
    """A page from the request to its first chart, and until there are so many and no script runs."""
    tab, name = Tab(browser, server), address.partition("?")[0]
    tab.open(address)
    first = tab.until(FIRST_CHART)
    last = tab.until(f"() => document.querySelectorAll('{CHART}, {PLACE}').length >= {charts} && ({IDLE})()")
    tab.close()
    return first.of(f"{name}: first chart") | last.of(f"{name}: all") | {f"{name}: MB sent": last.sent}


def of_answer(browser: Browser, server: Server, address: str, name: str) -> Figures:
    """A page from the request to its answer, to its first chart, and until no script runs."""
    tab = Tab(browser, server)
    tab.open(address)
    said = tab.until("() => document.querySelector('[class*=st-key-answer]')?.textContent.length > 20")
    first = tab.until(FIRST_CHART)
    last = tab.until(IDLE)
    tab.close()
    found = said.of(f"{name}: answer") | first.of(f"{name}: first chart") | last.of(f"{name}: all")
    return found | {f"{name}: MB sent": last.sent}


def write_run(folder: Path, layers: int, experts: int, logs: int, seed: int = 0) -> None:
    """A made-up training run whose layers drift apart, and whose last layer loses an expert half way."""
    random, top_k = np.random.default_rng(seed), min(8, experts)
    writer, names, sizes = RunWriter(folder), list(range(layers)), [experts] * layers
    writer.begin({"model": "made up", "layers": names, "num_experts": sizes, "top_k": top_k, "has_aux": True}, 0)
    favour, since = random.normal(0, 0.02, (layers, experts)), logs // 2 * STEPS + 1
    for log in range(1, logs + 1):
        favour += random.normal(0, 0.02, favour.shape)
        share = np.exp(favour)
        dead = log * STEPS >= since
        if dead:
            share[-1, 0] = 0
        share /= share.sum(axis=1, keepdims=True)
        counts = np.stack([random.multinomial(TOKENS * top_k, of_layer) for of_layer in share])
        sums = np.concatenate([share * TOKENS, random.uniform(0.5, 1, (layers, len(SUMS))) * TOKENS], axis=1)
        sums[:, -2:] = TOKENS
        rows = layer_metrics(counts, np.full(layers, TOKENS), sums, names, sizes)
        event = {"kind": "dead", "layer": layers - 1, "on": True, "says": f"layer {layers - 1}: expert 0 is dead"}
        line = {"step": log * STEPS, "steps": STEPS, "tokens": log * TOKENS, "loss": 9 / log**0.2, "aux_loss": top_k}
        line |= {"aux_coefficient": 0.01, "alarms": [event] if log * STEPS == since - 1 + STEPS else []}
        writer.log(line, rows, [[] for _ in names[1:]] + [[[0, since]] if dead else []])


ATLAS = "() => window.deep('.atlas .map[data-drawn]')"
# Milliseconds until an atlas that is there is made anew and drawn.
DRAW_ATLAS = """
async () => {
  const root = window.deep(".atlas"), before = root.view, begin = performance.now();
  before.end();
  root.view = new before.constructor(root, before.atlas.data, before.send);
  await root.view.map.embed();
  return performance.now() - begin;
}
"""
TEXTS_OF_A_KIND = 4


def of_experts(browser: Browser, server: Server) -> Figures:
    """The page Experts of the held-out texts, and of the trace that the server was started with."""
    found: Figures = {}
    for name in ("embedded", "trace"):
        tab = Tab(browser, server, script=TOOLS)
        tab.open(f"experts?seen={name}")
        opened = tab.until(ATLAS)
        found |= opened.of(f"{name}: open to the map") | {f"{name}: open, MB sent": opened.sent}
        tab.page.evaluate(DRAW_ATLAS)  # once, so that all of it is compiled
        found[f"{name}: map, and cards or grid, ms"] = tab.page.evaluate(DRAW_ATLAS)
        tab.begin()
        tab.page.get_by_role("searchbox").fill("the")
        answered = tab.until("() => /“the”/.test(window.deep('.search .said').textContent)")
        found |= answered.of(f"{name}: a search") | {f"{name}: a search, MB sent": answered.sent}
        tab.close()
    return found


def write_labelled(file: Path, layers: int, tokens: int, top_k: int, experts: int, kinds: int = 15) -> None:
    """A made-up trace of texts of several kinds, each with a taste for some experts."""
    rng, made = np.random.default_rng(0), sample_trace(layers=layers, tokens=tokens, top_k=top_k, experts=experts)
    text = np.arange(tokens) * kinds * TEXTS_OF_A_KIND // tokens
    kind = text // TEXTS_OF_A_KIND
    ids = np.empty_like(made.experts)
    for layer in range(layers):
        taste = rng.gumbel(size=(tokens, experts)) + 3 * (rng.random((kinds, experts)) < 0.12)[kind]
        ids[layer] = np.argsort(-taste, axis=1)[:, :top_k]
    label = pd.Series([f"kind {one}" for one in kind], dtype="str")
    frame = made.tokens.assign(sequence=text.astype(np.int32), label=label)
    write_trace(replace(made, tokens=frame, experts=ids, logits=None), file)
