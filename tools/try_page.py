"""Compare the model in the page `try/` of the site with Python's; measure the download and the time.

    python -m tools.try_page [equal | bytes | opening | cost] [--texts N]

equal    the sixty held-out texts in Chromium against `moeviz.trace` in float32: rows (a token at a layer) whose experts
         differ, weights, logits, the five likeliest next tokens; what is written by the cache; and two controls that
         must be noticed: rotary positions of theta 10010, and a tokenizer with JavaScript's own blanks
bytes    of each file, as it is and by gzip -6
opening  on a phone's screen, with an empty cache, at 20 and 100 Mbit/s: until the recorded example is drawn, and
until a typed text is; and the memory of the page's process then
cost     CPU time of all the browser's processes per token, for 52 and 256 tokens, in WebAssembly and in JavaScript;
and the memory of the page's process, compared with that of an empty page

"Near ties" are rows in which two of the three highest logits are less than 5e-5 apart: another order of a sum may
choose the other one there, and nowhere else.
"""

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

import moeviz
from benchmarks.harness import table
from moeviz.embedded.evaluation import evaluation_set
from tests.support.browser import SIZES, chromium
from tests.support.site_of_docs import DOCS, served
from tests.support.try_page import TIE, ask, begin, difference, run

sys.path.append(str(DOCS))

CONTROL_TEXTS = 4
WRITTEN = ("Il fait froid à Paris.", "Once upon a time", "12 + 30 = 42", "def main():\n    ")
BLANKS = ("  \ufeff", "  \x85", "plain text, no odd blank")
RATES = (20, 100)  # Mbit/s
LATENCY = 20  # ms
ROUNDS = 5
OWN = "page.js"  # left out if only the model is asked
Answers = dict[str, Callable[[Route], None]]


@contextmanager
def asked(
    browser: Browser, address: str, folder: str, plain: bool = False, changed: Answers | None = None
) -> Iterator[Page]:
    """Open a page with only the model in it. `changed` has files, by name, to serve instead of the server's."""
    page = browser.new_page()
    page.set_default_timeout(600_000)
    page.route(f"**/{OWN}", lambda route: route.fulfill(body="", content_type="text/javascript"))
    for name, answer in (changed or {}).items():
        page.route(f"**/{name}", answer)
    page.goto(address)
    begin(page, folder, plain=plain)
    yield page
    page.close()


def equal(browser: Browser, address: str, folder: Path, number: int) -> None:
    """Print how far the page is from Python, for each way of computing, and for two that are wrong."""
    model = moeviz.load_model()
    texts = [text.text for text in evaluation_set()][:number]
    traces = [moeviz.trace(model, text, next_tokens="auto") for text in texts]
    written = [moeviz.trace(model, text, max_new_tokens=24, next_tokens=True) for text in WRITTEN]
    weights = next(folder.glob("model-*")).name

    def theta(route: Route) -> None:
        config = json.loads((folder / weights / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 10_010
        route.fulfill(json=config)

    ways: dict[str, tuple[bool, int, Answers]] = {
        "WebAssembly": (False, number, {}),
        "JavaScript": (True, min(6, number), {}),
        "control: theta 10010": (False, CONTROL_TEXTS, {"config.json": theta}),
    }
    rows = []
    for name, (plain, many, changed) in ways.items():
        with asked(browser, address, weights, plain, changed) as page:
            found = [difference(trace, run(page, text)) for trace, text in zip(traces[:many], texts, strict=False)]
            own = [(trace, run(page, text, more=24)) for trace, text in zip(written, WRITTEN, strict=True)]
        same = sum(answer["ids"] == trace.tokens["token_id"].tolist() for trace, answer in own)
        rows.append([name, *_sum_up(found), f"{same} of {len(own)}"])
    head = ["", "texts", "rows", "differ", "near ties", "of these differ", "weights", "logits", "next differ", "p"]
    print(table([*head, "written alike"], rows))
    print(f"\nOf {len(BLANKS)} strings with odd blanks, tokenized otherwise than by Python:")
    wanted = [model.tokenizer(text)["input_ids"] for text in BLANKS]
    for name, changed in {"as shipped": {}, "control: native \\s": {"tokenizer.js": _native(folder)}}.items():
        with asked(browser, address, weights, changed=changed) as page:
            differ = sum(run(page, text)["ids"] != ids for text, ids in zip(BLANKS, wanted, strict=True))
        print(f"  {name}: {differ}")


def _sum_up(found: list[dict[str, Any]]) -> list[object]:
    most = [f"{max(one[name] for one in found):.1e}" for name in ("weights", "logits", "next p")]
    sums = [f"{sum(one[name] for one in found):,}" for name in ("rows", "ids", "near")]
    ties = sum(len(one["ties"]) for one in found)
    return [len(found), *sums, ties, *most[:2], sum(one["next"] for one in found), most[2]]


def _native(folder: Path) -> Callable[[Route], None]:
    source = next(folder.glob("code-*/static/js/tokenizer.js")).read_text("utf-8")
    begins = source.index("  return pattern.replace(")
    changed = source[:begins] + "  return pattern;" + source[source.index("\n", begins) :]
    return lambda route: route.fulfill(body=changed, content_type="text/javascript")


def sizes(folder: Path) -> None:
    """Print what is downloaded."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
    rows = []
    for path in files:
        content = path.read_bytes()
        rows.append([path.relative_to(folder).as_posix(), len(content), len(gzip.compress(content, 6))])
    rows.append(["all", *(sum(row[column] for row in rows) for column in (1, 2))])
    print(table(["file", "bytes", "gzip -6"], [[name, f"{raw:,}", f"{packed:,}"] for name, raw, packed in rows]))


def opening(browser: Browser, address: str) -> None:
    """Print how long a first visitor on a phone waits, by the bit rate of the line."""
    rows = []
    for rate in RATES:
        context = browser.new_context(**SIZES["phone"])
        context.set_default_timeout(300_000)
        page = context.new_page()
        limits = {"offline": False, "latency": LATENCY, "downloadThroughput": rate * 1e6 / 8, "uploadThroughput": -1}
        devtools = context.new_cdp_session(page)
        devtools.send("Network.enable")
        devtools.send("Network.emulateNetworkConditions", limits)
        begun = time.perf_counter()
        page.goto(address)
        page.locator("#explorer .map[data-drawn]").wait_for()
        times = [time.perf_counter() - begun]
        page.locator("#run:enabled").wait_for()
        times.append(time.perf_counter() - begun)
        page.get_by_label("Prompt").fill("Il fait froid à Paris. 12 + 30 = 42")
        page.locator("#run").click()
        expect(page.locator("#state")).to_contain_text("tokens in", timeout=300_000)
        times.append(time.perf_counter() - begun)
        rows.append([f"{rate} Mbit/s", *(f"{taken:.1f}" for taken in times), f"{_resident():,.0f}"])
        context.close()
    print(table(["s until …", "first picture", "model is there", "first own answer", "then the renderer, MB"], rows))


def cost(browser: Browser, address: str, folder: Path) -> None:
    """Print CPU time a token and memory."""
    text = " ".join(one.text for one in evaluation_set()[:4])
    weights = next(folder.glob("model-*")).name
    empty = browser.new_page()
    empty.goto("about:blank")
    print(f"Renderer of an empty page: {_resident():,.0f} MB")
    empty.close()
    rows = []
    for plain in (False, True):
        with asked(browser, address, weights, plain) as page:
            ids = run(page, text[:2000])["ids"]
            for number in (52, 256):
                taken = []
                for _ in range(ROUNDS):
                    before = _cpu()
                    answer = ask(page, mute=[], ids=ids[:number])
                    taken.append(((_cpu() - before) * 1000 / number, answer["took"]))
                cpu, wall = (min(column) for column in zip(*taken, strict=True))
                way = "JavaScript" if plain else "WebAssembly"
                rows.append([way, number, f"{cpu:.2f}", f"{wall:.0f}", f"{_resident():,.0f}"])
    print(table(["", "tokens", "CPU ms a token", "ms in all", "renderer, MB"], rows))


def _browser() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]


def _cpu() -> float:
    return sum(sum(one.cpu_times()[:2]) for one in _browser())


def _resident() -> float:
    """Measure the MB of the largest process that draws a page."""
    drawing = [one for one in _browser() if "--type=renderer" in one.cmdline()]
    return max((one.memory_info().rss for one in drawing), default=0) / 1e6


def main() -> None:
    """Ask for the parts of the benchmark, or do all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("equal", "bytes", "opening", "cost")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=parts)
    parser.add_argument("--texts", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from _ext import try_page

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary) / "try"
        try_page.write(folder)
        browser = chromium(playwright)
        with served(folder) as address:
            for part in args.parts or parts:
                print(f"\n== {part} (ties: < {TIE} apart)" if part == "equal" else f"\n== {part}", flush=True)
                if part == "bytes":
                    sizes(folder)
                elif part == "opening":
                    opening(browser, address)
                elif part == "equal":
                    equal(browser, address, folder, args.texts)
                else:
                    cost(browser, address, folder)
        browser.close()


if __name__ == "__main__":
    main()
