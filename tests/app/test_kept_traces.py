"""Traces that a restart does not lose: whole or not at all, bounded, private, and nothing unreadable deleted."""

import errno
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from processes import python

from moeviz.errors import InvalidTrace
from moeviz.formats import kept_traces as kept
from moeviz.formats.kept_traces import keep_trace, kept_trace, kept_traces
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.testing import sample_trace

ROOT = Path(__file__).parents[2]
RUN = {"prompt": "Il fait froid à Paris 🧭", "model": "embedded", "seed": "3"}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "mine" / "traces"


def numbered(count: int) -> list:
    """So many traces, no two of which are equal."""
    return [sample_trace(tokens=3 + number) for number in range(count)]


def test_a_trace_comes_back_bit_by_bit_with_its_title_and_its_run(folder, trace):
    path = keep_trace(folder, trace, "mine, “é”", RUN)
    found = kept_trace(path)
    assert found.trace.equals(trace) and (found.title, found.run) == ("mine, “é”", RUN)
    assert kept_traces(folder) == [path] and [*folder.iterdir()] == [path]  # nothing unfinished is left
    assert from_trace_file(path.read_bytes()).equals(trace)  # a trace file like any other


def test_they_are_for_their_owner_alone(folder, trace):
    path = keep_trace(folder, trace, "a", {})
    for place, mode in ((folder, 0o700), (path, 0o600)):
        assert os.name == "nt" or stat.S_IMODE(place.stat().st_mode) == mode


def test_the_newest_come_first_and_the_same_trace_is_there_once(folder):
    first, second, third = numbered(3)
    for trace in (first, second, third, first):
        keep_trace(folder, trace, "again" if trace is first else "once", {})
    assert [
        kept_trace(path).trace.equals(trace)
        for path, trace in zip(kept_traces(folder), (first, third, second), strict=True)
    ]
    assert [kept_trace(path).title for path in kept_traces(folder)] == ["again", "once", "once"]


def test_of_too_many_the_oldest_go(folder):
    traces = numbered(5)
    for trace in traces:
        keep_trace(folder, trace, "a", {}, most=3)
    assert [len(kept_trace(path).trace.tokens) for path in kept_traces(folder)] == [7, 6, 5]
    size = sum(path.stat().st_size for path in kept_traces(folder))
    keep_trace(folder, sample_trace(tokens=8), "a", {}, most_bytes=size)
    assert [len(kept_trace(path).trace.tokens) for path in kept_traces(folder)] == [8, 7]
    with pytest.raises(OSError, match="100"):
        keep_trace(folder, sample_trace(tokens=9), "a", {}, most_bytes=100)
    assert kept_traces(folder)  # what cannot be kept takes nobody's place


def test_a_clock_that_is_set_back_makes_nothing_older_than_it_is(folder, monkeypatch):
    monkeypatch.setattr(kept.time, "time_ns", lambda: 2 * 10**18)
    for number, trace in enumerate(numbered(4)):
        keep_trace(folder, trace, "a", {}, most=2)
        monkeypatch.setattr(kept.time, "time_ns", lambda number=number: 10**18 + 5 * number)
    assert [len(kept_trace(path).trace.tokens) for path in kept_traces(folder)] == [6, 5]


KILLED = """
import os, signal, sys
from pathlib import Path
from moeviz import whole_files
from moeviz.formats import kept_traces as kept
from moeviz.testing import sample_trace

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

folder, moment = Path(sys.argv[1]), sys.argv[2]
kept.keep_trace(folder, sample_trace(tokens=3), "before", {})
if moment == "before the file":
    whole_files._new_locked = die
elif moment == "in the middle":
    whole = whole_files._new_locked
    class Half:
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *args): pass
        def write(self, data):
            self.file.write(data[: len(data) // 2]); self.file.flush(); die()
    whole_files._new_locked = lambda *args: Half(whole(*args))
elif moment == "before the disk has it":
    os.fsync = die
elif moment == "before the rename":
    Path.replace = die
elif moment == "after the rename":
    rename = Path.replace
    Path.replace = lambda *args: (rename(*args), die())
kept.keep_trace(folder, sample_trace(tokens=4), "killed", {})
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
@pytest.mark.parametrize(
    ("moment", "found"),
    [
        ("before the file", ["before"]),
        ("in the middle", ["before"]),
        ("before the disk has it", ["before"]),
        ("before the rename", ["before"]),
        ("after the rename", ["killed", "before"]),
    ],
)
def test_a_kill_in_a_save_loses_at_most_that_trace(folder, moment, found):
    done = python("-c", KILLED, str(folder), moment, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [kept_trace(path).title for path in kept_traces(folder)] == found
    keep_trace(folder, sample_trace(tokens=5), "after", {})
    assert [kept_trace(path).title for path in kept_traces(folder)] == ["after", *found]


@pytest.mark.parametrize("damage", [b"", b"PK", b"half", None])
def test_an_unreadable_file_is_set_aside_with_its_name_and_not_deleted(folder, trace, damage):
    path = keep_trace(folder, trace, "a", {})
    whole = path.read_bytes()
    broken = whole[: len(whole) // 2] if damage is None else damage
    path.write_bytes(broken)
    with pytest.raises(InvalidTrace, match=f"'{path.name}'.*'.*unreadable': "):
        kept_trace(path)
    (aside,) = folder.iterdir()
    assert aside.name == path.name + ".unreadable" and aside.read_bytes() == broken
    assert kept_traces(folder) == []


def test_an_unreadable_file_in_a_folder_that_may_not_be_written_stays_and_that_is_said(folder, trace, monkeypatch):
    path = keep_trace(folder, trace, "a", {})
    path.write_bytes(b"half")

    def refuse(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InvalidTrace, match="written"):
        kept_trace(path)
    assert path.read_bytes() == b"half"


def test_a_file_that_may_not_be_read_stays_where_it_is(folder, trace, monkeypatch):
    path = keep_trace(folder, trace, "a", {})

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InvalidTrace, match="Permission denied"):
        kept_trace(path)
    assert kept_traces(folder) == [path]


@pytest.mark.parametrize(
    "comment", [b"", b"{", b"[]", b'{"title": 5, "run": [1]}', b'{"run": {"prompt": 5}}', b"[" * 5000]
)
def test_a_file_without_a_title_is_called_by_its_name(folder, trace, comment):
    path = keep_trace(folder, trace, "a", {})
    data = path.read_bytes()
    at = data.index(b'{"title"')
    path.write_bytes(data[: at - 2] + len(comment).to_bytes(2, "little") + comment)
    found = kept_trace(path)
    assert found.trace.equals(trace) and (found.title, found.run) == (path.stem, {})


def test_a_run_too_long_for_the_file_is_left_out(folder, trace):
    found = kept_trace(keep_trace(folder, trace, "t" * 300, RUN | {"prompt": "é" * 30_000}))
    assert found.title == "t" * 200 and found.run == {}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where this may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_error_that_leaves_what_was_there(small_disk):
    folder = small_disk / "traces"
    with pytest.raises(OSError, match="No space left on device"):
        for number in range(200):
            keep_trace(folder, sample_trace(tokens=30 + number), "a", {})
    assert kept_traces(folder) and not list(folder.glob(".*"))
    assert all(kept_trace(path).trace for path in kept_traces(folder))


def test_a_disk_that_fills_while_a_trace_is_written_leaves_nothing_half(folder, trace, monkeypatch):
    keep_trace(folder, trace, "before", {})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        keep_trace(folder, replace(trace, logits=None), "after", {})
    assert [kept_trace(path).title for path in kept_traces(folder)] == ["before"]
    assert len([*folder.iterdir()]) == 1


def test_the_method_of_a_trace_file_changes_its_size_alone(trace):
    stored = to_trace_file(trace, kept.zipfile.ZIP_STORED)
    assert from_trace_file(stored).equals(trace) and len(stored) > len(to_trace_file(trace))
