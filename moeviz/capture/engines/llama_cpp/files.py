"""The files of a GGUF model: all its parts are there, whole, and of a mixture of experts. No weight is read.

What a file says of sizes and counts is anyone's claim: it is held against the file before llama.cpp sees it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

from moeviz.errors import CaptureError, InvalidTrace, ModelNotFound
from moeviz.file_limits import shown
from moeviz.gguf_file import MAGIC, Gguf, Value, from_gguf
from moeviz.text import quoted, why_no_file

SUFFIX = ".gguf"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# The types of tensors by their number: name, weights of a block, bytes of a block (ggml's type_traits).
TYPES = {
    0: ("float32", 1, 4),
    1: ("float16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("int8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("float64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("bfloat16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
Tensors = dict[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """A model in one file or several: what it says of itself, and the type and shape of each tensor."""

    name: str  # under which it was asked for
    paths: tuple[Path, ...]
    facts: Mapping[str, Value]  # of the first part
    tensors: Tensors
    places: Mapping[str, tuple[Path, int]]  # the file of each tensor, and its first byte
    size: int  # bytes of all parts

    @property
    def architecture(self) -> str:
        """The architecture as llama.cpp calls it, such as "qwen3moe"."""
        return str(self.facts.get("general.architecture", ""))

    @property
    def identity(self) -> str:
        """A text that is another for other weights: of names, sizes and times."""
        seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return sha256(repr(seen).encode()).hexdigest()

    def number(self, key: str) -> int | None:
        """Read one of the architecture's own facts; of one that differs from layer to layer, the largest."""
        value = self.facts.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and value:
            value = max(value)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def open_files(name: str) -> GgufFiles:
    """Open all parts of the GGUF model whose file, or first part, has this name.

    Raises `ModelNotFound` if a part is missing, damaged or cut off, or is not part of a model.
    """
    first = _path(name)
    paths = _parts(name, first)
    files = [_header(name, path) for path in paths]
    tensors: Tensors = {}
    places: dict[str, tuple[Path, int]] = {}
    for path, file in zip(paths, files, strict=True):
        _check_whole(name, path, file)
        tensors |= {tensor: (kind, shape) for tensor, (kind, shape, _) in file.tensors.items()}
        places |= {tensor: (path, start) for tensor, (_, _, start) in file.tensors.items()}
    facts = files[0].facts
    _check_is_a_model(name, facts, len(paths))
    return GgufFiles(name, paths, facts, tensors, places, sum(path.stat().st_size for path in paths))


def _path(name: str) -> Path:
    if why := why_no_file(name):
        raise ModelNotFound(f"There is no GGUF file at {quoted(name)}: the name {why}.")
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be opened: {error}.") from error
    raise ModelNotFound(f"There is no GGUF file at {quoted(name)}. Give the path of a .gguf file on this machine.")


def _parts(name: str, first: Path) -> tuple[Path, ...]:
    """The file, or all of a model that was split: NAME-00001-of-00003.gguf and so on."""
    if (match := PART.fullmatch(first.name)) is None:
        return (first,)
    stem, number, count = match[1], int(match[2]), int(match[3])
    names = [f"{stem}-{part:05}-of-{count:05}{first.name[-len(SUFFIX) :]}" for part in range(1, count + 1)]
    if number != 1:
        raise ModelNotFound(f"{quoted(name)} is part {number} of {count} of a model. Give its first part: {names[0]}.")
    paths = tuple(first.with_name(part) for part in names)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ModelNotFound(
            f"{quoted(name)} is the first of {count} parts, and {len(missing)} of them are not beside it: {missing[0]}"
            f"{' and others' * (len(missing) > 1)}. Download all parts into one folder."
        )
    return paths


def _header(name: str, path: Path) -> Gguf:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelNotFound(f"{quoted(name)} is no GGUF file: it does not begin with the letters GGUF.")
            with mmap(file.fileno(), size, access=ACCESS_READ) as data:
                found = from_gguf(data)
                return Gguf(bytes(0), found.facts, found.tensors)  # of the file, nothing is kept open
    except InvalidTrace as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be read: {error}") from error
    except OSError as error:
        raise ModelNotFound(f"The GGUF file {quoted(name)} cannot be opened: {error.strerror or error}.") from error


def _check_whole(name: str, path: Path, file: Gguf) -> None:
    """Raise `ModelNotFound` where the file ends before its last tensor does."""
    size, needed = path.stat().st_size, 0
    for tensor, (kind, shape, start) in file.tensors.items():
        if not shape or not all(shape) or prod(shape) > 2**48:
            raise ModelNotFound(
                f"The GGUF file {quoted(name)} says that its tensor {shown(tensor)} has the shape {shown(shape)}, "
                "which cannot be. It was damaged: download it again."
            )
        _, block, of_block = TYPES.get(kind, ("", prod(shape), 1))
        needed = max(needed, start + prod(shape) // block * of_block)
    if needed > size:
        raise ModelNotFound(
            f"The GGUF file {quoted(path.name)} was cut off: its tensors need {needed:,} bytes, and it has {size:,}. "
            "Download it again."
        )


def _check_is_a_model(name: str, facts: Mapping[str, Value], parts: int) -> None:
    kind = facts.get("general.type", "model")
    if kind != "model":
        raise ModelNotFound(f"The GGUF file {quoted(name)} holds no model, but: {shown(kind)}. Give a model's file.")
    if not isinstance(facts.get("general.architecture"), str):
        raise ModelNotFound(f"The GGUF file {quoted(name)} does not say which architecture it is of. Make it again.")
    if (count := facts.get("split.count", 0)) not in (0, parts):
        raise ModelNotFound(
            f"The GGUF file {quoted(name)} is one of {shown(count)} parts, and its name does not say so. Give the "
            "parts the names that they had: NAME-00001-of-00003.gguf and so on."
        )


def check_experts_called_once(files: GgufFiles) -> None:
    """Raise `CaptureError` for an architecture whose layers ask two kinds of experts by one router's name."""
    if files.architecture == "grovemoe":
        raise CaptureError(
            f"{quoted(files.name)} is of the architecture grovemoe, which calls its experts twice in each layer, and "
            "llama.cpp gives both calls one name: whose routing is whose cannot be told. Use its transformers "
            "checkpoint."
        )
