"""The systems that run here, from 1991 on: every folder here that has an `exhibit.toml`.

A system's folder holds `exhibit.toml` (the system in words: `System`), `model.py` (`train`, whose defaults are the
settings that ship, and `trace_of`) and `exhibit.py` (its page: `EXHIBIT`). Nothing but the words is loaded before it
is asked for. What its paper claims of it is checked in `tests/history_checks/`. Traces of what ships need no training.
"""

import tomllib
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from moeviz.errors import MoevizError
from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, Watch, shipped, unwatched
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

SHIPS_WITH = "trained with the default settings and seed 0"


@dataclass(frozen=True, slots=True)
class System:
    """A system of the gallery in words: the content of its `exhibit.toml`. Prose is Markdown."""

    name: str  # on the command line
    year: str
    title: str  # of its page
    summary: str  # in a line
    whats_new: str  # in about sixty words
    equation: str  # LaTeX
    source: str  # of the equation and of all the rest, and what else there is to know
    not_reproduced: str
    trains: bool = True  # False if there is nothing to train here


def _read(path: Path) -> System:
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    prose = {name: " ".join(words[name].split()) for name in ("whats_new", "source", "not_reproduced")}
    return System(**{field.name: (words | prose).get(field.name, True) for field in fields(System)})


EXHIBITS = dict(  # by folder, in the order of their years
    sorted(
        ((path.parent.name, _read(path)) for path in Path(__file__).parent.glob("*/exhibit.toml")),
        key=lambda found: found[1].year,
    )
)
FOLDERS = {row.name: folder for folder, row in EXHIBITS.items()}
SYSTEMS = {row.name: row for row in EXHIBITS.values() if row.trains}


def part(name: str, file: str) -> ModuleType:
    """Import one file of a system's folder: its `model` or `exhibit`.

    Raises `MoevizError` for a name without a system to train.
    """
    if name not in SYSTEMS:
        raise MoevizError(f"There is no system {quoted(name)} to train here. Choose one of {', '.join(SYSTEMS)}.")
    return import_module(f"moeviz.history.{FOLDERS[name]}.{file}")


def train(name: str, seed: int = 0, watch: Watch = unwatched) -> Any:
    """Train a system with its default settings; the same seed gives the same result."""
    return part(name, "model").train(seed=seed, watch=watch)


# The settings of a run without balance, by system: each ships, and is shown next to the usual one.
BESIDE: dict[str, dict[str, Any]] = {
    "deep-mixture": {"constraint": False},
    "sparsely-gated": {"importance": 0.0, "load": 0.0},
}


def shipped_trace(name: str) -> RoutingTrace:
    """Return the routing of the system of that name, trained with its default settings and seed 0.

    Raises `MoevizError` for an unknown system.
    """
    return part(name, "model").trace_of(shipped_result(name))


def trace_beside(name: str) -> RoutingTrace:
    """Return the routing of a system trained without its constraint or losses for balance, with seed 0.

    Raises `MoevizError` for a system of which no such run ships.
    """
    if name not in BESIDE:
        raise MoevizError(f"Of {quoted(name)}, no run without balance ships. There is one of {', '.join(BESIDE)}.")
    return part(name, "model").trace_of(shipped_result(name, WITHOUT_BALANCE))


def shipped_result(name: str, file: str = SHIPPED) -> Any:
    """Return the result of a trained system that ships in `file`, next to its model."""
    return shipped(kind_of(name), file)


def kind_of(name: str) -> type:
    """Return the class of the result of training that system."""
    kind: type = get_type_hints(part(name, "model").train)["return"]
    return kind
