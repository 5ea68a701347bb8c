"""Where the tensors of safetensors files lie: what reads weights without a model, a few rows at a time, begins here."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from moeviz.capture.models.folder import LARGEST_INDEX
from moeviz.errors import ModelNotFound
from moeviz.text import quoted

INDEX = "model.safetensors.index.json"


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
    path = folder / INDEX
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
