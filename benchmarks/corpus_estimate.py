"""On paper: what a corpus of a billion tokens costs in bytes, hours and nodes, from measured bytes and rates.

    bytes  = tokens · (L · bytes a layer of ids and weights + bytes of words and small tables)    measured
    hours  = tokens · 2 · active parameters / (GPUs · peak · share of it)    the forward, without attention
           + tokens · L · K / (ids a second · processes)    writing: each process writes what it traces

Sources of the models' numbers: arXiv 2401.04088 (Mixtral), 2505.09388 (Qwen3), 2412.19437 (DeepSeek-V3; 3 of its 61
layers are dense, and its weights are float8). The peak is NVIDIA's for an H100 SXM in bfloat16 without sparsity. The
share is assumed, and so is that attention, loading and waiting for files cost nothing.
"""

from dataclasses import dataclass
from math import ceil

import pandas as pd

PEAK, SHARE = 989e12, 0.2  # FLOP a second of one GPU, and how much of it a trace's forward reaches: assumed
MEMORY, NODE = 80e9, 8  # bytes of a GPU, and GPUs of a node
LEFT_FREE = 0.1  # of the memory, for activations


@dataclass(frozen=True, slots=True)
class Model:
    """What its makers say of it; `stored` is bytes of all weights."""

    name: str
    layers: int
    experts: int
    top_k: int
    active: float
    stored: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Of routing with so many experts: bytes a token and layer, bytes a token beside, and ids a second of one core."""

    id_bytes: float
    weight_bytes: float
    other_bytes: float
    ids_a_second: float


MODELS = (
    Model("Mixtral-8x7B", 32, 8, 2, 12.9e9, 2 * 46.7e9),
    Model("Qwen3-30B-A3B", 48, 128, 8, 3.3e9, 2 * 30.5e9),
    Model("DeepSeek-V3", 58, 256, 8, 37e9, 671e9),
)


def estimate(measured: dict[int, Measured], tokens: float = 1e9) -> pd.DataFrame:
    """One row a model: `measured` has what was measured for its number of experts.

    >>> row = estimate(dict.fromkeys((8, 128, 256), Measured(5, 15, 9, ids_a_second=1e7))).iloc[1]  # 48 layers
    >>> float(row["GB with weights"]), float(row["GB of ids"])
    (969.0, 249.0)
    """
    rows = []
    for model in MODELS:
        of = measured[model.experts]
        gpus = ceil(model.stored / (MEMORY * (1 - LEFT_FREE)))  # that hold the weights once
        nodes = ceil(gpus / NODE)
        processes = nodes * NODE // gpus
        forward = tokens * 2 * model.active / (nodes * NODE * PEAK * SHARE) / 3600
        writing = tokens * model.layers * model.top_k / of.ids_a_second / processes / 3600
        ids = tokens * (model.layers * of.id_bytes + of.other_bytes) / 1e9
        size = ids + tokens * model.layers * of.weight_bytes / 1e9
        facts = {"model": model.name, "GB with weights": size, "GB of ids": ids, "GPUs a copy": gpus, "nodes": nodes}
        facts["processes"] = processes
        rows.append(facts | {"forward hours": forward, "writing hours": writing, "hours": forward + writing})
    return pd.DataFrame(rows)
