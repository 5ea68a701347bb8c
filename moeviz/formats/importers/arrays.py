"""Arrays of numbers from anywhere: what a header promises is compared with the bytes that are there."""

import base64
import binascii
import json
import re
import struct
from math import prod
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown

NPY = re.compile(rb"\{'descr': '([|<>=]\w{1,8})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n")
SAFETENSORS = {
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "U8": "<u1",
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": "<u2",
}
MAX_HEADER = 2**24


def is_npy(data: bytes) -> bool:
    """Return whether these bytes are a NumPy array."""
    return data.startswith(b"\x93NUMPY")


def from_npy(data: bytes) -> np.ndarray:
    """A NumPy array of plain numbers. Raises `InvalidTrace` if its header says more, or less, than its bytes hold."""
    start = 12 if data[6:7] == b"\x02" else 10
    end = start + int.from_bytes(data[8:start], "little")
    found = NPY.fullmatch(data[start:end])
    if not is_npy(data) or data[6:7] not in (b"\x01", b"\x02") or found is None:
        raise InvalidTrace("This is not an array of plain numbers as numpy.save writes it. Save it again.")
    dtype, shape = np.dtype(found[1].decode()), tuple(int(n) for n in found[3].split(b",") if n.strip())
    if dtype.kind not in "iuf" or prod(shape) * dtype.itemsize != len(data) - end:
        raise InvalidTrace(
            f"The array says that it has the shape {shown(shape)} of {dtype}, and {len(data) - end:,} bytes follow. It "
            "was cut or damaged: save it again."
        )
    return np.frombuffer(data, dtype, offset=end).reshape(shape, order="F" if found[2] == b"True" else "C")


def from_base64(text: Any) -> bytes:
    """The bytes that a text stands for. Raises `InvalidTrace`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTrace(f"The routed experts are not base64: {error}. Ask the server again.") from error


def whole(values: Any, dimensions: int, what: str = "The expert ids") -> np.ndarray:
    """Nested lists, or an array, as int64. Raises `InvalidTrace` for anything but a full table of whole numbers."""
    try:
        table = np.asarray(values)
    except ValueError:
        table = np.zeros(0)
    if table.dtype.kind not in "iu" or table.ndim != dimensions or not table.size or table.max() >= 2**53:
        raise InvalidTrace(
            f"{what} are not a full table of whole numbers with {dimensions} axes; got {shown(values)}. Write the file "
            "again."
        )
    return table.astype(np.int64)


def from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, each read where its header says. Raises `InvalidTrace`."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or length > min(len(data) - 8, MAX_HEADER):
        raise InvalidTrace("The header of the safetensors file is longer than the file. Save it again.")
    header, body, tensors = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :], {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        dtype, (first, last) = np.dtype(SAFETENSORS.get(facts["dtype"], "V1")), facts["data_offsets"]
        size = prod(facts["shape"]) * dtype.itemsize
        if dtype.kind == "V" or min(facts["shape"], default=0) < 0 or not 0 <= first <= last <= len(body):
            raise InvalidTrace(f"The tensor {shown(name)} is not in this file as it says. Save it again.")
        if last - first != size:
            raise InvalidTrace(f"The tensor {shown(name)} has {last - first:,} bytes, and needs {size:,}.")
        values = np.frombuffer(body[first:last], dtype).reshape(facts["shape"])
        tensors[name] = from_bfloat16(values) if facts["dtype"] == "BF16" else values
    return tensors


def is_safetensors(data: bytes) -> bool:
    """Return whether these bytes begin like a safetensors file."""
    return data[8:9] == b"{" and struct.unpack("<Q", data[:8])[0] < MAX_HEADER


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as its 16 bits, in float32."""
    wide: np.ndarray = (bits.astype("<u4") << 16).view("<f4")
    return wide
