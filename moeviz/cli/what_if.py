"""Run a prompt with the routing changed: `moeviz what-if`."""

import json
import re
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from moeviz.cli.inputs import load, read_prompt
from moeviz.cli.options import PROMPT, add_json, add_model, number
from moeviz.cli.output import check_output, frame_text, records, write
from moeviz.errors import CaptureError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moeviz.capture.change.intervention import Intervention
    from moeviz.capture.change.limits import Experts
    from moeviz.capture.change.precision import Precision
    from moeviz.capture.change.what_if import WhatIf

HELP = "Run a prompt with the routing changed, and show the effect."
EXAMPLES = """examples:
  moeviz what-if "12 + 7 = 19" --mute 3:1,4           experts 1 and 4 of layer 3 cannot be chosen
  moeviz what-if "12 + 7 = 19" --experts-per-token 1
  moeviz what-if "12 + 7 = 19" --exchange 2 0 5       experts 0 and 5 of layer 2 get each other's tokens
  moeviz what-if "12 + 7 = 19" --replay other.npz -o changed.npz"""
PRECISIONS = ("float32", "bfloat16", "float16", "int8")  # moeviz.capture.change.precision.NAMES


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz what-if`."""
    parser.add_argument("prompt", metavar="PROMPT", help=PROMPT)
    change = parser.add_mutually_exclusive_group(required=True)
    change.add_argument(
        "--mute", nargs="+", metavar="LAYER:EXPERTS", help="each router takes its next best expert instead"
    )
    change.add_argument("--force", nargs="+", metavar="LAYER:EXPERTS", help="every token is sent to these experts")
    change.add_argument("--experts-per-token", type=number(int, 1), metavar="K", help="another top-k")
    change.add_argument("--exchange", type=number(int, 0), nargs=3, metavar=("LAYER", "EXPERT", "EXPERT"))
    change.add_argument("--precision", choices=PRECISIONS, help="run the model in another precision")
    change.add_argument("--replay", metavar="TRACE", help="use the routing of a trace of the same prompt")
    parser.add_argument("--no-reroute", action="store_true", help="with --mute: nothing takes a muted expert's place")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of the changed model")
    add_model(parser)
    add_json(parser, "print the effect as JSON")


def run(args: Namespace) -> int:
    """Run `moeviz what-if`."""
    check_output(args.output)
    prompt = read_prompt(args.prompt)
    from moeviz.capture.change.what_if import what_if

    change, model = intervention_of(args), load(args)
    result = what_if(model, prompt, change)
    write(result.changed, args.output)
    print(json.dumps(records(result.effect)) if args.json else effect_text(result, model.tokenizer))
    return 0


def intervention_of(args: Namespace) -> "Intervention | Precision":
    """Return the one intervention that the options ask for. Raises `CaptureError` for experts that are not named so."""
    from moeviz.capture.change.kinds import Exchange, Force, Mute, Replay, TopK
    from moeviz.capture.change.precision import Precision
    from moeviz.formats.exports import read_trace

    if args.precision:
        return Precision(args.precision)
    if args.replay is not None:  # "" too is a name, of no file
        return Replay(read_trace(args.replay))
    if args.exchange:
        return Exchange(*args.exchange)
    if args.experts_per_token is not None:
        return TopK(args.experts_per_token)
    if args.force:
        return Force(_experts(args.force))
    return Mute(_experts(args.mute), reroute=not args.no_reroute)


def _experts(asked: list[str]) -> "Experts":
    """{3: (1, 4)} from "3:1,4"."""
    experts = {}
    for text in asked:
        if not re.fullmatch(r"\d{1,9}:\d{1,9}(,\d{1,9})*", text):
            raise CaptureError(f"{text!r} names no experts. Write LAYER:EXPERT, or LAYER:EXPERT,EXPERT for several.")
        layer, ids = text.split(":")
        experts[int(layer)] = (*experts.get(int(layer), ()), *map(int, ids.split(",")))
    return experts


def effect_text(result: "WhatIf", tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the effect of an intervention as text: token by token, and its means."""
    effect, columns = result.effect, ("next_token", "next_token_changed")
    texts = {name: effect[name].map(lambda token: tokenizer.decode([token])) for name in columns}
    another = (effect["next_token"] != effect["next_token_changed"]).mean()
    loss = effect[["loss", "loss_changed"]].mean()
    return "\n".join(
        [
            frame_text(effect.drop(columns=["sequence"]).assign(**texts).round(4)),
            "",
            f"loss per token           {loss['loss']:.4f} -> {loss['loss_changed']:.4f} nats",
            f"KL, mean of tokens     {effect['kl'].mean():.4f} nats",
            f"most likely token      differs after {another:.0%} of the tokens",
        ]
    )
