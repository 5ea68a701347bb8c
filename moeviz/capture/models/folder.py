"""What a model's folder may lead to: nothing but what is in it. Checked before transformers reads a file of it."""

import json
from pathlib import Path

from moeviz.errors import ModelNotFound
from moeviz.text import cut, quoted

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
