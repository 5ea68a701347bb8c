"""The storage that a dataset is written to, on a disk or in an object store: a shard is there as a whole or not at all.

On a disk a shard takes its name in one step, and a lock that the system holds keeps a second driver out. A store knows
neither: there a shard is what has a `shard.json`, which is sent last, and nothing keeps a second driver out. Two
drivers of one plan then do the work twice; if they write the same bytes, as transformers models with as many threads
do, the shards are right all the same, and else the sums in `shard.json` show what is mixed.
"""

import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moeviz.errors import MoevizError
from moeviz.formats.dataset.layout import PLAN, SHARD, name_of
from moeviz.formats.dataset.s3 import Place, S3Path
from moeviz.text import quoted
from moeviz.whole_files import sync, write_file

LOCK = ".lock"


class LocalStorage:
    """A folder of this machine, or one that several machines share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Be its only driver. The system lets go of the lock when this process ends, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a") as lock:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise MoevizError(
                        f"Another run is writing to {quoted(self.path)}. Wait for it, or stop it."
                    ) from None
            yield

    def is_free(self) -> bool:
        """Return whether a dataset may begin here. Raises `MoevizError` for a file."""
        if not self.path.exists():
            return True
        if not self.path.is_dir():
            raise MoevizError(f"{quoted(self.path)} is a file, and a dataset is a folder. Give another place.")
        return all(place.name == LOCK or place.name.startswith(f".{PLAN}") for place in self.path.iterdir())

    def has(self, shard: int) -> bool:
        """Return whether a shard is there."""
        return (self.path / name_of(shard)).exists()

    def missing(self, shards: int) -> list[int]:
        """List the shards below this number that are not there."""
        return [shard for shard in range(shards) if not self.has(shard)]

    def put(self, name: str, content: str) -> None:
        """A small file, whole or not at all, and on the disk when this returns."""
        write_file(self.path / name, content)

    def scratch(self, shard: int) -> Path:
        """Return a folder to write a shard in."""
        part = self.path / f".{name_of(shard)}.{uuid.uuid4().hex}"
        part.mkdir()
        return part

    def publish(self, part: Path, shard: int) -> bool:
        """Give a written shard its name; False if there is one: it stays."""
        for path in (*part.iterdir(), part):
            sync(path)
        place = self.path / name_of(shard)
        try:
            part.rename(place)  # never replaces a folder with files in it
        except OSError:
            if not place.exists():
                raise
            return False
        sync(self.path)
        return True

    def sweep(self) -> None:
        """Remove what writers left that were killed."""
        for part in self.path.glob(".shard-*"):
            shutil.rmtree(part, ignore_errors=True)


class ObjectStorage:
    """A prefix in an object store. A shard is written in the folder for temporary files, and sent."""

    def __init__(self, path: S3Path) -> None:
        self.path = path

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Nothing keeps a second driver out: pyarrow knows no write on a condition."""
        yield

    def is_free(self) -> bool:
        """Return whether a dataset may begin here."""
        return not self.path.files()

    def has(self, shard: int) -> bool:
        """Return whether a shard is there: whether it has its `shard.json`."""
        return (self.path / name_of(shard) / SHARD).exists()

    def missing(self, shards: int) -> list[int]:
        """List the missing shards below this number, from one listing of the folder."""
        there = self.path.files()
        return [shard for shard in range(shards) if f"{name_of(shard)}/{SHARD}" not in there]

    def put(self, name: str, content: str) -> None:
        """A small object."""
        (self.path / name).write_bytes(content.encode())

    def scratch(self, shard: int) -> Path:
        """Return a folder on this machine to write a shard in."""
        return Path(tempfile.mkdtemp(prefix=f"moeviz-{name_of(shard)}-"))

    def publish(self, part: Path, shard: int) -> bool:
        """Send a written shard, its `shard.json` last; False if there is one."""
        place = self.path / name_of(shard)
        if self.has(shard):
            return False
        for file in sorted(part.glob("*.parquet")):
            (place / file.name).upload(file)
        if self.has(shard):  # another writer was faster
            return False
        (place / SHARD).upload(part / SHARD)
        return True

    def sweep(self) -> None:
        """Nothing: a shard that was half sent is sent again, under the same names."""


def storage_of(path: Place) -> LocalStorage | ObjectStorage:
    """Return the storage of a place."""
    return ObjectStorage(path) if isinstance(path, S3Path) else LocalStorage(path)


def sizes_in(path: Place) -> dict[str, int]:
    """Return the bytes of every file of a shard that is there, as `shard-000000/load.parquet`."""
    if isinstance(path, S3Path):
        return {name: size for name, size in path.files().items() if name.startswith("shard-")}
    shards = (place for place in path.glob("shard-*") if place.is_dir())
    return {f"{file.parent.name}/{file.name}": file.stat().st_size for shard in shards for file in shard.iterdir()}
