"""What `moeviz trace` says of a trace."""

from argparse import Namespace
from typing import Any

import pandas as pd

from moeviz.capture.run.decoding import Decoding
from moeviz.cli.terminal import frame_text, visible_line
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import RoutingTrace


def decoding_of(args: Namespace) -> Decoding:
    """How generation is to run."""
    return Decoding(args.num_beams, args.num_return_sequences, args.cache, args.prefill_chunk_size, args.prompt_lookup)


def summary_of(trace: RoutingTrace) -> dict[str, Any]:
    """What there is, and the busiest expert of each layer."""
    load, model = expert_load(trace), trace.model
    busiest = load[load["rank"] == 1].drop(columns="rank")
    return {
        "model": model.name,
        "site": model.site,
        "recorded_by": model.recorded_by,
        "caution": model.caution,
        "tokens": {phase: int((trace.tokens["phase"] == phase).sum()) for phase in ("prompt", "generated")},
        "moe_layers": len(model.layers),
        "layer_kind": model.layer_kind,
        "num_layers": model.num_layers,
        "num_experts": list(model.num_experts),
        "zero_experts": model.zero_experts,
        "top_k": model.top_k,
        "generated": "".join(trace.tokens.loc[trace.tokens["phase"] == "generated", "text"]),
        "busiest": busiest.to_dict("records"),
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The summary for a terminal."""
    tokens, experts = summary["tokens"], sorted(set(summary["num_experts"]))
    last = " (the last one drawn is not among them: it meets no router)" if tokens["generated"] else ""
    site = f", its {summary['site']} routers" if summary["site"] else ""
    zero = f", the last {summary['zero_experts']} of which compute nothing" if summary["zero_experts"] else ""
    of_all = "" if summary["layer_kind"] != "layer" else f", of {summary['num_layers'] or 'an unknown number'}"
    lines = [
        f"model      {visible_line(summary['model'])}{site}",
        f"tokens     {tokens['prompt']} of the prompt, {tokens['generated']} generated{last}",
        f"{summary['layer_kind'] + 's':<10} {summary['moe_layers']} with experts{of_all}",
        f"experts    {' or '.join(map(str, experts))} a layer{zero}, {summary['top_k']} a token",
    ]
    if summary["recorded_by"]:
        lines.append(f"recorded   by {visible_line(summary['recorded_by'])}")
    if summary["caution"]:
        lines.append(f"caution    {visible_line(summary['caution'])}")
    if summary["generated"]:
        lines.append(f"generated  {visible_line(summary['generated'])}")
    lines.append(
        "\nThe busiest expert of each layer. load: its share of the layer's assignments; uniform: an even share."
    )
    return "\n".join([*lines, frame_text(pd.DataFrame(summary["busiest"]))])
