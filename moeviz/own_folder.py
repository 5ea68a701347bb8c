"""The folder of the machine's own user: a cache of what took long to compute, and the token of their own app.

| system  | place                                                        |
|---------|--------------------------------------------------------------|
| Linux   | `$XDG_DATA_HOME/moeviz`, or `~/.local/share/moeviz`          |
| macOS   | `~/Library/Application Support/moeviz`                       |
| Windows | `%LOCALAPPDATA%\\moeviz`, or `~\\AppData\\Local\\moeviz`       |

`MOEVIZ_HOME` names another. It is made when something is first written, readable by its user only (0700), and may be
removed at any time: its contents are computed anew. The package platformdirs knows these places too; four of them are
no reason for one more dependency.
"""

import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping
from errno import ENOENT
from functools import cache
from io import BytesIO
from pathlib import Path

import pandas as pd

from moeviz.whole_files import write_file

log = logging.getLogger("moeviz.own_folder")
HOME = "MOEVIZ_HOME"
NAME = "moeviz"
TOKEN = re.compile(r"[!-~]{16,}")


def own_folder(environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """Return where moeviz's own folder is, or would be: nothing is made. Raises `OSError` for a user without a home.

    >>> own_folder({"MOEVIZ_HOME": "/data/mine"}).as_posix()
    '/data/mine'
    """
    if environment.get(HOME):
        return Path(environment[HOME])
    if system == "darwin":
        return _home() / "Library" / "Application Support" / NAME
    if system == "win32":
        local = environment.get("LOCALAPPDATA", "")
        return (Path(local) if local else _home() / "AppData" / "Local") / NAME
    data = environment.get("XDG_DATA_HOME", "")  # by its specification, a relative path does not count
    return (Path(data) if Path(data).is_absolute() else _home() / ".local" / "share") / NAME


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a container's user may have neither HOME nor an entry in /etc/passwd
        raise OSError(ENOENT, f"this user has no home folder. Set {HOME} to a folder") from error


def keep_table(kind: str, name: str, table: pd.DataFrame) -> None:
    """Write a table into the folder of its kind, whole or not at all. Where that cannot be done, the log says why."""
    import pyarrow as pa
    from pyarrow import parquet

    path, data = None, BytesIO()
    parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), data, write_page_checksum=True)
    try:
        path = _file(kind, name)
        _write(path, data.getvalue())
    except OSError as error:
        why = error.strerror or error
        log.warning("%s cannot be written, so this is computed anew the next time: %s", path or name, why)


def kept_table(kind: str, name: str) -> pd.DataFrame | None:
    """Return a cached table; None if it is missing or damaged, which the log reports."""
    import pyarrow as pa
    from pyarrow import parquet

    path = None
    try:
        path = _file(kind, name)
        table: pd.DataFrame = parquet.read_table(
            BytesIO(path.read_bytes()), page_checksum_verification=True
        ).to_pandas()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        log.warning("%s cannot be read, so this is computed anew: %s", path, str(error).partition("\n")[0])
        return None
    return table


def _file(kind: str, name: str) -> Path:
    return own_folder() / kind / f"{name}.parquet"


def _write(path: Path, data: bytes) -> None:
    path.parents[1].mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(path, data, mode=0o600)


def token_file() -> Path | None:
    """Return where the token of this user's own apps is kept, or would be; None for a user without a home."""
    try:
        return own_folder() / "token"
    except (OSError, RuntimeError):
        return None


def own_token() -> str:
    """Return the token by which this user's browsers open their own apps; it is made once, and no other user can
    read it. If it cannot be stored, it lasts as long as this process, and the log says why.
    """
    return _token_in(token_file())


@cache
def _token_in(file: Path | None) -> str:
    made = secrets.token_urlsafe(24)
    if file is None:
        return made
    try:
        kept = file.read_text(encoding="ascii").strip()
        if TOKEN.fullmatch(kept) and (os.name != "posix" or not file.stat().st_mode & 0o077):
            return kept
    except (OSError, UnicodeDecodeError):
        pass  # it is missing, or cannot be read
    try:
        _write(file, made.encode())
    except OSError as error:
        log.warning("%s cannot be written, so the token holds until this ends: %s", file, error.strerror or error)
    return made
