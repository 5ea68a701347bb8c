"""verl's batches: `torch.save(dict(batch.batch))` with `routed_experts` (batch, prompt + response, hidden layers, K).

Prompts are padded on the left and responses on the right; `attention_mask` says which rows are tokens. The last token
of a sequence met no router, and its row is 0.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, of_torch
from moeviz.routing_trace import RoutingTrace


def recognise(content: Any) -> bool:
    """A torch file with routed_experts and attention_mask."""
    return isinstance(content, dict) and {"routed_experts", "attention_mask", "input_ids"} <= content.keys()


def read(content: Any, source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every row of the batch, without its padding."""
    routed, mask = whole(content["routed_experts"], 4), np.asarray(content["attention_mask"]).astype(bool)
    tokens = np.asarray(content["input_ids"])
    if not mask.shape == tokens.shape == routed.shape[:2]:
        raise InvalidTrace(f"The batch has tokens of the shape {tokens.shape} and routing of {routed.shape}.")
    width = np.asarray(content["prompts"]).shape[1]
    parts = [_part(*row, width) for row in zip(routed, mask, tokens, strict=True)]
    return build_trace(parts, SourceInfo("verl", hidden=True), source.name, options)


def _part(rows: np.ndarray, mask: np.ndarray, tokens: np.ndarray, width: int) -> SequenceRouting:
    real = np.flatnonzero(mask)[:-1]
    return SequenceRouting(rows[real].transpose(1, 0, 2), np.arange(len(real)), tokens[real], real >= width)


FORMAT = Importer(
    name="verl",
    label="verl batches",
    becomes="trace",
    recognise=in_torch(recognise),
    read=of_torch(read),
    may_ask=("experts", "moe_layers"),
)
