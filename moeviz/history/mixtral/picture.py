"""What was published of Mixtral 8x7B's own routing, in numbers: no weights of it are needed."""

import numpy as np
import pandas as pd

from moeviz.metrics.divergence import divergences
from moeviz.metrics.locality import MIXTRAL_LAYERS, MIXTRAL_TABLE_5
from moeviz.metrics.specialization import load_by_label
from moeviz.published import published_counts

CHOICES = {"first choice": 1 / 8, "first or second choice": 1 - (6 * 5) / (8 * 7)}  # and its chance
KINDS = {"github": "code", "book": "books", "c4": "web"}


def published_load(layer: int) -> pd.DataFrame:
    """Which experts of one layer of Mixtral 8x7B code, books and the web use: 208,896 tokens of each.

    Columns: those of `load_by_label`. Raises `InvalidTrace` for a layer that was not counted (0, 7 and 15 were).

    Source: counted by the authors of OLMoE (arXiv 2409.02060), `scripts/routing_output` of allenai/OLMoE.
    """
    frame = load_by_label(published_counts("Mixtral-8x7B").select(layers=[layer]))
    return frame.assign(label=frame["label"].map(KINDS))


def published_divergence(layer: int) -> float:
    """How differently that layer treats the two kinds of text that it treats most differently: bits, from 0 to 1."""
    counts = published_counts("Mixtral-8x7B").select(layers=[layer]).assignments[:, 0]
    return float(divergences(counts, *np.triu_indices(len(counts), k=1)).max())


def published_repetition() -> pd.DataFrame:
    """How often neighbouring tokens go to the same expert in Mixtral 8x7B, in eight data sets.

    One row per choice, layer and data set. Columns: choice str (first choice, or any expert in common) · layer int32 ·
    data_set str · share float64 (of pairs) · chance float64 (1 / 8, or 1 - C(6, 2) / C(8, 2)).

    Source: Jiang and others, Mixtral of Experts (arXiv 2401.04088), table 5.
    """
    rows = [
        {"choice": choice, "layer": layer, "data_set": name, "share": figures[3 * at + place] / 100, "chance": chance}
        for at, (choice, chance) in enumerate(CHOICES.items())
        for place, layer in enumerate(MIXTRAL_LAYERS)
        for name, figures in MIXTRAL_TABLE_5.items()
    ]
    return pd.DataFrame(rows).astype({"choice": "str", "layer": "int32", "data_set": "str"})
