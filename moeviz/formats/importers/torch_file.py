"""Files of torch.save as NumPy arrays. No program in them is run, and no tensor may be larger than what is stored.

A file of torch is a zip with a pickle in it. Before torch sees it, every name that the pickle asks for is checked:
tensors are allowed, and one class of REAP, which an empty class replaces. torch then reads it with `weights_only=True`.
The zip's checksums are checked here, since torch does not.
"""

import pickletools
import zipfile
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.importer import ImportOptions, Read, Recognise, Source
from moeviz.routing_trace import Counted

STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
STAND_IN = "reap.metrics OnlineStatsTracker"
MAY_NAME = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch Size",
    STAND_IN,
    *(f"torch {kind}Storage" for kind in STORAGES),
    *(f"torch {name}" for name in ("float32", "float64", "int64", "int32")),
}
MAX_OBJECTS = 2**20
MAX_PICKLE = 2**24


def is_torch(data: bytes) -> bool:
    """Return whether these bytes are a zip as torch.save writes it."""
    if not data.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def in_torch(recognise: Callable[[Any], bool]) -> Recognise:
    """Return the `recognise` of an importer, from one that is given what a file of torch holds."""
    return wraps(recognise)(lambda source: is_torch(source.data) and recognise(torch_content(source)))


def of_torch(read: Callable[[Any, Source, ImportOptions], Counted]) -> Read:
    """Return the `read` of an importer, from one that is given what a file of torch holds."""
    return lambda source, options: read(torch_content(source), source, options)


def torch_content(source: Source) -> Any:
    """Return what a file of torch holds, as `from_torch` does; it is read once."""
    if "torch" not in source.__dict__:
        source.__dict__["torch"] = from_torch(source.data, source.max_bytes)
    return source.__dict__["torch"]


def from_torch(data: bytes, max_bytes: int) -> Any:
    """Lists, tuples, dictionaries, numbers and texts, with arrays instead of tensors. Raises `InvalidTrace`."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        if (size := sum(member.file_size for member in members)) > max_bytes:
            raise InvalidTrace(f"The file unpacks to {size:,} bytes, and at most {max_bytes:,} are read.")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise InvalidTrace("torch.save packs nothing, and a part of this file is packed. Save it again.")
        if (broken := archive.testzip()) is not None:
            raise InvalidTrace(f"The checksum of {shown(broken)} in the file is wrong: it was damaged. Copy it again.")
        for name in (member.filename for member in members if member.filename.endswith("data.pkl")):
            _check_names(archive.read(name))
    import torch

    stand_in = type("OnlineStatsTracker", (), {"__module__": "reap.metrics"})
    try:
        with torch.serialization.safe_globals([(stand_in, STAND_IN.replace(" ", "."))]):
            value = torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch has no error of its own for a file that makes no sense
        raise InvalidTrace(
            f"torch cannot read this without running programs: {str(error).splitlines()[0][:90]}. Save tensors alone."
        ) from error
    return Plain(torch, max(4 * len(data), 2**20)).of(value)


def _check_names(pickle: bytes) -> None:
    """Check the names that a pickle calls; torch's own reader allows more than a file of routing needs."""
    if len(pickle) > MAX_PICKLE:
        raise InvalidTrace(f"The file lists {len(pickle):,} bytes of objects, and at most {MAX_PICKLE:,} are read.")
    for code, named, _ in pickletools.genops(pickle):
        if code.name == "STACK_GLOBAL" or (code.name in ("GLOBAL", "INST") and named not in MAY_NAME):
            raise InvalidTrace(
                f"The file asks for {shown(named or 'a name made as it runs')}, which could run a program, so it is "
                "not opened. Save only tensors: torch.save(dict(batch.batch)), for example."
            )


class Plain:
    """Makes arrays of the tensors in what torch read, up to a number of bytes in all."""

    def __init__(self, torch: Any, max_bytes: int) -> None:
        self.torch, self.left, self.objects = torch, max_bytes, MAX_OBJECTS

    def of(self, value: Any) -> Any:
        """Return a value without torch's types. Raises `InvalidTrace` for a tensor that is not stored in full."""
        self.objects -= 1
        if self.objects < 0:
            raise InvalidTrace(f"The file holds more than {MAX_OBJECTS:,} objects. Save fewer.")
        if isinstance(value, self.torch.Tensor):
            return self._array(value)
        if isinstance(value, dict):
            return {key: self.of(part) for key, part in value.items()}
        return type(value)(self.of(part) for part in value) if type(value) in (list, tuple) else value

    def _array(self, tensor: Any) -> np.ndarray:
        size = tensor.numel() * tensor.element_size()
        self.left -= size
        if tensor.layout != self.torch.strided or size > tensor.untyped_storage().nbytes() or self.left < 0:
            raise InvalidTrace(
                f"A tensor of the shape {shown(tuple(tensor.shape))} is larger than its stored data. Save it with "
                "tensor.contiguous()."
            )
        array: np.ndarray = (tensor.float() if tensor.dtype == self.torch.bfloat16 else tensor).detach().numpy()
        return array
