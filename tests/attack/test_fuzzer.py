"""The fuzzer itself: it finds and keeps what fails, counts the lines that it reaches, and bounds memory."""

import mmap
import random
import subprocess
import sys
from pathlib import Path

import pytest

from moeviz.errors import InvalidTrace
from tests.attack import fuzz, fuzz_mutations
from tests.attack.fuzz_targets import TARGETS

pytestmark = pytest.mark.attack


def test_another_exception_is_found_and_its_input_kept(tmp_path, monkeypatch):
    """The control."""

    def stumble(data: bytes) -> bool:
        raise {b"a": TypeError("a bug"), b"b": InvalidTrace("refused, one may think")}.get(data, MemoryError())

    target = fuzz.Target("csv", ".csv", (), list, (), stumble)
    executed = fuzz.Executed(target, tmp_path, 60)
    for data in (b"a", b"b", b"c", b"a"):
        executed(data)
    assert executed.counts["others"] == 4 and len(executed.what) == 3  # kept once for each place and kind
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"a", b"b", b"c"}
    assert executed.what[0].startswith("TypeError at test_fuzzer.py:")


def takes_a_megabyte_each(data: bytes) -> bool:
    """A MB for each byte, from the system itself: malloc may have as much at hand, of what earlier tests let go."""
    with mmap.mmap(-1, len(data) * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken[:: mmap.PAGESIZE] = bytes(len(taken) // mmap.PAGESIZE)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures the memory of one input")
def test_an_input_that_takes_more_memory_than_it_may_is_found_and_no_other(tmp_path):
    """The control of the bound on memory: what is taken is let go, so that each input begins anew."""
    target = fuzz.Target("csv", ".csv", (), list, (), takes_a_megabyte_each, most_mb=30)
    executed = fuzz.Executed(target, tmp_path, 60)
    for size in (1, 64, 1, 64):
        executed(b"a" * size)
    assert executed.counts["others"] == 2 and executed.hungriest > 60
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a" * 64]
    assert executed.what[0].startswith("more than 30 MB at once")


PEAK_OF_ITS_OWN = """
import subprocess, sys
held = bytearray(300 * 10**6)
sys.exit(subprocess.call([sys.executable, "-c", "from benchmarks.harness import peak_mb; assert 1 < peak_mb() < 250"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures the memory of one input")
def test_the_peak_is_that_of_the_process_itself_and_not_of_the_one_that_started_it():
    assert subprocess.call([sys.executable, "-c", PEAK_OF_ITS_OWN], cwd=Path(__file__).parents[2]) == 0


@pytest.mark.parametrize("name, bomb", [("npz", "_bomb"), ("parquet", "_rows_bomb")])
def test_bombs_are_among_the_inputs_and_are_refused_within_their_memory(name, bomb, tmp_path, monkeypatch):
    target, made = TARGETS[name], []
    make = getattr(fuzz_mutations, bomb)
    monkeypatch.setattr(fuzz_mutations, bomb, lambda *given: made.append(1) or make(*given))
    executed = fuzz.Executed(target, tmp_path, 600)
    seeds = target.seeds()
    for seed in seeds:
        target.execute(seed)
    for seed in range(200):
        made.clear()
        data = target.mutations[0](seeds[0], random.Random(seed))
        if made:
            executed(data)
    assert executed.counts["refused"] == executed.counts["executions"] > 0
    assert executed.hungriest <= target.most_mb


def test_lines_that_are_reached_are_counted_and_no_others(tmp_path):
    reached = fuzz.Reached(("moeviz.formats.table_facts",))
    import numpy as np

    from moeviz.formats.table_facts import numbers_of, runs_of

    with reached:
        runs_of(np.array([1, 2, 3]))
    few, there = reached.lines()
    with reached, pytest.raises(InvalidTrace):
        numbers_of([[5, 5]], 3, "tokens")
    assert 0 < few < reached.lines()[0] <= there
    assert Path(next(iter(reached.files))).name == "table_facts.py"
