"""The systems that run here, from 1991 on: every folder beside this file that has an `exhibit.toml`.

A system's folder holds `exhibit.toml` (the system in words: `System`), `model.py` (`train`, whose defaults are the
settings that ship, and `trace_of`) and `exhibit.py` (its page: `EXHIBIT`). Nothing but the words is loaded before it is
asked for. What its paper claims of it is checked in `tests/history_checks/`.
"""

import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from moeviz.errors import MoevizError
from moeviz.history.shared.results import Watch, unwatched
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
    trains: bool = True  # False where there is nothing to train here


def _read(path: Path) -> System:
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    prose = {name: " ".join(words[name].split()) for name in ("whats_new", "source", "not_reproduced")}
    return System(**(words | prose))


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

    Raises `MoevizError` where there is no system of that name to train.
    """
    if name not in SYSTEMS:
        raise MoevizError(f"There is no system {quoted(name)} to train here. Choose one of {', '.join(SYSTEMS)}.")
    return import_module(f"moeviz.history.{FOLDERS[name]}.{file}")


def train(name: str, seed: int = 0, watch: Watch = unwatched) -> Any:
    """Train a system with its default settings; the same seed gives the same result."""
    return part(name, "model").train(seed=seed, watch=watch)
