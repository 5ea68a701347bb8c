"""moewatch's reports: how often each expert was a token's first choice. Later choices are not in it.

Experts are those of the highest logits. Layers are numbered from 0, in the order of the model's routers.
"""

import numpy as np

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source

FIRST = "These are counts of only first choices. Layers are numbered from 0, in the order of the model's routers."


def recognise(source: Source) -> bool:
    """JSON with metadata.moewatch_version."""
    first = source.first
    return isinstance(first, dict) and "utilization" in first and "moewatch_version" in first.get("metadata", {})


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of first choices: as if each token were sent to one expert."""
    names = source.first["metadata"]["router_module_names"]
    table = np.stack([whole(source.first["utilization"][name]["token_counts"], 1, "The counts") for name in names])
    return build_counts(CountTable(table, "moewatch", top_k=1, cautions=(FIRST,)), source.name, options)


FORMAT = Importer("moewatch", "moewatch reports", "counts", recognise, read)
