"""Megatron-LM's --save-tokens-per-expert-interval: `tokens_per_expert/rank{r}.jsonl`, a line for each layer and step.

A rank lists its own experts, and among how many devices a layer's were divided is not in the file. Layers of
multi-token prediction are left out. With FP8 and FP4, the numbers include padding.
"""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import MAX_CELLS, CountTable, build_counts
from moeviz.formats.importers.importer import Importer
from moeviz.formats.importers.options import ImportOptions, flag
from moeviz.formats.importers.source import Source

FILES = r"(tokens_per_expert/)?rank\d+\.jsonl"


def recognise(source: Source) -> bool:
    """A folder with `tokens_per_expert/rank0.jsonl`, or JSON lines with `tpe`."""
    if source.is_folder:
        return bool(source.matching(FILES))
    return isinstance(source.first, dict) and {"iter", "layer", "tpe"} <= source.first.keys()


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of each step, micro-batches and ranks added up."""
    devices = options.need("expert_parallel", "Megatron-LM's log of tokens per expert")
    files = source.matching(FILES) if source.is_folder else [source.name]
    if len(files) % devices:
        raise InvalidTrace(
            f"There are files of {len(files)} ranks, and {flag('expert_parallel')} {devices} divides no such number of "
            "them. Put the files of all ranks into one folder."
        )
    total: dict[tuple[int, int], np.ndarray] = {}
    for rank, name in enumerate(files):
        _add(source, name, rank % devices, devices, total)
    steps, layers = (sorted({key[at] for key in total}) for at in (0, 1))
    if not total or len(total) != len(steps) * len(layers):
        raise InvalidTrace("A step of the log misses a layer, as where a run was killed. Remove that step's lines.")
    table = np.array([[total[step, layer] for layer in layers] for step in steps])
    counted = CountTable(table, "megatron-lm", layers, groups=tuple(steps), group_kind="step")
    return build_counts(counted, source.name, options)


def _add(source: Source, name: str, place: int, devices: int, total: dict[tuple[int, int], np.ndarray]) -> None:
    for row in source.lines_of(name):
        if row["block"] != "decoder":
            continue
        own = whole(row["tpe"], 2, "The tokens per expert").sum(axis=0)
        if len(own) * devices * (len(total) + 1) > MAX_CELLS:
            raise InvalidTrace(f"The log has more than {MAX_CELLS:,} counts. Give a part of its steps.")
        both = total.setdefault((row["iter"], row["layer"]), np.zeros(devices * len(own), np.int64))
        both[place * len(own) : (place + 1) * len(own)] += own


FORMAT = Importer(
    name="megatron-counts",
    label="Megatron-LM's tokens per expert",
    becomes="counts",
    looks_for="tokens_per_expert/rank0.jsonl, or lines with tpe",
    recognise=recognise,
    read=read,
    asks=("expert_parallel", "top_k"),
)
