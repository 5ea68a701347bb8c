"""`outputs.router_logits` of transformers as somebody saved it: .pt, .npz or .safetensors, a table a layer.

One array of three axes is read too, also as .npy: an option says which of them is of layers. The experts are not in it.
They are taken as those of the K highest logits, which is what a router chooses only if it has no bias, groups or noise:
the trace's caution says so. Padding, if the batch had any, is in it.
"""

import re
import zipfile
from io import BytesIO
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.arrays import from_npy, from_safetensors, is_npy, is_safetensors
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, is_torch, torch_content
from moeviz.routing_trace import RoutingTrace

WHAT = "A file of router logits"
WORKED_OUT = (
    "The file holds router logits and no choices: the experts are those of the highest logits, which is wrong for a "
    "router with a bias, groups or noise. Padding of the batch, if there was any, counts as tokens."
)
UNREADABLE = (zipfile.BadZipFile, ValueError, NotImplementedError)


def recognise(source: Source) -> bool:
    """A torch file with a list of tables, .safetensors, .npz with numbered names, or three axes of floats."""
    if is_npy(source.data):
        return _has_three_axes(from_npy(source.data))
    return in_torch(_is_logits)(source) or is_safetensors(source.data) or bool(_members(source.data))


def _is_logits(content: Any) -> bool:
    """Return whether this is a sequence of tables, one per layer with None for dense ones, or one array for all."""
    if isinstance(content, np.ndarray):
        return _has_three_axes(content)
    return isinstance(content, (list, tuple)) and any(isinstance(table, np.ndarray) for table in content)


def _has_three_axes(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.dtype.kind == "f"


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of the layers in the file: of a list, of one array, or by the numbers in their names."""
    found = _content(source)
    if isinstance(found, dict) and len(found) == 1 and next(iter(found.values())).ndim == 3:
        (found,) = found.values()
    if isinstance(found, np.ndarray):
        found = list(found if options.layers_first(found.shape) else found.swapaxes(0, 1))
    if isinstance(found, dict):
        return _trace(_by_layer(found), source, options)
    return _trace({at: table for at, table in enumerate(found) if table is not None}, source, options)


def _content(source: Source) -> Any:
    if is_npy(source.data):
        return from_npy(source.data)
    if is_torch(source.data):
        return torch_content(source)
    return from_safetensors(source.data) if is_safetensors(source.data) else _arrays(source)


def _by_layer(tables: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Order the tables by the last number in their names. Raises `InvalidTrace` without one, or for one twice."""
    names: dict[int, str] = {}
    for name in tables:
        if not (numbers := re.findall(r"\d+", name.removesuffix(".npy"))):
            raise InvalidTrace(f"The table {shown(name)} has no number in its name. Name each by its layer.")
        if (other := names.setdefault(int(numbers[-1]), name)) != name:
            raise InvalidTrace(
                f"Of {len(tables)} tables, {shown(other)} and {shown(name)} both end in {numbers[-1]}, which is taken "
                "for the layer. Name each by only its layer."
            )
    return {layer: tables[name] for layer, name in names.items()}


def _trace(tables: dict[int, np.ndarray], source: Source, options: ImportOptions) -> RoutingTrace:
    top_k, experts, layers = options.need("top_k", WHAT), options.need("experts", WHAT), sorted(tables)
    if len({tables[layer].shape for layer in layers}) != 1 or tables[layers[0]].ndim != 2:
        raise InvalidTrace("The router logits of the layers are not tables of one shape. Save them as they come.")
    logits = np.stack([np.asarray(tables[layer]) for layer in layers])
    _check(logits, top_k, experts)
    logits = logits.astype(np.float32)
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    about = SourceInfo("transformers", layers, order="weight", experts=experts, cautions=(WORKED_OUT,))
    return build_trace([SequenceRouting(ids, logits=logits)], about, source.name, options)


def _check(logits: np.ndarray, top_k: int, experts: int) -> None:
    """Raise `InvalidTrace` for weights, hidden states, scores, and other tables of a similar shape."""
    if logits.shape[2] != experts:
        raise InvalidTrace(
            f"A layer's table is {logits.shape[1]:,} x {logits.shape[2]:,}, and router logits of {experts:,} experts "
            f"have {experts:,} columns, a row for each token. Is this a router's weight, or hidden states? Save the "
            "logits."
        )
    if logits.dtype.kind != "f" or not np.isfinite(logits).all() or top_k > experts:
        raise InvalidTrace(
            f"The tables are {logits.dtype} of {experts} experts, and top-k is {top_k}. Router logits are finite "
            "numbers with fractions, and top-k is at most the number of experts."
        )
    if np.allclose(logits.sum(axis=-1), 1, atol=1e-2):
        raise InvalidTrace(
            "The rows of the file sum to 1: these are probabilities, as transformers 5.0 to 5.5 gave them, and not "
            "logits. Save the logits."
        )
    if logits.min() >= 0 and logits.max() <= 1:
        raise InvalidTrace(
            "All numbers of the file are from 0 to 1: these are scores, as after a sigmoid, and not logits. Save the "
            "logits."
        )


def _members(data: bytes) -> list[str]:
    if not data.startswith(b"PK\x03\x04"):
        return []
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except UNREADABLE:
        return []
    one = r"[\w.]+\.npy" if len(names) == 1 else r"[\w.]*\d+\.npy"
    return names if all(re.fullmatch(one, name) for name in names) else []


def _arrays(source: Source) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        members = archive.infolist()
        if (size := sum(member.file_size for member in members)) > source.max_bytes:
            raise InvalidTrace(f"The file unpacks to {size:,} bytes, and at most {source.max_bytes:,} are read.")
        if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
            raise InvalidTrace("A part of the file is packed with another method than deflate. Save it again.")
        return {m.filename: from_npy(archive.read(m)) for m in members}


FORMAT = Importer(
    name="router-logits",
    label="router logits of transformers",
    becomes="trace",
    recognise=recognise,
    read=read,
    asks=("top_k", "experts"),
    may_ask=("first_axis",),
)
