"""The trace file, `.npz`: a trace as it is, every bit of it, in the smallest file.

A zip of `experts.npy`, `weights.npy` and `logits.npy` (the last two if the trace has them) and `header.npy`, which
is JSON in UTF-8. numpy reads it without moeviz:

    arrays = numpy.load("trace.npz")
    header = json.loads(bytes(arrays["header"]))  # {"format": ..., "model": {...}, "tokens": {...}}

The next tokens of a trace that has them are in the header too, under "next_tokens": their texts, and the bytes of their
arrays in base64, and so are the figures of experts' outputs under "outputs"; sizes and digests of its images
are under "images".
Nothing in it is pickled. The reader looks at the sizes that a file declares before it unpacks a byte.
"""

import json
import re
import struct
import zipfile
import zlib
from base64 import b64decode, b64encode
from io import BytesIO
from math import prod
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_outputs import FIGURES, ExpertOutputs
from moeviz.file_limits import MAX_BYTES, shown
from moeviz.formats.trace_facts import (
    check_facts_size,
    check_size,
    facts_of,
    model_of,
    parse_json,
    tokens_as_json,
    tokens_of,
)
from moeviz.image_tokens import images_as_json, images_of_json
from moeviz.next_tokens import NEXT, NextTokens
from moeviz.routing_trace import ARRAYS, RoutingTrace
from moeviz.text import is_text

DTYPES = {"header": "|u1", "experts": "<i2", "weights": "<f4", "logits": "<f4"}
NEXT_DTYPES = {"rows": "<i4", "p": "<f4", "lens_rows": "<i4", "lens_p": "<f4", "token_ids": "<i4"}
OPTIONAL = ("lens_rows", "lens_p", "token_ids")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same trace, the same bytes
# The exact bytes that numpy writes for these dtypes. numpy's own reader hands the header to Python's parser instead.
NPY_HEADER = re.compile(rb"\{'descr': '([|<>=]\w{1,8})', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n")
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error)


def to_trace_file(trace: RoutingTrace, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Write a trace as `.npz`; with `zipfile.ZIP_STORED`, ten times as fast and several times as large."""
    facts = {**facts_of(trace), "tokens": tokens_as_json(trace.tokens), **optional_parts_as_json(trace)}
    header = json.dumps(facts).encode()
    if trace.outputs is not None:
        check_facts_size(len(header), "header", MAX_BYTES)
    arrays = {"header": np.frombuffer(header, np.uint8), **{name: getattr(trace, name) for name in ARRAYS}}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, values in arrays.items():
            if values is not None:
                member = BytesIO()
                values = np.ascontiguousarray(values.astype(DTYPES[name], copy=False))
                np.lib.format.write_array(member, values, version=(1, 0), allow_pickle=False)
                info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
                archive.writestr(info, member.getvalue(), method)
    return buffer.getvalue()


def from_trace_file(data: bytes, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from `.npz`. Raises `InvalidTrace` for any file that `to_trace_file` did not write.

    `max_bytes` is the most that the file may have, and that it may unpack to: the arrays of the trace.
    """
    check_size(data, max_bytes)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = _members(archive, max_bytes)
            header = parse_json(_array(archive, members["header"], "header", None).tobytes(), "header")
            model, tokens = model_of(header), tokens_of(header.get("tokens"))
            slots = (len(model.layers), len(tokens), model.top_k)
            shapes = {"experts": slots, "weights": slots, "logits": (*slots[:2], max(model.num_experts))}
            arrays: dict[str, Any] = {
                name: _array(archive, members[name], name, shapes[name]) for name in ARRAYS if name in members
            }
            parts = optional_parts_of(header, slots)
    except UNREADABLE as error:
        raise InvalidTrace(
            f"This is not a .npz trace file, or it is damaged ({str(error)[:200]}). Save the trace again."
        ) from error
    return RoutingTrace(model, tokens, **arrays, **parts)


def _members(archive: zipfile.ZipFile, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    names = [info.filename for info in archive.infolist()]
    members = {name: archive.getinfo(f"{name}.npy") for name in DTYPES if f"{name}.npy" in names}
    if len(members) != len(names) or not {"header", "experts"} <= members.keys():
        raise InvalidTrace(
            "A trace file holds header.npy, experts.npy and optionally weights.npy and logits.npy; this one holds "
            f"{shown(names)}. Open a file that moeviz wrote."
        )
    if (size := sum(info.file_size for info in members.values())) > max_bytes:
        raise InvalidTrace(
            f"The file unpacks to {size:,} bytes, and at most {max_bytes:,} are read. Save fewer tokens or layers, or "
            "leave the logits out."
        )
    check_facts_size(members["header"].file_size, "header", max_bytes)
    for info in members.values():
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidTrace(
                f"{info.filename} is encrypted, or compressed with another method than deflate. Save the trace again."
            )
    return members


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """Read one member, after its own header proves to be as expected and as the zip declares."""
    with archive.open(info) as member:
        start = member.read(10)
        text = member.read(int.from_bytes(start[8:], "little"))
        found = NPY_HEADER.fullmatch(text)
        if not start.startswith(b"\x93NUMPY\x01\x00") or found is None:
            raise InvalidTrace(
                f"{info.filename} is not an array of plain numbers as numpy saves it. Save the trace again."
            )
        dtype, dimensions = found[1].decode(), tuple(int(d) for d in found[2].split(b",") if d.strip())
        if dtype != DTYPES[name]:
            raise InvalidTrace(f"{info.filename} holds numbers of type {dtype}; they must be {DTYPES[name]}.")
        if dimensions != (shape or dimensions[:1]):
            raise InvalidTrace(
                f"{info.filename} has the shape {shown(dimensions)}, and the header says {shown(shape)}. Save the "
                "trace again."
            )
        size = prod(dimensions) * np.dtype(dtype).itemsize
        if size != info.file_size - len(start) - len(text):
            raise InvalidTrace(
                f"{info.filename} declares {info.file_size:,} bytes, and its numbers take {size:,}. The file is "
                "damaged: save the trace again."
            )
        return np.frombuffer(bytearray(member.read(size)), dtype).reshape(dimensions)


def optional_parts_as_json(trace: RoutingTrace) -> dict[str, Any]:
    """Return the next tokens, outputs and images of a trace, those that it has, for JSON: arrays as bytes in base64."""
    parts: dict[str, Any] = {}
    if trace.next_tokens is not None:
        parts["next_tokens"] = _next_as_json(trace.next_tokens)
    if trace.outputs is not None:
        parts["outputs"] = {name: _pack(part, "<f4") for name, part in trace.outputs.arrays().items()}
    if trace.images:
        parts["images"] = images_as_json(trace.images)
    return parts


def optional_parts_of(content: dict[str, Any], slots: tuple[int, int, int]) -> dict[str, Any]:
    """Read `optional_parts_as_json`, for layers, tokens and slots. Raises `InvalidTrace`."""
    return {
        "next_tokens": _next_of(content.get("next_tokens"), *slots[:2]),
        "outputs": _outputs_of(content.get("outputs"), slots),
        "images": images_of_json(content.get("images")),
    }


def _next_as_json(following: NextTokens) -> dict[str, Any]:
    """Return next tokens as the header has them; missing arrays are null."""
    if not all(map(is_text, following.texts)):
        raise InvalidTrace("A next token has a text that UTF-8 cannot hold. Remove the next tokens, or mend the text.")
    arrays = {name: (getattr(following, name), dtype) for name, dtype in NEXT_DTYPES.items()}
    packed = {name: None if part is None else _pack(part, dtype) for name, (part, dtype) in arrays.items()}
    return {"texts": list(following.texts), **packed}


def _next_of(value: Any, layers: int, tokens: int) -> NextTokens | None:
    """Read next tokens from `_next_as_json`, of this many layers and tokens. Raises `InvalidTrace`."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"texts", *NEXT_DTYPES}:
        raise InvalidTrace(
            f"The next tokens are {shown(value)}; they must have texts, {', '.join(NEXT_DTYPES)}. Save the trace again."
        )
    texts = value["texts"]
    if not isinstance(texts, list) or not all(map(is_text, texts)):
        raise InvalidTrace("The texts of the next tokens are not a list of texts. Save the trace again.")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("rows", "p"), (tokens, NEXT))
    shapes |= dict.fromkeys(("lens_rows", "lens_p"), (layers, tokens, NEXT)) | {"token_ids": (len(texts),)}
    optional = {name: name in OPTIONAL and value[name] is None for name in NEXT_DTYPES}
    arrays: dict[str, Any] = {
        name: None if optional[name] else _unpack(value[name], f"{name} of the next tokens", shapes[name], kind)
        for name, kind in NEXT_DTYPES.items()
    }
    return NextTokens(tuple(texts), **arrays)


def _outputs_of(value: Any, shape: tuple[int, ...]) -> ExpertOutputs | None:
    """Read the figures of experts' outputs, each (L, T, K). Raises `InvalidTrace`."""
    if value is None:
        return None
    if not isinstance(value, dict) or not {*FIGURES[:-1]} <= value.keys() <= {*FIGURES}:
        raise InvalidTrace(
            f"The experts' outputs are {shown(value)}; they must have {', '.join(FIGURES)}. Save the trace again."
        )
    arrays = {name: _unpack(part, f"{name} of the experts' outputs", shape, "<f4") for name, part in value.items()}
    return ExpertOutputs(**arrays)


def _pack(values: np.ndarray, dtype: str) -> str:
    return b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _unpack(value: Any, what: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Decode an array of that shape from base64, after checking its length."""
    size = 4 * prod(shape)
    if isinstance(value, str) and len(value) == 4 * -(-size // 3):
        try:
            data = b64decode(value, validate=True)
        except ValueError:
            data = b""
        if len(data) == size:
            return np.frombuffer(bytearray(data), dtype).reshape(shape)
    raise InvalidTrace(f"The {what} are not the bytes of an array of the shape {shape}. Save the trace again.")
