"""Budgets of bytes: what a small file unpacks to, what Python makes of its text, and how long a sentence takes."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from npz_files import lists_json, members_of, npy_header, npz
from pyarrow import parquet

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.exports import export_for, read_bytes
from moeviz.formats.trace_facts import parse_json
from moeviz.formats.trace_file import to_trace_file

JSON, NPZ = export_for("x.json"), export_for("x.npz")
MB = 2**20
BUDGET = 4 * MB


def bomb_npz(trace) -> bytes:
    """The trace again, with logits that are 64 MB of zeros."""
    logits = npy_header("<f4", (4, 32, 2**17)) + bytes(64 * MB)
    return npz(members_of(to_trace_file(trace)) | {"logits.npy": logits})


def rows_parquet(trace) -> bytes:
    """Half a million equal rows: a few kB."""
    count, sink = 500_000, pa.BufferOutputStream()
    parquet.write_table(pa.table({name: np.zeros(count, int) for name in ("position", "layer", "expert")}), sink)
    return sink.getvalue().to_pybytes()


def cells_csv(trace) -> bytes:
    """A million empty cells: 1 MB of text."""
    return b"position,layer,expert" + b"," * 90 + b"\n" + (b"," * 92 + b"\n") * 10_000


HOSTILE = {".npz": bomb_npz, ".parquet": rows_parquet, ".json": lists_json, ".csv": cells_csv}


@pytest.mark.parametrize("suffix", HOSTILE)
def test_a_small_file_that_unpacks_to_more_than_its_budget_is_refused_before_anything_is_made(suffix, trace):
    data = HOSTILE[suffix](trace)
    assert len(data) < BUDGET
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(InvalidTrace, match=r"at most .* read"):
        read_bytes(data, f"x{suffix}", BUDGET)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * BUDGET and pa.total_allocated_bytes() - before < 2 * BUDGET  # it unpacks to 64 MB and more


def test_where_memory_ends_a_file_is_refused_in_one_sentence(monkeypatch, trace):
    def full(*args):
        raise MemoryError

    data = NPZ.write(trace)
    monkeypatch.setattr("moeviz.formats.trace_file.np.frombuffer", full)
    with pytest.raises(InvalidTrace, match=r"'x\.npz'"):
        read_bytes(data, "x.npz")


def test_of_an_endless_value_only_what_is_shown_is_spelled_out():
    """It took a minute for a file of 99 MB, and ended in a RecursionError for lists in lists."""
    spelled_out = []

    class Value:
        def __repr__(self) -> str:
            spelled_out.append(self)
            return "value"

    assert len(shown([[Value()] * 1000] * 100_000)) == len(shown("x" * 10**6)) == 60
    assert len(spelled_out) < 1000 and "\n" not in shown(np.zeros((3, 9)))
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    assert shown(deep) == "[[[[...]]]]"[: len(shown(deep))]


def test_lists_in_lists_without_end_are_refused():
    for depth in (900, 990, 1_000, 100_000):
        with pytest.raises(InvalidTrace):
            parse_json(b"[" * depth + b"]" * depth, "file")
