"""Compare two recordings of one text: `moeviz diff`."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import add_import_options, add_json, add_segment, number, read_one_trace
from moeviz.cli.output import DONE, FOUND, frame_text, records

if TYPE_CHECKING:
    from moeviz.metrics.conventions import Distance
    from moeviz.routing_trace import RoutingTrace

PARTINGS = 10  # sequences that are listed


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="A")
    parser.add_argument("other", metavar="B")
    parser.add_argument("--fail-above", type=number(float, 0, 1), metavar="SHARE")
    add_segment(parser)
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    found = difference(read_one_trace(args.source, args), read_one_trace(args.other, args))
    print(json.dumps(found) if args.json else difference_text(found))
    return DONE if args.fail_above is None else failed(found, args.fail_above)


def failed(found: dict[str, Any], most: float) -> int:
    """Return the exit code of a comparison in which no more than a share may differ."""
    apart = (found["recorded"][name] or 0 for name in ("ids", "weights"))
    return FOUND if found["conventions"] or max(apart) > most else DONE


def difference(one: "RoutingTrace", other: "RoutingTrace") -> dict[str, Any]:
    """Compare two traces of one text: the conventions, the tokens, the layers and the first partings, for JSON."""
    from moeviz.metrics.conventions import explain
    from moeviz.metrics.engine_difference import (
        agreement_sentence,
        convention_sentence,
        engine_difference,
        first_partings,
        tokens_checked,
    )

    found = explain((one, other))
    return {
        "a": one.model.name,
        "b": other.model.name,
        "conventions": [asdict(each) | {"says": convention_sentence(each)} for each in found.conventions],
        "recorded": shares(found.recorded),
        "left": shares(found.left),
        "says": agreement_sentence(found),
        "tokens": records(tokens_checked((one, other)))[0],
        "layers": records(engine_difference(found.undone)),
        "partings": records(first_partings(found.undone)),
    }


def shares(distance: "Distance") -> dict[str, float | None]:
    """Return a distance for JSON, null for what is not known."""
    return {name: None if share != share else share for name, share in distance._asdict().items()}


def difference_text(found: dict[str, Any]) -> str:
    """Return the difference of two traces as text for a terminal."""
    import pandas as pd

    from moeviz.metrics.engine_difference import engine_difference_summary, tokens_caption

    layers, partings = pd.DataFrame(found["layers"]), pd.DataFrame(found["partings"])
    lines = [f"first   {found['a']}", f"second  {found['b']}", ""]
    for each in found["conventions"]:
        lines += [f"{each['kind']}: {each['says']}", ""]
    for says in (found["says"], tokens_caption(pd.DataFrame([found["tokens"]]))):
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
