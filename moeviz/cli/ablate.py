"""Rank the experts of a prompt by muting each of them: `moeviz ablate`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.inputs import load, read_prompt
from moeviz.cli.options import PROMPT, add_json, add_model, number
from moeviz.cli.output import frame_text, progress, records

HELP = "Mute each expert that a prompt uses, one at a time, and rank them by the effect; our own models' have names."
EXAMPLES = """examples:
  moeviz ablate "12 + 7 = 19"
  moeviz ablate - --layers 2 3 --json < prompt.txt | jq .[0]"""


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz ablate`."""
    parser.add_argument("prompt", metavar="PROMPT", help=PROMPT)
    parser.add_argument(
        "--layers", type=number(int, 0), nargs="+", metavar="N", help="only these layers (default: all)"
    )
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    """Run `moeviz ablate`."""
    prompt = read_prompt(args.prompt)
    from moeviz.capture.what_if import ablate
    from moeviz.embedded.reference import reference_names
    from moeviz.metrics.expert_names import with_names

    shown = partial(progress, says="muted {} of {} experts")
    model = load(args)
    ranking = with_names(ablate(model, prompt, layers=args.layers, progress=shown), reference_names(model.info))
    print(json.dumps(records(ranking)) if args.json else frame_text(ranking.round(4)))
    return 0
