"""llama.cpp's importance matrices, in GGUF: `blk.N.ffn_…_exps.weight.counts`, how often each expert was chosen.

The counts are float32, which stop counting exactly at 2^24. Paths of data sets that the file names are not read.
"""

import re

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.gguf_file import MAGIC, Gguf, from_gguf

COUNTS = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\.weight\.counts")
EXACT = 2**24


def recognise(source: Source) -> bool:
    """GGUF of type imatrix."""
    return source.data.startswith(MAGIC)


def read(source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of every layer with experts."""
    file = from_gguf(source.data)
    if file.facts.get("general.type") != "imatrix":
        raise InvalidTrace(
            "This GGUF file is not an importance matrix: it is a model, or part of one. Run it to record its routing."
        )
    found = _counts(file)
    layers = sorted(found)
    table = np.stack([found[layer] for layer in layers])
    said = (
        ("Counts of 16,777,216 and more are not exact: llama.cpp counts in float32.",) if table.max() >= EXACT else ()
    )
    return build_counts(CountTable(table, "llama.cpp", layers, cautions=said), source.name, options)


def _counts(file: Gguf) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for name in file.tensors:
        if match := COUNTS.fullmatch(name):
            layer, counts = int(match[1]), file.numbers(name)
            if not np.array_equal(found.setdefault(layer, counts), counts):
                raise InvalidTrace(f"Layer {layer} counts its matrices differently. Make the importance matrix again.")
            if counts.size == 1:
                raise InvalidTrace(
                    f"Layer {layer} has one count for all experts: the file was made from one in the legacy format, "
                    "which has no counts of experts. Make it again with llama-imatrix."
                )
    if not found:
        raise InvalidTrace("The importance matrix has no experts: it is of a dense model.")
    return found


FORMAT = Importer("imatrix", "llama.cpp importance matrices", "counts", recognise, read, asks=("top_k",))
