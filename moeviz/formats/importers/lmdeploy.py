"""LMDeploy's /generate with `return_routed_experts`: nested lists (tokens - 1, hidden layers, K), in no order.

Its rows of dense layers are memory that nobody wrote to: neither zeros nor in range. So an option says
which layers have experts.
"""

from moeviz.errors import NotSaid
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.build_trace import SourceInfo, build_trace, response_routing
from moeviz.formats.importers.importer import SAYS, Importer, ImportOptions, Source, flag
from moeviz.formats.importers.sglang import routed
from moeviz.routing_trace import RoutingTrace


def recognise(source: Source) -> bool:
    """JSON with meta_info, and lists in routed_experts."""
    return isinstance(routed(source.first), list)


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every response in the file."""
    if options.moe_layers is None:
        raise NotSaid(
            f"A response of LMDeploy does not say {SAYS['moe_layers']}, and what it has for dense ones is left-over "
            f"memory. Look in the model's config and say it: {flag('moe_layers')} on the command line, "
            "ImportOptions(moe_layers=…) in Python.",
            ("moe_layers",),
        )
    parts = []
    for body in source.rows:
        meta, rows = body["meta_info"], whole(routed(body), 3)
        parts.append(response_routing(rows, meta["prompt_tokens"], meta["completion_tokens"], options))
    return build_trace(parts, SourceInfo("lmdeploy", hidden=True), source.name, options)


FORMAT = Importer(
    name="lmdeploy",
    label="LMDeploy responses",
    becomes="trace",
    recognise=recognise,
    read=read,
    asks=("moe_layers",),
    may_ask=("start", "experts"),
)
