"""A cache of TransformerLens: `blocks.N.mlp.….hook_expert_indices`, with weights (tokens, E) and logits."""

import re
from typing import Any

import numpy as np

from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, of_torch
from moeviz.routing_trace import RoutingTrace

INDICES = re.compile(r"(blocks\.(\d+)\..*hook_)expert_indices")


def recognise(content: Any) -> bool:
    """A torch file with hook_expert_indices."""
    return isinstance(content, dict) and any(INDICES.fullmatch(str(key)) for key in content)


def read(content: Any, source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of all tokens, in the order of the batch."""
    stems = {int(found[2]): found[1] for key in content if (found := INDICES.fullmatch(str(key)))}
    layers = sorted(stems)

    def of(what: str) -> np.ndarray:
        tables = [np.asarray(content[stems[layer] + what]) for layer in layers]
        return np.stack([table.reshape(-1, table.shape[-1]) for table in tables])

    ids, logits = whole(of("expert_indices"), 3), of("out").astype(np.float32)
    weights = np.take_along_axis(of("expert_weights"), ids, axis=-1)  # (tokens, E): 0 where not chosen
    about = SourceInfo("transformer-lens", layers, experts=logits.shape[2])
    return build_trace([SequenceRouting(ids, weights=weights, logits=logits)], about, source.name, options)


FORMAT = Importer("transformer-lens", "TransformerLens caches", "trace", in_torch(recognise), of_torch(read))
