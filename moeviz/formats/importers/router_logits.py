"""`outputs.router_logits` of transformers as somebody saved it: .pt, .npz or .safetensors, a table a layer.

The experts are not in it. They are taken as those of the K highest logits, which is what a router chooses only if it
has no bias, groups or noise: the trace's caution says so. Padding, if the batch had any, is in it.
"""

import re
import zipfile
from io import BytesIO
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import from_npy, from_safetensors, is_safetensors
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source
from moeviz.formats.importers.torch_file import in_torch, is_torch, torch_content
from moeviz.routing_trace import RoutingTrace

WORKED_OUT = (
    "The file holds router logits and no choices: the experts are those of the highest logits, which is wrong for a "
    "router with a bias, groups or noise. Padding of the batch, if there was any, counts as tokens."
)
UNREADABLE = (zipfile.BadZipFile, ValueError, NotImplementedError)


def recognise(source: Source) -> bool:
    """A torch file with a list of tables, a .safetensors file, or an .npz whose arrays have a number in their names."""
    return in_torch(_is_list_of_tables)(source) or is_safetensors(source.data) or bool(_members(source.data))


def _is_list_of_tables(content: Any) -> bool:
    """A list or tuple of tables, one a layer; dense layers may be None."""
    return isinstance(content, (list, tuple)) and any(isinstance(table, np.ndarray) for table in content)


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of the layers in the file: of a list, or by the numbers in their names."""
    if is_torch(source.data):
        return _read_list(torch_content(source), source, options)
    if is_safetensors(source.data):
        tables = from_safetensors(source.data)
        return _trace({int(re.findall(r"\d+", name)[-1]): table for name, table in tables.items()}, source, options)
    return _trace(_arrays(source), source, options)


def _read_list(content: Any, source: Source, options: ImportOptions) -> RoutingTrace:
    """The trace of the layers in a list."""
    return _trace({at: table for at, table in enumerate(content) if table is not None}, source, options)


def _trace(tables: dict[int, np.ndarray], source: Source, options: ImportOptions) -> RoutingTrace:
    layers, top_k = sorted(tables), options.need("top_k", "A file of router logits")
    if len({tables[layer].shape for layer in layers}) != 1 or tables[layers[0]].ndim != 2:
        raise InvalidTrace("The router logits of the layers are not tables of one shape. Save them as they come.")
    logits = np.stack([np.asarray(tables[layer]) for layer in layers]).astype(np.float32)
    if not np.isfinite(logits).all() or top_k > logits.shape[2]:
        raise InvalidTrace(f"The logits are of {logits.shape[2]} experts, or not finite, and top-k is {top_k}.")
    if np.allclose(logits.sum(axis=-1), 1, atol=1e-2):
        raise InvalidTrace(
            "The rows of the file sum to 1: these are probabilities, as transformers 5.0 to 5.5 gave them, and not "
            "logits. Save the logits."
        )
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    about = SourceInfo("transformers", layers, order="weight", experts=logits.shape[2], cautions=(WORKED_OUT,))
    return build_trace([SequenceRouting(ids, logits=logits)], about, source.name, options)


def _members(data: bytes) -> list[str]:
    if not data.startswith(b"PK\x03\x04"):
        return []
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except UNREADABLE:
        return []
    return names if all(re.fullmatch(r"[\w.]*\d+\.npy", name) for name in names) else []


def _arrays(source: Source) -> dict[int, np.ndarray]:
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        members = archive.infolist()
        if (size := sum(member.file_size for member in members)) > source.max_bytes:
            raise InvalidTrace(f"The file unpacks to {size:,} bytes, and at most {source.max_bytes:,} are read.")
        if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
            raise InvalidTrace("A part of the file is packed with another method than deflate. Save it again.")
        return {int(re.findall(r"\d+", m.filename)[-1]): from_npy(archive.read(m)) for m in members}


FORMAT = Importer(
    name="router-logits",
    label="router logits of transformers",
    becomes="trace",
    looks_for="a torch file with a list of tables, .safetensors, or .npz with a number in each name",
    recognise=recognise,
    read=read,
    asks=("top_k",),
)
