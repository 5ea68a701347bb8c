"""Traces in a user's own folder, found again after a restart: each is there whole, or not at all.

A trace is written under another name, flushed to the disk, and then renamed: a power cut or a `kill -9` loses at most
that one. The comment of its archive names the title under which it was kept, and the run that made it. The
newest stay; of the rest, the oldest go. A file that cannot be read is set aside under another name, and never deleted.
"""

import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EFBIG
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz.whole_files import write_file

MOST, MOST_BYTES = 32, 2**29  # traces in the folder, and bytes of their files
UNREADABLE = ".unreadable"  # behind the name of a file that was set aside
LONGEST_COMMENT = 2**16 - 1  # bytes: what a zip archive can hold


@dataclass(frozen=True, slots=True)
class KeptTrace:
    """A trace from such a folder, its title, and the run that made it; {} if unknown."""

    trace: RoutingTrace
    title: str
    run: dict[str, str]


def keep_trace(
    folder: Path,
    trace: RoutingTrace,
    title: str,
    run: Mapping[str, str],
    most: int = MOST,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Write a trace into the folder as its newest; an existing one gets the new title.

    Only its owner can read the folder (0700). Raises `OSError` if the trace cannot be written.
    """
    data = to_trace_file(trace)
    digest = sha256(data).hexdigest()[:16]
    data = _with_comment(data, title, run)
    if len(data) > most_bytes:
        raise OSError(EFBIG, f"its {len(data):,} bytes are more than the {most_bytes:,} that all of them may have")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    older = kept_traces(folder)
    # Above the number of all others, also if the clock was set back.
    number = max([time.time_ns(), *(int(path.name[:20]) + 1 for path in older[:1])])
    path = folder / f"{number:020d}-{digest}.npz"
    write_file(path, data, mode=0o600)
    for other in older:
        if other.stem.endswith(digest):
            other.unlink(missing_ok=True)
    _tidy(folder, most, most_bytes)
    return path


def kept_traces(folder: Path) -> list[Path]:
    """Return the files of the folder, the newest first; none without a folder."""
    return sorted((path for path in folder.glob("*.npz") if path.name[:20].isdecimal()), reverse=True)


def kept_trace(path: Path, max_bytes: int = MAX_BYTES) -> KeptTrace:
    """Read one of them. Raises `InvalidTrace` if it does not hold a trace: it is set aside, if it can be."""
    try:
        data = path.read_bytes()
        trace = from_trace_file(data, max_bytes)
        about = _comment(data)
    except OSError as error:
        raise InvalidTrace(f"The kept trace {quoted(path.name)} cannot be read: {error.strerror or error}.") from error
    except (InvalidTrace, MemoryError) as error:
        aside = path.with_name(path.name + UNREADABLE)
        try:
            path.replace(aside)
            done = f"was set aside as {quoted(aside)}"
        except OSError:
            done = "stays where it is, as nothing can be written there"
        raise InvalidTrace(f"The kept trace {quoted(path.name)} cannot be read, and {done}: {error}") from error
    return KeptTrace(trace, _text(about.get("title")) or path.stem, _run(about.get("run")))


def _tidy(folder: Path, most: int, most_bytes: int) -> None:
    taken = 0
    for number, path in enumerate(kept_traces(folder)):
        taken += path.stat().st_size
        if number >= most or taken > most_bytes:
            path.unlink(missing_ok=True)


def _with_comment(data: bytes, title: str, run: Mapping[str, str]) -> bytes:
    buffer = BytesIO(data)
    comment = json.dumps({"title": title, "run": dict(run)}).encode()
    if len(comment) > LONGEST_COMMENT:
        comment = json.dumps({"title": title[:200]}).encode()
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = comment
    return buffer.getvalue()


def _comment(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        try:
            about = json.loads(archive.comment or b"{}")
        except (ValueError, RecursionError):
            return {}
    return about if isinstance(about, dict) else {}


def _text(value: Any) -> str:
    return value.encode(errors="replace").decode()[:200] if isinstance(value, str) else ""


def _run(run: Any) -> dict[str, str]:
    return run if isinstance(run, dict) and all(isinstance(value, str) for value in run.values()) else {}
