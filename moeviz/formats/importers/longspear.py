"""Longspear's traces of llama.cpp: one line of facts, then layer, tokens and ids of each record, all uint16."""

import struct

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.build_trace import SourceInfo, build_trace
from moeviz.formats.importers.graph_records import BY_SCORE, graph_routing
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

MAGIC = b"LONGSPEAR_ROUTE_TRACE v1 "


def recognise(source: Source) -> bool:
    """A file that begins with LONGSPEAR_ROUTE_TRACE v1."""
    return source.data.startswith(MAGIC)


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of all passes."""
    head, _, body = source.data.partition(b"\n")
    facts = dict(word.split("=", 1) for word in head.decode("ascii").split()[2:])
    top_k, records, at = int(facts["top_k"]), [], 0
    if top_k < 1:
        raise InvalidTrace(f"The file says top-k {top_k}. It was damaged: record again.")
    while at < len(body):
        layer, tokens = struct.unpack_from("<HH", body, at)
        records.append((layer, np.frombuffer(body, "<u2", tokens * top_k, at + 4).reshape(tokens, top_k)))
        at += 4 + 2 * tokens * top_k
    layers, part = graph_routing(records, source)
    about = SourceInfo("llama.cpp (longspear)", layers, experts=int(facts["experts"]), cautions=(BY_SCORE,))
    return build_trace([part], about, source.name, options)


FORMAT = Importer("longspear", "Longspear traces", "trace", recognise, read)
