"""What fuzzing found, read again: each ends well or in one sentence; and that the fuzzing would find more."""

import mmap
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opened_instead import open_instead

from moeviz.errors import InvalidTrace
from tests.attack import fuzz, fuzz_mutations
from tests.attack.fuzz_targets import TARGETS, link_seeds

FOUND = sorted(fuzz.FOUND.iterdir())


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """Let a target change what it changes in this process, for one test."""

    def prepare(name: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        if name == "cli":
            open_instead(monkeypatch, None)
            monkeypatch.setattr("moeviz.cli.families.differences", None)
            for place in ("trained", "check"):
                monkeypatch.setattr(f"moeviz.cli.history.{place}", None)
            monkeypatch.setattr("tests.attack.fuzz_targets.tempfile.mkdtemp", lambda prefix: str(tmp_path))
            TARGETS[name].prepare()

    return prepare


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_found_is_read_or_refused_in_a_sentence(path, ready, monkeypatch):
    target = TARGETS[path.name.partition("-")[0]]
    monkeypatch.setattr("sys.stdin", None)
    ready(target.name)
    assert target.execute(path.read_bytes()) in (True, False)


@pytest.mark.parametrize("name", ["csv", "parquet", "json", "npz", "links"])
def test_the_valid_inputs_are_good_and_each_way_to_change_one_changes_it(name):
    target = TARGETS[name]
    seeds = target.seeds()
    assert all(target.execute(data) for data in seeds)
    for mutation in target.mutations:
        assert any(mutation(seeds[0], random.Random(seed)) != seeds[0] for seed in range(9)), mutation


@given(st.sampled_from(link_seeds()), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_whatever_a_link_says_a_page_takes_what_it_knows_and_ignores_the_rest(data, seeds):
    for seed in seeds:
        data = TARGETS["links"].mutate(data, seed)
    TARGETS["links"].execute(data)


@given(st.sampled_from(["csv", "parquet", "json", "npz"]), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, which, seed):
    target = TARGETS[name]
    target.execute(target.mutate(target.seeds()[which], seed))


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
    assert executed.what[0].startswith("TypeError at test_fuzz.py:")


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
