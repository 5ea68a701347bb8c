"""Show traces side by side: `moeviz compare`."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import add_import_options, add_json, add_segment, read_one_trace
from moeviz.cli.output import frame_text, note, records, visible_line
from moeviz.errors import MissingField, MoevizError

if TYPE_CHECKING:
    from moeviz.routing_trace import RoutingTrace

LETTERS = "ABCDEFGH"  # as many traces as the app begins with


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="A")
    parser.add_argument("others", metavar="B", nargs="+")
    add_segment(parser)
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    files = [args.source, *args.others]
    if len(files) > len(LETTERS):
        raise MoevizError(f"Up to {len(LETTERS)} traces are compared, and {len(files)} are named. Leave some out.")
    from moeviz.metrics.multi_trace import of_one_text

    traces = [read_one_trace(file, args) for file in files]
    found = compare_traces(traces)
    print(json.dumps(found) if args.json else compare_text(found))
    shapes = {(trace.model.layers, trace.model.num_experts) for trace in traces}
    if len(traces) == 2 and len(shapes) == 1 and of_one_text(dict(zip(LETTERS, traces, strict=False))):
        note(f"both are of one text; where they part, token by token: {shlex.join(['moeviz', 'diff', *files])}")
    return 0


def compare_traces(traces: "list[RoutingTrace]") -> dict[str, Any]:
    """Compare traces: the figures of each, the sentences, and the rows by layer, for JSON.

    Rows by layer are None if no trace has what they need.
    """
    from moeviz.metrics.multi_trace import (
        balance_of_several,
        figures_of_several,
        information_of_several,
        multi_trace_summary,
        of_one_text,
        repetition_of_several,
        sets_of_several,
    )

    several = dict(zip(LETTERS, traces, strict=False))
    figures = figures_of_several(several)
    rows = dict.fromkeys(("repetition", "information", "balance", "sets"))
    measures = (repetition_of_several, information_of_several, balance_of_several, sets_of_several)
    for name, measure in zip(rows, measures, strict=True):
        with suppress(MissingField):
            rows[name] = measure(several)
    says = multi_trace_summary(figures, rows["repetition"], of_one_text(several))
    by_layer = {name: None if frame is None else records(frame) for name, frame in rows.items()}
    return {"traces": records(figures), "says": says} | by_layer


def compare_text(found: dict[str, Any]) -> str:
    """Return the comparison as text: a column a trace, the sentences, and Mixtral's published repetition."""
    import pandas as pd

    from moeviz.metrics.locality import MIXTRAL
    from moeviz.metrics.words import percent

    figures = pd.DataFrame(found["traces"]).astype({"model": "str"})
    figures["model"] = figures["model"].map(visible_line)
    table = figures.set_index("trace").T.rename_axis("trace").reset_index()
    lines = [frame_text(table.map(_cell)), "", "Means over layers; --json has the layers.", *found["says"]]
    if found["repetition"] is not None:
        published = [row for row in found["repetition"] if row["trace"] == MIXTRAL]
        shares = ", ".join(f"layer {row['layer']} {percent(row['over_chance'])}" for row in published)
        lines += [f"Of {MIXTRAL}, the first choice repeats beyond chance: {shares}."]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    import pandas as pd

    if value is None or pd.isna(value):
        return "·"
    return value if isinstance(value, str) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"
