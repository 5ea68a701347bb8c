"""Megatron-LM's own server: `moe_topk_indices` in the choices of a completion, highest weight first.

The layer axis has only the MoE layers, and does not say which of the model's they are. The prompt's part of the
response is cut wrongly by the server, so the whole is read and cut here.
"""

from typing import Any

from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, choice_routing, choices
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

COUNTED = "The file does not say which of the model's layers have experts: they are numbered from 0."


def recognise(source: Source) -> bool:
    """JSON with choices[].moe_topk_indices."""
    return any("moe_topk_indices" in choice for choice in choices(source.first))


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every choice."""
    parts = [_part(body, choice, options) for body in source.rows for choice in choices(body)]
    about = SourceInfo("megatron-lm", order="weight", cautions=(COUNTED,))
    return build_trace(parts, about, source.name, options)


def _part(body: dict[str, Any], choice: dict[str, Any], options: ImportOptions) -> SequenceRouting:
    got = choice["moe_topk_indices"]
    rows = got[1]["data"] if got[0] == "ndarray" else got
    return choice_routing(whole(rows, 3), body, choice, options)


FORMAT = Importer("megatron-response", "Megatron-LM responses", "trace", recognise, read, may_ask=("experts",))
