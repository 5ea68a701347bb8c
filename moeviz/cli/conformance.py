"""Check an engine against the golden routing of a tiny model: `moeviz conformance`."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.cli.checkout import from_tests
from moeviz.cli.diff import difference
from moeviz.cli.options import add_import_options, add_json, read_one_trace
from moeviz.cli.output import DONE, FOUND, check_output, note, visible_line, write
from moeviz.cli.words import like
from moeviz.errors import MoevizError
from moeviz.text import quoted

if TYPE_CHECKING:
    from moeviz.routing_trace import RoutingTrace

NEAR_TIE = 1e-3  # logits: an engine that sums in another order may choose otherwise
SAME_WEIGHTS = 1e-2  # relative: bfloat16 rounds by less


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=("write", "check"))
    parser.add_argument("name", metavar="ARCH|GOLDEN")
    parser.add_argument("other", metavar="THEIRS", nargs="?")
    parser.add_argument("-o", "--output", metavar="FILE")
    add_json(parser, table=False)
    add_import_options(parser)


def run(args: Namespace) -> int:
    if args.action == "write":
        return write_golden(args)
    if args.other is None:
        raise MoevizError("A check needs two files: moeviz conformance check GOLDEN THEIRS. Name the engine's.")
    found = conformance(read_one_trace(args.name, Namespace(**vars(args) | NOTHING)), read_one_trace(args.other, args))
    print(json.dumps(found) if args.json else conformance_text(found))
    return DONE if found["conforms"] else FOUND


NOTHING = {"format": None}  # the golden file says all of itself


def write_golden(args: Namespace) -> int:
    """Write the golden file of an architecture, and the model that an engine loads. Raises `MoevizError`."""
    if args.output is None or not args.output.endswith(".npz"):
        raise MoevizError("A golden file is an .npz file. Say where: -o golden.npz.")
    check_output(args.output)
    what, command = "The tiny models of the survey are", "conformance write"
    known = from_tests("survey.tiny_models", what, command).architectures()
    if args.name not in known:
        raise MoevizError(
            f"No architecture is called {quoted(args.name)}.{like(args.name, known)} moeviz families lists all."
        )
    folder = Path(args.output).with_suffix("")
    if folder.exists():
        raise MoevizError(f"{quoted(folder)} exists, and the model would be written there. Name another golden file.")
    write(from_tests("survey.golden", what, command).write_golden(args.name, folder), args.output)
    note(f"wrote {folder}: the model that the engine loads")
    return DONE


def conformance(golden: "RoutingTrace", theirs: "RoutingTrace") -> dict[str, Any]:
    """Compare an engine's routing with golden routing, for JSON: `moeviz diff`'s fields, and whether it conforms.

    It conforms if no convention differs, if other experts are chosen only where the golden choice was nearly a tie, and
    if weights are the same within 1%.
    """
    from moeviz.metrics.conventions import explain
    from moeviz.metrics.engine_tokens import OTHER, token_differences

    cells = token_differences(explain((golden, theirs)).undone)
    other = cells[cells["kind"] == OTHER]
    clear = other[~(other["margin"] < NEAR_TIE)]
    found = difference(golden, theirs)
    apart = found["left"]["weights"]
    weights = None if apart is None else apart <= SAME_WEIGHTS
    counts = {"cells": len(cells), "other": len(other), "clear": len(clear)}
    counts["first"] = int(clear["position"].min()) if len(clear) else None
    conforms = not found["conventions"] and not len(clear) and weights is not False
    return {"conforms": conforms, "choices": counts, "weights": weights} | found


def conformance_text(found: dict[str, Any]) -> str:
    """Return what differs from golden routing as text for a terminal."""
    counts = found["choices"]
    lines = [f"{each['kind']}: {visible_line(each['says'])}" for each in found["conventions"]]
    if counts["clear"]:
        lines += [
            f"In {counts['clear']:,} of {counts['cells']:,} choices other experts are chosen, and not because of a tie."
        ]
        if counts["first"]:  # a window of attention, or a cache, begins to matter there
            lines += [f"None of these is before position {counts['first']:,} of a text."]
    if counts["other"] > counts["clear"]:
        lines += [
            f"In {counts['other'] - counts['clear']:,} choices other experts are chosen where it was nearly a tie."
        ]
    if found["weights"] is False:
        lines += [f"Weights of the same experts differ by {found['left']['weights']:.2g} of their sum."]
    if found["weights"] is None:
        lines += ["Weights are not compared: one of the two has none."]
    lines += ["It conforms." if found["conforms"] else "It does not conform."]
    return "\n".join(lines)
