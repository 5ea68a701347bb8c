"""Count the paths of tokens through the layers: `moeviz paths`."""

from argparse import ArgumentParser, Namespace

from moeviz.cli.options import add_import_options, add_json, add_segment, number, read_one_trace
from moeviz.cli.output import print_answer


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("--at-least", type=number(int, 1), default=8, metavar="N")
    parser.add_argument("--most", type=number(int, 1), default=20, metavar="N")
    add_segment(parser)
    add_import_options(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    from moeviz.metrics.paths import path_table

    found = path_table(read_one_trace(args.source, args), args.at_least, args.most)
    return print_answer(args.json, {"paths": found.paths}, found.sentences(), found.paths.round(2))
