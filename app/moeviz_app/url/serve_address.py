"""The address of the page Serve: the cards, the open part, and the values of its controls. Defaults stay out. A link
is a stranger's input: a control takes a value only if it offers it.
"""

from collections.abc import Mapping

from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import PageAddress

CARD, PART = "card", "part"
PARTS = {  # of the page; and in an address
    "Experts in memory": "memory",
    "Devices": "devices",
    "Tokens at a time": "batches",
    "Fetching ahead": "ahead",
    "Every card": "cards",
    "Plan for an engine": "plan",
}
PART_OF = {short: part for part, short in PARTS.items()}
MEMORY, DEVICES, TOKENS, REPEATS, EXPERT_MB, ENGINE, JUDGED_ON = (
    "memory",  # in GB
    "devices",
    "tokens",
    "repeats",
    "expert_mb",
    "engine",
    "judged_on",  # the run of another recording
)
HELD_IN = {
    MEMORY: "memory",
    EXPERT_MB: "memory",
    TOKENS: "memory",
    REPEATS: "memory",
    DEVICES: "devices",
    ENGINE: "plan",
}
NAMES = (CARD, PART, MEMORY, DEVICES, TOKENS, REPEATS, EXPERT_MB, ENGINE, JUDGED_ON)
LONGEST, MOST = 20, 1e6


def ask(query: Mapping[str, str]) -> None:
    """Remember what a link asks for, until the page draws its controls."""
    if asked := {name: query[name] for name in NAMES if name in query}:
        visit().serve_asked = asked


def part_of(query: Mapping[str, str]) -> str | None:
    """Return the part that a link asks for: by its name, or because a control in it is to hold something."""
    if PART in query:
        return PART_OF.get(query[PART])
    return next((PART_OF[short] for name, short in HELD_IN.items() if name in query), None)


def asked() -> dict[str, str]:
    """Return and forget what a link asks for."""
    asked, visit().serve_asked = visit().serve_asked, {}
    return asked


def fill_in_number(key: str, text: str | None, unit: float = 1.0) -> None:
    """Let a box hold the number that a link asks for, in this unit."""
    if text is None or len(text) > LONGEST or not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return
    if 0 < float(text) <= MOST:
        session.set_value(key, float(text) / unit)


def show(name: str, value: object, usual: object) -> None:
    """Note what a control holds, for the address; what it holds at first is not noted."""
    text = f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    rest = {other: shown for other, shown in visit().serve_shown.items() if other != name}
    visit().serve_shown = rest if value is None or value == usual else rest | {name: text}


def written() -> dict[str, str]:
    """Return what the page's controls hold, as the query of an address."""
    return visit().serve_shown


ADDRESS = PageAddress(written, ask)
