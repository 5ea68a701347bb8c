"""Run a prompt in other precisions: `moeviz precision`."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from moeviz.cli.diff import difference, difference_text
from moeviz.cli.inputs import load, read_prompt
from moeviz.cli.options import add_json, add_model, add_prompt
from moeviz.cli.output import frame_text, records
from moeviz.errors import CaptureError
from moeviz.text import quoted

if TYPE_CHECKING:
    pass

HELP = "Run a prompt in other precisions: which tokens go to other experts?"
EXAMPLES = """examples:
  moeviz precision "Il fait froid."                   tokens sent to other experts, by precision and layer
  moeviz precision "Il fait froid." --model model-F16.gguf --beside model-Q4_K_M.gguf
  moeviz precision - --json < prompt.txt | jq .[0]"""


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz precision`."""
    add_prompt(parser)
    add_model(parser)
    parser.add_argument(
        "--beside",
        metavar="MODEL",
        help="compare with this model, such as another quantisation in a .gguf file, in place of other dtypes",
    )
    add_json(parser)


def run(args: Namespace) -> int:
    """Run `moeviz precision`."""
    prompt = read_prompt(args)
    if args.beside is not None:
        return _beside(args, prompt)
    from moeviz.capture.engine_table import engine_of
    from moeviz.checks import precision

    if (engine := engine_of(args.model, args.backend)) is not None:
        raise CaptureError(
            f"{quoted(args.model)} runs in {engine.name}, in the precision that it is stored in. Give the same "
            "model in another one beside it: --beside MODEL."
        )
    table = precision(load(args), prompt, chat=args.chat)
    print(json.dumps(records(table)) if args.json else frame_text(table.round(4)))
    return 0


def _beside(args: Namespace, prompt: str) -> int:
    """Run the prompt in both models, and print where their routers differ."""
    from moeviz.capture.trace import trace

    traces = []
    for name in (args.model, args.beside):
        model = load(args, name)
        traces.append(trace(model, prompt, chat=args.chat))
        del model  # the memory of the first is needed for the second
    found = difference(*traces)
    print(json.dumps(found) if args.json else difference_text(found))
    return 0
