"""What `moeviz trace` says of a trace."""

from argparse import Namespace
from typing import Any

import pandas as pd

from moeviz.capture.run.decoding import CHECKPOINT, Decoding, HowToDecode
from moeviz.capture.run.sampling import Sampling
from moeviz.cli.terminal import frame_text, visible_line
from moeviz.errors import CaptureError
from moeviz.metrics.load import expert_load
from moeviz.routing_trace import RoutingTrace


def sampling_of(args: Namespace) -> Sampling:
    """How tokens are to be drawn."""
    return Sampling(args.temperature, args.top_k, args.top_p, args.seed)


def decoding_of(args: Namespace) -> HowToDecode:
    """How generation is to run."""
    ways = Decoding(args.num_beams, args.num_return_sequences, args.cache, args.prefill_chunk_size, args.prompt_lookup)
    if args.decoding is None:
        return ways
    if ways != Decoding():
        raise CaptureError(
            "With --decoding checkpoint the checkpoint says how generation runs. Leave out the options for beams, "
            "sequences, caches, chunks and drafts, or --decoding."
        )
    return CHECKPOINT


def summary_of(trace: RoutingTrace) -> dict[str, Any]:
    """What there is, and the busiest expert of each layer."""
    load, model = expert_load(trace), trace.model
    busiest = load[load["rank"] == 1].drop(columns="rank")
    return {
        "model": model.name,
        "site": model.site,
        "recorded_by": model.recorded_by,
        "decoding": model.decoding,
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
    last = " (without the last one: it never went through a router)" if tokens["generated"] else ""
    site = f", its {summary['site']} routers" if summary["site"] else ""
    zero = f", the last {summary['zero_experts']} of which compute nothing" if summary["zero_experts"] else ""
    of_all = "" if summary["layer_kind"] != "layer" else f", of {summary['num_layers'] or 'an unknown number'}"
    lines = [
        f"model      {visible_line(summary['model'])}{site}",
        f"tokens     {tokens['prompt']} in the prompt, {tokens['generated']} generated{last}",
        f"{summary['layer_kind'] + 's':<10} {summary['moe_layers']} with experts{of_all}",
        f"experts    {' or '.join(map(str, experts))} per layer{zero}, {summary['top_k']} per token",
    ]
    if summary["recorded_by"]:
        lines.append(f"recorded   by {visible_line(summary['recorded_by'])}")
    if summary["decoding"]:
        lines.append(f"decoding   {visible_line(summary['decoding'])}")
    if summary["caution"]:
        lines.append(f"caution    {visible_line(summary['caution'])}")
    if summary["generated"]:
        lines.append(f"generated  {visible_line(summary['generated'])}")
    lines.append(
        "\nThe busiest expert of each layer. load: its share of the layer's assignments; uniform: the same for all."
    )
    return "\n".join([*lines, frame_text(pd.DataFrame(summary["busiest"]))])
