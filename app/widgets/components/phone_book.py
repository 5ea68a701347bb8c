"""The phone book: three networks at equal work, a wall of names that fills as they learn, a rule, and controls.

Two components that events tie together. The book holds what ships and asks nobody; what is trained now comes through
the other, which draws nothing: `moeviz:teach` goes to it, and `moeviz:taught` comes from it.
"""

from base64 import b64encode
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import streamlit as st

from moeviz.history.phone_book.runs import FIRST_NAMES, SECOND_NAMES, BookRun

HERE = Path(__file__).parent
STOP, BACK = "stop", "back"
SCRIPTS = ("explorer_parts", "phone_book_arm", "phone_book")

_book = st.components.v2.component(
    "moeviz_phone_book",
    html="<section class='book' aria-label='Why experts?'></section>",
    css=(HERE / "phone_book.css").read_text("utf-8"),
    js="\n".join((HERE / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
)
_wire = st.components.v2.component(
    "moeviz_phone_book_wire",
    html="<div hidden></div>",
    js="\n".join((HERE / f"{name}.js").read_text("utf-8") for name in ("leaving", "phone_book_wire")),
)


def phone_book(data: Mapping[str, Any], key: str) -> None:
    """Draw the book. `data`: words, bars, and runs by name, each of `packed_run`."""
    names = {"first": FIRST_NAMES.split(), "second": SECOND_NAMES.split()}
    _book(data={**names, **data}, key=key)


def wire(name: str | None, run: BookRun | None, says: str, going: bool, key: str, on_teach: Callable[[], None]) -> None:
    """Tell the book what is trained now, or was trained last: the run of that name so far, and how far it is in words.

    While it is `going`, the browser asks again and again. `on_teach` is called when a visitor asks for something; see
    `wanted`.
    """
    packed = None if run is None else packed_run(run)
    data = {"name": name, "run": packed, "says": says, "going": going, "at": monotonic()}
    _wire(data=data, key=key, on_teach_change=on_teach, on_look_change=_nothing)


def wanted(state: Any, names: Container[str]) -> str | None:
    """Return what the browser asks for: a name of `names` to train, STOP, BACK, or None. It may be any message."""
    told = state.get("teach") if isinstance(state, Mapping) else None
    return told if isinstance(told, str) and (told in (STOP, BACK) or told in names) else None


def packed_run(run: BookRun) -> dict[str, Any]:
    """A run as the browser reads it: bits and bytes in base64."""
    return {
        "steps": list(run.recorded),
        "last": run.settings["steps"],
        "shares": [round(float(share), 4) for share in run.shares],
        "seed": run.settings["seed"],
        "experts": run.settings["experts"],
        "topK": run.settings["top_k"],
        "atWork": run.at_work,
        "held": run.expert_parameters,
        "right": _base64(run.right),
        "seen": _base64(run.seen),
        "numbers": _base64(run.numbers),
        "answers": _base64(run.answers),
        "chosen": _base64(run.experts),
    }


def _base64(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode()


def _nothing() -> None:
    """No callback: that there is one lets the browser ask."""
