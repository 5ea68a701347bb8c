"""Run a prompt with the routing changed: `moeviz what-if`."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, cast

from moeviz.cli.options import add_json, add_model, add_prompt, add_segment, load, number, read_prompts
from moeviz.cli.output import check_output, frame_text, print_tables, visible_line, write
from moeviz.cli.words import Several

if TYPE_CHECKING:
    from moeviz.analyses.what_if import WhatIf
    from moeviz.capture.interventions.intervention import Intervention
    from moeviz.capture.interventions.precision import Precision


def arguments(parser: ArgumentParser) -> None:
    from moeviz.capture.interventions import INTERVENTIONS

    add_prompt(parser)
    change = parser.add_mutually_exclusive_group(required=True)
    for option in INTERVENTIONS:
        whole = {} if option.least is None else {"type": number(int, option.least)}
        many = {} if option.several is None else {"action": Several, "split": ";", "pattern": option.several}
        change.add_argument(option.flag, **whole, **many, **option.keywords)
    for flag, keywords in (pair for option in INTERVENTIONS for pair in option.beside.items()):
        parser.add_argument(flag, **keywords)  # behind all of the group, or argparse does not show that they exclude
    add_segment(parser)
    parser.add_argument("-o", "--output", metavar="FILE")
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    check_output(args.output)
    prompts = read_prompts(args)
    from moeviz.analyses.what_if import what_if

    change, model = intervention_of(args), load(args)
    result = what_if(model, prompts, change, chat=args.chat)
    write(result.changed, args.output)
    result = result.of_segment(args.segment)
    if args.json:
        print_tables({"effect": result.effect}, [result.moved] if result.moved else [])
    else:
        print(effect_text(result))
    return 0


def intervention_of(args: Namespace) -> "Intervention | Precision":
    """Return the one intervention that the options ask for. Raises `CaptureError` for experts that are not named so."""
    from moeviz.capture.interventions import INTERVENTIONS
    from moeviz.capture.interventions.bias import Bias
    from moeviz.formats.exports import read_trace
    from moeviz.formats.steering_map import read_steering_map

    if args.bias is not None and len(args.bias) == 1 and args.bias[0].lower().endswith(".json"):
        return Bias(read_steering_map(args.bias[0]))
    given = (option for option in INTERVENTIONS if getattr(args, option.name) is not None)
    return cast("Intervention | Precision", next(given).make(args, read_trace))


def effect_text(result: "WhatIf") -> str:
    """Return the effect of an intervention as text: token by token, and its means."""
    effect, ids = result.effect, ["next_token", "next_token_changed"]
    another = (effect["next_token"] != effect["next_token_changed"]).mean()
    loss = effect[["loss", "loss_changed"]].mean()
    return "\n".join(
        [
            visible_line(result.moved or "This prompt has no choice."),
            "",
            frame_text(effect.drop(columns=["sequence", *ids]).round(4)),
            "",
            f"loss per token           {loss['loss']:.4f} -> {loss['loss_changed']:.4f} nats",
            f"KL, mean of tokens     {effect['kl'].mean():.4f} nats",
            f"most likely token      differs after {another:.0%} of the tokens",
        ]
    )
