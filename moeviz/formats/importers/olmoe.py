"""OLMoE's `c4_results.jsonl`: `input_ids` and `exp_ids` (tokens, K, layers), by logit. Its pickles are not opened."""

import numpy as np

from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace


def recognise(source: Source) -> bool:
    """Lines with exp_ids."""
    return isinstance(source.first, dict) and {"exp_ids", "input_ids"} <= source.first.keys()


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every line, one sequence each."""
    parts = []
    for row in source.rows:
        ids, tokens = whole(row["exp_ids"], 3).transpose(2, 0, 1), whole(row["input_ids"], 1, "The token ids")
        parts.append(SequenceRouting(ids, token_id=np.asarray(tokens)))
    return build_trace(parts, SourceInfo("olmoe", order="weight"), source.name, options)


FORMAT = Importer("olmoe", "OLMoE's c4_results.jsonl", "trace", recognise, read, may_ask=("experts",))
