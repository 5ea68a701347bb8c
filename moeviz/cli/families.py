"""What `moeviz families` says: which families are read, and whether that holds for the installed transformers."""

import sys
from importlib import import_module
from pathlib import Path

from moeviz.capture.routers.families import families, surveyed_version
from moeviz.cli.terminal import frame_text
from moeviz.errors import CaptureError

CHECKOUT = Path(__file__).parents[2]


def table_text() -> str:
    """The table of families, and how many are exact."""
    table = families()
    shown = table.drop(columns="remark").replace("", "·")
    exact, kernels = (table[name].eq("yes").groupby(table["architecture"]).all() for name in ("exact", "kernels"))
    return (
        f"{frame_text(shown)}\n\n"
        f"In transformers {surveyed_version()}, {exact.sum()} of {len(exact)} architectures are recorded exactly as "
        f"their experts receive it; moeviz's kernels run {kernels.sum()} of them."
    )


def differences() -> str:
    """Survey the installed transformers, and say how it differs from the table; "" where it does not.

    Raises `CaptureError` outside a checkout: the survey is not installed with moeviz.
    """
    place = CHECKOUT / "tests" / "survey"
    if not place.is_dir():
        raise CaptureError(
            "The survey of the installed transformers is among moeviz's tests, which are not installed with it: there "
            f"is no {place.name} beside this moeviz. Run “moeviz families --check” in a checkout of the repository."
        )
    import transformers

    sys.path.insert(0, str(place.parent))
    try:
        table_of = import_module("survey.architectures").table_of
        architectures = import_module("survey.tiny_models").architectures
    finally:
        sys.path.remove(str(place.parent))
    transformers.logging.set_verbosity_error()
    both = table_of(architectures()).merge(families(), how="outer", indicator="where")
    names = {"left_only": "here", "right_only": f"in {surveyed_version()}"}
    unlike = both[both["where"] != "both"]
    return "" if unlike.empty else frame_text(unlike.assign(where=unlike["where"].astype("str").map(names)))
