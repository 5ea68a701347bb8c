"""Does the page Training open a large run soon, and how much does it send?

    python -m benchmarks.training_page [--layers 48] [--experts 128] [--logs 1000]

Writes a made-up run, with the files that a real one would have, and opens it as `moeviz app RUN` does, in Chromium.
"reads" is the CPU time that reading takes, once; "first" is from the request to the first chart on screen and "last" to
the last one of the page, on a server that has been visited before. Each has beside it the CPU time of the browser's
main thread and of the server until then, which a busy machine inflates less than seconds: on an idle one, "last" is
about their sum. "sent" is what the server sends to that tab, in its web socket, before compression. Between visits, the
page Load of the example is opened in the same way: what any page of the app takes on this machine.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, CDPSession, sync_playwright

from moeviz.training.found import run_at
from moeviz.training.measures import SUMS, rows_of
from moeviz.training.writing import RunWriter
from tests.browser import SIZES, Server, chromium, served

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


@dataclass(frozen=True)
class Moment:
    """A moment of a visit: seconds since the request, and CPU seconds of the browser's main thread and the server."""

    seconds: float
    browser: float
    server: float


class Visit:
    """A fresh tab that opens an address."""

    def __init__(self, browser: Browser, server: Server, page: str, charts: int) -> None:
        self.sent = 0
        with browser.new_context(**SIZES["desktop"]) as context:
            context.set_default_timeout(300_000)  # of a busy machine's first visit
            tab = context.new_page()
            tools = context.new_cdp_session(tab)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.on("websocket", lambda socket: socket.on("framereceived", self._count))
            self._begin = time.perf_counter(), _cpu_of(server)
            tab.goto(f"{server.url}/{page}")
            tab.wait_for_selector(CHARTS)
            self.first = self._now(tools, server)
            tab.wait_for_function(
                f"() => document.querySelectorAll('{CHARTS}').length >= {charts}"
                " && !document.querySelector('[data-testid=stStatusWidget]')"
            )
            self.last = self._now(tools, server)

    def _count(self, frame: str | bytes) -> None:
        self.sent += len(frame)

    def _now(self, tools: CDPSession, server: Server) -> Moment:
        seconds, cpu = time.perf_counter() - self._begin[0], _cpu_of(server) - self._begin[1]
        metrics = {row["name"]: row["value"] for row in tools.send("Performance.getMetrics")["metrics"]}
        return Moment(seconds, metrics["TaskDuration"], cpu)


def _cpu_of(server: Server) -> float:
    """CPU seconds of the server's process so far, all its threads together. Of Linux alone; elsewhere NaN."""
    stat = Path(f"/proc/{server.process.pid}/stat")
    if not stat.exists():
        return float("nan")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _told(name: str, moments: list[Moment]) -> str:
    seconds = [moment.seconds for moment in moments]
    browser, server = (statistics.median(getattr(moment, who) for moment in moments) for who in ("browser", "server"))
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return f"{name} {statistics.median(seconds):.2f} s ({spread}), browser {browser:.2f} s, server {server:.2f} s"


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
        start = time.process_time()
        run_at(folder)
        reads = time.process_time() - start
        with served(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private") as server:
            browser, visits = chromium(playwright), []
            for _ in range(1 + wanted.rounds):
                visits += [Visit(browser, server, "training", CHARTS_OF_RUN)]
                visits += [Visit(browser, server, "load", CHARTS_OF_LOAD)]
            browser.close()
    print(f"{wanted.layers} layers x {wanted.experts} experts x {wanted.logs:,} logs: reads {reads:.2f} s CPU")
    print(f"training  {_told('at the first visit', [visits[0].last])}")
    for page, found in (("training", visits[2::2]), ("load", visits[3::2])):
        for moment in ("first", "last"):
            print(f"{page:<9} {_told(moment, [getattr(visit, moment) for visit in found])}")
        print(f"{page:<9} sent {max(visit.sent for visit in found) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
