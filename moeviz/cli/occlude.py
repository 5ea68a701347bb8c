"""Find the earlier words that decide where later ones go: `moeviz occlude`."""

from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.options import add_json, add_model, add_prompt, load, read_prompt
from moeviz.cli.output import print_rows, progress

HELP = "Replace each word of a prompt in turn, and list the words that decide which expert a later one gets."
EXAMPLES = """examples:
  moeviz occlude "Ich komme mit."
  moeviz occlude - --json < prompt.txt | jq .words[0]"""


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz occlude`."""
    add_prompt(parser)
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    """Run `moeviz occlude`."""
    prompt = read_prompt(args)
    from moeviz.analyses.occlusion import occlude

    found = occlude(load(args), prompt, chat=args.chat, progress=partial(progress, says="{} of {} forwards"))
    deciding = found.deciding()
    return print_rows(args.json, "words", deciding, [found.sentence()], deciding.round(3))
