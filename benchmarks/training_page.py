"""Does the page Training open a large run soon, and how much does it send?

    python -m benchmarks.training_page [--layers 48] [--experts 128] [--logs 1000] [--before FOLDER]

Writes a made-up run, with the files that a real one would have, and opens it as `moeviz app RUN` does, in Chromium; and
by a link the pair of runs that ships, as a newcomer sees the page ("pair").
"reads" is the CPU time that reading takes, once; "first" is from the request to the first chart on screen and "last" to
the last one of the page, on a server that has been visited before. Each has beside it the CPU time of the browser's
main thread and of the server until then, which a busy machine inflates less than seconds: on an idle one, "last" is
about their sum. "sent" is what the server sends to that tab, in its web socket, before compression. Between visits, the
page Load of the example is opened in the same way: what any page of the app takes on this machine. With an older
checkout's folder, both apps take turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, CDPSession, sync_playwright

from moeviz.training.found import run_at
from moeviz.training.layer_metrics import SUMS, layer_metrics
from moeviz.training.writing import RunWriter
from tests.browser import SIZES, Server, chromium, served

TOKENS, TOP_K, STEPS = 4096, 8, 10  # of each log
CHARTS = "[data-testid=stVegaLiteChart] :is(canvas, svg)"
# What is opened, and how many charts there are at least: those of the part that is open at first; of the page Load.
PAGES = {"training": ("training", 2), "pair": ("training?run=aux-off&beside=aux-on", 3), "load": ("load", 4)}


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
        rows = layer_metrics(counts, np.full(layers, TOKENS), sums, names, sizes)
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
            self._begin = time.perf_counter(), cpu_of(server)
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
        seconds, cpu = time.perf_counter() - self._begin[0], cpu_of(server) - self._begin[1]
        metrics = {row["name"]: row["value"] for row in tools.send("Performance.getMetrics")["metrics"]}
        return Moment(seconds, metrics["TaskDuration"], cpu)


def cpu_of(server: Server) -> float:
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


def _served(stack: ExitStack, folder: Path, checkout: Path | None) -> Server:
    """An app of this checkout, or of another, that opens that run."""
    opens = {"MOEVIZ_OPEN": str(folder), "MOEVIZ_SERVE": "private"}
    if checkout is None:
        return stack.enter_context(served(**opens))
    home = checkout.resolve()
    paths = f"{home}:{home / 'kernels'}"
    return stack.enter_context(served(str(home / "app" / "main.py"), PYTHONPATH=paths, **opens))


def _print(name: str, visits: dict[str, list[Visit]]) -> None:
    print(f"{name}: {_told('training, at the first visit', [visits['training'][0].last])}")
    for page, found in visits.items():
        for moment in ("first", "last"):
            print(f"{name}: {page:<9} {_told(moment, [getattr(visit, moment) for visit in found[1:]])}")
        print(f"{name}: {page:<9} sent {max(visit.sent for visit in found[1:]) / 1e6:.2f} MB")


def main() -> None:
    """Print what was found, a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="an older checkout")
    wanted = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        write_made_up_run(folder, wanted.layers, wanted.experts, wanted.logs)
        start = time.process_time()
        run_at(folder)
        reads = time.process_time() - start
        apps = {"now": _served(stack, folder, None)}
        if wanted.before is not None:
            apps["before"] = _served(stack, folder, wanted.before)
        browser = chromium(stack.enter_context(sync_playwright()))
        visits: dict[str, dict[str, list[Visit]]] = {name: {page: [] for page in PAGES} for name in apps}
        for _ in range(1 + wanted.rounds):
            for page, (address, charts) in PAGES.items():
                for name, server in apps.items():
                    visits[name][page].append(Visit(browser, server, address, charts))
        browser.close()
    print(f"{wanted.layers} layers x {wanted.experts} experts x {wanted.logs:,} logs: reads {reads:.2f} s CPU")
    for name, found in visits.items():
        _print(name, found)


if __name__ == "__main__":
    main()
