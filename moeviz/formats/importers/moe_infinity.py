"""MoE-Infinity's `trace_path`: a .npy of (requests, layers, E) counts. Unused entries are zeros, and are left out.

Layers are numbered from 0.
"""

import numpy as np

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import from_npy, is_npy
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace


def recognise(source: Source) -> bool:
    """.npy of floats with three axes, all whole numbers."""
    table = from_npy(source.data) if is_npy(source.data) else np.zeros(0)
    return table.ndim == 3 and bool((table >= 0).all() and (np.rint(table) == table).all())


def read(source: Source, options: ImportOptions) -> RoutingTrace | ExpertCounts:
    """Read the counts of each request."""
    table = from_npy(source.data)
    with np.errstate(invalid="ignore"):
        table = table[table.any(axis=(1, 2))]
    groups = tuple(f"request {number}" for number in range(len(table)))
    return build_counts(CountTable(table, "moe-infinity", groups=groups, group_kind="label"), source.name, options)


FORMAT = Importer("moe-infinity", "MoE-Infinity traces", "counts", recognise, read, asks=("top_k",))
