"""Find the experts that distinguish two sets of texts: `moeviz contrast`."""

from argparse import ArgumentParser, Namespace

from moeviz.cli.options import add_import_options, add_json, add_segment, read_one_trace
from moeviz.cli.output import note, print_answer
from moeviz.errors import InvalidTrace


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("other", metavar="OTHER", nargs="?")
    parser.add_argument("--kinds", nargs=2, metavar=("KIND", "KIND"))
    parser.add_argument("--steering", metavar="FILE.json")
    add_json(parser)
    add_segment(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    if (args.other is None) == (args.kinds is None):
        raise InvalidTrace(
            "A contrast is of two sets of texts. Give a second file, or --kinds with two kinds of the first."
        )
    from moeviz.formats.steering_map import write_steering_map
    from moeviz.metrics.contrast import contrast, contrast_sentence, texts_of_label, turned

    trace = read_one_trace(args.source, args)
    if args.kinds is None:
        one, other, names = trace, read_one_trace(args.other, args), ("the first texts", "the second")
    else:
        one, other = (texts_of_label(trace, kind) for kind in args.kinds)
        names = tuple(args.kinds)
    found = contrast((one, other))
    if args.steering is not None:
        write_steering_map(turned(found, 1.0), one.model, args.steering)
        note(f"wrote {args.steering}, and its numbers next to it")
    held = found[found["holds"]].drop(columns="holds").sort_values("t", key=abs, ascending=False, kind="stable")
    return print_answer(args.json, {"experts": found}, [contrast_sentence(found, names)], held.round(3))
