"""Run a prompt in other precisions: `moeviz precision`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.diff import difference, difference_text
from moeviz.cli.options import add_json, add_model, add_prompt, add_segment, load, load_inside, read_prompts
from moeviz.cli.output import frame_text, progress, records
from moeviz.cli.words import Several
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.text import quoted

if TYPE_CHECKING:
    from moeviz.capture.run.chat import Prompt


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser).add_argument("--texts", action=Several, metavar="TEXTS")
    add_segment(parser)
    add_model(parser)
    parser.add_argument("--beside", metavar="MODEL")
    add_json(parser)


def run(args: Namespace) -> int:
    if args.texts:
        if args.beside is not None:
            raise InvalidPrompt("A model beside it reads a prompt. Give a prompt, or leave --beside out.")
        return _over_texts(args)
    prompts = read_prompts(args)
    if args.beside is not None:
        return _compare_prompts(args, prompts)
    from moeviz.capture.engine_table import engine_of
    from moeviz.checks import precision

    if (engine := engine_of(args.model, args.backend)) is not None:
        raise CaptureError(
            f"{quoted(args.model)} runs in {engine.name}, in the precision that it is stored in. Give the same "
            "model in another one beside it: --beside MODEL."
        )
    table = precision(load(args), prompts, chat=args.chat, segment=args.segment)
    print(json.dumps(records(table)) if args.json else frame_text(table.round(4)))
    return 0


def _over_texts(args: Namespace) -> int:
    """Print the loss of texts by precision, and the share of tokens that other experts get."""
    from moeviz.analyses.what_if import loss_by_precision
    from moeviz.capture.corpus import fitting_stretches
    from moeviz.cli.corpus import texts_or_chats

    texts = texts_or_chats(args.texts, args)
    model = load_inside(args)
    stretches: list[Prompt] = []
    for _, text in texts:  # a chat is read whole
        stretches += fitting_stretches(model, text) if isinstance(text, str) else [text]
    shown = partial(progress, says="read {:,} of {:,} texts")
    table = loss_by_precision(model, stretches, segment=args.segment, progress=shown)
    print(json.dumps(records(table)) if args.json else frame_text(table.round(5)))
    return 0


def _compare_prompts(args: Namespace, prompts: "tuple[Prompt, ...]") -> int:
    """Run the prompts in both models, and print where their routers differ."""
    from moeviz.capture.trace import trace

    traces = []
    for name in (args.model, args.beside):
        model = load(args, name)
        traces.append(trace(model, prompts, chat=args.chat).of_segment(args.segment))
        del model  # the memory of the first is needed for the second
    found = difference(*traces)
    print(json.dumps(found) if args.json else difference_text(found))
    return 0
