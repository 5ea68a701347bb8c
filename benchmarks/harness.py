"""Tools of several benchmarks: apps of two checkouts, a tab under a stopwatch, arms that take turns, and tables.

What needs a browser or the app is imported where it is used: most benchmarks have neither.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.servers import Server

MILLISECONDS = 300_000  # of a busy machine's first visit
Figures = dict[str, float]  # of one round, by what is measured


@contextmanager
def apps_and_browser(before: Path | None, **environment: str) -> Iterator[tuple[dict[str, Server], Browser]]:
    """This app as "now", that of an older checkout as "before" where one is given, and a Chromium, to the end."""
    from playwright.sync_api import sync_playwright

    from tests.support.browser import chromium
    from tests.support.servers import served

    with ExitStack() as stack:
        apps = {"now": stack.enter_context(served(**environment))}
        if before is not None:
            apps["before"] = stack.enter_context(served_of(before, **environment))
        browser = chromium(stack.enter_context(sync_playwright()))
        yield apps, browser
        browser.close()


def served_of(checkout: Path, **environment: str):
    """The app of another checkout, with the packages of this one. A context manager, as `served` is."""
    from tests.support.servers import served

    home = checkout.resolve()
    app = home / "app" / "moeviz_app"
    script = (app if app.exists() else home / "app") / "main.py"  # where older checkouts have it
    return served(str(script), PYTHONPATH=f"{home}:{home / 'app'}:{home / 'kernels'}", **environment)


def take_turns(arms: Mapping[str, Callable[[int], Figures]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure each arm once a round, in turns, so that what else the machine does is in all of them.

    An arm is given the number of its round. Round 0 warms up and does not count.
    """
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in arms}
    for number in range(1 + rounds):
        for name, measure in arms.items():
            for what, value in measure(number).items():
                if number:
                    found[name][what].append(value)
    return found


def interleave(ways: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 5) -> dict[str, list[float]]:
    """Return the seconds that each way says it took, one a round. In each round every way runs once, in random order.

    The first `warm_up` rounds do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(warm_up + rounds):
        for name in random.sample(list(ways), len(ways)):
            times[name].append(ways[name]())
    return {name: taken[warm_up:] for name, taken in times.items()}


def ratios(times: Mapping[str, Sequence[float]], way: str, over: str) -> list[float]:
    """Return the ratios of two ways, round by round: whatever else the machine did in a round is in both."""
    return [one / other for one, other in zip(times[way], times[over], strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, str]:
    """Return the median, and the middle half in words.

    >>> quartiles([1.0, 2.0, 3.0])
    (2.0, '1.000 to 3.000')
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, f"{low:.3f} to {high:.3f}"


def compared(found: Mapping[str, Mapping[str, Sequence[float]]], digits: int = 2) -> str:
    """Return a table: for each figure the median of each arm, with the lowest and the highest."""
    names = dict.fromkeys(what for rows in found.values() for what in rows)
    rows = [[what, *(spread(found[arm].get(what, ()), digits) for arm in found)] for what in names]
    return table(["", *found], rows)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, with the lowest and the highest.

    >>> spread([1.0, 3.0, 2.0])
    '2.00 (1.00 to 3.00)'
    """
    if not values:
        return "-"
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values is below; NaN without values.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they have to be: the first to the left, the others to the right.

    >>> print(table(["", "ms"], [["open", 12], ["click", 3]]))
           ms
    open   12
    click   3
    """
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rest = ("".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths, strict=True)) for line in lines)
    return "\n".join(f"{line[0]:{first}}{cells}" for line, cells in zip(lines, rest, strict=True))


@dataclass(frozen=True, slots=True)
class Moment:
    """Times and bytes spent since `TimedTab.begin`."""

    seconds: float
    browser: float  # CPU seconds of the page's main thread, which a busy machine inflates less than seconds
    server: float  # and of the server's process
    sent: float  # MB that the server has sent to the tab in its web socket, before compression

    def of(self, what: str) -> Figures:
        """These figures by name, for a table."""
        return {f"{what}, s": self.seconds, f"{what}, CPU s": self.browser + self.server}


class TimedTab:
    """A new visitor's tab under a stopwatch."""

    def __init__(self, browser: Browser, server: Server, screen: str = "desktop", script: str = "") -> None:
        from tests.support.browser import SIZES

        self.server, self._sent = server, 0
        self.context = browser.new_context(**SIZES[screen])
        self.context.set_default_timeout(MILLISECONDS)
        self.page = self.context.new_page()
        if script:
            self.page.add_init_script(script)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._count))
        self._tools = self.context.new_cdp_session(self.page)
        self._tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.begin()

    def _count(self, frame: str | bytes) -> None:
        self._sent += len(frame)

    def begin(self) -> None:
        """Count from here."""
        self._start = time.perf_counter(), main_thread(self._tools), cpu_of(self.server), self._sent

    def open(self, address: str = "") -> None:
        """Count from here, and ask for a page."""
        self.begin()
        self.page.goto(f"{self.server.url}/{address}")

    def now(self) -> Moment:
        """Read the times and bytes spent so far."""
        begun, browser, server, sent = self._start
        seconds = time.perf_counter() - begun
        spent = main_thread(self._tools) - browser, cpu_of(self.server) - server
        return Moment(seconds, *spent, (self._sent - sent) / 1e6)

    def until(self, condition: str, argument: Any = None) -> Moment:
        """Read the times and bytes spent until this JavaScript, an expression or a function, holds."""
        self.page.wait_for_function(condition, arg=argument)
        return self.now()

    def close(self) -> None:
        """The visitor leaves."""
        self.context.close()


def main_thread(devtools: Any) -> float:
    """CPU seconds that the page's main thread has spent in tasks."""
    metrics = {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def cpu_of(server: Server) -> float:
    """Return the CPU seconds of the server's processes so far, over all threads. Linux only; elsewhere NaN."""
    if not Path("/proc/self/stat").exists():
        return float("nan")
    stats = (Path(f"/proc/{process}/stat").read_text() for process in processes_of(server))
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def megabytes(server: Server) -> float:
    """Return the memory that the server's processes hold; what several share counts once. Linux only."""
    rollups = (Path(f"/proc/{process}/smaps_rollup").read_text().splitlines() for process in processes_of(server))
    return sum(int(line.split()[1]) for rollup in rollups for line in rollup if line.startswith("Pss:")) * 1024 / 1e6


def processes_of(server: Server) -> list[int]:
    """Return the server's process, and those that it has forked."""
    first = server.process.pid
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


def peak_mb() -> float:
    """Return the highest memory of this process in MB, since `forget_peak` if that ran; 0 where Linux does not say it.

    Not `getrusage`: what that says is never less than the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def forget_peak() -> None:
    """Reset `peak_mb` to the memory that is held now, if the system allows it."""
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")
