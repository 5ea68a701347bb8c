"""Counts that others measured on large models and published: real routing to look at without a GPU."""

import csv
from collections import defaultdict
from importlib.resources import files

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.model_info import ModelInfo

MODELS = ("Mixtral-8x7B", "OLMoE-1B-7B")
CHECKPOINTS = {"Mixtral-8x7B": "mistralai/Mixtral-8x7B-v0.1", "OLMoE-1B-7B": "allenai/OLMoE-1B-7B-0924"}  # to record
KINDS = {"github": "code", "c4": "web", "book": "books"}  # the names of the source
CAUTION = "Counted only at layers 0, 7 and 15, by the authors of OLMoE (allenai/OLMoE, Apache-2.0)."


def published_counts(model: str = "Mixtral-8x7B") -> ExpertCounts:
    """Return the number of choices of each expert of Mixtral-8x7B or OLMoE-1B-7B, by domain: code, books and the web.

    208,896 tokens of each of three domains (github, c4 and book in the source), at layers 0, 7 and 15. Raises
    `InvalidTrace` for another model.

    Source: OLMoE (arXiv 2409.02060), section 5; `scripts/routing_output` of allenai/OLMoE, Apache-2.0.

    >>> published_counts("OLMoE-1B-7B")
    <ExpertCounts of 'OLMoE-1B-7B': 626,688 tokens, 3 MoE layers, top-8 of 64 experts by 3 labels>
    """
    if model not in MODELS:
        raise InvalidTrace(f"There are no published counts of {model!r} here. Choose one of {', '.join(MODELS)}.")
    table: dict[str, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    top_k = 0
    with files(__package__).joinpath("expert_counts.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["model"] == model:
                top_k = int(row["top_k"])
                table[KINDS[row["domain"]]][int(row["layer"])][int(row["expert"])] = int(row["assignments"])
    layers = sorted(next(iter(table.values())))
    experts = len(next(iter(table.values()))[layers[0]])
    counts = np.array([[[by[layer][e] for e in range(experts)] for layer in layers] for by in table.values()], np.int64)
    info = ModelInfo(model, "published", tuple(layers), (experts,) * len(layers), top_k, caution=CAUTION)
    return ExpertCounts(info, counts, counts.sum(axis=2) // top_k, tuple(table), "label")
