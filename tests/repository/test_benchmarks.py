"""The benchmarks: each is named where somebody looks for it, and what they share does what it says."""

import doctest
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import harness

ROOT = Path(__file__).parents[2]
PLACES = ("CONTRIBUTING.md", "Makefile", "README.md", "SECURITY.md", "deploy/README.md", "docs/**/*.md", "tools/*.py")
NAME = re.compile(r"benchmarks[./](\w+)")


def orphans(sources: Mapping[str, str], texts: Iterable[str]) -> set[str]:
    """Benchmarks that no text names, and that none imports or starts of those that are named."""
    found, new = set(), {name for text in texts for name in NAME.findall(text)}
    while new := (new & sources.keys()) - found:
        found |= new
        new = {name for one in new for name in [*NAME.findall(sources[one]), *of_package(sources[one])]}
    return {*sources} - found


def of_package(source: str) -> list[str]:
    """Find the modules that `from benchmarks import …` names."""
    lines = re.findall(r"from benchmarks import ([\w, ]+)", source)
    return [name for line in lines for name in re.findall(r"\w+", line)]


def test_each_benchmark_is_named_in_a_document_or_is_part_of_one_that_is():
    sources = {file.stem: file.read_text("utf-8") for file in (ROOT / "benchmarks").glob("*.py")}
    del sources["__init__"]
    texts = [file.read_text("utf-8") for place in PLACES for file in ROOT.glob(place)]
    assert len(sources) > 10 and not orphans(sources, texts)


def test_a_benchmark_that_is_named_by_itself_alone_would_be_noticed():
    sources = {
        "pages": "from benchmarks.visits import x",
        "visits": "",
        "load": "from benchmarks import peak, tab",
        **dict.fromkeys(("peak", "tab"), ""),
        "lost": '"""python -m benchmarks.lost"""\nimport benchmarks.deeper',
        "deeper": "",
    }
    assert orphans(sources, ["`python -m benchmarks.pages`", "see benchmarks/load.py"]) == {"lost", "deeper"}


def test_what_benchmarks_share_does_what_its_examples_say():
    assert doctest.testmod(harness) == (0, 4)


def test_ways_are_interleaved_and_their_ratios_are_of_the_same_round():
    turns = []

    def way(name, seconds):
        return lambda: turns.append(name) or seconds * (1 + len(turns[:-1]) // 2)  # the machine slows down

    times = harness.interleave({"with": way("with", 3.0), "without": way("without", 2.0)}, rounds=4, warm_up=1)
    assert [sorted(turns[at : at + 2]) for at in range(0, 10, 2)] == [["with", "without"]] * 5
    assert times == {"with": [6.0, 9.0, 12.0, 15.0], "without": [4.0, 6.0, 8.0, 10.0]}
    assert harness.ratios(times, "with", "without") == [1.5] * 4


def test_arms_take_turns_and_the_first_round_does_not_count():
    turns = []

    def arm(name):
        return lambda number: turns.append((name, number)) or {"ms": 10.0 * number}

    found = harness.take_turns({"now": arm("now"), "before": arm("before")}, 2)
    assert turns == [("now", 0), ("before", 0), ("now", 1), ("before", 1), ("now", 2), ("before", 2)]
    assert found == {"now": {"ms": [10.0, 20.0]}, "before": {"ms": [10.0, 20.0]}}
    assert harness.compared(found, 0).split() == ["now", "before", "ms", *["15", "(10", "to", "20)"] * 2]
