"""Train the systems of the past, and check them: `moeviz history`."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from moeviz.cli.checkout import from_tests
from moeviz.cli.options import add_json, number
from moeviz.cli.output import DONE, FOUND, check_output, frame_text, note, records, write
from moeviz.cli.trace import summary_of, summary_text

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.routing_trace import RoutingTrace


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", nargs="?", choices=("list", "run", "check"), default="list")
    parser.add_argument("name", metavar="SYSTEM", nargs="?")
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N")
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--controls", action="store_true")
    add_json(parser)


def run(args: Namespace) -> int:
    check_output(args.output)
    if args.action == "run":
        result = trained(args.name or "local-experts", args.seed, note)
        write(result, args.output)
        print(json.dumps(summary_of(result)) if args.json else summary_text(summary_of(result)))
        return 0
    if args.action == "list":
        print(json.dumps(records(systems())) if args.json else frame_text(systems()))
        return 0
    return check(args)


def systems() -> "pd.DataFrame":
    """Return the systems that can be trained here: `name`, `year`, and `what`."""
    import pandas as pd

    from moeviz.history.systems import SYSTEMS

    return pd.DataFrame([{"name": name, "year": row.year, "what": row.summary} for name, row in SYSTEMS.items()])


def trained(name: str, seed: int, note: Callable[[str], None]) -> "RoutingTrace":
    """Train a system with its default settings, and return its routing. `note` gets the progress, ten times."""
    from moeviz.history.systems import part, train

    told = [0]

    def watch(done: float, says: str) -> None:
        if done * 10 >= told[0]:
            told[0] = int(done * 10) + 1
            note(says)

    return part(name, "model").trace_of(train(name, seed, watch))


def check(args: Namespace) -> int:
    """Check the claims about a system, or about all; 1 if any fails, or holds where it must miss.

    Raises `MoevizError` outside a checkout: the checks are not installed with moeviz.
    """
    text = from_tests("history_checks.claims_text", "The checks of the history are", "history check")
    names, show = [args.name] if args.name not in (None, "all") else [], note if args.json else print
    table = text.check(names, args.quick, args.seed, args.controls, show)
    if args.json:
        print(json.dumps(records(table)))
    return DONE if text.holds(table) else FOUND
