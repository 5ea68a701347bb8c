"""vLLM with --enable-return-routed-experts: a response, the lines of `vllm run-batch`, or an array saved in Python.

From 0.22 on, a response has base64 of a .npy, (tokens - 1 - start, hidden layers, K); 0.21 has nested lists, with
the prompt's in a list of their own. Only ids, in no order. Dense layers are rows of zeros, and so is what a fused
kernel hides. An array of three axes may also be the `experts` of a `RoutingTrace`, (L, T, K): an option says which.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import from_base64, from_npy, is_npy, whole
from moeviz.formats.importers.build_trace import (
    SequenceRouting,
    SourceInfo,
    build_trace,
    choice_routing,
    choices,
    response_routing,
)
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

ABOUT = SourceInfo("vllm", hidden=True)


def recognise(source: Source) -> bool:
    """JSON with choices, lines with custom_id, or .npy of whole numbers with three axes."""
    if is_npy(source.data):
        array = from_npy(source.data)
        return array.ndim == 3 and array.dtype.kind in "iu"
    first = source.first
    return bool(choices(first)) or (isinstance(first, dict) and "custom_id" in first and "response" in first)


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every choice of every response."""
    if is_npy(source.data):
        rows = whole(from_npy(source.data), 3)
        if options.layers_first(rows.shape):
            rows = rows.transpose(1, 0, 2)
        return build_trace([response_routing(rows, None, None, options)], ABOUT, source.name, options)
    bodies = [row["response"]["body"] if "custom_id" in row else row for row in source.rows if _has_answer(row)]
    parts = [read_choice(body, choice, options) for body in bodies for choice in choices(body)]
    failed = len(source.rows) - len(bodies)
    said = (f"{failed:,} of {len(source.rows):,} requests of the batch have no response.",) if failed else ()
    model = bodies[0].get("model", "") if bodies else ""
    return build_trace(parts, replace(ABOUT, cautions=said, model=model), source.name, options)


def _has_answer(row: Any) -> bool:
    return "custom_id" not in row or bool((row.get("response") or {}).get("body"))


def read_choice(body: dict[str, Any], choice: dict[str, Any], options: ImportOptions) -> SequenceRouting:
    """Return the routing of one choice, with its tokens where the response has them. Raises `InvalidTrace`."""
    got = choice.get("routed_experts")
    if before := body.get("prompt_routed_experts"):
        got = before + (got or [])
    if got is None:
        raise InvalidTrace(
            "The response has no routed experts. Start the server with --enable-return-routed-experts, and ask again."
        )
    rows: np.ndarray = whole(from_npy(from_base64(got)) if isinstance(got, str) else got, 3)
    return choice_routing(rows, body, choice, options)


FORMAT = Importer(
    name="vllm",
    label="vLLM responses and batches, arrays of expert ids",
    becomes="trace",
    recognise=recognise,
    read=read,
    may_ask=("start", "experts", "moe_layers", "first_axis"),
)
