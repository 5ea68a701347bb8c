"""Which experts can a model do without, and at what cost: `moeviz prune`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.inputs import load
from moeviz.cli.options import add_backend, add_json, number
from moeviz.cli.output import frame_text, note, progress, records
from moeviz.errors import MoevizError

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel

HELP = "Measure which experts a model can do without: some texts choose them, and others judge, beside chance."
EXAMPLES = """examples:
  moeviz prune embedded
  moeviz prune embedded --cut 1 --criteria reap frequency random --json
  moeviz prune Qwen/Qwen3-30B-A3B texts.jsonl --by-kind reap"""
CRITERIA = ("reap", "reap_sum", "frequency", "gate_mass", "greatest", "random")  # known without loading numpy
OWN_TOKENS = 256  # of each of the texts that ship


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz prune`."""
    parser.add_argument("model", metavar="MODEL", help="a model of transformers, as for --model elsewhere")
    says = (
        "text files, or .jsonl files with labels; whole texts are divided into those that choose and those that judge "
        f"(default, for moeviz's own models: the first {OWN_TOKENS} tokens of the held-out texts that ship)"
    )
    parser.add_argument("texts", metavar="TEXTS", nargs="*", default=[], help=says)
    parser.add_argument(
        "--cut",
        type=number(int, 1),
        nargs="+",
        metavar="N",
        help="experts cut from each layer (default: an eighth, a quarter and a half of them)",
    )
    parser.add_argument(
        "--criteria",
        nargs="+",
        choices=CRITERIA,
        default=list(CRITERIA),
        metavar="NAME",
        help=f"how experts are chosen: {', '.join(CRITERIA)} (default: all)",
    )
    parser.add_argument("--draws", type=number(int, 2), default=3, metavar="N", help="choices at random (default: 3)")
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of the division (default: 0)")
    parser.add_argument(
        "--by-kind",
        choices=[name for name in CRITERIA if name != "random"],
        metavar="NAME",
        help="by this criterion let each kind of text choose alone too, and judge on each kind",
    )
    parser.add_argument(
        "--tokens", type=number(int, 16), metavar="N", help="read only the first N tokens of each text (default: all)"
    )
    parser.add_argument(
        "--ignore-memory", action="store_true", help="load the model also where more memory is needed than is free"
    )
    add_backend(parser)
    add_json(parser, "print the rows as JSON")


def run(args: Namespace) -> int:
    """Run `moeviz prune`."""
    from moeviz.cli.corpus import texts_at
    from moeviz.embedded.own_models import is_own
    from moeviz.labelled_texts import texts_that_ship

    if not args.texts and not is_own(args.model):
        raise MoevizError(f"{args.model!r} needs texts to read. Name text files, or .jsonl files with labels.")
    texts = texts_at(args.texts) if args.texts else texts_that_ship()
    tokens = args.tokens or (None if args.texts else OWN_TOKENS)
    from moeviz.pruning.curve import pruning_curve, pruning_sentences

    curve = pruning_curve(
        _model(args),
        texts,
        cuts=args.cut,
        criteria=args.criteria,
        draws=args.draws,
        seed=args.seed,
        by_kind=args.by_kind,
        tokens=tokens,
        progress=partial(progress, says="read {:,} of {:,} texts"),
    )
    if tokens is not None:
        note(f"of each text the first {tokens:,} tokens were read")
    for sentence in pruning_sentences(curve, args.criteria[0]):
        note(sentence)
    print(json.dumps(records(curve.losses)) if args.json else frame_text(curve.losses.round(3)))
    return 0


def _model(args: Namespace) -> "LoadedModel":
    from moeviz.capture.models.load import LoadedModel

    model = load(args)
    if not isinstance(model, LoadedModel):
        raise MoevizError(
            f"{model.name} runs in {model.info.backend}, where moeviz cannot see what experts put out or leave some "
            "out. Load the transformers checkpoint."
        )
    return model
