"""Counts as a plain CSV: `layer,expert,count`, and optionally `label` or `step`. SGLang 0.4 wrote the same with `_id`.

Experts without a row got nothing; how many there are is told, or counted up to the highest.
"""

import numpy as np
import pandas as pd

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.csv_rows import integers, table_of
from moeviz.formats.importers.made_counts import Counted, counts_of, sparse
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source

OF_SGLANG = {"layer_id": "layer", "expert_id": "expert"}


def recognise(source: Source) -> bool:
    """A CSV whose first line names a layer, an expert and a count."""
    names = {
        name.strip().strip('"') for name in source.data[:200].partition(b"\n")[0].decode(errors="replace").split(",")
    }
    return (
        "count" in names
        and "position" not in names
        and ({"layer", "expert"} <= names or {"layer_id", "expert_id"} <= names)
    )


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """The counts, by label or step where the table has them."""
    table = table_of(source.data.removeprefix(b"\xef\xbb\xbf"), source)
    table = table.rename(columns=lambda name: OF_SGLANG.get(name.strip(), name.strip()))
    layer, expert, count = integers(table, "layer", "expert", "count")
    backend = "sglang" if b"layer_id" in source.data[:200] else "file"
    if "step" in table:
        steps, group = np.unique(integers(table, "step")[0], return_inverse=True)
        layers, counts = sparse(layer, expert, count, group)
        counted = Counted(counts, backend, layers, groups=tuple(steps.tolist()), group_kind="step", complete=False)
    elif "label" in table:
        group, labels = pd.factorize(table["label"].astype("str"))
        layers, counts = sparse(layer, expert, count, group)
        counted = Counted(counts, backend, layers, groups=tuple(map(str, labels)), group_kind="label", complete=False)
    else:
        layers, counts = sparse(layer, expert, count)
        counted = Counted(counts, backend, layers, complete=False)
    return counts_of(counted, source.name, options)
