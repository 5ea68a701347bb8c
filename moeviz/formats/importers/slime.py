"""slime's --save-debug-rollout-data and --dump-details: torch files of `samples` with `rollout_routed_experts`.

Ids of the server that made the rollout, in no order; (tokens - 1, hidden layers, K). In training slime pads with ids
that it makes up, so give the files of rollouts.
"""

from typing import Any

import numpy as np

from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, response_routing
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.formats.importers.torch_file import in_torch, of_torch
from moeviz.routing_trace import RoutingTrace


def recognise(content: Any) -> bool:
    """A torch file with samples."""
    return isinstance(content, dict) and isinstance(content.get("samples"), list)


def read(content: Any, source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every sample that has routing."""
    samples = [sample for sample in content["samples"] if sample.get("rollout_routed_experts") is not None]
    if lost := len(content["samples"]) - len(samples):
        source.leave_out(f"Left out: {lost:,} of {len(content['samples']):,} samples, which have no routing.")
    return build_trace(
        [_part(sample, options) for sample in samples], SourceInfo("slime", hidden=True), source.name, options
    )


def _part(sample: dict[str, Any], options: ImportOptions) -> SequenceRouting:
    tokens, new = np.asarray(sample["tokens"]), sample["response_length"]
    return response_routing(whole(sample["rollout_routed_experts"], 3), len(tokens) - new, new, options, tokens)


FORMAT = Importer(
    name="slime",
    label="slime rollouts",
    becomes="trace",
    recognise=in_torch(recognise),
    read=of_torch(read),
    may_ask=("experts", "moe_layers"),
)
