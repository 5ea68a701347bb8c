"""Loads for an expert-parallel load balancer: a JSON table of counts, (hidden layers, E), as LMDeploy and DeepSeek's
EPLB take it. Dense layers are rows of zeros."""

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source


def recognise(source: Source) -> bool:
    """A JSON list of lists of numbers."""
    first = source.first
    return isinstance(first, list) and bool(first) and all(isinstance(row, list) for row in first)


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of every layer that has any."""
    table = whole(source.first, 2, "The loads")
    return build_counts(CountTable(table, "eplb", hidden=True), source.name, options)


FORMAT = Importer("eplb", "loads for EPLB", "counts", recognise, read, asks=("top_k",))
