"""How much of the tests runs: `--tier fast`, `change` or `all`, which `make test-fast`, `test` and `test-all` ask for.

A long table is a set of cases that all ask one question (each architecture, each way of running, each page). Its tests
have the marker `table`, with the folders whose change calls for the whole of it. The tier `change` runs one case in
eight, and all cases of the tables whose folders changed since the base. With `together=True` the cases of a file that
share something dear are one case. The eighth is the number of commits modulo 8,
so that eight commits in a row run the whole; `SLICE` names another.

The tier `fast` runs tests alone that need no browser, no table, no site, no package and little time by `costs.csv`,
which `python -m benchmarks.suite keep` writes. Files begin in the order of their cost there, the dearest first: workers
that take file by file then end at about the same time. Those that drive a browser stand among others.
"""

import csv
import os
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path
from zlib import crc32

import pytest

ROOT = Path(__file__).parent.parent
COSTS = Path(__file__).with_name("costs.csv")
TIERS = ("fast", "change", "all")
NOT_FAST = ("browser", "table", "docs", "package")
SLICES = 8
FAST_SECONDS = 0.1  # CPU time that a test of the fast tier takes at most
FAST_FIXTURE_SECONDS = 1.0  # and what it shares with others
NEW_SECONDS = 0.1  # of a test that nobody has measured yet


def pytest_addoption(parser: pytest.Parser) -> None:
    """Ask for a tier; pytest by hand runs all that it is given."""
    parser.addoption("--tier", choices=TIERS, default="all", help="how much of the tests to run (tests/tiers.py)")


def pytest_report_header(config: pytest.Config) -> str:
    """Say which part of the tests runs."""
    tier = config.getoption("tier")
    if tier != "change":
        return f"tier: {tier}"
    changed = changed_since(base())
    since = f"changed since {base()[:10]}: {len(changed)} files" if base() else "no base is known"
    return f"tier: slice {chosen_slice()} of {SLICES} of each long table, and whole tables of what changed ({since})"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tier's tests, the dearest files first."""
    kept = {"fast": fast, "change": sliced, "all": list}[config.getoption("tier")](items)
    if len(kept) < len(items):
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = dearest_first(kept)


def fast(items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests that take little time and need no browser, table, site or package."""
    quick = [item for item in items if seconds(item) <= FAST_SECONDS and shared_seconds(item) <= FAST_FIXTURE_SECONDS]
    return [item for item in quick if not any(item.get_closest_marker(name) for name in NOT_FAST)]


def sliced(items: list[pytest.Item]) -> list[pytest.Item]:
    """All tests, but of a table one case in eight, unless something changed that calls for all of them."""
    changed, seen, kept = changed_since(base()), defaultdict(int), []
    for item in items:
        if (table := item.get_closest_marker("table")) is None:
            kept.append(item)
            continue
        file = item.path.relative_to(ROOT).as_posix()
        seen[file] += 1
        number = crc32(file.encode())  # tables of few cases are spread over the slices
        if not table.kwargs.get("together"):  # for what is dear only once
            number += seen[file]
        if number % SLICES == chosen_slice() or any(path.startswith((*table.args, file)) for path in changed):
            kept.append(item)
    return kept


def dearest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Whole files, those that cost most in front, and after two that drive a browser one that does not.

    Tests in a browser wait half of the time: three of them side by side would leave a core of two idle.
    """
    files, browser = defaultdict(float), defaultdict(float)
    for item in items:
        files[item.path] += seconds(item)
        browser[item.path] += seconds(item) if item.get_closest_marker("browser") else 0.0
    place, count = {}, {True: 0, False: 0}
    for path in sorted(files, key=lambda path: (-files[path], path)):
        waits = 2 * browser[path] > files[path]
        place[path] = (count[waits] // 2, 0, count[waits]) if waits else (count[waits], 1, 0)
        count[waits] += 1
    return sorted(items, key=lambda item: place[item.path])


@cache
def costs() -> dict[str, float]:
    """CPU seconds of a test function without what it shares, on average over its cases, and of shared fixtures."""
    if not COSTS.exists():
        return {}
    with COSTS.open(encoding="utf-8", newline="") as file:
        return {row["test"]: float(row["seconds"]) for row in csv.DictReader(file)}


def seconds(item: pytest.Item) -> float:
    """CPU seconds that this test took when it was measured last."""
    return costs().get(item.nodeid.partition("[")[0], NEW_SECONDS)


def shared_seconds(item: pytest.Item) -> float:
    """CPU seconds of the dearest fixture that this test shares with others."""
    file = item.nodeid.partition("::")[0]
    names = (where for name in item.fixturenames for where in (f"{file}::{name}", f"::{name}"))
    return max((costs().get(name, 0.0) for name in names), default=0.0)


def chosen_slice() -> int:
    """The slice that `SLICE` names, or else the number of commits modulo 8; 0 outside a repository."""
    return int(os.environ.get("SLICE") or git("rev-list", "--count", "HEAD") or 0) % SLICES


@cache
def base() -> str:
    """The commit that `BASE` names, or else the last one that the upstream has too; empty where neither is known."""
    named = os.environ.get("BASE")
    found = git("rev-parse", "--verify", f"{named}^{{commit}}") if named else git("merge-base", "HEAD", "@{upstream}")
    if named and not found:
        raise pytest.UsageError(f"BASE={named} names no commit of this repository.")
    return found


@cache
def changed_since(commit: str) -> tuple[str, ...]:
    """Files that differ from that commit, those not yet committed included; none where it is not known."""
    if not commit:
        return ()
    new = git("ls-files", "--others", "--exclude-standard")
    return (*git("diff", "--name-only", commit).splitlines(), *new.splitlines())


@cache
def git(*words: str) -> str:
    """Ask git; empty where it has no answer or is not there."""
    try:
        found = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
