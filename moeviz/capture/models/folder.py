"""Check the folder of a model before any reader opens it, and find the weights in it. No torch.

No file may lead out of the folder. Readers of weights that need no model, a few rows at a time, start here.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from moeviz.embedded.own_models import OWN_MODELS, found_folder
from moeviz.errors import ModelNotFound
from moeviz.file_limits import MAX_EXPERTS, MAX_LAYERS
from moeviz.text import cut, quoted, why_no_file

INDEX = "*.safetensors.index.json"
LARGEST_INDEX = 200 * 2**20  # bytes; of a model with a million weights it is a tenth of that
LARGEST_CONFIG = 2**24  # bytes; those of transformers' models have some kB
LAYERS = re.compile(r"(num|n)_(hidden_|decoder_|encoder_)?layers?|\w+_layers")  # as configs name them
EXPERTS = re.compile(r"\w*(num|n)_\w*experts")
MOST_TENSORS, LONGEST_ROW = (2**17, 2**24)  # of a file; of a tensor's last axis: the largest have 60,000 and 2**18
LARGE, HOLES = 2**30, 8  # bytes of a file from which on its length may be this many times what the disk holds of it


def check_inside(name: str, folder: Path) -> None:
    """Raise `ModelNotFound` for a folder that leads out of itself, or whose config asks for more than any model has.

    A file may be a link out of it, or something that has no end (a pipe, a device), or its index may name weights
    elsewhere. The snapshots of the hub's cache are links to the same model's files next to them, and are accepted.
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
        check_regular(path)
    _check_config(name, folder / "config.json")
    for index in folder.glob(INDEX):
        for shard in _shards(index):
            if not _is_in(folder / shard, inside):
                raise ModelNotFound(
                    f"The folder {quoted(name)} has an index of weights that leads out of it: {quoted(cut(shard))}."
                )


def check_regular(path: Path) -> None:
    """Raise `ModelNotFound` for a pipe or a device: opening one may wait for ever, or have no end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ModelNotFound(f"{quoted(path.name)} is a pipe or a device. Give the files of a checkpoint.")


def _check_config(name: str, path: Path) -> None:
    """Raise `ModelNotFound` for a config that is too large, or that declares too many layers or experts."""
    if not path.is_file():
        return
    if (size := path.stat().st_size) > LARGEST_CONFIG:
        raise ModelNotFound(
            f"The config.json of {quoted(name)} has {size:,} bytes, and at most {LARGEST_CONFIG:,} are read. Download "
            "the model again."
        )
    try:
        parts = [json.loads(path.read_bytes())]
    except (ValueError, RecursionError):
        return  # transformers reports that itself
    while parts:
        part = parts.pop()
        for key, value in part.items() if isinstance(part, dict) else ():
            most = MAX_LAYERS if LAYERS.fullmatch(key) else MAX_EXPERTS if EXPERTS.fullmatch(key) else None
            if most is not None and isinstance(value, int | float) and value > most:
                raise ModelNotFound(
                    f"The config.json of {quoted(name)} says {cut(key)} = {value:g}, and at most {most:,} are "
                    "read. Use the config.json that belongs to the weights."
                )
            parts += [value] if isinstance(value, dict) else []


def _is_in(path: Path, folders: list[Path]) -> bool:
    try:
        place = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or no name that a file can have
        return False
    return any(place.is_relative_to(folder) for folder in folders)


def _shards(index: Path) -> set[str]:
    """Return the files that an index names; none if it cannot be read, which transformers then reports itself."""
    if not index.is_file() or index.stat().st_size > LARGEST_INDEX:
        return set()
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return {shard for shard in named if isinstance(shard, str)}


ANOTHER_HOST = ("\\\\", "//")  # how Windows names a folder of one


def weights_identity(name: str, revision: str | None = None) -> str | None:
    """Return a text that differs for different weights; None if that cannot be known.

    For a folder it is a hash of the names, sizes and times of its configuration and weights; for an id on the hub, the
    commit. `name` may come from a stranger: no other host is asked.

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
    of them. Raises `ModelNotFound` for a file that is damaged, is mostly holes, or has more tensors or longer rows than
    any checkpoint.
    """
    check_regular(path)
    about = path.stat()
    on_disk = getattr(about, "st_blocks", about.st_size) * 512
    if about.st_size > LARGE and on_disk * HOLES < about.st_size:
        raise ModelNotFound(
            f"{quoted(path.name)} is {about.st_size:,} bytes long, and the disk holds {on_disk:,} of them: the rest "
            "are holes. Was it downloaded completely?"
        )
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
    longest = max((entry["shape"][-1] for entry in header.values() if entry["shape"]), default=0)
    if len(header) > MOST_TENSORS or longest > LONGEST_ROW:
        raise ModelNotFound(
            f"{quoted(path.name)} has {len(header):,} tensors with rows of up to {longest:,} numbers, and at most "
            f"{MOST_TENSORS:,} with {LONGEST_ROW:,} are read. Give a model's checkpoint."
        )
    places = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        places[name] = TensorPlace(entry["dtype"], (*entry["shape"],), 8 + length + start, stop - start)
    return places, metadata


def indexed_files(name: str, folder: Path) -> list[str]:
    """Return the files that the index of a model's folder names, in order; none if it has no index.

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
