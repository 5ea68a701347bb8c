"""TensorRT-LLM's EXPERT_STATISTIC_PATH: `meta_info.json`, and `rank{r}.safetensors` with a tensor a step and layer.

Ranks are added up, as with attention data parallelism, where each has tokens of its own. If all ranks counted the same,
they saw the same tokens, and one of them counts. How many ranks there were is nowhere: only a gap shows.
"""

import re

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import from_safetensors, whole
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source

FILES = r"rank\d+\.safetensors"
SAME = "All ranks counted the same, so they saw the same tokens, and one of them counts."


def recognise(source: Source) -> bool:
    """A folder with meta_info.json and rank0.safetensors."""
    return source.is_folder and "meta_info.json" in source.files


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of each step."""
    meta, names = source.json_of("meta_info.json"), source.matching(FILES)
    numbers = [int(re.findall(r"\d+", name)[0]) for name in names]
    if not numbers or numbers != list(range(len(numbers))):
        raise InvalidTrace(f"The folder has files of the ranks {numbers}; give those of all ranks, from 0 on.")
    ranks = [{key: whole(v, 1, "The counts") for key, v in _tensors(source, name).items()} for name in names]
    if any(rank.keys() != ranks[0].keys() for rank in ranks):
        raise InvalidTrace("The ranks did not count the same steps and layers. Give the files of one run.")
    same = len(ranks) > 1 and all(np.array_equal(rank[key], ranks[0][key]) for rank in ranks for key in rank)
    total = {key: ranks[0][key] if same else np.sum([rank[key] for rank in ranks], axis=0) for key in ranks[0]}
    table, steps, layers = _table(total)
    if table.shape[2] != meta["num_experts"]:
        raise InvalidTrace(f"meta_info.json says {meta['num_experts']} experts, and {table.shape[2]} are counted.")
    counted = CountTable(
        table,
        "tensorrt-llm",
        layers,
        top_k=meta["num_experts_per_token"],
        groups=tuple(steps),
        group_kind="step",
        cautions=(SAME,) if same else (),
    )
    return build_counts(counted, source.name, options)


def _tensors(source: Source, name: str) -> dict[str, np.ndarray]:
    return {key: v for key, v in from_safetensors(source.files[name]).items() if re.fullmatch(r"\d+_\d+", key)}


def _table(total: dict[str, np.ndarray]) -> tuple[np.ndarray, list[int], list[int]]:
    keys = [tuple(map(int, key.split("_"))) for key in total]
    steps, layers = (sorted({key[at] for key in keys}) for at in (0, 1))
    if not keys or len(keys) != len(steps) * len(layers):
        raise InvalidTrace("A step of the statistics misses a layer. Record again.")
    return np.array([[total[f"{step}_{layer}"] for layer in layers] for step in steps]), steps, layers


FORMAT = Importer("tensorrt-llm", "TensorRT-LLM's expert statistics", "counts", recognise, read)
