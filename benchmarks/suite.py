"""Costs of the tests: CPU and wall seconds by test, fixture, file and part.

    python -m benchmarks.suite record out.jsonl [pytest's options]    run pytest beside a recorder
    python -m benchmarks.suite show out.jsonl                         tables of what was recorded
    python -m benchmarks.suite keep out.jsonl                         write tests/costs.csv, which tests/tiers.py reads

CPU seconds are those of the test process and everything under it: browsers, servers, child processes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

FILE = "MOEVIZ_SUITE_COSTS"  # where the recorder writes; workers of pytest-xdist inherit it
TICK = os.sysconf("SC_CLK_TCK")
PARTS = ("browser", "table", "docs", "package")
COSTS = Path(__file__).parent.parent / "tests" / "costs.csv"
LEAST = 0.05  # seconds: cheaper tests and fixtures are not kept


_counted = {"last": 0, "lost": 0}  # ticks


def cpu_seconds() -> float:
    """CPU time of this process and all processes under it, ended ones included, in seconds."""
    times, parents = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(folder.name)] = int(fields[1])
            times[int(folder.name)] = sum(map(int, fields[11:15]))  # utime, stime and those of reaped children
    total, known = 0, {os.getpid()}
    found = known
    while found:
        total += sum(times.get(process, 0) for process in found)
        found = {process for process, parent in parents.items() if parent in found} - known
        known |= found
    # A process that ends as nobody's child takes its time along: what was once counted stays counted.
    _counted["lost"] += max(_counted["last"] - total, 0)
    _counted["last"] = total
    return (total + _counted["lost"]) / TICK


def _write(row: dict[str, Any]) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps({**row, "worker": os.environ.get("PYTEST_XDIST_WORKER", "main")}) + "\n")


class Recorder:
    """A pytest plugin that writes a line for each test, each shared fixture that takes over 50 ms, and each failure."""

    def __init__(self) -> None:
        """Before the first test."""
        self.begun = time.time()
        self.nested, self.shared = 0, 0.0  # fixtures being set up; CPU seconds that this test's shared ones took

    def _since(self, begun: tuple[float, float]) -> dict[str, float]:
        cpu, wall = cpu_seconds(), time.time()
        return {"cpu": round(cpu - begun[0], 3), "wall": round(wall - begun[1], 3), "end": round(wall, 2)}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """One test, its fixtures included."""
        begun, self.shared = (cpu_seconds(), time.time()), 0.0
        result = yield
        marks = [name for name in PARTS if item.get_closest_marker(name)]
        row = {"kind": "test", "id": item.nodeid, "part": (marks or ["fast"])[0], **self._since(begun)}
        _write({**row, "own": round(row["cpu"] - self.shared, 3)})
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """One fixture that several tests share, those that it asks for included."""
        if fixturedef.scope == "function":  # part of its test's own cost
            return (yield)
        begun = (cpu_seconds(), time.time())
        self.nested += 1
        try:
            return (yield)
        finally:
            self.nested -= 1
            took = self._since(begun)
            if not self.nested:
                self.shared += took["cpu"]
            if took["cpu"] > LEAST:
                file = request.node.nodeid.partition("::")[0]
                _write({"kind": "fixture", "id": f"{file}::{fixturedef.argname}", **took})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failure, as soon as it is there: pytest-xdist tells of it at the end alone."""
        if report.failed:
            _write({"kind": "failure", "id": report.nodeid, "text": report.longreprtext[-4000:]})

    def pytest_sessionfinish(self) -> None:
        """Write what a process cost in all: what its tests leave over went into importing and collecting."""
        _write({"kind": "process", "id": "process", **self._since((0.0, self.begun))})


def pytest_configure(config: pytest.Config) -> None:
    """Loaded by `-p benchmarks.suite`."""
    if FILE in os.environ:
        config.pluginmanager.register(Recorder())


def show(path: Path, most: int = 40) -> None:
    """Tables by part, file, fixture and test, dearest first."""
    rows = pd.read_json(path, lines=True)
    tests = rows[rows.kind == "test"].assign(file=lambda frame: frame.id.str.split("::").str[0])
    columns = {"cpu": "sum", "wall": "sum", "id": "count"}
    processes = rows[rows.kind == "process"]
    print(processes[["worker", "cpu", "wall"]].to_string(index=False))
    for by in ("part", "worker", "file"):
        print(f"\n{tests.groupby(by).agg(columns).sort_values('cpu', ascending=False).head(most).to_string()}")
    fixtures = rows[rows.kind == "fixture"].groupby("id").agg({"cpu": "sum", "wall": "sum", "kind": "count"})
    print(f"\n{fixtures.sort_values('cpu', ascending=False).head(most).to_string()}")
    print(f"\n{tests.sort_values('cpu', ascending=False).head(most)[['cpu', 'wall', 'id']].to_string(index=False)}")


def keep(path: Path) -> None:
    """Write what a test takes without its shared fixtures, and what a shared fixture takes, in CPU seconds.

    Tests that were not run keep the costs that they had, as long as they are there.
    """
    rows = pd.read_json(path, lines=True)
    tests = rows[rows.kind == "test"]
    own = tests.assign(id=tests.id.str.split("[").str[0]).groupby("id")["own"].mean()
    shared = rows[rows.kind == "fixture"].groupby("id")["cpu"].mean()
    new = pd.concat([own, shared]).rename("seconds").rename_axis("test").round(2)
    old = pd.read_csv(COSTS, index_col="test")["seconds"]
    found = pd.concat([new, old[~old.index.isin(new.index)]]).sort_index()
    found = found[[_is_there(name) for name in found.index]]
    found[found >= LEAST].to_csv(COSTS, lineterminator="\n")
    print(f"{(found >= LEAST).sum()} rows in {COSTS}")


def _is_there(name: str) -> bool:
    """Whether a test or fixture is still in its file; one that a whole session shares has none, and is any of ours."""
    file, _, function = name.partition("::")
    paths = [COSTS.parent.parent / file] if file else COSTS.parent.rglob("*.py")
    return any(path.exists() and f"def {function}(" in path.read_text(encoding="utf-8") for path in paths)


def record(path: Path, options: list[str]) -> int:
    """Run pytest with the recorder; its exit status."""
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.suite", *options]
    return subprocess.run(command, env={**os.environ, FILE: str(path.resolve())}, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"] and len(sys.argv) > 2:
        sys.exit(record(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] not in (["show"], ["keep"]) or len(sys.argv) < 3:
        sys.exit(__doc__)
    {"show": show, "keep": keep}[sys.argv[1]](Path(sys.argv[2]))
