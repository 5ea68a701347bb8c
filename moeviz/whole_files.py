"""Write files so that each is there as a whole or not at all, after a full disk, a kill or a power cut too.

Everything that moeviz writes goes through these functions; a test finds what does not. The content is written next to
its target under a hidden name that ends in `PART`, reaches the disk, and takes the target's name in one step. Whoever
writes holds a lock on it, so that the next run recognises what a killed one left behind, removes it and reports it.
"""

import logging
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("moeviz.files")
PART = "moeviz-part"
NAME = re.compile(rf"\..*\.[0-9a-f]{{8}}\.{PART}", re.DOTALL)
LONGEST = 50  # characters of the target's name in that of its part: of 4 bytes at most, and a name has 255
looked_at: set[Path] = set()  # folders in which this process has looked for what others left


def write_file(path: str | Path, content: bytes | str, mode: int | None = None) -> None:
    """Write a file, text as UTF-8. On any failure the old file stays.

    mode    permissions; None for those of the file that is replaced, or the system's usual ones.

    Raises `OSError` with the path and the reason.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/note.txt", "Il fait froid.")
    ...     Path(folder, "note.txt").read_text()
    'Il fait froid.'
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, mode) as file:
        file.write(data)


@contextmanager
def replacing(path: str | Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces the one at `path` when the block ends, unless it ends with an exception.

    A link is replaced, not followed. A device or a pipe, such as /dev/stdout, is written to as it is. Raises `OSError`
    with the path and the reason.
    """
    path = Path(path)
    _check_no_folder(path)
    if is_pipe_or_device(path):
        with path.open("wb") as file:
            yield file
        return
    part = _part_of(path)
    try:
        remove_leftovers(path.parent)
        with _new_locked(part, 0o666 if mode is None else mode) as file:
            if mode is None and path.exists():
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # which renames no open file
                file.close()
            part.replace(path)  # before the lock is released: nobody else takes it for a leftover
        sync(path.parent)
    except OSError as error:
        if error.errno is None or str(error.filename) not in ("None", str(part), str(part.parent)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder to fill, which takes the name `path` when the block ends; on an exception it is removed."""
    remove_leftovers(path.parent)
    part = _part_of(path)
    part.mkdir()
    lock = _lock(part)
    try:
        yield part
        for file in (*part.iterdir(), part):
            sync(file)
        part.rename(path)
        sync(path.parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def check_place(path: str | Path) -> None:
    """Raise the `OSError` that `replacing` would raise before it writes: now, not after hours of work."""
    path = Path(path)
    _check_no_folder(path)
    if not is_pipe_or_device(path):
        part = _part_of(path)
        _new_locked(part, 0o600).close()
        part.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left unfinished in a folder, and report it; once per process and folder."""
    if sys.platform == "win32" or (place := folder.absolute()) in looked_at:
        return
    looked_at.add(place)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                _remove_if_left(Path(entry.path))


def _remove_if_left(part: Path) -> None:
    about = part.lstat()
    is_folder = stat.S_ISDIR(about.st_mode)
    if about.st_uid != os.geteuid() or not (is_folder or stat.S_ISREG(about.st_mode)):
        return
    if (lock := _lock(part, wait=False)) is None:
        return  # somebody is writing it
    try:
        (shutil.rmtree if is_folder else os.unlink)(part)
    finally:
        os.close(lock)
    log.warning("%r was left unfinished by a run that was killed. It was removed.", str(part))


def sync(path: Path) -> None:
    """Have the disk hold a file or a folder before anything refers to it."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return  # a folder has no handle there
    try:
        handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    except PermissionError:  # a folder may be written to and not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != EINVAL:  # some network file systems sync no folder
            raise
    finally:
        os.close(handle)


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name[:LONGEST]}.{secrets.token_hex(4)}.{PART}")


def is_pipe_or_device(path: Path) -> bool:
    """Return True if reading this path may never end, and writing it replaces nothing."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def _new_locked(part: Path, mode: int) -> BinaryIO:
    """Create and lock a file; again if another process took it for a leftover before it was locked."""
    while True:
        file = open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        lock_file(file.fileno(), wait=True)
        if part.exists():
            return file
        file.close()


def _lock(path: Path, wait: bool = True) -> int | None:
    """Lock a file or folder, and return its handle; None if it is locked, or cannot be."""
    if sys.platform == "win32":
        return None
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if lock_file(handle, wait):
        return handle
    os.close(handle)
    return None


def lock_file(handle: int, wait: bool = False) -> bool:
    """Lock an open file for this process, until it is closed; return whether that succeeded."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another process, or a file system without locks
        return False
    return True
