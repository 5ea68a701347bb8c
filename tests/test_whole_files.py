"""Files that are there as a whole or not at all, and that nothing in the product writes a file in another way."""

import ast
import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from house import ROOT

from moeviz import whole_files
from moeviz.cli.main import main
from moeviz.formats.exports import write_trace
from moeviz.testing import sample_trace
from moeviz.whole_files import check_place, new_folder, remove_leftovers, replacing, write_file

WRITES = {"write_text", "write_bytes", "savez", "savez_compressed", "write_table", "ParquetWriter", "copyfile"}
WRITES |= {
    "copy",
    "copy2",
    "copytree",
    "move",
    "save_pretrained",
    "save_file",
    "to_csv",
    "to_parquet",
    "rename",
    "touch",
}
# Files that write in another way, and why each may. A line that is needless fails.
OTHERWISE = {
    "moeviz/whole_files.py": "what all others go through",
    "moeviz/training/writing.py:open": "a log that grows by lines; a line that a kill cut is left out, and reported",
    "moeviz/formats/dataset/shard.py:ParquetWriter": "in a folder without a name, which takes it as a whole",
    "moeviz/formats/dataset/shard.py:write_table": "there too",
    "moeviz/formats/dataset/shard.py:write_text": "there too",
    "moeviz/formats/dataset/storage.py:open": "a lock, which is empty",
    "moeviz/formats/dataset/storage.py:rename": "a shard takes its name when all of it is on the disk",
    "moeviz/formats/dataset/storage.py:write_bytes": "to an object store, which knows no half objects",
    "moeviz/formats/parquet_file.py:write_table": "to memory",
    "moeviz/own_folder.py:write_table": "to memory",
    "moeviz/training/routing_file.py:write_table": "to a file of `replacing`",
    "moeviz/history/shared/results.py:savez_compressed": "to a file of `replacing`",
    "moeviz/spreadsheets.py:to_csv": "to memory",
    "moeviz/formats/exports.py:to_csv": "ours, which returns bytes",
    "app/moeviz_app/views/expert_jobs.py:to_csv": "to memory",
    "moeviz/analyses/pruning/checkpoint.py:*": "in a folder of `new_folder`",
    "moeviz/examples/__init__.py:copyfile": "into a folder that is made for it",
    "moeviz/cli/main.py:open": "/dev/null",
    "moeviz/formats/sandboxed_read.py:open": "memory, where the system can, or a temporary file",
    "moeviz/interrupted.py:write": "to stderr",
    "moeviz/launch.py:open": "what a server that was started says, in a temporary folder",
    "moeviz/formats/kept_traces.py:replace": "a damaged file gets another name",
}


def writes_in(code: str) -> set[str]:
    """Return the names by which a file's code writes files, `open` among them where its mode says so."""
    found = set()
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        texts = [
            one.value for one in [*call.args, *(of.value for of in call.keywords)] if isinstance(one, ast.Constant)
        ]
        modes = [text for text in texts if isinstance(text, str) and {*text} <= {*"rwxabt+"} and {*text} & {*"wxa+"}]
        owner = getattr(getattr(call.func, "value", None), "id", "")
        owners = {"copy": ("shutil",), "move": ("shutil",), "rename": ("os", "part")}
        if name in WRITES and owner in owners.get(name, (owner,)):
            found.add(name)
        if (name in ("open", "fdopen") and modes) or (owner == "os" and name in ("open", "write", "replace")):
            found.add(name)
        if (
            name == "replace" and len(call.args) == 1 and isinstance(call.args[0], ast.Name) and not call.keywords
        ):  # a text's takes two
            found.add(name)
    return found


def test_every_file_is_written_through_one_function():
    found = {
        f"{path.relative_to(ROOT)}:{name}"
        for folder in ("moeviz", "app/moeviz_app", "kernels/moe_kernels")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in writes_in(path.read_text("utf-8"))
    }
    excused = {each: [row for row in OTHERWISE if fnmatch(each, row) or each.startswith(f"{row}:")] for each in found}
    assert not [each for each, rows in excused.items() if not rows]
    assert {row for rows in excused.values() for row in rows} == {*OTHERWISE}, "rows that excuse nothing"


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text('a')",
        "Path(name).write_bytes(data)",
        "open(name, 'w').write(text)",
        "path.open(mode='ab')",
        "np.savez(path, a=a)",
        "frame.to_csv(path)",
        "os.replace(a, b)",
        "beside.replace(target)",
        "shutil.copyfile(a, b)",
    ],
)
def test_a_writer_that_goes_another_way_is_found(code):
    assert writes_in(code)


def test_what_only_reads_is_no_writer():
    assert not writes_in("path.open('rb'); open(name); name.replace('a', 'b'); replace(trace, model=model); a.copy()")


@pytest.fixture
def old(tmp_path):
    """A file that is there, and worth more than half of a new one."""
    path = tmp_path / "kept.json"
    path.write_text("the old one")
    return path


@pytest.fixture
def small_files(monkeypatch):
    """No file of this process may grow beyond 64 bytes, as on a disk that fills up in the middle."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave half of what it compiles
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_on_a_full_disk_the_old_file_stays_and_the_error_names_it(old, small_files):
    with pytest.raises(OSError, match="large") as refused:
        write_file(old, "x" * 1000)
    assert refused.value.filename == str(old) and refused.value.errno == errno.EFBIG
    assert old.read_text() == "the old one" and [*old.parent.iterdir()] == [old]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_wherever_it_fails_the_old_file_stays(old, monkeypatch, step):
    def fails(*_given):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fails)
    with pytest.raises(OSError, match=str(old)):
        write_file(old, "new")
    monkeypatch.undo()
    assert old.read_text() == "the old one" and [*old.parent.iterdir()] == [old]


def test_an_exception_of_the_writer_leaves_the_old_file(old):
    with pytest.raises(KeyboardInterrupt), replacing(old) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert old.read_text() == "the old one" and [*old.parent.iterdir()] == [old]


def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_is_too(old, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(stat.S_ISDIR(os.fstat(handle).st_mode)), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("renamed"), replace(path, to)))
    write_file(old, "new")
    assert done == [False, "renamed", True]


def test_permissions_stay_or_are_as_asked(old):
    old.chmod(0o640)
    write_file(old, "new")
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    write_file(old, "newer", mode=0o600)
    assert stat.S_IMODE(old.stat().st_mode) == 0o600 and old.read_text() == "newer"


def test_a_long_name_a_folder_and_a_pipe(tmp_path):
    write_file(tmp_path / ("é" * 127), "new")
    for writes in (check_place, lambda path: write_file(path, "")):
        with pytest.raises(IsADirectoryError):
            writes(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "from moeviz.whole_files import write_file; write_file('/dev/stdout', 'through')"],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout == b"through" and Path("/dev/stdout").is_symlink()


KILLED = """
import os, signal, sys
from pathlib import Path
from moeviz.whole_files import new_folder, replacing
with replacing(sys.argv[1]) as file, new_folder(Path(sys.argv[2])) as folder:
    file.write(b"half")
    file.flush()
    (folder / "weights").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_left_is_removed_and_reported_and_what_is_being_written_is_not(old, caplog):
    folder = old.parent
    killed = subprocess.run([sys.executable, "-c", KILLED, str(old), str(folder / "checkpoint")], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = {path for path in folder.iterdir() if path != old}
    assert len(left) == 2 and old.read_text() == "the old one"
    theirs = folder / ".mine.0123abcd.other-part"
    theirs.touch()
    with replacing(folder / "another"):  # removes what was left, and holds its own
        during = {*folder.iterdir()} - {old, theirs}
        whole_files.looked_at.clear()
        remove_leftovers(folder)
        assert {*folder.iterdir()} - {old, theirs} == during and len(during) == 1
    assert {*folder.iterdir()} == {old, theirs, folder / "another"}
    assert len(caplog.records) == 2 and all(str(path) in caplog.text for path in left)


def test_a_part_that_was_taken_for_a_leftover_before_its_lock_is_made_again(old, monkeypatch):
    lock, times = fcntl.flock, []

    def late(handle, how):
        if not times:
            next(old.parent.glob(f".*{whole_files.PART}")).unlink()
        times.append(how)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_file(old, "new")
    assert len(times) == 2 and old.read_text() == "new"


def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not [*tmp_path.iterdir()]
    with new_folder(tmp_path / "out") as folder:
        (folder / "weights").write_bytes(b"all")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "weights").exists()


@pytest.mark.parametrize(
    "command",
    [
        "plan trace.npz --engine sglang --devices 2 -o {}",
        "convert trace.npz {} --counts-only",
        "experts trace.npz -o {}",
        "convert trace.npz {}",
    ],
)
def test_no_command_loses_the_file_that_was_there_on_a_full_disk(command, old, small_files, monkeypatch, capsys):
    monkeypatch.chdir(old.parent)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    write_trace(sample_trace(), "trace.npz")
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert main(command.format("kept.json").split()) == 3
    assert old.read_text() == "the old one" and "kept.json" in capsys.readouterr().err.splitlines()[-1]
