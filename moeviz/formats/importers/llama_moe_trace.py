"""llama.cpp's moe-trace (a pull request, and forks of it): CSV without tokens, or with their number and rank.

`layer,expert` becomes counts. `phase,token,layer,rank,expert` becomes a trace, in the order of biased scores, which is
the order of weights only where a router has no bias.
"""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import integer_columns, read_csv
from moeviz.formats.importers.build_counts import CountTable, build_counts, sum_counts
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, fill_slots
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

PLAIN, RANKED = b"layer,expert\n", b"phase,token,layer,rank,expert\n"


def recognise(source: Source) -> bool:
    """CSV with layer,expert or phase,token,layer,rank,expert."""
    return source.data[:64].replace(b"\r", b"").startswith((PLAIN, RANKED))


def read(source: Source, options: ImportOptions) -> RoutingTrace | ExpertCounts:
    """Read counts, or a trace."""
    table = read_csv(source.data, source)
    if "token" not in table:
        layer, expert = integer_columns(table, "layer", "expert")
        layers, counts = sum_counts(layer, expert, np.ones(len(layer), np.int64))
        return build_counts(CountTable(counts, "llama.cpp", layers, complete=False), source.name, options)
    token, layer, rank, expert = integer_columns(table, "token", "layer", "rank", "expert")
    if not set(table["phase"]) <= {"prefill", "decode"}:
        raise InvalidTrace("A phase of the table is neither prefill nor decode. Record it again.")
    layers, ids, _ = fill_slots(layer, token, rank, expert)
    late = np.zeros(ids.shape[1], bool)
    late[token[table["phase"].to_numpy() == "decode"]] = True
    return build_trace([SequenceRouting(ids, generated=late)], SourceInfo("llama.cpp", layers), source.name, options)


FORMAT = Importer(
    name="llama-moe-trace",
    label="llama.cpp's moe-trace",
    becomes="trace or counts",
    recognise=recognise,
    read=read,
    may_ask=("top_k", "experts"),
)
