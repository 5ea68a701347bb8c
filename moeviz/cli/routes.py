"""Judge whether tokens were routed well: `moeviz routes`."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.corpus import texts_to_divide
from moeviz.cli.options import add_json, add_loading, add_segment, load, load_inside, number, numbers
from moeviz.cli.output import check_parent, note, print_answer, progress
from moeviz.text import cut
from moeviz.whole_files import write_file

if TYPE_CHECKING:
    from moeviz.capture.run.chat import Prompt
    from moeviz.metrics.routes import RouteRegret

GROUPS = ("layer", "certainty", "label", "kind", "next_kind", "kinds", "place")  # known without loading numpy
WAYS = ("auto", "all", "swap")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("texts", metavar="TEXTS", nargs="*", default=[])
    parser.add_argument("--alternatives", default=WAYS[0], metavar="WHAT")
    parser.add_argument("--by", choices=GROUPS, default=GROUPS[1])
    parser.add_argument("--layers", **numbers(int, 0))
    parser.add_argument("--positions", type=number(int, 1), default=20, metavar="N")
    parser.add_argument("--tokens", type=number(int, 2), metavar="N")
    add_segment(parser)
    parser.add_argument("--most-texts", type=number(int, 1), metavar="N")
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N")
    parser.add_argument("--judge", metavar="MODEL")
    parser.add_argument("-o", "--output", metavar="FILE")
    add_loading(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    check_parent(args.output)
    texts, _ = texts_to_divide(args)
    if args.most_texts:
        texts = _first_of_each(texts, args.most_texts)
    from moeviz.analyses.routes import regretting, route_cost, seconds_of_forward
    from moeviz.metrics.routes import blind_spots, by, joined_regret, route_sentences, whose_route

    model = load_inside(args)
    judge = None if args.judge is None else load(args, args.judge)
    ways = args.alternatives if not args.alternatives.isdigit() else int(args.alternatives)
    cost = route_cost(model, ways, args.layers)
    note(cost.sentence(len(texts), seconds_of_forward(model, texts[0][1], args.positions)))
    parts = list["RouteRegret"]()
    given: dict[str, Any] = {
        "alternatives": ways,
        "layers": args.layers,
        "positions": args.positions,
        "tokens": args.tokens,
        "segment": args.segment,
    }
    try:
        for done, total, part in regretting(model, texts, **given, judge=judge, seed=args.seed):
            parts.append(part)
            progress(done, total, "judged {:,} of {:,} texts")
    except KeyboardInterrupt:
        if not parts:
            raise
        note(f"stopped: the figures are of the first {len(parts):,} texts")
    regret = joined_regret(parts)
    for layer, why in regret.left_out.items():
        note(f"left out: layer {layer}, since {why}")
    if args.output is not None:
        from moeviz.spreadsheets import table_as_csv

        write_file(args.output, table_as_csv(regret.cells))
        note(f"wrote {cut(args.output)}")
    found = {"groups": by(regret.cells, args.by)}
    if args.by != "layer":
        found["layers"] = by(regret.cells, "layer")
    spots = blind_spots(regret.cells)
    if regret.every:
        found["whose"] = whose_route(regret)
    found["blind"] = spots[spots["blind"] | spots["blind_ties"]]
    return print_answer(args.json, found, route_sentences(regret), *(frame.round(3) for frame in found.values()))


def _first_of_each(texts: "list[tuple[str, Prompt]]", most: int) -> "list[tuple[str, Prompt]]":
    seen, kept = dict[str, int](), []
    for label, text in texts:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= most:
            kept.append((label, text))
    return kept
