"""Find the experts to fine-tune for a task: `moeviz tune-targets`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial

from moeviz.cli.options import add_json, add_loading, add_segment, load_inside, number
from moeviz.cli.output import STOPPED, check_output, keep_when_stopped, note, print_answer, progress
from moeviz.cli.words import Several
from moeviz.errors import MoevizError
from moeviz.whole_files import write_file

SCORES = ("token", "gate")  # known without loading numpy
FORMS = ("esft", "peft")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("texts", metavar="TEXTS", nargs="+")
    parser.add_argument("--base", metavar="TEXTS", action=Several, default=[])
    parser.add_argument("--score", choices=SCORES, default=SCORES[0])
    parser.add_argument("--share", type=number(float, 0, 1), default=0.2, metavar="P")
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0])
    add_segment(parser)
    add_loading(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.routers.discovery import expert_tensors
    from moeviz.cli.corpus import check_chats, texts_or_chats
    from moeviz.formats.recipes import to_esft, to_peft
    from moeviz.labelled_texts import texts_that_ship
    from moeviz.metrics.tune_targets import tune_targets, tune_targets_sentence

    check_output(args.output)
    if not args.base:
        check_chats(args)
    texts = texts_or_chats(args.texts, args)
    base = texts_or_chats(args.base, args) if args.base else texts_that_ship()
    if both := {str(text) for _, text in texts} & {str(text) for _, text in base}:
        raise MoevizError(f"{len(both):,} of the texts are among those that they are compared with. Give others.")
    model = load_inside(args)
    keep_when_stopped()
    says = partial(progress, says="read {:,} of {:,} texts")
    one = trace_corpus(model, texts, progress=says)
    if STOPPED.is_set():
        base = base[: one.tokens["sequence"].nunique()]
        note(f"comparing with as many of the others: {len(base):,}")
    pair = one.of_segment(args.segment), trace_corpus(model, base, progress=says).of_segment(args.segment)
    found = tune_targets(pair, args.score, args.share)
    if args.output is not None:
        written = to_esft(found) if args.form == FORMS[0] else to_peft(found, expert_tensors(model.model))
        write_file(args.output, json.dumps(written) + "\n")
        note(f"wrote {args.output}")
    rows = found[found["in_esft"]].sort_values(["layer", "score"], ascending=[True, False])
    sentence = tune_targets_sentence(found, args.share)
    return print_answer(args.json, {"experts": found}, [sentence], rows.drop(columns="in_esft").round(4))
