"""Find the experts to fine-tune for a task: `moeviz tune-targets`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.options import add_json, add_loading, load_inside, number
from moeviz.cli.output import check_output, note, print_rows, progress
from moeviz.cli.words import Several
from moeviz.errors import MoevizError
from moeviz.whole_files import write_file

SCORES = ("token", "gate")  # known without loading numpy
FORMS = ("esft", "peft")


def arguments(parser: ArgumentParser) -> None:
    says = "text files of the task, or .jsonl or .csv files of texts: at least four texts"
    parser.add_argument("model", metavar="MODEL", help="a model of transformers, as for --model elsewhere")
    parser.add_argument("texts", metavar="TEXTS", nargs="+", help=says)
    parser.add_argument(
        "--base",
        metavar="TEXTS",
        action=Several,
        default=[],
        help="other texts, with which they are compared; again for more files (default: the sixty that ship, of "
        "fifteen kinds)",
    )
    parser.add_argument(
        "--score", choices=SCORES, default=SCORES[0], help="an expert's share of slots (default), or of weights"
    )
    parser.add_argument(
        "--share",
        type=number(float, 0, 1),
        default=0.2,
        metavar="P",
        help="share of a layer's work that the targets must do (default: 0.2, as in ESFT)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the targets there, as JSON")
    parser.add_argument(
        "--form",
        choices=FORMS,
        default=FORMS[0],
        help="of the file: ESFT's config (default), or target_parameters for LoRA in PEFT, which adapts whole layers",
    )
    add_loading(parser)
    add_json(parser, "print the rows as JSON")


def run(args: Namespace) -> int:
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.routers.discovery import expert_tensors
    from moeviz.cli.corpus import texts_at
    from moeviz.formats.recipes import to_esft, to_peft
    from moeviz.labelled_texts import texts_that_ship
    from moeviz.metrics.tune_targets import tune_targets, tune_targets_sentence

    check_output(args.output)
    texts = texts_at(args.texts)
    base = texts_at(args.base) if args.base else texts_that_ship()
    if both := {text for _, text in texts} & {text for _, text in base}:
        raise MoevizError(f"{len(both):,} of the texts are among those that they are compared with. Give others.")
    model = load_inside(args)
    says = partial(progress, says="read {:,} of {:,} texts")
    pair = (trace_corpus(model, texts, progress=says), trace_corpus(model, base, progress=says))
    found = tune_targets(pair, args.score, args.share)
    if args.output is not None:
        written = to_esft(found) if args.form == FORMS[0] else to_peft(found, expert_tensors(model.model))
        write_file(args.output, json.dumps(written) + "\n")
        note(f"wrote {args.output}")
    rows = found[found["in_esft"]].sort_values(["layer", "score"], ascending=[True, False])
    sentence = tune_targets_sentence(found, args.share)
    return print_rows(args.json, "experts", found, [sentence], rows.drop(columns="in_esft").round(4))
