"""Train the systems of the past, and check them: `moeviz history`."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import add_json, number
from moeviz.cli.output import check_output, frame_text, note, records, write
from moeviz.cli.trace import summary_of, summary_text

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.routing_trace import RoutingTrace

HELP = "Train the systems of the past, and check them against their papers."
EXAMPLES = """examples:
  moeviz history                                      the systems that can be trained here
  moeviz history run local-experts --seed 3 -o 1991.npz
  moeviz history check                                our results next to the papers'; exit code 1 if any fails
  moeviz history check switch --quick                 one system, with less training
  moeviz history check switch --quick --controls      and with each mechanism broken: every claim must miss then
  moeviz history check --seed 11                      the same claims of other runs"""
MANY = 1e6  # numbers that large are counts, of which every digit is shown


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz history`."""
    parser.add_argument("action", nargs="?", choices=("list", "run", "check"), default="list")
    parser.add_argument("name", nargs="?", help="which system to run or check (default: local-experts; all)")
    parser.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="the same seed gives the same trace, and the same check",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of a run")
    parser.add_argument("--quick", action="store_true", help="check less, in seconds")
    parser.add_argument(
        "--controls", action="store_true", help="check each claim again with its mechanism broken, where it must miss"
    )
    add_json(parser)


def run(args: Namespace) -> int:
    """Run `moeviz history`."""
    check_output(args.output)
    if args.action == "run":
        result = trained(args.name or "local-experts", args.seed, note)
        write(result, args.output)
        print(json.dumps(summary_of(result)) if args.json else summary_text(summary_of(result)))
        return 0
    if args.action == "list":
        print(json.dumps(records(systems())) if args.json else frame_text(systems()))
        return 0
    names, show = [args.name] if args.name else [], note if args.json else print
    table = check(names, args.quick, args.seed, args.controls, show)
    if args.json:
        print(json.dumps(records(table)))
    return int(not holds(table))


def systems() -> "pd.DataFrame":
    """Return the systems that can be trained here: `name`, `year`, and `what`."""
    import pandas as pd

    from moeviz.history.systems import SYSTEMS

    return pd.DataFrame([{"name": name, "year": row.year, "what": row.summary} for name, row in SYSTEMS.items()])


def trained(name: str, seed: int, note: Callable[[str], None]) -> "RoutingTrace":
    """Train a system with its default settings, and return its routing. `note` is told of the progress, ten times."""
    from moeviz.history.systems import part, train

    told = [0]

    def watch(done: float, says: str) -> None:
        if done * 10 >= told[0]:
            told[0] = int(done * 10) + 1
            note(says)

    return part(name, "model").trace_of(train(name, seed, watch))


def check(names: Sequence[str], quick: bool, seed: int, controls: bool, show: Callable[[str], None]) -> "pd.DataFrame":
    """Check the claims about these systems, or about all; `show` is given each system's table as soon as it is ready.

    Returns one row a claim.
    """
    import pandas as pd

    from moeviz.history.reproduction_claims import check_claims

    frames = []
    for frame in check_claims(names, quick, seed, controls):
        frames.append(frame)
        show(_text(frame))
    found = pd.concat(frames, ignore_index=True)
    show(summary(found))
    return found


def holds(found: "pd.DataFrame") -> bool:
    """Return whether every claim passed, and missed where its mechanism was broken, if that was asked."""
    return bool(found["passed"].all() and found.get("caught", found["passed"]).all())


def summary(found: "pd.DataFrame") -> str:
    """Say how many checks there are, how many passed, and what is no check."""
    from moeviz.history.shared.claims import MEASURED

    measured = found[found["kind"] == MEASURED]
    said = [f"{measured['passed'].sum()} of {len(measured)} checks pass"]
    if "caught" in found:
        said.append(f"{measured['caught'].sum()} miss, as they must, where their mechanism is broken")
    others = found.loc[found["kind"] != MEASURED, "kind"].value_counts()
    said += [f"no checks: {', '.join(f'{many} {kind}' for kind, many in others.items())}"] if len(others) else []
    return "; ".join(said) + "."


def _text(frame: "pd.DataFrame") -> str:
    """Two lines a claim: pass or fail and what; ours, the paper's and the tolerance. A remark after its last.

    With controls a third: the figure with the mechanism broken, and whether the claim missed then.
    """
    import pandas as pd

    from moeviz.history.shared.claims import MEASURED, MISPRINT

    lines = [frame["system"].iloc[0]]
    remarks = [*frame["remark"], ""]
    for place, claim in enumerate(frame.itertuples()):
        printed = "" if pd.isna(claim.paper) else f", printed {_number(claim.paper)}"
        kind = "" if claim.kind in (MEASURED, MISPRINT) else f", {claim.kind}"
        lines.append(f"  {_verdict(claim)}  {claim.what}")
        lines.append(f"        ours {_number(claim.ours)}{printed} ({claim.tolerance}{kind})")
        if getattr(claim, "control", ""):
            verdict = "misses, as it must" if claim.caught else "DOES NOT MISS"
            lines.append(f"        broken {_number(claim.broken)}: {claim.control}; {verdict}")
        elif not getattr(claim, "caught", True):
            lines.append("        NO CONTROL: nothing is known to make it miss")
        if claim.remark and claim.remark != remarks[place + 1]:
            lines.append(f"        {claim.remark}")
    return "\n".join(lines) + "\n"


def _verdict(claim: Any) -> str:
    """A misprint is neither passed nor failed."""
    from moeviz.history.shared.claims import MEASURED, MISPRINT

    if not claim.passed:
        return "FAIL"
    return {MEASURED: "pass", MISPRINT: "misprint"}.get(claim.kind, "true")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= MANY and float(value).is_integer() else f"{value:,.7g}"
