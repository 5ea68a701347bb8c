"""mbolt's traces of llama.cpp: int32 `MBLT`, version 1, E; then layer, K, tokens, ids of each record.

A model that mbolt rewrote has its experts in another order: the ids of both do not compare.
"""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.build_trace import SourceInfo, build_trace
from moeviz.formats.importers.graph_records import BY_SCORE, LAST_LAYER, graph_routing
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace


def recognise(source: Source) -> bool:
    """A file that begins with MBLT."""
    return source.data.startswith(b"MBLT")


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of all passes. A record that was cut is left out, and noted."""
    words = np.frombuffer(source.data, "<i4", len(source.data) // 4)
    if len(words) < 3 or words[1] != 1:
        raise InvalidTrace("The file is not of version 1 of mbolt's traces. Record again with that version.")
    records: list[tuple[int, np.ndarray]] = []
    at = 3
    while at + 3 <= len(words):
        layer, top_k, tokens = words[at : at + 3].tolist()
        if layer < 0 or not 0 < top_k <= 64 or tokens < 1:
            raise InvalidTrace(f"Record {len(records) + 1} of the file makes no sense. It was damaged: record again.")
        at += 3 + tokens * top_k
        if at <= len(words):
            records.append((layer, words[at - tokens * top_k : at].reshape(tokens, top_k)))
    if rest := len(source.data) - 4 * (3 + sum(3 + rows.size for _, rows in records)):
        source.leave_out(f"Left out: the last {rest:,} bytes, of a record that was cut, as where a run is killed.")
    layers, part = graph_routing(records, source)
    about = SourceInfo("llama.cpp (mbolt)", layers, experts=int(words[2]), cautions=(LAST_LAYER, BY_SCORE))
    return build_trace([part], about, source.name, options)


FORMAT = Importer("mbolt", "mbolt traces", "trace", recognise, read)
