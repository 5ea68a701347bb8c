"""Join traces of one model, sequence after sequence."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from moeviz.errors import CaptureError
from moeviz.expert_outputs import joined_outputs
from moeviz.model_info import ModelInfo
from moeviz.next_tokens import joined_next_tokens
from moeviz.routing_trace import ARRAYS, RoutingTrace
from moeviz.text import cautions_in_one


def joined(traces: Sequence[RoutingTrace]) -> RoutingTrace:
    """Join traces of one model, with `sequence` numbered consecutively. A field that one of them lacks is None.

    Raises `CaptureError` if they are not of the same model.
    """
    model = _same_model([part.model for part in traces])
    sequences = [int(part.tokens["sequence"].max()) + 1 if len(part.tokens) else 0 for part in traces]
    starts = np.cumsum([0, *sequences[:-1]])
    tokens = [
        part.tokens.assign(sequence=part.tokens["sequence"] + np.int32(start))
        for part, start in zip(traces, starts, strict=True)
    ]
    fields = {field: [getattr(part, field) for part in traces] for field in ARRAYS}
    arrays = {
        field: np.concatenate(parts, axis=1)
        for field, parts in fields.items()
        if all(part is not None for part in parts)
    }
    following = [part.next_tokens for part in traces if part.next_tokens is not None]
    together = joined_next_tokens(following) if len(following) == len(traces) else None
    added = [part.outputs for part in traces if part.outputs is not None]
    outputs = joined_outputs(added) if len(added) == len(traces) else None
    return RoutingTrace(
        model, pd.concat(tokens, join="inner", ignore_index=True), **arrays, next_tokens=together, outputs=outputs
    )


def _same_model(models: list[ModelInfo]) -> ModelInfo:
    """Return the facts that all share, with the cautions of all.

    The score function is recognised in each trace, and a short one may not show it.
    """
    known = {model.score_function for model in models} - {"unknown"}
    function = known.pop() if len(known) == 1 else "unknown"
    caution = cautions_in_one([model.caution for model in models])
    first, *others = (replace(model, score_function=function, caution=caution) for model in models)
    for other in others:
        if other != first:
            raise CaptureError(
                f"Only traces of one model can be joined, and these are of {first.name!r} and {other.name!r}, or of "
                "two versions or precisions of one model. Trace all texts with the same model."
            )
    return first
