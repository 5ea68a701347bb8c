"""Counts as a plain CSV: `layer,expert,count`, and optionally `label` or `step`. SGLang 0.4 wrote the same with `_id`.

Experts without a row got nothing; their number is an option, or counted up to the highest.
"""

import numpy as np
import pandas as pd

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import integer_columns, read_csv
from moeviz.formats.importers.build_counts import CountTable, build_counts, sum_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source

OF_SGLANG = {"layer_id": "layer", "expert_id": "expert"}


def recognise(source: Source) -> bool:
    """CSV with layer,expert,count."""
    names = {
        name.strip().strip('"') for name in source.data[:200].partition(b"\n")[0].decode(errors="replace").split(",")
    }
    return (
        "count" in names
        and "position" not in names
        and ({"layer", "expert"} <= names or {"layer_id", "expert_id"} <= names)
    )


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Return the counts, by label or step where the table has them."""
    table = read_csv(source.data.removeprefix(b"\xef\xbb\xbf"), source)
    table = table.rename(columns=lambda name: OF_SGLANG.get(name.strip(), name.strip()))
    layer, expert, count = integer_columns(table, "layer", "expert", "count")
    backend = "sglang" if b"layer_id" in source.data[:200] else "file"
    if "step" in table:
        steps, group = np.unique(integer_columns(table, "step")[0], return_inverse=True)
        layers, counts = sum_counts(layer, expert, count, group)
        counted = CountTable(counts, backend, layers, groups=tuple(steps.tolist()), group_kind="step", complete=False)
    elif "label" in table:
        group, labels = pd.factorize(table["label"].astype("str"))
        layers, counts = sum_counts(layer, expert, count, group)
        counted = CountTable(
            counts, backend, layers, groups=tuple(map(str, labels)), group_kind="label", complete=False
        )
    else:
        layers, counts = sum_counts(layer, expert, count)
        counted = CountTable(counts, backend, layers, complete=False)
    return build_counts(counted, source.name, options)


FORMAT = Importer(
    name="counts",
    label="plain counts, and SGLang 0.4's",
    becomes="counts",
    recognise=recognise,
    read=read,
    asks=("top_k",),
    may_ask=("experts",),
)
