"""The folder of a model before any reader opens it: no file leads out of it, which weights it has, and where. No torch.

What reads weights without a model, a few rows at a time, begins here.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from moeviz.embedded.own_models import OWN_MODELS, found_folder
from moeviz.errors import ModelNotFound
from moeviz.text import cut, quoted, why_no_file

INDEX = "*.safetensors.index.json"
LARGEST_INDEX = 200 * 2**20  # bytes; of a model with a million weights it is a tenth of that


def check_inside(name: str, folder: Path) -> None:
    """Raise `ModelNotFound` where a file of this folder is a link out of it, or its index names weights elsewhere.

    The snapshots of the hub's cache are links to the files of the same model beside them, and are let be.
    """
    inside = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    for path in folder.rglob("*"):
        if path.is_symlink() and not _is_in(path, inside):
            raise ModelNotFound(
                f"The folder {quoted(name)} has a link that leads out of it: {quoted(path.name)}. Put the file itself "
                "into the folder."
            )
    for index in folder.glob(INDEX):
        for shard in _shards(index):
            if not _is_in(folder / shard, inside):
                raise ModelNotFound(
                    f"The folder {quoted(name)} has an index of weights that leads out of it: {quoted(cut(shard))}."
                )


def _is_in(path: Path, folders: list[Path]) -> bool:
    try:
        place = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or no name that a file can have
        return False
    return any(place.is_relative_to(folder) for folder in folders)


def _shards(index: Path) -> set[str]:
    """The files that an index names; none where it cannot be read, which transformers then says itself."""
    if not index.is_file() or index.stat().st_size > LARGEST_INDEX:
        return set()
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return {shard for shard in named if isinstance(shard, str)}


ANOTHER_HOST = ("\\\\", "//")  # how Windows names a folder of one


def weights_identity(name: str, revision: str | None = None) -> str | None:
    """A text that is another for other weights; None where that cannot be known.

    Of a folder, a hash of the names, sizes and times of its configuration and its weights; of an id on the hub, the
    commit. `name` may be a stranger's: no other host is asked.

    >>> weights_identity("some/model", "3f2a"), weights_identity("some/model"), len(weights_identity("embedded"))
    ('3f2a', None, 64)
    """
    if why_no_file(name) or name.startswith(ANOTHER_HOST):
        return revision
    folder = found_folder(name) if name in OWN_MODELS else Path(name)
    if folder is None or not folder.is_dir():
        return revision
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    facts = [(file.name, (seen := file.stat()).st_size, seen.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


MODEL_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor of a safetensors file: its number format by the file's name for it, its shape, and its bytes."""

    dtype: str  # "BF16"
    shape: tuple[int, ...]
    start: int  # first byte in the file
    size: int  # bytes


def tensors_of(path: Path) -> tuple[dict[str, TensorPlace], dict[str, str]]:
    """Return the tensors of a safetensors file, in the order of their bytes, and the metadata of its header.

    The library checks the header: its length, that tensors follow each other without gaps, and that the file has all
    of them. Raises `ModelNotFound` for a file that is damaged.
    """
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelNotFound(
            f"{quoted(path.name)} cannot be read as safetensors: {str(error)[:200]}. Was it cut off? Download it again."
        ) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    places = {}
    for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = told["data_offsets"]
        places[name] = TensorPlace(told["dtype"], (*told["shape"],), 8 + length + start, stop - start)
    return places, metadata


def indexed_files(name: str, folder: Path) -> list[str]:
    """Return the files that the index of a model's folder names, in order; none where it has no index.

    Raises `ModelNotFound` for an index that is damaged, or names none.
    """
    path = folder / MODEL_INDEX
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError
        files = {*json.loads(path.read_bytes())["weight_map"].values()}
        if not files or not all(isinstance(file, str) for file in files):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelNotFound(f"The {path.name} of {quoted(name)} was damaged. Download it again.") from error
    return sorted(files)
