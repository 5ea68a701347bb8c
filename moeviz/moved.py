"""Modules that have moved: their old names work for one version, with a warning that names the new ones."""

import csv
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, no_type_check

PACKAGE = "moeviz."
with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    _ROWS = [*csv.DictReader(_file)]
# Below the package: the module as it was called, and where its names are now.
MODULES = {row["module"]: row["now"] for row in _ROWS}
# Of a moved module, what is also called by another name now.
NAMES = {row["module"]: dict(pair.split("=") for pair in row["names"].split()) for row in _ROWS if row["names"]}


class MovedModules(MetaPathFinder, Loader):
    """Import a module by the name that it had: it warns, and has the names of the module that took them over."""

    @no_type_check  # every import comes through it, those of a type checker too
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a moved module; None for every other name."""
        moved = fullname.startswith(PACKAGE) and fullname.removeprefix(PACKAGE) in MODULES
        return ModuleSpec(fullname, self) if moved else None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module look its names up where they are now."""
        old = module.__name__.removeprefix(PACKAGE)
        now = PACKAGE + MODULES[old]
        warnings.warn(f"moeviz.{old} is {now} now: import from there.", DeprecationWarning, stacklevel=2)

        def lookup(name: str) -> Any:
            return getattr(import_module(now), NAMES.get(old, {}).get(name, name))

        module.__getattr__ = lookup  # type: ignore[method-assign]


def keep_old_names() -> None:
    """Find moved modules from now on, before all others: a folder of data may have the name that one had."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
