"""Places in an object store, s3://BUCKET/PREFIX: the methods of a path, for S3 and what speaks its protocol.

Credentials come from where every program looks for them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_PROFILE and ~/.aws; a server other than Amazon's from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. An address never
holds any.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moeviz.errors import MoevizError
from moeviz.text import quoted

SCHEME = "s3://"
STORES = re.compile(r"(s3[an]?|gs|gcs|abfss?|az|r2|oss)://", re.IGNORECASE)  # what people would take for a store
ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^\x00-\x1f?#\\]+)")
BLOCK = 2**22  # bytes that are sent at a time
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class S3Path:
    """A place in a store, with the names of a path's methods. A folder exists if something is in it."""

    key: str  # bucket/prefix/name

    def __str__(self) -> str:
        return f"{SCHEME}{self.key}"

    def __truediv__(self, name: str) -> "S3Path":
        return S3Path(f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        with asking(self) as store:
            return bool(store.get_file_info(self.key).is_file)

    exists = is_file

    def files(self) -> dict[str, int]:
        """Return the size of every object below, by its name from here on."""
        from pyarrow.fs import FileSelector

        with asking(self) as store:
            found = store.get_file_info(FileSelector(self.key, recursive=True, allow_not_found=True))
        return {one.path.removeprefix(f"{self.key}/"): one.size for one in found if one.is_file}

    def open(self, mode: str = "rb") -> Any:
        """Return a file that can be read and sought in; only what is read is fetched. Raises `FileNotFoundError`."""
        with asking(self) as store:
            return store.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        """All of an object. Raises `FileNotFoundError`."""
        with asking(self) as store, store.open_input_file(self.key) as file:
            return bytes(file.read())

    def write_bytes(self, data: bytes) -> None:
        """An object, as a whole or not at all; one of the same name is replaced."""
        with asking(self) as store, store.open_output_stream(self.key) as file:
            file.write(data)

    def upload(self, source: Path) -> None:
        """Write an object from a file. An upload that ends early leaves no object, or one that no manifest names."""
        with asking(self) as store, source.open("rb") as file, store.open_output_stream(self.key) as target:
            while block := file.read(BLOCK):
                target.write(block)


Place = Path | S3Path


def is_store(name: object) -> bool:
    """Return whether this is an address of an object store, good or bad."""
    return isinstance(name, S3Path) or STORES.match(str(name)) is not None


def place_of(name: str | Place) -> Place:
    """Return the folder, or the place in a store, of that name. Raises `MoevizError` for a malformed address."""
    if isinstance(name, S3Path):
        return name
    if not is_store(name):
        return Path(name)
    address = str(name).rstrip("/")
    found = ADDRESS.fullmatch(address)
    if found is None or "" in found[2].split("/") or {".", ".."} & set(found[2].split("/")):
        raise MoevizError(
            f"{quoted(name)} is not a place in an object store. Give s3://BUCKET/PREFIX; credentials come from the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and a server's address from AWS_ENDPOINT_URL."
        )
    return S3Path(f"{found[1]}/{found[2]}")


@contextmanager
def asking(place: S3Path) -> Iterator[Any]:
    """Yield the store of a place. Raises `MoevizError` if it does not answer, or refuses."""
    try:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        yield _file_system(endpoint, "" if endpoint else place.key.partition("/")[0])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreachable(place, error) from error


def unreachable(place: object, error: Exception) -> MoevizError:
    """Return the error about a store that does not answer, or refuses."""
    reason = " ".join(str(error).split()).partition(" (Request ID")[0]
    return MoevizError(
        f"The store of {quoted(place)} could not be asked: {reason[:300]}. Look at the address, AWS_ENDPOINT_URL, "
        "AWS_REGION and the credentials."
    )


@cache
def _file_system(endpoint: str, bucket: str) -> Any:
    """Return the file system of a bucket's server, one for each per process."""
    from pyarrow import fs

    if "S3FileSystem" not in vars(fs):
        raise MoevizError("The pyarrow that is installed here was built without S3. Install the one of PyPI or conda.")
    how: dict[str, Any] = {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username:
            raise MoevizError(
                f"AWS_ENDPOINT_URL is {quoted(endpoint)}, and an address begins with http:// or https://."
            )
        how |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    elif region is None:
        region = fs.resolve_s3_region(bucket)
    # Small objects are sent in one request then, and a big one is complete, or not there.
    return fs.S3FileSystem(**how, region=region, allow_delayed_open=True)
