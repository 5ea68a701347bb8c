"""What took long to compute, for whoever asks again: for the rest of the visit.

One place to keep it longer: what a machine's own user computed could go to a folder here, and `kept` look there too.
"""

from typing import Any

from moeviz_app import state


def keep(name: str, found: Any) -> None:
    """Keep a result under a name that says all that it depends on."""
    state.keep_result(name, found)


def kept(name: str) -> Any:
    """That result; None where it was not computed."""
    return state.result(name)
