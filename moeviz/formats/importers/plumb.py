"""plumb's reports and snapshots: the choices of each expert. Experts that were never chosen are missing.

Layers are numbered from 0. Counts are of the last 1,000 passes.
"""

import numpy as np

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import CountTable, build_counts, sum_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source

WINDOW = "The counts are of the last 1,000 passes at most."


def recognise(source: Source) -> bool:
    """JSON with expert_counts, or layers and total_forward_passes."""
    first = source.first
    return isinstance(first, dict) and ("expert_counts" in first or {"layers", "total_forward_passes"} <= first.keys())


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of every layer."""
    first = source.first
    if "expert_counts" in first:
        rows = [[*map(int, key.split(":")), count] for key, count in first["expert_counts"].items()]
    else:
        rows = [[at["layer_id"], e["expert_id"], e["token_count"]] for at in first["layers"] for e in at["experts"]]
    layer, expert, count = whole(rows, 2, "The counts").T
    layers, table = sum_counts(layer, expert, np.asarray(count))
    counted = CountTable(table, "plumb", layers, complete=False, model=first.get("model_name", ""), cautions=(WINDOW,))
    return build_counts(counted, source.name, options)


FORMAT = Importer(
    name="plumb",
    label="plumb reports and snapshots",
    becomes="counts",
    recognise=recognise,
    read=read,
    asks=("top_k",),
    may_ask=("experts",),
)
