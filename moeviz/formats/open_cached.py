"""Files that were read before the app was there: `moeviz app FILE` reads and serves in one process, and reads once."""

from pathlib import Path

from moeviz.formats.exports import open_path
from moeviz.formats.importers.importer import Opened

_OPENED: dict[str, Opened] = {}


def keep_opened(path: str | Path, opened: Opened) -> None:
    """Keep what a file came to, for `open_cached`."""
    _OPENED[str(Path(path).resolve())] = opened


def open_cached(path: str | Path) -> Opened:
    """Return what the file at a path came to; read it where nobody has. Raises the errors of `read_trace`."""
    known = _OPENED.get(str(Path(path).resolve()))
    return open_path(path) if known is None else known
