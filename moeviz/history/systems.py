"""The systems that run here, from 1991 on: every folder beside this file that has a `system.py`.

Nothing else of a system is loaded before it is asked for.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from moeviz.errors import MoevizError
from moeviz.history.shared.results import Watch, unwatched
from moeviz.history.shared.system import System
from moeviz.text import quoted

SHIPS_WITH = "trained with the default settings and seed 0"


def _found() -> dict[str, System]:
    """All rows by folder, in the order of their years."""
    folders = [path.parent.name for path in Path(__file__).parent.glob("*/system.py") if path.parent.name != "shared"]
    rows = {folder: import_module(f"moeviz.history.{folder}.system").SYSTEM for folder in folders}
    return dict(sorted(rows.items(), key=lambda found: found[1].year))


EXHIBITS = _found()  # by folder
FOLDERS = {row.name: folder for folder, row in EXHIBITS.items()}
SYSTEMS = {row.name: row for row in EXHIBITS.values() if row.trains}


def part(name: str, file: str) -> ModuleType:
    """One file of a system's folder: its `model`, `trace`, `picture`, `chart`, `shown` or `checks`.

    Raises `MoevizError` where there is no system of that name to train.
    """
    if name not in SYSTEMS:
        raise MoevizError(f"There is no system {quoted(name)} to train here. Choose one of {', '.join(SYSTEMS)}.")
    return import_module(f"moeviz.history.{FOLDERS[name]}.{file}")


def train(name: str, seed: int = 0, watch: Watch = unwatched) -> Any:
    """Train a system with its default settings; the same seed gives the same result."""
    return part(name, "model").train(seed=seed, watch=watch)
