"""Find the earlier words that decide where later ones go: `moeviz occlude`."""

from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.options import add_json, add_model, add_prompt, add_segment, load, read_prompts
from moeviz.cli.output import print_answer, progress


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser)
    add_segment(parser)
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    prompts = read_prompts(args)
    from moeviz.analyses.occlusion import occlude

    found = occlude(load(args), prompts, chat=args.chat, progress=partial(progress, says="{} of {} forwards"))
    deciding = found.deciding(args.segment)
    return print_answer(args.json, {"words": deciding}, [found.sentence(args.segment)], deciding.round(3))
