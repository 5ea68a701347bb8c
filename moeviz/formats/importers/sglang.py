"""SGLang with --enable-return-routed-experts: responses of /generate, or of the OpenAI routes.

base64 of bare int32 without a shape, (tokens - 1 - start, hidden layers, K): the number of layers and experts are
options. Ids only, in no order. A chat's `sglext` is about the first of its choices.
"""

from typing import Any

import numpy as np

from moeviz.errors import NotSaid
from moeviz.formats.importers.arrays import from_base64
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, response_routing
from moeviz.formats.importers.importer import Importer, ImportOptions, Source, flag
from moeviz.routing_trace import RoutingTrace


def routed(body: Any) -> Any:
    """Return the routed experts in a response; None if it has none."""
    if not isinstance(body, dict):
        return None
    for name in ("meta_info", "sglext", "sgl_ext"):
        if isinstance(body.get(name), dict) and (got := body[name].get("routed_experts")) is not None:
            return got
    return None


def recognise(source: Source) -> bool:
    """JSON with meta_info or sglext, and base64 in routed_experts."""
    first = source.first[0] if isinstance(source.first, list) and source.first else source.first
    return isinstance(routed(first), str)


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every response in the file."""
    bodies = source.first if isinstance(source.first, list) else source.rows
    parts = [read_response(body, options) for body in bodies]
    return build_trace(parts, SourceInfo("sglang", hidden=True), source.name, options)


def read_response(body: dict[str, Any], options: ImportOptions, tokens: list[int] | None = None) -> SequenceRouting:
    """Return the routing of one response, with its tokens if the caller knows them. Raises `InvalidTrace`."""
    what = "A response of SGLang"
    layers, top_k = options.need("hidden_layers", what), options.need("top_k", what)
    data = from_base64(routed(body))
    meta = body.get("meta_info") or body["usage"]
    prompt, new = meta["prompt_tokens"], meta["completion_tokens"]
    expected = prompt + new - 1 - (options.start or 0)
    if len(data) != 4 * expected * layers * top_k:
        raise NotSaid(
            f"The response holds {len(data) // 4:,} expert ids, and {expected:,} tokens x {layers} layers x {top_k} "
            f"are {expected * layers * top_k:,}. Are {flag('hidden-layers')} and {flag('top-k')} right? If the request "
            f"left out a known prefix, say where it began with {flag('start')}.",
            () if options.start is not None else ("start",),
        )
    rows = np.frombuffer(data, "<i4").reshape(expected, layers, top_k).astype(np.int64)
    return response_routing(rows, prompt, new, options, tokens)


FORMAT = Importer(
    name="sglang",
    label="SGLang responses",
    becomes="trace",
    recognise=recognise,
    read=read,
    asks=("hidden_layers", "top_k"),
    may_ask=("start", "experts", "moe_layers"),
)
