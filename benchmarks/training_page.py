"""Does the page Training open a large run soon, and how much does it send?

    python -m benchmarks.training_page [--layers 48] [--experts 128] [--logs 1000]

Writes a made-up run, with the files that a real one would have, and opens it as `moeviz app RUN` does, in Chromium.
"reads" is what the command line waits for; "opens" is from the request to the last chart of the page on screen, on a
server that has been visited before; "busy" is the CPU time of the browser's main thread in that time, which a busy
machine inflates less; "sent" is what the server sends to that tab, in its web socket, before compression. Between
visits, the page Load of the example is opened in the same way: what any page of the app takes on this machine.
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
CHARTS_OF_RUN, CHARTS_OF_LOAD = 8, 4  # of a run without snapshots and gradients; of the page Load, at least


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


def opened(browser: Browser, address: str, charts: int) -> tuple[float, float, int]:
    """Seconds until so many charts are drawn, CPU seconds of the main thread, and bytes through the web socket."""
    sent = 0

    def count(frame: str | bytes) -> None:
        nonlocal sent
        sent += len(frame)

    with browser.new_context(**SIZES["desktop"]) as context:
        page = context.new_page()
        tools = context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.on("websocket", lambda socket: socket.on("framereceived", count))
        start = time.perf_counter()
        page.goto(address)
        page.wait_for_function(
            f"() => document.querySelectorAll('{CHARTS}').length >= {charts}"
            " && !document.querySelector('[data-testid=stStatusWidget]')"
        )
        seconds = time.perf_counter() - start
        metrics = {row["name"]: row["value"] for row in tools.send("Performance.getMetrics")["metrics"]}
        return seconds, metrics["TaskDuration"], sent


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "run"
        write_made_up_run(folder, wanted.layers, wanted.experts, wanted.logs)
        start = time.perf_counter()
        run_at(folder)
        reads = time.perf_counter() - start
        with served(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as server:
            browser = chromium(playwright)
            visits = []
            for _ in range(1 + wanted.rounds):
                visits += [opened(browser, f"{server.url}/training", CHARTS_OF_RUN)]
                visits += [opened(browser, f"{server.url}/load", CHARTS_OF_LOAD)]
            browser.close()
    print(f"{wanted.layers} layers x {wanted.experts} experts x {wanted.logs:,} logs: reads {reads:.2f} s")
    print(f"first visit {visits[0][0]:.2f} s")
    for page, found in (("training", visits[2::2]), ("load", visits[3::2])):
        seconds, busy, sent = ([visit[part] for visit in found] for part in range(3))
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{page:<9} opens {statistics.median(seconds):.2f} s ({spread})", end="  ")
        print(f"busy {statistics.median(busy):.2f} s  sent {max(sent) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
