"""Eight experts that live or die: they train in the visitor's browser, and nothing of it comes back to the server."""

from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from moeviz.charts.theme import EXPERT_COLOURS

HERE = Path(__file__).parent
SIZES = {
    "experts": 8,
    "width": 32,  # of the model
    "hidden": 32,  # width of an expert's hidden layer
    "names": 128,  # on each side of a pair
    "numbers": 32,  # that a fact may have
    "facts": 2500,
    "batch": 512,
    "steps": 300,
    "rate": 0.01,  # of learning, at its highest
    "warmUp": 30,  # steps
}
LEAN = 3.0


class Knob(NamedTuple):
    """A setting of the training."""

    key: str
    title: str
    short: str  # in the table of runs
    hint: str
    levels: tuple[float, ...]
    at_zero: str = "off"
    unit: str = ""


KNOBS = (
    Knob(
        "balance",
        "Balance loss",
        "loss",
        "is added to the loss, and falls as the load evens out",
        (0, 0.01, 0.03, 0.1, 0.3),
    ),
    Knob("noise", "Noise on the logits", "noise", "lets another expert win now and then", (0, 0.5, 1, 2, 3)),
    Knob(
        "capacity",
        "Capacity",
        "capacity",
        "what comes to a full expert is dropped",
        (0, 2, 1.5, 1.25, 1),
        "no limit",
        " × fair share",
    ),
    Knob(
        "bias",
        "Selection bias, step",
        "bias",
        "up for the idle, down for the busy; only the choice sees it",
        (0, 0.03, 0.1, 0.3),
    ),
    Knob(
        "lean",
        "Lean that we put in",
        "lean",
        "turns all facts the same way in front of the router",
        (0, 1, 2, LEAN),
        "none",
    ),
)
PRESETS = {  # what differs from no cure at all
    "Nothing": {},
    "Balance loss (2021)": {"balance": 0.1},
    "… and capacity": {"balance": 0.1, "capacity": 1.25},
    "Capacity alone": {"capacity": 1.25},
    "Selection bias (2024)": {"bias": 0.1},
    "No lean": {"lean": 0.0},
}
NO_CURE = {knob.key: LEAN if knob.key == "lean" else 0.0 for knob in KNOBS}

_component = st.components.v2.component(
    "moeviz_collapse",
    html="<div class='frame'><div class='collapse'></div></div>",  # two, since a container query asks what is around
    css=(HERE / "collapse.css").read_text("utf-8"),
    js="\n".join(
        (HERE / f"{name}.js").read_text("utf-8")
        for name in ("explorer_parts", "collapse_training", "collapse_garden", "collapse")
    ),
)


def collapse(note: str, key: str) -> None:
    """Draw the experts, what a visitor may set, and the runs so far; `note` stands below them."""
    data: dict[str, Any] = {
        "sizes": SIZES,
        "knobs": [knob._asdict() for knob in KNOBS],
        "presets": {name: NO_CURE | changed for name, changed in PRESETS.items()},
        "colours": EXPERT_COLOURS[: SIZES["experts"]],
        "note": note,
    }
    _component(key=key, data=data)
