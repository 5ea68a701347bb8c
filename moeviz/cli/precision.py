"""Run a prompt in other precisions: `moeviz precision`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.diff import difference, difference_text
from moeviz.cli.inputs import load, load_inside, read_prompt
from moeviz.cli.options import PROMPT, add_json, add_model
from moeviz.cli.output import frame_text, progress, records
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.text import quoted

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.capture.precisions import PrecisionTrace

HELP = "Run a prompt in other precisions: which tokens go to other experts?"
EXAMPLES = """examples:
  moeviz precision "Il fait froid."                   tokens sent to other experts, by precision and layer
  moeviz precision "Il fait froid." --model model-F16.gguf --beside model-Q4_K_M.gguf
  moeviz precision --texts texts.jsonl                loss and other experts over many texts
  moeviz precision - --json < prompt.txt | jq .[0]"""


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz precision`."""
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help=PROMPT)
    add_model(parser)
    parser.add_argument(
        "--beside",
        metavar="MODEL",
        help="compare with this model, such as another quantisation in a .gguf file, in place of other dtypes",
    )
    parser.add_argument(
        "--texts", metavar="TEXTS", nargs="+", help="in place of a prompt: loss and moved tokens over texts in files"
    )
    add_json(parser)


def run(args: Namespace) -> int:
    """Run `moeviz precision`."""
    if (args.prompt is None) == (args.texts is None) or (args.texts and args.beside):
        raise InvalidPrompt("Give a prompt, or texts in files with --texts. A model beside it reads a prompt.")
    if args.texts:
        return _over_texts(args)
    prompt = read_prompt(args.prompt)
    if args.beside is not None:
        return _beside(args, prompt)
    from moeviz.capture.engine_table import engine_of
    from moeviz.capture.precisions import in_precisions

    if (engine := engine_of(args.model, args.backend)) is not None:
        raise CaptureError(
            f"{quoted(args.model)} runs in {engine.name}, in the precision that it is stored in. Give the same "
            "model in another one beside it: --beside MODEL."
        )
    table = precision_table(in_precisions(load(args), prompt))
    print(json.dumps(records(table)) if args.json else frame_text(table.round(4)))
    return 0


def _over_texts(args: Namespace) -> int:
    """Print the loss of texts by precision, and the share of tokens that other experts get."""
    from moeviz.capture.corpus import fitting_stretches
    from moeviz.capture.what_if import loss_by_precision
    from moeviz.cli.corpus import texts_at

    texts = texts_at(args.texts)
    model = load_inside(args)
    stretches = [stretch for _, text in texts for stretch in fitting_stretches(model, text)]
    table = loss_by_precision(model, stretches, progress=partial(progress, says="read {:,} of {:,} texts"))
    print(json.dumps(records(table)) if args.json else frame_text(table.round(5)))
    return 0


def _beside(args: Namespace, prompt: str) -> int:
    """Run the prompt in both models, and print where their routers differ."""
    from moeviz.capture.trace import trace

    traces = []
    for name in (args.model, args.beside):
        model = load(args, name)
        traces.append(trace(model, prompt))
        del model  # the memory of the first is needed for the second
    found = difference(*traces)
    print(json.dumps(found) if args.json else difference_text(found))
    return 0


def precision_table(found: dict[str, "PrecisionTrace"]) -> "pd.DataFrame":
    """Count the tokens sent to another set of experts than in float32, by precision and layer, by tie or not."""
    import pandas as pd

    from moeviz.metrics.comparison import set_changes

    exact = found["float32"].trace
    tables = []
    for name, other in found.items():
        if name != "float32":
            table = set_changes(exact, other.trace, other.tied)
            unknown = [not known for known in other.known]
            table.loc[unknown, ["tied", "flipped"]] = float("nan")
            tables.append(table.assign(precision=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["precision", *table.columns.drop("precision")]]
