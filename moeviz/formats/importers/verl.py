"""verl's batches: `torch.save(dict(batch.batch))` with `routed_experts` (batch, prompt + response, hidden layers, K).

Prompts are padded on the left and responses on the right; `attention_mask` says which rows are tokens. The last token
of a sequence met no router, and its row is 0.
"""

from typing import Any

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.made import About, Part, trace_of
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source
from moeviz.routing_trace import RoutingTrace


def recognise(content: Any) -> bool:
    """A dictionary with `routed_experts` and `attention_mask`."""
    return isinstance(content, dict) and {"routed_experts", "attention_mask", "input_ids"} <= content.keys()


def read(content: Any, source: Source, options: ImportOptions) -> RoutingTrace:
    """The trace of every row of the batch, without its padding."""
    routed, mask = whole(content["routed_experts"], 4), np.asarray(content["attention_mask"]).astype(bool)
    tokens = np.asarray(content["input_ids"])
    if not mask.shape == tokens.shape == routed.shape[:2]:
        raise InvalidTrace(f"The batch has tokens of the shape {tokens.shape} and routing of {routed.shape}.")
    width = np.asarray(content["prompts"]).shape[1]
    parts = [_part(*row, width) for row in zip(routed, mask, tokens, strict=True)]
    return trace_of(parts, About("verl", hidden=True), source.name, options)


def _part(rows: np.ndarray, mask: np.ndarray, tokens: np.ndarray, width: int) -> Part:
    real = np.flatnonzero(mask)[:-1]
    return Part(rows[real].transpose(1, 0, 2), np.arange(len(real)), tokens[real], real >= width)
