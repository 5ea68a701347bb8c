"""Look for what is not plausible in a file: `moeviz check`."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from moeviz.cli.options import add_import_options, add_json, import_options, number, read_one_trace
from moeviz.cli.output import DONE, FOUND, records, visible_line

if TYPE_CHECKING:
    import pandas as pd

ROWS = 200  # findings that are listed


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("--beside", metavar="FILE")
    parser.add_argument("--tokens", type=number(int, 0), metavar="N")
    add_json(parser, table=False)
    add_import_options(parser)


def run(args: Namespace) -> int:
    from moeviz.formats.dataset.opening import check_dataset, is_dataset, read_dataset
    from moeviz.formats.exports import open_path
    from moeviz.metrics.doctor import examine

    if is_dataset(args.source):
        dataset = read_dataset(args.source, partial=True)
        wrong = [*dataset.left_out, *check_dataset(dataset)]  # every byte of it is read
        print(json.dumps(wrong) if args.json else "\n".join(wrong) or "Every file of the dataset is as it was written.")
        return FOUND if wrong else DONE
    beside = None if args.beside is None else read_one_trace(args.beside, args)
    opened = open_path(args.source, format=args.format, options=import_options(args))
    found = examine(opened.counted, beside, args.tokens, opened.left_out)
    print(json.dumps(records(found)) if args.json else check_text(found))
    return FOUND if len(found) else DONE


def check_text(found: "pd.DataFrame") -> str:
    """Return the findings as text, a line each."""
    if not len(found):
        return "Nothing implausible was found."
    lines = [f"{row['check']}: {visible_line(row['says'])}" for row in found.head(ROWS).to_dict("records")]
    more = [f"and {len(found) - ROWS:,} more"] if len(found) > ROWS else []
    return "\n".join([*lines, *more])
