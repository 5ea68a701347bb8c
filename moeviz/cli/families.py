"""List the families of MoE models that are read: `moeviz families`."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.checkout import from_tests
from moeviz.cli.options import add_json
from moeviz.cli.output import DONE, FOUND, fitting_text, frame_text, note, records
from moeviz.cli.words import like
from moeviz.errors import MoevizError
from moeviz.text import quoted

if TYPE_CHECKING:
    import pandas as pd


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true")
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("--wide", action="store_true")
    add_json(parser)


def run(args: Namespace) -> int:
    from moeviz.capture.routers.families import families

    table = families() if args.name is None else of_name(args.name)
    if args.json:
        print(json.dumps(records(table)))
    else:
        print(table_text(args.wide) if args.name is None else "\n\n".join(map(card, records(table))))
    if not args.check:
        return 0
    note("surveying the installed transformers")
    found = differences()
    print(found or "The installed version of transformers is read as the table says.")
    return FOUND if found else DONE


def of_name(name: str) -> "pd.DataFrame":
    """Return the rows of an architecture, or of those whose names have the word in them. Raises `MoevizError`."""
    from moeviz.capture.routers.families import families

    table = families()
    word = name.lower().replace("_", "").encode(errors="replace").decode()  # a shell may pass bytes that are no text
    names = table["architecture"].str.replace("_", "")
    found = table[names == word]
    found = found if len(found) else table[names.str.contains(word, regex=False)]
    if not len(found):
        known = [*dict.fromkeys(table["architecture"])]
        raise MoevizError(f"No architecture is called {quoted(name)}.{like(name, known)} moeviz families lists all.")
    return found


def card(row: dict[str, Any]) -> str:
    """Return a row of the table as lines: a column each, without those that are empty."""
    wide = max(map(len, row))
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in row.items() if value not in (None, ""))


def table_text(wide: bool = False) -> str:
    """Return the table of families, all columns or as many as fit, and how many are exact."""
    from moeviz.capture.routers.families import families, surveyed_version, whole_architectures

    table = families()
    shown = table.drop(columns="remark").replace("", "·")
    exact, kernels = (whole_architectures(column) for column in ("exact", "kernels"))
    return (
        f"{frame_text(shown) if wide else fitting_text(shown)}\n\n"
        f"{len(table)} rows of {len(exact)} architectures: one with routers of several kinds has a row for each.\n"
        f"In transformers {surveyed_version()}, {exact.sum()} of {len(exact)} architectures are recorded exactly as "
        f"their experts receive it; moeviz's kernels run {kernels.sum()} of them."
    )


def differences() -> str:
    """Survey the installed transformers, and say how it differs from the table; "" where it does not.

    Raises `MoevizError` outside a checkout: the survey is not installed with moeviz.
    """
    what, command = "The survey of the installed transformers is", "families --check"
    table_of = from_tests("survey.architectures", what, command).table_of
    architectures = from_tests("survey.checkpoints", what, command).every_architecture
    import transformers

    from moeviz.capture.routers.families import families, surveyed_version

    transformers.logging.set_verbosity_error()
    both = table_of(architectures()).merge(families(), how="outer", indicator="where")
    names = {"left_only": "here", "right_only": f"in {surveyed_version()}"}
    unlike = both[both["where"] != "both"]
    return "" if unlike.empty else frame_text(unlike.assign(where=unlike["where"].astype("str").map(names)))
