"""Compare two recordings of one text: `moeviz diff`."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import ANY_FILE, add_import_options, add_json, read_one_trace
from moeviz.cli.output import frame_text, records

if TYPE_CHECKING:
    from moeviz.routing_trace import RoutingTrace

HELP = "Compare two recordings of the same text: two engines, precisions, training and serving."
EXAMPLES = """examples:
  moeviz diff served.json trace.npz
  moeviz diff vllm.json transformers.npz --json | jq .shift"""
PARTINGS = 10  # sequences that are listed


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz diff`."""
    parser.add_argument("source", metavar="A", help=ANY_FILE)
    parser.add_argument("other", metavar="B", help="another of the same text")
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    """Run `moeviz diff`."""
    found = difference(read_one_trace(args.source, args), read_one_trace(args.other, args))
    print(json.dumps(found) if args.json else difference_text(found))
    return 0


def difference(one: "RoutingTrace", other: "RoutingTrace") -> dict[str, Any]:
    """Compare two traces of one text: the shift, the tokens, the layers and the first partings, for JSON."""
    from moeviz.metrics.engine_difference import engine_difference, first_partings, shifts, tokens_checked

    moved = shifts((one, other))
    return {
        "a": one.model.name,
        "b": other.model.name,
        "shift": int(moved["shift"][moved["chosen"]].iloc[0]),
        "shifts": records(moved),
        "tokens": records(tokens_checked((one, other)))[0],
        "layers": records(engine_difference((one, other))),
        "partings": records(first_partings((one, other))),
    }


def difference_text(found: dict[str, Any]) -> str:
    """Return the difference of two traces as text for a terminal."""
    import pandas as pd

    from moeviz.metrics.engine_difference import engine_difference_summary, shift_caption, tokens_caption

    layers, partings = pd.DataFrame(found["layers"]), pd.DataFrame(found["partings"])
    lines = [f"first   {found['a']}", f"second  {found['b']}", ""]
    for says in (shift_caption(pd.DataFrame(found["shifts"])), tokens_caption(pd.DataFrame([found["tokens"]]))):
        lines += [says, ""] if says else []
    lines += [engine_difference_summary(layers, partings), ""]
    lines += [frame_text(layers.round(4).astype(object).where(layers.notna(), "·")), ""]
    parted = partings[partings["layer"] >= 0]
    lines += [f"{len(parted):,} of {len(partings):,} sequences part."]
    for row in parted.head(PARTINGS).to_dict("records"):
        lines += [
            f"  sequence {row['sequence']}: at token {row['position']} {row['text']!r}, layer {row['layer']}, after "
            f"{row['before']:,} tokens that agree"
        ]
    return "\n".join(lines)
