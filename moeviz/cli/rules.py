"""Describe each expert by a rule that is judged on other texts: `moeviz rules`."""

from argparse import ArgumentParser, Namespace

from moeviz.cli.options import add_import_options, add_json, add_segment, read_one_trace
from moeviz.cli.output import print_answer


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE")
    add_segment(parser)
    add_import_options(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    from moeviz.metrics.expert_names import expert_names, expert_names_caption, names_sentence

    rules = expert_names(read_one_trace(args.source, args))
    findings = [*filter(None, [expert_names_caption(rules), names_sentence(rules)])]
    return print_answer(args.json, {"rules": rules}, findings, rules.round(3))
