"""Find tokens that are routed alike, or experts that take the same contexts: `moeviz similar`."""

from argparse import ArgumentParser, Namespace

from moeviz.cli.options import add_import_options, add_json, add_segment, number, read_one_trace
from moeviz.cli.output import print_answer


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("token", metavar="TOKEN", nargs="?")
    parser.add_argument("--most", type=number(int, 1), default=12, metavar="N")
    add_segment(parser)
    add_import_options(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    from moeviz.metrics.paths import expert_map, shared_by_chance, similar_tokens

    trace = read_one_trace(args.source, args)
    if args.token is None:
        found = expert_map(trace)
        tables, findings = {"experts": found.experts, "nearest": found.nearest}, [found.sentence()]
    else:
        token = int(args.token) if args.token.isdecimal() else args.token
        chance = f"By chance, two tokens share {shared_by_chance(trace):.0%} of their experts."
        tables, findings = {"tokens": similar_tokens(trace, token, args.most)}, [chance]
    return print_answer(args.json, tables, findings, [*tables.values()][-1].round(3))
