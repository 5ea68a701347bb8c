"""prime-rl: responses whose routed experts are an object with `data` and `shape`.

With a `dtype`, `data` is base64; before, it was base85 of int32. Otherwise as vLLM's.
"""

import base64
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.arrays import from_base64
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, choice_routing, choices
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

DTYPES = ("uint8", "uint16", "int32")


def recognise(source: Source) -> bool:
    """JSON with choices[].routed_experts.shape."""
    return any(isinstance(choice.get("routed_experts"), dict) for choice in choices(source.first))


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every choice."""
    parts = [_part(body, choice, options) for body in source.rows for choice in choices(body)]
    return build_trace(parts, SourceInfo("prime-rl", hidden=True), source.name, options)


def _part(body: dict[str, Any], choice: dict[str, Any], options: ImportOptions) -> SequenceRouting:
    got = choice["routed_experts"]
    dtype, shape = got.get("dtype", "int32"), got["shape"]
    data = from_base64(got["data"]) if "dtype" in got else base64.b85decode(got["data"])
    if dtype not in DTYPES or len(shape) != 3 or prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise InvalidTrace(
            f"The routed experts have the shape {shown(shape)} of {shown(dtype)}, and {len(data):,} bytes. Ask again."
        )
    rows = np.frombuffer(data, dtype).reshape(shape).astype(np.int64)
    options = replace(options, start=got["start"]) if "start" in got else options
    return choice_routing(rows, body, choice, options)


FORMAT = Importer("prime-rl", "prime-rl responses", "trace", recognise, read, may_ask=("moe_layers",))
