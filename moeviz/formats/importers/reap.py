"""REAP's state of its observer: {layer: {expert_frequency, total_tokens, …}} in a torch file.

`pairwise_expert_frequency` is the sum of two experts' counts, not how often they were chosen together: it is not read.
How many experts a token is sent to follows from the counts and the number of tokens.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.made_counts import Counted, counts_of
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source


def recognise(content: Any) -> bool:
    """A dictionary by layer, of dictionaries with `expert_frequency`."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(type(key) is int for key in content)
        and all(isinstance(facts, dict) and "expert_frequency" in facts for facts in content.values())
    )


def read(content: Any, source: Source, options: ImportOptions) -> ExpertCounts:
    """The counts of every layer."""
    layers = sorted(content)
    table = np.stack([np.asarray(content[layer]["expert_frequency"]) for layer in layers])
    tokens = np.array([int(np.asarray(content[layer]["total_tokens"])) for layer in layers], np.int64)
    shares = {float(total) / max(int(count), 1) for total, count in zip(table.sum(axis=-1), tokens, strict=True)}
    if len(shares) != 1 or not (top_k := shares.pop()).is_integer() or top_k < 1:
        raise InvalidTrace(
            "The counts of the layers are not those of so many tokens with one top-k, as the file says. Observe again."
        )
    counted = Counted(table, "reap", layers, top_k=int(top_k), tokens=tokens[None])
    return counts_of(counted, source.name, options)
