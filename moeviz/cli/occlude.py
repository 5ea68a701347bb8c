"""Find the earlier words that decide where later ones go: `moeviz occlude`."""

from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.options import add_json, add_model, add_prompt, load, read_prompt
from moeviz.cli.output import print_answer, progress


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser)
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    prompt = read_prompt(args)
    from moeviz.analyses.occlusion import occlude

    found = occlude(load(args), prompt, chat=args.chat, progress=partial(progress, says="{} of {} forwards"))
    deciding = found.deciding()
    return print_answer(args.json, {"words": deciding}, [found.sentence()], deciding.round(3))
