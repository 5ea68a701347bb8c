"""Does the page Training open a large run soon, and how much does it send?

    python -m benchmarks.training_page [--layers 48] [--experts 128] [--logs 1000]

Writes a made-up run, with the files that a real one would have, and opens it as `moeviz app RUN` does, in Chromium.
"reads" is what the command line waits for; "opens" is from the request to the last chart of the page on screen, on a
server that has been visited before; "sent" is what the server sends to that tab, in its web socket, before compression.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from moeviz.training.found import run_at
from moeviz.training.measures import SUMS, rows_of
from moeviz.training.writing import RunWriter
from tests.browser import SIZES, chromium, served

TOKENS, TOP_K, STEPS = 4096, 8, 10  # of each log
CHARTS = "[data-testid=stVegaLiteChart] :is(canvas, svg)"
FEWEST = 8  # charts of a run without snapshots and gradients


def write_made_up_run(folder: Path, layers: int, experts: int, logs: int, seed: int = 0) -> None:
    """A run whose layers drift apart, and whose last layer loses an expert half way."""
    random, top_k = np.random.default_rng(seed), min(TOP_K, experts)
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
        rows = rows_of(counts, np.full(layers, TOKENS), sums, names, sizes)
        event = {"kind": "dead", "layer": layers - 1, "on": True, "says": f"layer {layers - 1}: expert 0 is dead"}
        line = {"step": log * STEPS, "steps": STEPS, "tokens": log * TOKENS, "loss": 9 / log**0.2, "aux_loss": top_k}
        line |= {"aux_coefficient": 0.01, "alarms": [event] if log * STEPS == since - 1 + STEPS else []}
        writer.log(line, rows, [[] for _ in names[1:]] + [[[0, since]] if dead else []])


def opened(browser: Browser, url: str) -> tuple[float, int, int]:
    """Seconds until all charts are drawn, bytes that came through the web socket, and charts."""
    sent = 0

    def count(frame: str | bytes) -> None:
        nonlocal sent
        sent += len(frame)

    with browser.new_context(**SIZES["desktop"]) as context:
        page = context.new_page()
        page.on("websocket", lambda socket: socket.on("framereceived", count))
        start = time.perf_counter()
        page.goto(f"{url}/training")
        page.wait_for_function(
            f"() => document.querySelectorAll('{CHARTS}').length >= {FEWEST}"
            " && !document.querySelector('[data-testid=stStatusWidget]')"
        )
        seconds = time.perf_counter() - start
        return seconds, sent, page.locator(CHARTS).count()


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--logs", type=int, default=1000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "run"
        write_made_up_run(folder, wanted.layers, wanted.experts, wanted.logs)
        start = time.perf_counter()
        run_at(folder)
        reads = time.perf_counter() - start
        with served(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as server:
            browser = chromium(playwright)
            runs = [opened(browser, server.url) for _ in range(6)]
            browser.close()
    seconds = sorted(found[0] for found in runs[1:])
    print(f"{wanted.layers} layers x {wanted.experts} experts x {wanted.logs:,} logs: reads {reads:.2f} s")
    print(f"first visit {runs[0][0]:.2f} s; then opens in {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to")
    print(f"{seconds[-1]:.2f}); sent {max(found[1] for found in runs) / 1e6:.2f} MB for {runs[-1][2]} charts")


if __name__ == "__main__":
    main()
