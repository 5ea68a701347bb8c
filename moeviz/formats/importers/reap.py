"""REAP's state of its observer: {layer: {expert_frequency, total_tokens, …}} in a torch file.

`pairwise_expert_frequency` is the sum of two experts' counts, not how often they were chosen together: it is not read.
Nor is what it measures of an expert's saliency, for which counts have no place: the caution names it.
The number of experts per token follows from the counts and the number of tokens.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.build_counts import CountTable, build_counts
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, of_torch
from moeviz.text import quoted

READ = {"expert_frequency", "total_tokens", "pairwise_expert_frequency"}


def recognise(content: Any) -> bool:
    """A torch file of {layer: {expert_frequency, …}}."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(type(key) is int for key in content)
        and all(isinstance(facts, dict) and "expert_frequency" in facts for facts in content.values())
    )


def read(content: Any, source: Source, options: ImportOptions) -> ExpertCounts:
    """Read the counts of every layer."""
    layers = sorted(content)
    table = np.stack([np.asarray(content[layer]["expert_frequency"]) for layer in layers])
    tokens = np.array([int(np.asarray(content[layer]["total_tokens"])) for layer in layers], np.int64)
    shares = {float(total) / max(int(count), 1) for total, count in zip(table.sum(axis=-1), tokens, strict=True)}
    if len(shares) != 1 or not (top_k := shares.pop()).is_integer() or top_k < 1:
        raise InvalidTrace(
            "The counts of the layers are not those of so many tokens with one top-k, as the file says. Observe again."
        )
    rest = sorted({str(key) for facts in content.values() for key in facts} - READ)
    said = (
        (f"Only how often each expert was chosen is read, and no saliency: {quoted(', '.join(rest))}.",) if rest else ()
    )
    counted = CountTable(table, "reap", layers, top_k=int(top_k), tokens=tokens[None], cautions=said)
    return build_counts(counted, source.name, options)


FORMAT = Importer("reap", "REAP's observer", "counts", in_torch(recognise), of_torch(read))
