"""Is this a run of training? And the run at a path, read again when it has grown."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.options import NOTHING_TOLD, ImportOptions
from moeviz.text import quoted
from moeviz.training import counts_files
from moeviz.training.reading import USUAL, read_run
from moeviz.training.recorded.run import LAYERS, LOGS, SNAPSHOTS, RunFacts, TrainingRun, empty
from moeviz.training.routing_file import FILE, FORMAT
from moeviz.training.trainer_logs import PATTERN, event_folder

SNAPSHOT = re.compile(r"tokens-(\d{1,18})\.npz")
HEAD = 4096  # bytes of a file that say what it is
MOST_KEPT = 8
Signature = tuple[tuple[str, int, int], ...]
_kept: dict[str, tuple[Signature, TrainingRun]] = {}


def is_run(path: str | Path) -> bool:
    """Return True if there is a run at a path, as its folder or its file; or a folder of snapshots."""
    path = Path(path)
    if path.is_dir():
        return _has_file(path) or event_folder(path) is not None or bool(_snapshots(path))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return event_folder(path) is not None or is_run_file(file.read(HEAD), path.name)


def is_run_file(data: bytes, name: str) -> bool:
    """Return True if these bytes begin as a run's file does, or the file is called so."""
    return name == FILE or (data.lstrip()[:1] == b"{" and FORMAT.encode() in data[:HEAD])


def run_at(path: str | Path, options: ImportOptions = NOTHING_TOLD) -> TrainingRun:
    """The run at a path; a folder of snapshots alone is a run without logs. Read again only where it has changed.

    Raises what `read_run` raises.
    """
    key, now = str(Path(path).resolve()), signature(path)
    known = _kept.get(key)
    if known is not None and known[0] == now:
        return known[1]
    run = snapshots_run(Path(path)) if _is_snapshots(Path(path)) else read_run(path, options)
    while len(_kept) >= MOST_KEPT:
        _kept.pop(next(iter(_kept)), None)
    _kept[key] = (now, run)
    return run


def signature(path: str | Path) -> Signature:
    """Return what changes when a run grows: size and time of its file, and what lies beside it."""
    return tuple(sorted((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in _stats(Path(path))))


def _stats(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    folders = [path / place for place in USUAL] if path.is_dir() else [path.parent]
    files = [path] if path.is_file() else [folder / FILE for folder in folders]
    if (events := event_folder(path)) is not None and events.is_dir():
        files += events.glob(PATTERN)
    for file in [*files, *(folder / part for folder in folders for part in (counts_files.FOLDER, SNAPSHOTS))]:
        try:
            yield file, file.stat()
        except OSError:
            continue


def snapshots_run(folder: Path) -> TrainingRun:
    """A run of which there are snapshots alone: traces of the same texts, named by how many tokens were trained on.

    Raises `InvalidTrace` if there are none.
    """
    found = _snapshots(folder)
    if not found:
        raise InvalidTrace(f"There are no snapshots in {quoted(folder.name)}: no file is called like tokens-512.npz.")
    return TrainingRun(folder.name, RunFacts(SNAPSHOTS), empty(LOGS), empty(LAYERS), snapshots=found)


def _is_snapshots(path: Path) -> bool:
    return path.is_dir() and not _has_file(path) and event_folder(path) is None and bool(_snapshots(path))


def _has_file(folder: Path) -> bool:
    return any((folder / place / FILE).is_file() for place in USUAL)


def _snapshots(folder: Path) -> dict[int, Path]:
    named = {int(name[1]): file for file in folder.iterdir() if (name := SNAPSHOT.fullmatch(file.name))}
    return dict(sorted(named.items()))
