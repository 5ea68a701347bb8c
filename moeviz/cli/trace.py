"""Trace a prompt: `moeviz trace`."""

import json
import shlex
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.metrics import SHORT, first_choices_by_token
from moeviz.cli.options import add_counts_only, add_json, add_model, add_prompt, load, number, read_prompts
from moeviz.cli.output import check_output, fitting_text, frame_text, note, progress, visible_line, write
from moeviz.errors import CaptureError

if TYPE_CHECKING:
    from moeviz.capture.run.chat import Prompt
    from moeviz.capture.run.decoding import HowToDecode
    from moeviz.capture.run.request import CaptureRequest
    from moeviz.routing_trace import RoutingTrace


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument("--image", action="append", default=[], metavar="FILE")
    parser.add_argument("-o", "--output", metavar="FILE")
    add_model(parser)
    parser.add_argument("--max-new-tokens", type=number(int, 0), default=0, metavar="N")
    parser.add_argument("--temperature", type=number(float, 0), default=0.0, metavar="T")
    parser.add_argument("--sample-top-k", type=number(int, 1), metavar="K")
    parser.add_argument("--top-p", type=number(float, 0, 1), metavar="P")
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N")
    parser.add_argument("--decoding", choices=("checkpoint",))
    parser.add_argument("--num-beams", type=number(int, 1), default=1, metavar="N")
    parser.add_argument("--num-return-sequences", type=number(int, 1), default=1, metavar="N")
    parser.add_argument("--cache", metavar="KIND")
    parser.add_argument("--prefill-chunk-size", type=number(int, 1), metavar="N")
    parser.add_argument("--prompt-lookup", type=number(int, 1), metavar="N")
    parser.add_argument("--system", metavar="TEXT")
    parser.add_argument("--site", metavar="SITE")
    parser.add_argument("--no-logits", action="store_true")
    parser.add_argument("--next-tokens", action="store_true")
    parser.add_argument("--outputs", action="store_true")
    add_counts_only(parser)
    parser.add_argument("--kernels", action=BooleanOptionalAction)
    add_json(parser)


def run(args: Namespace) -> int:
    check_output(args.output, args.counts_only)
    for option, what in (("next_tokens", "next tokens"), ("outputs", "experts' outputs")):
        if getattr(args, option) and args.output is not None and not args.output.lower().endswith(".npz"):
            words = f"--{option.replace('_', '-')}"
            raise CaptureError(f"Only a .npz file holds {what}. Give -o FILE.npz, or leave {words} out.")
    prompts = read_prompts(args)
    from moeviz.capture.trace import capture

    request = request_of(args, prompts)
    result = capture(load(args), request, progress=progress)
    write(result, args.output, args.counts_only)
    if request.chat and "segment" not in result.tokens:
        note("no segments: the chat template, or the tokenizer, does not show where each part ends")
    summary = summary_of(result)
    if args.json:
        print(json.dumps(summary | {"routes": routes_of(result)}))
        return 0
    print("\n\n".join([summary_text(summary), *lens_text(result), routes_text(result, args.output)]))
    return 0


def routes_of(trace: "RoutingTrace") -> list[dict[str, Any]]:
    """Return the experts of each token, for JSON: for each layer, those that it went to, the highest weight first."""
    names = list(map(str, trace.model.layers))
    tokens = trace.tokens[["sequence", "position", "text", "phase"]].to_dict("records")
    chosen = (
        {name: [e for e in row if e >= 0] for name, row in zip(names, rows, strict=True)}
        for rows in trace.experts.transpose(1, 0, 2).tolist()
    )
    return [token | {"experts": experts} for token, experts in zip(tokens, chosen, strict=True)]


def routes_text(trace: "RoutingTrace", path: str | None) -> str:
    """Return where the first tokens went, as text, and how to see all of them."""
    from moeviz.metrics.tokens import token_choices

    tokens = len(trace.tokens)
    first = first_choices_by_token(token_choices(trace.select(tokens=slice(0, SHORT))))
    command = f"moeviz metrics {shlex.quote(path or 'FILE')} --topic tokens --all"
    heading = "The expert that each token went to first, by layer (· is none)."
    if tokens > SHORT:
        save = "" if path else "-o FILE, then "
        heading += f" The first {SHORT} of {tokens:,} tokens; all, with weights: {save}{command}"
    return f"{heading}\n{fitting_text(first, command)}"


def lens_text(trace: "RoutingTrace") -> list[str]:
    """Return the likeliest next token after the last token, if the model stopped after each layer, as a table."""
    import pandas as pd

    if trace.next_tokens is None or trace.next_tokens.lens_rows is None or trace.next_tokens.lens_p is None:
        return []
    texts, ids, p = trace.next_tokens.texts, trace.next_tokens.lens_rows[:, -1, 0], trace.next_tokens.lens_p[:, -1, 0]
    rows = [
        {"layer": layer, "next": visible_line(texts[at]), "p": round(chance, 3)}
        for layer, at, chance in zip(trace.model.layers, ids.tolist(), p.tolist(), strict=True)
    ]
    heading = "The likeliest next token if the model stopped after this layer (logit lens; poor in early layers)."
    return [f"{heading}\n{frame_text(pd.DataFrame(rows))}"]


def request_of(args: Namespace, prompts: "tuple[Prompt, ...]") -> "CaptureRequest":
    """Return the request of the options. Raises, before a model is opened, for a request that cannot be."""
    from moeviz.capture.run.decoding import Sampling
    from moeviz.capture.run.images import pictures_of
    from moeviz.capture.run.request import CaptureRequest

    return CaptureRequest(
        prompts,
        args.max_new_tokens,
        Sampling(args.temperature, args.sample_top_k, args.top_p, args.seed),
        decoding_of(args),
        kernels="auto" if args.kernels is None else args.kernels,
        keep_logits=not (args.no_logits or args.counts_only),
        site=args.site,
        chat=args.chat,
        system=args.system,
        next_tokens=args.next_tokens,
        outputs=args.outputs,
        images=pictures_of(args.image),
    )


def decoding_of(args: Namespace) -> "HowToDecode":
    """Return the way of generating. Raises `CaptureError` for options that exclude each other."""
    from moeviz.capture.run.decoding import CHECKPOINT, Decoding

    ways = Decoding(args.num_beams, args.num_return_sequences, args.cache, args.prefill_chunk_size, args.prompt_lookup)
    if args.decoding is None:
        return ways
    if ways != Decoding():
        raise CaptureError(
            "With --decoding checkpoint, the checkpoint's settings decide. Leave out the options for beams, sequences, "
            "caches, chunks and drafts, or --decoding."
        )
    return CHECKPOINT


def summary_of(trace: "RoutingTrace") -> dict[str, Any]:
    """Return a trace's facts and the busiest expert of each layer, for JSON."""
    from moeviz.metrics.load import expert_load
    from moeviz.metrics.parameters import varying_routes_in_words

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
        **({"images": _images(trace)} if trace.images else {}),
        **({} if (varying := varying_routes_in_words(trace)) is None else {"computing": varying}),
        "generated": "".join(trace.tokens.loc[trace.tokens["phase"] == "generated", "text"]),
        "busiest": busiest.to_dict("records"),
        **(
            {}
            if trace.next_tokens is None
            else {"next": [{"text": text, "p": p} for text, p in trace.next_tokens.after(-1)]}
        ),
    }


def _images(trace: "RoutingTrace") -> list[dict[str, Any]]:
    """Return size and number of tokens of each image of the prompt, for JSON."""
    of = trace.tokens.loc[trace.tokens["kind"] == "image", "image"].value_counts()
    return [
        {"width": one.width, "height": one.height, "tokens": int(of.get(number, 0)), "note": one.note}
        for number, one in enumerate(trace.images)
    ]


def summary_text(summary: dict[str, Any]) -> str:
    """Return the summary of a trace as text for a terminal."""
    import pandas as pd

    tokens, experts = summary["tokens"], sorted(set(summary["num_experts"]))
    last = " (without the last one: it never went through a router)" if tokens["generated"] else ""
    site = f", its {summary['site']} routers" if summary["site"] else ""
    zero = f", the last {summary['zero_experts']} of which compute nothing" if summary["zero_experts"] else ""
    of_all = "" if summary["layer_kind"] != "layer" else f", of {summary['num_layers'] or 'an unknown number'}"
    lines = [
        f"model      {visible_line(summary['model'])}{site}",
        f"tokens     {tokens['prompt']} in the prompt, {tokens['generated']} generated{last}",
        *(
            f"image {number:<5}{one['width']:,} x {one['height']:,} pixels, {one['tokens']:,} of the tokens"
            + (f"; {visible_line(one['note'])}" if one["note"] else "")
            for number, one in enumerate(summary.get("images", ()))
        ),
        f"{summary['layer_kind'] + 's':<10} {summary['moe_layers']} with experts{of_all}",
        f"experts    {' or '.join(map(str, experts))} per layer{zero}, {summary['top_k']} per token",
    ]
    if summary.get("computing"):
        lines.append(f"computing  {summary['computing']}")
    if summary["recorded_by"]:
        lines.append(f"recorded   by {visible_line(summary['recorded_by'])}")
    if summary["decoding"]:
        lines.append(f"decoding   {visible_line(summary['decoding'])}")
    if summary["caution"]:
        lines.append(f"caution    {visible_line(summary['caution'])}")
    if summary["generated"]:
        lines.append(f"generated  {visible_line(summary['generated'])}")
    if summary.get("next"):
        likeliest = (f"“{visible_line(text)}” {p:.0%}" for text, p in (one.values() for one in summary["next"]))
        lines.append(f"next       {', '.join(likeliest)}")
    lines.append(
        "\nThe busiest expert of each layer. load: its share of the layer's assignments; uniform: the same for all."
    )
    return "\n".join([*lines, frame_text(pd.DataFrame(summary["busiest"]))])
