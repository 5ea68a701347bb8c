"""The time from Enter to the first chart: a 64-token prompt on the embedded model, in a real Chromium.

    python -m benchmarks.app [--rounds N]

Server and browser run on this machine and share its clock, so the wait falls into four parts without gaps:

    to the server    Enter pressed -> the app's script begins
    app              the script, to the moment it hands over the first chart; without the model
    model            moeviz.trace()
    to the screen    chart handed over -> its first frame presented; Streamlit, transport and drawing

A visit's first run also loads the chart library into the browser; a later one does not. Printed are medians, in
milliseconds: parts of different rounds, so they need not add up. "Main thread" is the CPU time of the browser's main
thread in the same stretch, which a busy machine does not inflate.

The browser draws the progress bar while the model runs, and both want the same cores: with few of them, "model" is
longer than the same call in a program of its own. Those are printed too, each of a fresh process: importing, loading
the model, the first trace, and a later one; and the sizes of the model's files.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.harness import main_thread, table
from moeviz.capture.models.load import load_model
from moeviz.embedded import embedded_path
from moeviz_app.jobs.recorded import EXAMPLES
from tests.support.browser import chromium, drawn
from tests.support.servers import Server, served

TOKENS = 64
MILLISECONDS = 60_000
PARTS = ("Enter to first chart", "to the server", "app", "model", "to the screen", "main thread")
LINE = re.compile(r"moeviz timing: (\d+\.\d+) (.+)")

STEPS = ("import", "load the model", "first trace", "later trace")
ALONE = """
import json, sys, time
times = [time.perf_counter()]
lap = lambda: times.append(time.perf_counter())
from moeviz.capture.trace import trace
from moeviz.capture.models.load import load_model
lap()
model = load_model()
lap()
for text in json.loads(sys.argv[1]):
    trace(model, text)
    lap()
print(json.dumps([1000 * (after - before) for before, after in zip(times, times[1:])]))
"""

# Both moments as the browser sees them: Enter, and the frame after the first stroke on the new trace's map.
WATCH = Path(__file__).with_name("app.js").read_text("utf-8")


def prompts() -> list[str]:
    """Texts of TOKENS tokens, each with another beginning, so that no answer comes from a cache."""
    count = load_model().count_tokens
    words = " ".join(EXAMPLES.values()).split(" ")
    texts = (" ".join(words[start:] + words) for start in range(len(words)))
    cut = (next((t[:end] for end in range(len(t)) if count(t[:end]) == TOKENS), None) for t in texts)
    return [text for text in cut if text is not None]


def run(page: Page, server: Server, prompt: str) -> dict[str, float]:
    """One run, from Enter to the first frame. All in milliseconds."""
    box = page.get_by_role("textbox", name="Prompt", exact=True)
    box.fill(prompt)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    lines, busy = len(server.lines), main_thread(devtools)
    box.press("Enter")
    page.wait_for_function("() => window.watch.drawn", timeout=MILLISECONDS)
    busy = main_thread(devtools) - busy
    seen = page.evaluate("window.watch")
    at = {what: 1000 * moment for what, moment in moments(server, lines).items()}
    model = at["model ends"] - at["model begins"]
    return {
        "Enter to first chart": seen["drawn"] - seen["enter"],
        "to the server": at["script begins"] - seen["enter"],
        "app": at["first chart sent"] - at["script begins"] - model,
        "model": model,
        "to the screen": seen["drawn"] - at["first chart sent"],
        "main thread": 1000 * busy,
    }


def moments(server: Server, since: int) -> dict[str, float]:
    """When the server did what, from the script that used the model to the end of the one after it, which draws."""
    for _ in range(MILLISECONDS // 10):
        found = [match.groups() for line in server.lines[since:] if (match := LINE.match(line))]
        names = [what for _, what in found]
        if "model ends" in names and "script ends" in names[names.index("model ends") :]:
            model = names.index("model begins")
            first = max(i for i in range(model) if names[i] == "script begins")
            at = {what: float(moment) for moment, what in reversed(found[model:])}  # of each the first
            return at | {"script begins": float(found[first][0])}
        time.sleep(0.01)
    raise RuntimeError("The server did not say when it was done:\n" + "".join(server.lines[since:]))


def visit(browser: Browser, server: Server, texts: list[str]) -> list[dict[str, float]]:
    """A fresh visitor who runs these prompts one after the other."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(server.url)
    drawn(page)  # the example; the model is loaded meanwhile
    runs = [run(page, server, text) for text in texts]
    context.close()
    return runs


def alone(texts: list[str]) -> dict[str, float]:
    """A program of its own that traces two texts: how long each of its steps takes, in milliseconds."""
    done = subprocess.run([sys.executable, "-c", ALONE, json.dumps(texts)], capture_output=True, check=True, text=True)
    return dict(zip(STEPS, json.loads(done.stdout), strict=True))


def print_alone(rounds: int, texts: Iterator[str]) -> None:
    """The model without app and browser, and what its files weigh."""
    programs = [alone([next(texts), next(texts)]) for _ in range(rounds)]
    print(f"\nIn a program of its own, {TOKENS} tokens; median of {rounds} fresh processes, ms\n")
    for step in STEPS:
        print(f"{step:24}{statistics.median(program[step] for program in programs):22.0f}")
    print("\nFiles, bytes\n")
    for file in sorted(embedded_path().iterdir()):
        if file.suffix in (".safetensors", ".json", ".jsonl", ".npz"):
            print(f"{file.name:24}{file.stat().st_size:22,}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    texts = itertools.cycle(prompts())
    with served(MOEVIZ_TIMING="1") as server, sync_playwright() as playwright:
        browser = chromium(playwright)
        visit(browser, server, [next(texts)])  # not counted: the server's first run
        visits = [visit(browser, server, [next(texts) for _ in range(2)]) for _ in range(rounds)]
        version = browser.version
        browser.close()
    print(f"{TOKENS} tokens, embedded model, Chromium {version}, {os.cpu_count()} cores; median of {rounds}, ms\n")
    rows = [
        (part, *(f"{statistics.median(runs[which][part] for runs in visits):.0f}" for which in (0, 1)))
        for part in PARTS
    ]
    print(table(["", "first run of a visit", "a later run"], rows))
    print_alone(rounds, texts)


if __name__ == "__main__":
    main()
