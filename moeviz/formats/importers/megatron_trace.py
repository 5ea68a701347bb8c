"""Megatron-LM's --moe-routing-trace-path: `router_trace_rank{r}.jsonl`, with logits in bfloat16 next to it.

Ids are in ascending order in training. There are no token ids, and no sequences: rows are in the order of the batch.
Layers are numbered from 0 in training and from 1 in inference, as the file has them. Only rank 0 is read: with sequence
parallelism, other ranks have other tokens. Capacity drops do not show, since ids are from before the dispatch.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import from_bfloat16, whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

FILES = r"router_trace_rank\d+\.jsonl"
NO_SEQUENCES = "The file does not say where a sequence begins: all its tokens count as one."
ONE_RANK = "The folder has traces of several ranks, and only the first is read."


def recognise(source: Source) -> bool:
    """Router_trace_rank0.jsonl, or lines with top_indices."""
    if source.is_folder:
        return bool(source.matching(FILES))
    return isinstance(source.first, dict) and {"top_indices", "layer", "step"} <= source.first.keys()


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every step of one rank, one after the other."""
    names = source.matching(FILES) if source.is_folder else [source.name]
    rows = [row for row in source.lines_of(names[0]) if row["block"] == "decoder"]
    of = {layer: [row for row in rows if row["layer"] == layer] for layer in sorted({row["layer"] for row in rows})}
    if len({tuple((row["step"], row["num_tokens"]) for row in own) for own in of.values()}) != 1:
        raise InvalidTrace("The layers of the file do not have the same steps, as when a run was killed.")
    ids = np.stack([np.concatenate([whole(row["top_indices"], 2) for row in own]) for own in of.values()])
    side = source.files.get(names[0].replace("router_trace", "logits").replace(".jsonl", ".bin"))
    logits = None
    if side is not None and "logit_shape" in rows[0]:
        logits = np.stack([np.concatenate([_logits(side, row) for row in own]) for own in of.values()])
    said = (NO_SEQUENCES, *([ONE_RANK] if len(names) > 1 else []))
    known = None if logits is None else logits.shape[2]
    about = SourceInfo("megatron-lm", list(of), experts=known, cautions=said)
    return build_trace([SequenceRouting(ids, logits=logits)], about, source.name, options)


def _logits(side: bytes, row: dict[str, Any]) -> np.ndarray:
    start, size, shape = row["logit_offset"], row["logit_bytes"], row["logit_shape"]
    if size != 2 * shape[0] * shape[1] or not 0 <= start <= len(side) - size or shape[0] != row["num_tokens"]:
        raise InvalidTrace("The logits next to the trace are not where it says, as when a run was killed.")
    return from_bfloat16(np.frombuffer(side, "<u2", size // 2, start)).reshape(shape)


FORMAT = Importer("megatron-trace", "Megatron-LM's routing trace", "trace", recognise, read, may_ask=("experts",))
