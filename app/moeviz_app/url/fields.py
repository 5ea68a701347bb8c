"""Fields of pages' addresses, in addition to the subject's: what some widgets hold, by name in the address.

Each page declares its own. A link only says what is wanted, and may be a stranger's: the page checks it against what it
offers, and ignores the rest.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import session

MOST_SEARCHED = 100  # characters of a word


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The two directions of a page's address: writing it, and filling in what a link brings."""

    written: Callable[[], dict[str, str]]
    fill_in: Callable[[Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an address: its name there, the widget whose value it is, and how a text becomes that value."""

    name: str
    key: str  # of the widget
    text: Callable[[Any], str | None]  # of the widget's value; None stays out of the address
    value: Callable[[str], Any]  # of the address's text; None for what is not on offer
    cleared: bool = False  # whether the widget is emptied where a link does not say a value on offer


def page_address(*fields: Field) -> "PageAddress":
    """Return the address of a page that says what these widgets hold, and nothing else."""
    return PageAddress(partial(write_fields, fields), partial(read_fields, fields))


def write_fields(fields: tuple[Field, ...]) -> dict[str, str]:
    """Return what the widgets hold, as a query; empty where the first field, of which the others are, has nothing."""
    query = {field.name: text for field in fields if (text := field.text(session.value(field.key))) is not None}
    return query if fields[0].name in query else {}


def read_fields(fields: tuple[Field, ...], query: Mapping[str, str]) -> None:
    """Let the widgets hold what a query says, if it says anything of the first field; the pages check the rest.

    Raises what the fields' values raise.
    """
    if fields[0].name not in query or fields[0].value(query[fields[0].name]) is None:
        return
    for field in fields:
        value = field.value(query[field.name]) if field.name in query else None
        if value is not None or field.cleared:
            session.set_value(field.key, value)


def number(name: str, key: str | None = None, cleared: bool = False) -> Field:
    """Declare a whole number, as a widget holds it."""
    return Field(name, key or name, lambda value: None if value is None else str(value), number_in, cleared)


def choice(name: str, key: str, addresses: Mapping[str, str], cleared: bool = False) -> Field:
    """Declare one of these choices, each by what it is called in an address."""
    choices = {address: choice for choice, address in addresses.items()}
    return Field(name, key, addresses.get, choices.get, cleared)


def short_text(name: str, key: str, cleared: bool = False) -> Field:
    """Declare a word or a kind of text, as it was typed: the page checks what it means."""
    return Field(name, key, lambda text: text or None, lambda text: text[:MOST_SEARCHED], cleared)


def fill_in(key: str, value: object, offered: Container[object]) -> None:
    """Let a widget hold what a link asks for, if the page offers it."""
    if value in offered:
        session.set_value(key, value)
