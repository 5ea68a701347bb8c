"""What a GGUF file says of itself, and its tensors of float32. Nothing is read beyond what its header says is there.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from math import prod

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
TEXT, ARRAY, FLOAT32 = 8, 9, 0
MOST = 2**20  # keys, or tensors


@dataclass(frozen=True, slots=True)
class Gguf:
    """The texts among the facts of a GGUF file, and where its tensors are: type, shape, first byte."""

    data: bytes
    texts: dict[str, str]
    tensors: dict[str, tuple[int, tuple[int, ...], int]]

    def numbers(self, name: str) -> np.ndarray:
        """A tensor of float32, flat. Raises `InvalidTrace` if it is of another type, or not all there."""
        kind, shape, start = self.tensors[name]
        size = 4 * prod(shape)
        if kind != FLOAT32 or start + size > len(self.data):
            raise InvalidTrace(f"The tensor {shown(name)} of the GGUF file is not float32, or was cut off.")
        return np.frombuffer(self.data, "<f4", prod(shape), start)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise InvalidTrace("A text of the GGUF file goes on behind its end: it was cut off or damaged.")
        self.at += size
        return self.data[self.at - size : self.at].decode(errors="replace")

    def skip(self, kind: int) -> None:
        if kind == TEXT:
            self.text()
        elif kind != ARRAY:
            self.at += SIZES[kind]
        else:
            self._skip_array(self.number("I"), self.number("Q"))

    def _skip_array(self, kind: int, count: int) -> None:
        if kind == ARRAY or count > len(self.data):
            raise InvalidTrace("An array of the GGUF file is longer than the file: it was cut off or damaged.")
        if kind == TEXT:
            for _ in range(count):
                self.text()
        else:
            self.at += SIZES[kind] * count


def from_gguf(data: bytes) -> Gguf:
    """The header of a GGUF file, version 2 or 3. Raises `InvalidTrace` where it makes no sense."""
    reader = _Reader(data)
    try:
        version, tensors, keys = reader.number("I"), reader.number("Q"), reader.number("Q")
        if version not in (2, 3) or max(tensors, keys) > MOST:
            raise InvalidTrace(f"This is GGUF of version {version}, with {tensors:,} tensors; 2 and 3 are read.")
        texts, align = {}, 32
        for _ in range(keys):
            name, kind = reader.text(), reader.number("I")
            if kind == TEXT:
                texts[name] = reader.text()
            elif name == "general.alignment":
                align = reader.number("I")
            else:
                reader.skip(kind)
        found = [_tensor(reader) for _ in range(tensors)]
    except (struct.error, KeyError) as error:
        raise InvalidTrace("The header of the GGUF file was cut off or damaged. Make it again.") from error
    if align < 1:
        raise InvalidTrace(f"The GGUF file aligns its tensors to {align} bytes, which cannot be. Make it again.")
    start = -(-reader.at // align) * align
    return Gguf(data, texts, {name: (kind, shape, start + at) for name, kind, shape, at in found})


def _tensor(reader: _Reader) -> tuple[str, int, tuple[int, ...], int]:
    name, axes = reader.text(), reader.number("I")
    if axes > 8:
        raise InvalidTrace(f"The tensor {shown(name)} of the GGUF file has {axes} axes. It was damaged: make it again.")
    shape = tuple(reader.number("Q") for _ in range(axes))
    return name, reader.number("I"), shape, reader.number("Q")
