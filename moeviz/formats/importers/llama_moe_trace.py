"""llama.cpp's moe-trace (a pull request, and forks of it): CSV without tokens, or with their number and rank.

`layer,expert` becomes counts. `phase,token,layer,rank,expert` becomes a trace, in the order of biased scores, which is
the order of weights only where a router has no bias.
"""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.csv_rows import integers, table_of
from moeviz.formats.importers.made import About, Part, dense, trace_of
from moeviz.formats.importers.made_counts import Counted, counts_of, sparse
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source
from moeviz.routing_trace import RoutingTrace

PLAIN, RANKED = b"layer,expert\n", b"phase,token,layer,rank,expert\n"


def recognise(source: Source) -> bool:
    """A CSV with just these columns."""
    return source.data[:64].replace(b"\r", b"").startswith((PLAIN, RANKED))


def read(source: Source, options: ImportOptions) -> RoutingTrace | ExpertCounts:
    """Counts, or a trace."""
    table = table_of(source.data, source)
    if "token" not in table:
        layer, expert = integers(table, "layer", "expert")
        layers, counts = sparse(layer, expert, np.ones(len(layer), np.int64))
        return counts_of(Counted(counts, "llama.cpp", layers, complete=False), source.name, options)
    token, layer, rank, expert = integers(table, "token", "layer", "rank", "expert")
    if not set(table["phase"]) <= {"prefill", "decode"}:
        raise InvalidTrace("A phase of the table is neither prefill nor decode. Record it again.")
    layers, ids, _ = dense(layer, token, rank, expert)
    late = np.zeros(ids.shape[1], bool)
    late[token[table["phase"].to_numpy() == "decode"]] = True
    return trace_of([Part(ids, generated=late)], About("llama.cpp", layers), source.name, options)
