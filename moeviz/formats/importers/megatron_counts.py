"""Megatron-LM's --save-tokens-per-expert-interval: `tokens_per_expert/rank{r}.jsonl`, a line for each layer and step.

A rank lists its own experts, and among how many devices a layer's were divided is not in the file. A step counts where
every rank that has a layer has it at that step: what a killed rank did not write is left out, with a note. Layers of
multi-token prediction are left out. With FP8 and FP4, the numbers include padding.
"""

import re

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import MAX_CELLS, CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source, flag
from moeviz.text import listed

FILES = r"(tokens_per_expert/)?rank\d+\.jsonl"
Counts = dict[tuple[int, int], dict[int, np.ndarray]]  # by step and layer, what each rank counted of its experts


def recognise(source: Source) -> bool:
    """Tokens_per_expert/rank0.jsonl, or lines with tpe."""
    if source.is_folder:
        return bool(source.matching(FILES))
    return isinstance(source.first, dict) and {"iter", "layer", "tpe"} <= source.first.keys()


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of each step, micro-batches and ranks added up."""
    devices = options.need("expert_parallel", "Megatron-LM's log of tokens per expert")
    files = source.matching(FILES) if source.is_folder else [source.name]
    numbers = [int(re.findall(r"\d+", name)[-1]) for name in files] if source.is_folder else [0]
    if len(files) % devices or numbers != list(range(len(files))):
        raise InvalidTrace(
            f"There are files of the ranks {listed(numbers)}, and {flag('expert_parallel')} {devices} needs a multiple "
            f"of {devices}, numbered from 0. Put the files of all ranks into one folder."
        )
    counts: Counts = {}
    for rank, name in enumerate(files):
        _add_lines(source, name, rank, devices, counts)
    steps, layers = _whole_steps(source, counts, devices)
    table = np.array([[_sum_ranks(counts[step, layer], devices) for layer in layers] for step in steps])
    counted = CountTable(table, "megatron-lm", layers, groups=tuple(steps), group_kind="step")
    return build_counts(counted, source.name, options)


def _add_lines(source: Source, name: str, rank: int, devices: int, counts: Counts) -> None:
    for row in source.lines_of(name):
        if row["block"] != "decoder":
            continue
        own = whole(row["tpe"], 2, "The tokens per expert").sum(axis=0)
        if len(own) * devices * (len(counts) + 1) > MAX_CELLS:
            raise InvalidTrace(f"The log has more than {MAX_CELLS:,} counts. Give a part of its steps.")
        of = counts.setdefault((row["iter"], row["layer"]), {})
        if rank in of:
            raise InvalidTrace(
                f"Rank {rank} counts layer {row['layer']} of step {row['iter']} twice, as when a run was "
                "resumed from before that step. Remove the lines of the first time."
            )
        of[rank] = own


def _whole_steps(source: Source, counts: Counts, devices: int) -> tuple[list[int], list[int]]:
    """Return the steps at which every rank has all of its layers, and the layers. Raises `InvalidTrace` for none."""
    steps, layers = (sorted({key[at] for key in counts}) for at in (0, 1))
    ranks = {layer: {rank for step in steps for rank in counts.get((step, layer), {})} for layer in layers}
    for layer in layers:
        places = [sum(rank % devices == place for rank in ranks[layer]) for place in range(devices)]
        if len(set(places)) != 1:
            raise InvalidTrace(
                f"Layer {layer} is counted by the ranks {listed(sorted(ranks[layer]))}, and each of {devices} parts "
                "of its experts needs as many ranks. Put the whole files of all ranks into one folder."
            )
    lacking = {
        step: sum(len(ranks[layer] - counts.get((step, layer), {}).keys()) for layer in layers) for step in steps
    }
    kept = [step for step in steps if not lacking[step]]
    if not kept:
        raise InvalidTrace("No step of the log has the counts of every rank at every layer. Give the files of one run.")
    if cut := [step for step in steps if lacking[step]]:
        lines = sum(lacking.values())
        source.leave_out(
            f"Left out: {len(cut):,} of {len(steps):,} steps ({listed(cut)}), for want of {lines:,} lines that the "
            "ranks have at other steps, as where a run is killed."
        )
    return kept, layers


def _sum_ranks(own: dict[int, np.ndarray], devices: int) -> np.ndarray:
    parts = [[counts for rank, counts in own.items() if rank % devices == place] for place in range(devices)]
    return np.concatenate([np.sum(part, axis=0) for part in parts])


FORMAT = Importer(
    name="megatron-counts",
    label="Megatron-LM's tokens per expert",
    becomes="counts",
    recognise=recognise,
    read=read,
    asks=("expert_parallel", "top_k"),
)
