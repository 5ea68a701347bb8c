"""The header of a GGUF file: its facts, and where its tensors are. Nothing is read beyond what it says is there.

A file may come from anyone: sizes and counts are checked against its length before they are used.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, cast

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.text import quoted

MAGIC = b"GGUF"
# The format by which `struct` reads a value, by its type.
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY, FLOAT32 = 8, 9, 0
MOST = 2**20  # keys, or tensors
MOST_TEXTS, LONGEST_TEXT = 2**23, 2**25  # of all lists together; bytes. The longest vocabularies have 2^18 tokens
MOST_KEPT = 2**12  # values of a list that is kept: what a layer has each, but no vocabulary
SIZE = struct.Struct("<Q")  # of a text
TOO_LONG = "A text of the GGUF file goes on behind its end: it was cut off or damaged."
CUT = "The header of the GGUF file was cut off or damaged. Make it again, or download it again."

Value = str | int | float | bool | tuple[int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Gguf:
    """The facts of a GGUF file, without its long lists and lists of texts; and its tensors: type, shape, first byte."""

    data: bytes | mmap
    facts: dict[str, Value]
    tensors: dict[str, tuple[int, tuple[int, ...], int]]

    def numbers(self, name: str) -> np.ndarray:
        """Return a tensor of float32, flat. Raises `InvalidTrace` if it is of another type, or not all there."""
        kind, shape, start = self.tensors[name]
        size = 4 * prod(shape)
        if kind != FLOAT32 or start + size > len(self.data):
            raise InvalidTrace(f"The tensor {shown(name)} of the GGUF file is not float32, or was cut off.")
        return np.frombuffer(self.data, "<f4", prod(shape), start)


class _Reader:
    def __init__(self, data: bytes | mmap) -> None:
        self.data, self.at, self.texts = data, len(MAGIC), 0

    def values(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def number(self, form: str) -> int:
        return int(self.values(form)[0])

    def text(self) -> str:
        size = self.skip_texts(1)
        return self.data[self.at - size : self.at].decode(errors="replace")

    def skip_texts(self, count: int) -> int:
        """Go past texts, and return how many bytes the last has: one loop, since a vocabulary has 2^18 of them."""
        self.texts += count
        if self.texts > MOST_TEXTS:
            raise InvalidTrace(TOO_LONG)
        size, at, end = 0, self.at, len(self.data)
        for _ in range(count):
            (size,) = SIZE.unpack_from(self.data, at)
            at += SIZE.size + size
            if size > LONGEST_TEXT or at > end:
                raise InvalidTrace(TOO_LONG)
        self.at = at
        return int(size)

    def value(self, kind: int) -> Value | None:
        """Return the next value; None for a list that is not kept."""
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            return self._list(*self.values("IQ"))
        (value,) = self.values(FORMS[kind])
        return cast(Value, value)

    def _list(self, kind: int, count: int) -> Value | None:
        if kind == ARRAY or count > len(self.data) - self.at:
            raise InvalidTrace("An array of the GGUF file is longer than the file: it was cut off or damaged.")
        if kind == TEXT:
            self.skip_texts(count)
            return None
        if count <= MOST_KEPT:
            return self.values(f"{count}{FORMS[kind]}")
        self.at += struct.calcsize("<" + FORMS[kind]) * count
        return None


def from_gguf(data: bytes | mmap) -> Gguf:
    """Return the header of a GGUF file, version 2 or 3. Raises `InvalidTrace` if it makes no sense."""
    reader = _Reader(data)
    try:
        version, tensors, keys = reader.values("IQQ")
        if version not in (2, 3) or max(tensors, keys) > MOST:
            raise InvalidTrace(f"This is GGUF of version {version}, with {tensors:,} tensors; 2 and 3 are read.")
        facts = {}
        for _ in range(keys):
            name, kind = reader.text(), reader.number("I")
            if (value := reader.value(kind)) is not None:
                facts[name] = value
        found = [_tensor(reader) for _ in range(tensors)]
    except (struct.error, KeyError) as error:
        raise InvalidTrace(CUT) from error
    align = facts.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise InvalidTrace(f"The GGUF file aligns its tensors to {shown(align)} bytes, which cannot be. Make it again.")
    start = -(-reader.at // align) * align
    return Gguf(data, facts, {name: (kind, shape, start + at) for name, kind, shape, at in found})


def is_a_model(path: str | Path) -> bool:
    """Return whether a file is a model in GGUF: named .gguf, and not an importance matrix, which is named so too.

    Raises `InvalidTrace` if its header makes no sense, and `OSError` where it cannot be read.
    """
    if not str(path).lower().endswith(".gguf"):
        return False
    with Path(path).open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InvalidTrace(
                f"{quoted(str(path))} is called a GGUF file, but is not one. Make it or download it again."
            )
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return from_gguf(data).facts.get("general.type") != "imatrix"


def _tensor(reader: _Reader) -> tuple[str, int, tuple[int, ...], int]:
    name, axes = reader.text(), reader.number("I")
    if axes > 8:
        raise InvalidTrace(f"The tensor {shown(name)} of the GGUF file has {axes} axes. It was damaged: make it again.")
    shape = reader.values(f"{axes}Q")
    return name, reader.number("I"), shape, reader.number("Q")
